"""What every JSON file of a runs folder holds: its fields with their types and ranges, checked where it is read.

A file of before a field was added may lack it, where the field has a default here; what a later robench added is let
through. Numbers that are not finite, and numbers no run can come to, are refused. Text may be anything, since names of
files may: whoever shows it escapes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from robench.norms import NORMS
from robench.results.accuracy import Measure


def _known_norm(name: str) -> str:
    if name not in NORMS:
        raise ValueError(f"must be one of {', '.join(NORMS)}")
    return name


def _known_metric(name: str) -> str:
    if name not in list(Measure):
        raise ValueError(f"must be {' or '.join(Measure)}")
    return name


# a part of a file's name
Token = Annotated[str, Field(pattern=r"^([^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99})?$")]
# an exact number as text, such as 8/255, 0.1 or 1e-05
Exact = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?|[0-9]+/[1-9][0-9]*)$", max_length=100)]
Norm = Annotated[str, AfterValidator(_known_norm)]
Metric = Annotated[str, AfterValidator(_known_metric)]
Access = Literal["white-box", "noise", "transfer", "guided", "detector"]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]
# of images, passes and versions
Count = Annotated[int, Field(ge=0, lt=2**53)]
Images = Annotated[int, Field(ge=1, lt=2**31)]
Classes = Annotated[int, Field(ge=1, le=1_000_000)]
Version = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Seconds = Annotated[float, Field(ge=0)]
Plain = bool | int | float | str | None
# of plugins, by name
Options = dict[str, Plain | list[Plain]]
# the digests of the source of plugins, by kind and name
Sources = dict[str, str]


class Shape(BaseModel):
    """What a file must hold, whatever else it does."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore", protected_namespaces=())


class CraftRecord(Shape):
    """spec.json of a crafting: see `specs.CraftSpec`."""

    harness: Version
    model_digest: Token
    data_digest: Token
    split: str
    norm: Norm
    eps: Exact
    attack: str
    attack_version: Version
    attack_options: Options
    seed: Seed
    eot: Images | None = None
    bpda: list[str] | None = None
    search_precision: Literal["bf16"] | None = None
    max_passes: Images | None = None
    in_turn: bool | None = None
    batch_size: Images | None = None
    shard_size: Images | None = None
    sources: Sources | None = None


class SpecRecord(CraftRecord):
    """spec.json of an evaluation: see `specs.EvalSpec`."""

    draw: Literal["balanced"] | None = None
    start: Count
    count: Images
    detector: Token | None = None
    surrogate: Token | None = None
    guide: Token | None = None
    after: Token | None = None
    imported: Token | None = None
    below: Token | None = None


class Packages(Shape):
    """Versions by package."""

    torch: str


class Environment(Shape):
    """What an evaluation ran on, as far as readers rely on it."""

    commit: str
    packages: Packages


class AboutRecord(Shape):
    """about.json: see `about.About`."""

    model: str
    reference: str
    dataset: str
    eps: Exact
    given_options: Options
    metric: Metric
    access: Access
    command: str
    environment: Environment
    kind: str = ""
    against: str = ""
    surrogate: str = ""
    surrogate_digest: Token = ""
    guide: str = ""
    guide_reference: str = ""
    batch_size: Images | None = None
    device: str | None = None
    folder: str = ""
    classes: Classes | None = None
    images: Images | None = None
    chance: Share | None = None
    names: list[str] | None = None
    mended: bool = False
    probe: bool = False


class ResultRecord(Shape):
    """result.json: see `summary.Summary`; `shards` are the digests of the manifests that it sums up."""

    n: Images
    status: Literal["complete"]
    flags: list[str]
    clean_accuracy: Share
    clean_interval: Interval | None = None
    robust_accuracy: Share | None = None
    attack_success_rate: Share | None = None
    interval: Interval
    forwards: Count | None = None
    backwards: Count
    seconds: Seconds | None = None
    shards: dict[str, str] | None = None
    second: str | None = None

    @model_validator(mode="after")
    def _one_figure(self) -> ResultRecord:
        if sum(getattr(self, measure.key) is not None for measure in Measure) != 1:
            raise ValueError("must have one figure")
        return self


class SecondRecord(Shape):
    """sealed.json: a second verdict, and the shards that it is on."""

    shards: dict[str, str]
    flags: list[str]
    counts: bool
    passes: Count
    seconds: Seconds
    sha256: str | None
    reason: str = ""


class Sums(Shape):
    """The checksums of a shard's files."""

    parquet: str
    safetensors: str


class ManifestRecord(Shape):
    """The manifest of a shard: what it belongs to, and what was noted when it was computed."""

    sha256: Sums
    evaluation: str | None = None
    range: tuple[Count, Count] | None = None
    flags: list[str] = []
    seconds: Seconds = 0.0
    batch_size: Images | None = None
    answers: str | None = None
    made_with: dict[str, Any] | None = None
    sources: Sources | None = None


class DataRecord(Shape):
    """A model's data: see `data.dataset.DataInfo`."""

    name: str
    channels: Images | None = None
    height: Images | None = None
    width: Images | None = None
    classes: Classes | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    family: str | None = None


class Accuracy(Shape):
    """What a training measured at its end."""

    test: Share
    test_count: Count
    test_interval: Interval
    test_digest: str | None = None
    test_among_training: Count | None = None
    validation: Share | None = None


class CardRecord(Shape):
    """model.json, the card of a trained model."""

    name: str
    spec_id: Token
    defense: str
    options: dict[str, Any]
    digest: str
    data: DataRecord
    seconds: Seconds
    accuracy: Accuracy
    recipe_name: str = ""
    recipe: dict[str, Any] = {}
    seed: Seed = 0
    command: str = ""
    classes: Classes | None = None
    source: str | None = None


class FittedRecord(Shape):
    """fitted.json, the record of a fitted detector."""

    digest: str
    classes: Classes
    fitted_on: Count
    adversarial: Count
    threshold_images: Count
    fitted: str | None = None
    sources: Sources | None = None


class ScoresRecord(Shape):
    """scores-ID.json: of which shards of which evaluation a detector's scores are, and their file's checksum."""

    fitted: str
    shards: dict[str, str]
    sha256: str


class ImportedRecord(Shape):
    """imported.json: of which test images a set of imported ones is, from what file, and its files' checksums."""

    start: Count
    count: Images
    source: str
    sha256: dict[str, str]


class FindingRecord(Shape):
    """A gate's finding: see `trust.gates.Finding`; findings of another form are made anew."""

    model_config = ConfigDict(extra="forbid")

    gate: str
    fired: bool
    evidence: str
    threshold: str
    advice: str
    model: str = ""
    model_digest: str = ""
    images: Count = 0


class DiagnosticsRecord(Shape):
    """What was found about a model, and from what."""

    findings: list[FindingRecord]
    source: dict[str, Any]


class CheckRecord(Shape):
    """check.json: by what code a check was begun, and whether it is finished."""

    code: str = ""
    finished: bool


class Watching(Shape):
    """Which model a detector watches."""

    model_digest: Token


class DetectorRecord(Watching):
    """spec.json of a fitted detector: see `specs.DetectorSpec`."""

    detector: str
    options: Options
    trained_on: str
    attack_options: Options
    images: Images
    fpr: Share
    batch_size: Images | None = None
    sources: Sources | None = None

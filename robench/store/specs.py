"""What a model or an evaluation depends on, and nothing else; a job's identity is the hash of its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator

from robench.store.files import canonical, identity

# raise when a change of the loop, the judge or the projection changes figures; stored evaluations are then not reused
HARNESS = 1
# raise when a change of networks, augmentation, training or the attack inside it changes what is trained; stored models
# are then trained anew
TRAININGS = 1
# before the kind of a plugin whose code made what images were crafted on
SURROGATE = "surrogate "
# and of one whose gradients were followed
GUIDE = "guide "
# in a label, before the name of that one
GUIDED_BY = " guided by "

# before the name of images that were made elsewhere, in place of an attack's
IMPORTED = "imported:"


def _name(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


# a name of the user's, which may be a path in bytes that are no UTF-8; pydantic's own text may not
Name = Annotated[str, PlainValidator(_name)]


class Spec(BaseModel):
    """A frozen record with a canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; one that is None is left out, so that a field added later keeps old identities."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}

    def canonical(self) -> str:
        """The spec as JSON with sorted keys and no spaces: equal specs give equal text."""
        return canonical(self.to_json())

    @property
    def job_id(self) -> str:
        """What the evaluation, crafting, detector or training goes by: `identity` of its JSON."""
        return identity(self.to_json())


class TrainSpec(Spec):
    """Everything a trained model depends on. `recipe` and `options` are complete, defaults filled in; `classes` is
    given where the data have more than their labels show; `defense_version` where it is not 1, `source` the digest of
    the defense's code where that version does not speak for it (see `store.released`), `harness` the number of what
    robench itself trains with, where that is not 1."""

    defense: str
    options: dict[str, Any]
    recipe_name: str
    recipe: dict[str, Any]
    dataset: Name
    train_digest: str
    seed: int
    classes: int | None = None
    defense_version: int | None = None
    source: str | None = None
    harness: int | None = None


class EvalSpec(Spec):
    """Everything the rows of an evaluation depend on. `eps` is an exact fraction as text.

    The model and the data enter by their digests; their names are recorded beside the spec, not hashed. `detector` is
    the id of the fitted detector that is attacked together with the model, `surrogate` the digest of the model that the
    images are crafted on, `guide` that of the model whose gradients are followed, `eot` the passes behind one gradient
    of a randomised model, `bpda` the layers that gradients pass unchanged, `after` the id of the evaluation whose finds
    this one takes over, attacking only what still stands, `batch_size` and `shard_size` those of an attack whose finds
    depend on which images share a batch, where they are not the usual ones, `search_precision` what gradients were
    taken in where that is not float32, `max_passes` what an image may cost, with the evaluations before it, `in_turn`
    that trials which it cannot pay for together then follow each other (they ran side by side once), `below` the
    id of the same attack's evaluation within a larger eps, of which images that stood there are taken to stand here,
    `sources` the digests of the code of plugins, by kind and name, whose version does not speak for it (see
    `store.released`), `draw` how the images were drawn where they are not the first ones: the digest of the data is
    then of all of them in the order of the draw. `imported` is the digest of images that were made elsewhere.
    """

    harness: int = HARNESS
    model_digest: str
    data_digest: str
    split: str = "test"
    draw: str | None = None
    start: int = 0
    count: int
    norm: str
    eps: str
    attack: str
    attack_version: int
    attack_options: dict[str, Any]
    seed: int
    detector: str | None = None
    surrogate: str | None = None
    guide: str | None = None
    eot: int | None = None
    bpda: list[Name] | None = None
    search_precision: str | None = None
    max_passes: int | None = None
    in_turn: bool | None = None
    imported: str | None = None
    after: str | None = None
    below: str | None = None
    batch_size: int | None = None
    shard_size: int | None = None
    sources: dict[str, str] | None = None


class CraftSpec(Spec):
    """Everything the images crafted on a surrogate depend on; of which target they are shown to, they do not."""

    harness: int = HARNESS
    model_digest: str
    data_digest: str
    split: str = "test"
    norm: str
    eps: str
    attack: str
    attack_version: int
    attack_options: dict[str, Any]
    seed: int
    crafted: bool = True
    eot: int | None = None
    bpda: list[Name] | None = None
    search_precision: str | None = None
    max_passes: int | None = None
    in_turn: bool | None = None
    batch_size: int | None = None
    shard_size: int | None = None
    sources: dict[str, str] | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> CraftSpec:
        """The crafting behind an evaluation on a surrogate's images, from the evaluation's spec as JSON."""
        shared = {name: spec[name] for name in cls.model_fields if name in spec and name != "model_digest"}
        sources = {
            key: digest
            for key, digest in (spec.get("sources") or {}).items()
            if key == f"attack {spec['attack']}" or key.startswith(SURROGATE)  # and not what the target is made of
        }
        return cls(**{**shared, "sources": sources or None}, model_digest=spec["surrogate"])


class DetectorSpec(Spec):
    """Everything a fitted detector depends on; `trained_on` names the attack it learnt from and its threat model."""

    harness: int = HARNESS
    model_digest: str
    train_digest: str
    validation_digest: str
    detector: str
    detector_version: int
    options: dict[str, Any]
    trained_on: str
    attack_version: int
    attack_options: dict[str, Any]
    images: int
    fpr: float
    seed: int
    batch_size: int | None = None
    sources: dict[str, str] | None = None


def access_of(behind: bool, crafted: bool, guided: bool) -> str:
    """What an attack is up against that is not on a model alone, "" for one that is: a detector, a model that its
    images were not crafted on, or one whose gradients it does not follow."""
    return "detector" if behind else "transfer" if crafted else "guided" if guided else ""


def leans(spec: Mapping[str, Any]) -> bool:
    """Whether an evaluation's rows rest on those of another one: in a cascade, or within a larger eps."""
    return bool(spec.get("after") or spec.get("below"))


def draw_told(spec: Mapping[str, Any], images: int | None) -> str:
    """Which of a data set's `images` an evaluation is of, in words behind their number; "" where it is of all."""
    if spec.get("draw"):
        return f" ({spec['draw']} over classes{f', of {images:,}' if images else ''})"
    return f" (the first of {images:,})" if images and spec["count"] < images and not spec.get("start") else ""


def sizes_told(spec: Mapping[str, Any]) -> str:
    """The end of a label: the sizes of batches and shards that an evaluation depends on, where they are unusual."""
    sizes = [f"{name.replace('_', ' ')} {spec[name]}" for name in ("batch_size", "shard_size") if spec.get(name)]
    return f" [{', '.join(sizes)}]" if sizes else ""

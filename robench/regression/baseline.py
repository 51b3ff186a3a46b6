"""Baselines: the per-example outcomes of finished evaluations in one small text file, to be kept in git."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from robench import registry
from robench.errors import BadInput, first_line, unknown
from robench.progress import say
from robench.results.accuracy import Measure, enters
from robench.results.rows import Marks, broken, correct, marked, succeeded
from robench.results.statistics import wilson
from robench.results.summary import UNSTABLE, label
from robench.store.files import digest, fit, read_json, unfit, write_text
from robench.store.records import Images, Interval, Metric, Options, Shape, Share, Sources, SpecRecord
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import HARNESS, CraftSpec, EvalSpec, Name, leans
from robench.threat import ThreatModel
from robench.trust.gates import MARKED
from robench.trust.origins import aged

FORMAT = 1
# an example's outcome: classified wrongly; wrongly, and taken for the class that was aimed at; robust; broken as the
# attack aimed; broken, but at another class than a targeted attack aimed at
WRONG, HIT, ROBUST, BROKEN, MISSED = LETTERS = "-xrcm"
# those of an environment's facts that a baseline keeps
ENVIRONMENT = ("packages", "python", "machine")


def encode(folder: EvaluationFolder, spec: EvalSpec) -> str:
    """The outcomes of a finished evaluation, a letter per example; raises BadInput where its rows are of others."""
    rows = folder.rows()
    if rows["example_id"].tolist() != list(range(spec.start, spec.start + spec.count)):
        raise BadInput(f"The evaluation {folder.job_id} has rows of other examples; delete it and evaluate again.")
    right, hit = correct(rows), succeeded(rows)
    found = np.where(right, np.where(broken(rows), MISSED, ROBUST), WRONG)
    return "".join(np.where(hit, np.where(right, BROKEN, HIT), found))


@dataclass(frozen=True)
class Outcomes:
    """Bool [n] per question: was the clean image classified correctly, did the attack's own figure count the example as
    left standing, and is it correct and not broken at all, whatever the attack aimed at?"""

    correct: Marks
    stood: Marks
    robust: Marks

    @classmethod
    def of(cls, letters: str, metric: str) -> Outcomes:
        """From letters. With attack success rate an example stands unless its goal was reached, whatever the clean
        verdict; with robust accuracy it must be classified correctly too."""
        each = np.array(list(letters), dtype="U1")
        right, hit = np.isin(each, [ROBUST, BROKEN, MISSED]), np.isin(each, [HIT, BROKEN])
        return cls(right, ~hit if Measure(metric) is Measure.SUCCESS else right & ~hit, each == ROBUST)


class _File(Shape):
    """What a baseline file holds, before its checksum is looked at."""

    format: Any
    evaluations: list[dict[str, Any]]


class Kept(BaseModel):
    """One evaluation of a baseline: how to do it again, what came of it, and what it was made with.

    `spec` is the evaluation's; `surrogate` the reference of the model its images are crafted on, if any. The share that
    the attack left standing, or with targeted attacks the share it reached, is `figure`. `batch_size` and `shard_size`
    are those of an attack whose outcome depends on which images share a batch, None for all others. `misses`: of a
    targeted attack, whether the outcomes tell images broken at another class; None in files of before they did.
    `sources`: the digests of the source of the plugins behind it, by kind and name. `marks`: on how many images an
    attack made of stages set each mark that a gate asks about; None for others, and in files of before they were kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), strict=True, allow_inf_nan=False)

    evaluation: str
    model: Name
    reference: Name
    dataset: Name
    metric: Metric
    given_options: Options
    against: Name
    surrogate: Name | None = None
    batch_size: Images | None = None
    shard_size: Images | None = None
    spec: EvalSpec
    clean_accuracy: Share
    clean_interval: Interval
    figure: Share
    interval: Interval
    flags: list[str]
    environment: dict[str, Any]
    outcomes: str
    misses: bool | None = None
    sources: Sources | None = None
    marks: dict[str, int] | None = None

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        return ThreatModel.of(self.spec.norm, self.spec.eps)

    @property
    def label(self) -> str:
        """The attack with its options and its threat model in words."""
        return f"{label(self.spec.attack, self.given_options, self.against)}, {self.threat}"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, without those that are None."""
        found = json.loads(json.dumps(self.model_dump(exclude={"spec"})))  # pydantic's own JSON is of UTF-8 alone
        return {name: value for name, value in found.items() if value is not None} | {"spec": self.spec.to_json()}


@dataclass(frozen=True)
class Baseline:
    """What a baseline file holds; `name` is the file's, for sentences."""

    name: str
    kept: tuple[Kept, ...]

    @property
    def models(self) -> dict[str, str]:
        """Each model's name and reference, in the order of the file."""
        return {each.model: each.reference for each in self.kept}

    def only(self, models: Collection[str]) -> Baseline:
        """The part about these models."""
        return Baseline(self.name, tuple(each for each in self.kept if each.model in models))

    @property
    def content(self) -> dict[str, Any]:
        """What the file says, as JSON types."""
        return {"format": FORMAT, "evaluations": [each.to_json() for each in self.kept]}

    @property
    def checksum(self) -> str:
        """SHA-256, in hex, of the content, whatever its layout."""
        return digest(self.content)

    def text(self) -> str:
        """The file: indented JSON with sorted keys, and the checksum of everything else."""
        return json.dumps({**self.content, "checksum": self.checksum}, indent=1, sort_keys=True) + "\n"


def read(path: Path) -> Baseline:
    """The baseline in a file. Raises BadInput where there is none, it is of another format, edited, or cut short."""
    advice = "restore it from git, or make it anew with 'robench baseline'"
    content = read_json(path, _File, advice)
    if content.get("format") != FORMAT:
        raise BadInput(
            f"The baseline {path} has format {content.get('format')!r}, but this robench reads {FORMAT}; "
            "make it anew with 'robench baseline'."
        )
    if content.pop("checksum", None) != digest(content):
        raise BadInput(f"The baseline {path} was edited or cut short (its checksum does not fit); {advice}.")
    try:
        kept = tuple(map(_kept, content["evaluations"]))
        if not kept:
            raise ValueError("no evaluations")
        for each in kept:
            _check_figures(each)
    except (TypeError, ValueError, BadInput) as error:
        told = unfit(error) if isinstance(error, ValidationError) else first_line(error, 160, end=".")
        raise BadInput(f"The baseline {path} has content that this robench does not know ({told}); {advice}.") from None
    return Baseline(path.name, kept)


def _kept(value: dict[str, Any]) -> Kept:
    """One evaluation as a file has it. Raises ValueError or BadInput unless its fields are of their types, there is an
    outcome per example, and the spec is one."""
    fit(Kept, json.dumps(value, ensure_ascii=False))
    kept = Kept.model_validate(value, strict=False)  # JSON has lists for tuples
    fit(SpecRecord, json.dumps(kept.spec.to_json(), ensure_ascii=False))
    ThreatModel.of(kept.spec.norm, kept.spec.eps)
    if len(kept.outcomes) != kept.spec.count or not set(kept.outcomes) <= set(LETTERS):
        raise ValueError(f"outcomes of {len(kept.outcomes)} examples instead of {kept.spec.count}")
    return kept


def _check_figures(kept: Kept) -> None:
    """Raise ValueError where the figures of an evaluation are not those that its outcomes make."""
    outcomes, n = Outcomes.of(kept.outcomes, kept.metric), max(len(kept.outcomes), 1)
    lost = Measure(kept.metric) is Measure.SUCCESS
    for name, count, share, interval in (
        ("clean accuracy", int(outcomes.correct.sum()), kept.clean_accuracy, kept.clean_interval),
        (kept.metric, int((~outcomes.stood if lost else outcomes.stood).sum()), kept.figure, kept.interval),
    ):
        if not np.allclose([share, *interval], [count / n, *wilson(count, n)], rtol=0, atol=1e-9):
            raise ValueError(f"{name} is {share:.4g}, and outcomes make {count / n:.4g}")


def write(baseline: Baseline, path: Path) -> None:
    """Write the file in one step; raises as `files.write_text`."""
    write_text(path, baseline.text())


def make(names: Sequence[str], store: Store, name: str = "baseline", *, probes: bool = False) -> Baseline:
    """The baseline of the named evaluations, the same in whatever order they are named; probes: as in `find`.

    Raises BadInput where one cannot be found or compared with a later run.
    """
    folders = {folder.job_id: folder for each in names for folder in find(each, store, probes)}
    found = (keep(folder, store) for folder in folders.values())
    kept = sorted(found, key=lambda each: (each.model, each.label, each.evaluation))
    digests: dict[str, set[str]] = {}
    for each in kept:
        digests.setdefault(each.model, set()).add(each.spec.model_digest)
    twice = next((model for model, found in digests.items() if len(found) > 1), None)
    if twice is not None:
        raise BadInput(
            f"Evaluations of {len(digests[twice])} different models named {twice!r} are given; a baseline has one "
            "model of a name, so leave the others out."
        )
    return Baseline(name, tuple(kept))


def find(name: str, store: Store, probes: bool = False) -> list[EvaluationFolder]:
    """The evaluations a name stands for: a model's name all its finished white-box ones, those that were run for the
    diagnostics only with `probes`, else an id or its beginning.

    Raises BadInput where there is none, or where it could be several models'.
    """
    intact, damaged = store.intact()
    named = [folder for folder in intact if folder.about.model == name]
    if not named and name not in store.model_names():
        if any(i.startswith(name) for i in store.evaluation_ids()):
            return [store.find_evaluation(name)]
        known = {folder.about.model for folder in intact}
        raise unknown("evaluation or evaluated model", name, [*store.evaluation_ids(), *known])
    if name in store.model_names():  # those of models that had the name before do not count
        named = [folder for folder in named if folder.spec["model_digest"] == store.model_digest(name)]
    for reason in damaged.values():
        say(f"Left out, and perhaps one of {name}'s: {reason}")
    found = [folder for folder in named if _usual(folder, probes) and folder.result is not None]
    found = [folder for folder in found if not aged(folder)] or found  # of other code only where there is none of today
    if len({folder.spec["model_digest"] for folder in found}) > 1:
        raise BadInput(
            f"There are evaluations of several models named {name!r}: {', '.join(folder.job_id for folder in found)}; "
            "name the evaluations instead."
        )
    if not found:
        twin = _twin(name, intact, store)
        if twin is not None:
            raise BadInput(f"The model {name!r} is the same as {twin!r}, which has the evaluations; name that instead.")
        raise BadInput(
            f"There is no finished white-box evaluation of {name!r}; make one with 'robench evaluate {name} --attack "
            "NAME'."
        )
    left = len(named) - len(found)
    if left:
        say(
            f"{left} of {name}'s evaluations are left out: not finished, not of a white-box attack by itself, of other "
            "code than today's, or run for the diagnostics alone."
        )
    return found


def _twin(name: str, folders: Sequence[EvaluationFolder], store: Store) -> str | None:
    """Under which other name a trained model has finished evaluations, None where under none."""
    if name not in store.model_names():
        return None
    digest = store.model_digest(name)
    return next((f.about.model for f in folders if f.spec["model_digest"] == digest and f.result is not None), None)


def _usual(folder: EvaluationFolder, probes: bool) -> bool:
    """Whether an evaluation is of one white-box attack on a model alone, by this robench's rules, and no probe."""
    spec, asked = folder.spec, probes or not folder.about.probes
    return asked and enters(folder.about.access) and not leans(spec) and spec["harness"] == HARNESS


def keep(folder: EvaluationFolder, store: Store) -> Kept:
    """What a baseline keeps of one evaluation. Raises BadInput for one that a later run cannot be compared with."""
    name, about = folder.job_id, folder.about
    try:
        spec: EvalSpec | None = EvalSpec(**folder.spec)
    except ValidationError:
        spec = None
    if spec is None or spec.harness != HARNESS:
        raise BadInput(f"The evaluation {name} was made by another robench; evaluate again with this one.")
    if spec.detector or spec.guide or spec.after or spec.below:
        rests = "goes on from another one (--cascade)" if spec.after else "rests on a larger eps (several --eps)"
        behind = "has a detector" if spec.detector else "follows a guide (--guide)" if spec.guide else rests
        raise BadInput(
            f"The evaluation {name} {behind}, which a baseline does not support; evaluate the attack by itself."
        )
    if folder.result is None:
        raise BadInput(f"The evaluation {name} is not finished; run its command again: {about.command}.")
    result = folder.summarised(about.metric)
    unstable = [flag for flag in UNSTABLE if flag in list(result.flags)]
    if unstable:
        raise BadInput(
            f"The evaluation {name} of {about.model} is flagged {', '.join(unstable)}, so a later run would differ "
            "by itself; make the model's answers repeatable, or leave this evaluation out."
        )
    old = aged(folder)
    if old:
        raise BadInput(f"The evaluation {name} was made by {old}; run its command again: {about.command}.")
    assert result.clean_accuracy is not None
    assert result.clean_interval is not None
    assert result.value is not None
    assert result.interval is not None
    return Kept(
        evaluation=name,
        model=about.model,
        reference=about.reference,
        dataset=about.dataset,
        metric=about.metric,
        given_options=about.given_options,
        against=about.against,
        surrogate=_surrogate(spec, name, store) if spec.surrogate else None,
        spec=spec,
        clean_accuracy=result.clean_accuracy,
        clean_interval=result.clean_interval,
        figure=result.value,
        interval=result.interval,
        flags=list(result.flags),
        environment={key: about.environment.get(key) for key in ENVIRONMENT},
        outcomes=encode(folder, spec),
        misses=True if result.measure is Measure.SUCCESS else None,
        sources=next((dict(note["sources"]) for note in folder.notes() if note.get("sources")), None),
        marks=_marks(folder),
        **_batches(folder, spec),
    )


def _marks(folder: EvaluationFolder) -> dict[str, int] | None:
    """How many images have each mark that a gate asks about; None of an attack that sets none."""
    rows = folder.rows()
    staged = "stages" in rows and bool((rows["stages"] != "").any())
    return {mark: int(marked(rows, mark).sum()) for mark in MARKED} if staged else None


def _batches(folder: EvaluationFolder, spec: EvalSpec) -> dict[str, int]:
    """The sizes of batches and shards that an evaluation depends on, as far as they are known.

    An attack of a library draws random numbers for a whole batch.
    """
    sizes: set[Any] = {note.get("batch_size") for note in folder.notes()}
    ranges = folder.ranges()
    stop, size = spec.start + spec.count, ranges[0][1] - ranges[0][0]
    regular = ranges == [(start, min(start + size, stop)) for start in range(spec.start, stop, size)]
    if not _batched(spec) or len(sizes) > 1 or None in sizes or not regular:
        return {}
    return {"batch_size": sizes.pop(), "shard_size": size}


def _batched(spec: EvalSpec) -> bool:
    if "library" in spec.attack_options:  # whatever goes by its name today, if anything does
        return True
    try:
        return bool(registry.load("attack", spec.attack).base.batched)
    except BadInput:  # it is not installed here
        return False


def _surrogate(spec: EvalSpec, name: str, store: Store) -> str:
    """The reference of the model that an evaluation's images were crafted on; raises BadInput where there is none."""
    craft = CraftSpec.of(spec.to_json()).job_id
    reference = EvaluationFolder(store.crafted / craft).about.reference
    if not reference:
        raise BadInput(
            f"The images of evaluation {name} were crafted on a model handed over in a program, which cannot be loaded "
            "again; use a surrogate that robench can load."
        )
    return str(reference)

"""What is learnt from stored evaluations of a model: the cheapest order of attacks to their worst case, as commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench import norms, registry
from robench.attack.judge import TAKEN_OVER
from robench.errors import BadInput
from robench.evaluation.attacks import NamedAttack
from robench.evaluation.recorded_command import WRITABLE
from robench.progress import say
from robench.results.accuracy import Figure, Measure, entering
from robench.results.greedy import Step, Tried, greedy
from robench.results.rows import broken, correct, spent
from robench.results.summary import label
from robench.store.chains import rungs_of, spent_on
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged, canonical
from robench.store.labels import SHARED, endings, why_not_whole
from robench.store.runs import Store
from robench.store.specs import HARNESS, leans
from robench.text.escaping import command_line
from robench.threat import ThreatModel, parse_epsilon
from robench.trust.origins import aged

# what some attacks depend on and others do not: recorded where they do and it is not the usual
HOW = {"search_precision": "rough", "batch_size": "batched", "shard_size": "batched"}
# what evaluations of one worst case, run by one command, may differ in; all else of their specs is the same
OWN = ("attack", "attack_version", "attack_options", "harness", "after", "below", "sources", *HOW)
# what is no worst case of a model alone, or was cut before an attack had spent what it takes
APART = ("detector", "surrogate", "guide", "max_passes")


@dataclass(frozen=True)
class Candidate:
    """An attack of stored evaluations as it is installed, what is known of it, and what `HOW` says of it."""

    named: NamedAttack
    known: Tried
    how: dict[str, Any]

    @property
    def cascades(self) -> bool:
        """Whether others can go on from its finds."""
        return Measure(self.named.metric) is not Measure.SUCCESS


@dataclass(frozen=True)
class Advice:
    """The order within one threat model, and what it is compared with.

    worst: what all evaluations that enter leave standing together. spent: the passes of all of them per image that is
    classified correctly. notes: what is to be known, a sentence each. apart: what tells it apart from others of as many
    images of the same data within the same threat model, as the end of a title.
    """

    dataset: str
    norm: str
    eps: str
    steps: tuple[Step, ...]
    commands: tuple[str, ...]
    worst: Figure
    clean: Figure
    spent: float
    notes: tuple[str, ...] = field(default=())
    seed: int = 0
    apart: str = ""

    @property
    def expected(self) -> float:
        """Passes per correctly classified image that the order is expected to take."""
        return sum(step.cost for step in self.steps) / max(self.clean.count, 1)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "dataset": self.dataset,
            "norm": self.norm,
            "eps": self.eps,
            "n": self.worst.n,
            "seed": self.seed,
            "clean_accuracy": self.clean.value,
            "robust_accuracy": self.worst.value,
            "steps": [
                {"attack": step.attack.name, "images": step.images, "broken": step.broken,
                 "passes_per_image": round(step.passes, 2), "standing": step.standing, "never_tried": step.unknown}
                for step in self.steps
            ],
            "expected_passes_per_image": round(self.expected, 2),
            "spent_passes_per_image": round(self.spent, 2),
            "commands": list(self.commands),
            "notes": list(self.notes),
        }  # fmt: skip


def advise(
    store: Store, reference: str, digest: str, *, norm: str | None, eps: str | None, places: Sequence[str] = ()
) -> list[Advice]:
    """Advice for every threat model and set of images that complete evaluations of a model are about.

    digest: the model's. places: words that the commands end in. Raises BadInput where there is no such evaluation.
    """
    within = norms.parse_norm(norm) if norm is not None else None
    radius = parse_epsilon(eps, within) if eps is not None else None
    groups: dict[str, list[EvaluationFolder]] = defaultdict(list)
    intact, damaged = store.intact()
    reasons = list(damaged.values())
    for folder in intact:
        spec = folder.spec
        mine = spec["model_digest"] == digest and not any(spec.get(name) for name in (*APART, "imported"))
        chosen = within in (None, spec["norm"]) and radius in (None, Fraction(spec["eps"]))
        if not mine or not chosen:
            continue
        if reason := why_not_whole(folder):
            reasons.append(reason)
        else:
            shared = {name: value for name, value in spec.items() if name not in OWN and value is not None}
            groups[canonical(shared)].append(folder)
    for reason in reasons:
        say(f"Left out: {reason}")
    entered = {key: kept for key, group in groups.items() if (kept := _entering(group))}
    if not entered:
        where = "".join([f" in {norm}" if norm else "", f" at eps {eps}" if eps else ""])
        raise BadInput(
            f"There is no complete white-box evaluation of {reference!r}{where} in {store.evaluations}; run "
            f"'robench evaluate' with several attacks first."
        )
    ordered = [group for _, group in sorted(entered.items())]
    firsts = [group[0] for group in ordered]
    fields = ("norm", "eps", "count")
    lines = {each.job_id: (each.about.dataset, *(each.spec[name] for name in fields)) for each in firsts}
    ends = endings(firsts, lines, SHARED)
    found = [_advice(store, reference, group, places) for group in ordered]
    return [replace(each, apart=ends[first.job_id]) for each, first in zip(found, firsts, strict=True)]


@dataclass(frozen=True)
class _Entry:
    """An evaluation as a worst case asks about it."""

    folder: EvaluationFolder
    access: str
    metric: str


def _entering(group: Sequence[EvaluationFolder]) -> list[EvaluationFolder]:
    asked = [_Entry(folder, folder.about.access, folder.about.metric) for folder in group]
    return [each.folder for each in entering(asked)]


def _advice(store: Store, reference: str, group: list[EvaluationFolder], places: Sequence[str]) -> Advice:
    rows = {folder.job_id: folder.rows() for folder in group}
    first, spec, about = rows[group[0].job_id], group[0].spec, group[0].about
    threat, counts = ThreatModel.of(spec["norm"], spec["eps"]), correct(first)
    union = np.zeros(len(first), dtype=bool)
    for each in rows.values():
        union |= broken(each)
    found, notes = dict[str, Candidate](), list[str]()
    for folder in sorted(group, key=lambda f: (leans(f.spec), f.job_id)):
        named = _named(folder, threat)
        if isinstance(named, str):
            notes.append(named)
            continue
        how = {name: folder.spec[name] for name in HOW if folder.spec.get(name)}
        known = _known(folder, rows, label(named.name, {**named.given, **how}))
        old = found.get(known.name)
        found[known.name] = Candidate(named, old.known.beside(known) if old else known, how)
    steps = greedy([each.known for each in found.values()], counts)
    order = [found[step.attack.name] for step in steps]
    commands = [_command(reference, folders, spec, about, places) for folders in _parts(order)]
    notes += _notes(steps, order, commands, int((union & counts).sum()), below=_taken(group, rows))
    whole = sum(float(spent(each)[counts].sum()) for each in rows.values())
    return Advice(
        about.dataset, spec["norm"], about.eps, tuple(steps), tuple(commands),
        Figure(int((counts & ~union).sum()), len(first)), Figure(int(counts.sum()), len(first)),
        whole / max(int(counts.sum()), 1), tuple(notes), spec["seed"],
    )  # fmt: skip


def _named(folder: EvaluationFolder, threat: ThreatModel) -> NamedAttack | str:
    """The attack of an evaluation as it is installed, or a sentence on why it would not run as it did."""
    spec, given = folder.spec, folder.label
    try:
        plugin = registry.load("attack", spec["attack"])
        options = {name: value for name, value in spec["attack_options"].items() if value is not None}
        named = NamedAttack.of(plugin, options, threat)
    except BadInput as error:
        return f"{given} ({folder.job_id}) is left out: {error}"
    if (spec["harness"], spec["attack_version"]) != (HARNESS, named.attack.edition):
        return f"{given} ({folder.job_id}) is left out, for another version of it made the evaluation."
    if old := aged(folder):
        return f"{given} ({folder.job_id}) is left out, for {old} made the evaluation."
    if not all(isinstance(value, WRITABLE) for value in named.given.values()):
        return f"{given} ({folder.job_id}) is left out, for its options cannot be written in a command."
    return named


def _known(folder: EvaluationFolder, rows: dict[str, Any], name: str) -> Tried:
    """What an evaluation says of its attack alone: of those that began where another ended, on the rest."""
    mine = rows[folder.job_id]
    took = _took(folder, mine)
    tried, found = correct(mine) & (took > 0), broken(mine)
    if folder.spec.get("after"):
        # a find that was taken over is another attack's, even where this one looked for a better one
        found = found & (mine["trial"].to_numpy() != TAKEN_OVER)
    elif not folder.spec.get("below"):
        tried = correct(mine)
    return Tried(name, tried, tried & found, took)


def _took(folder: EvaluationFolder, rows: Any) -> NDArray[np.int64]:
    """What an attack took on each image, int64 [n]: of one that was not attacked again, what it took within the larger
    eps where it stood or was found, as far as that is stored."""
    took = spent(rows)
    try:
        for rung in rungs_of(folder)[1:]:
            took = np.where(took > 0, took, spent_on([rung], rows["example_id"].tolist()))
    except Damaged:  # those count as images that were never tried
        pass
    return took


def _parts(order: Sequence[Candidate]) -> list[list[Candidate]]:
    """Runs of the order that one command can say: an option given with -o is that of every attack that has it."""
    parts: list[list[Candidate]] = []
    for each in order:
        if parts and each.cascades and all(other.cascades for other in parts[-1]) and _agree([*parts[-1], each]):
            parts[-1].append(each)
        else:
            parts.append([each])
    return parts


def _given(part: Sequence[Candidate]) -> dict[str, Any]:
    return {name: value for each in part for name, value in each.named.given.items()}


def _agree(part: Sequence[Candidate]) -> bool:
    given = _given(part)
    same = all(each.named.options.get(name, value) == value for each in part for name, value in given.items())
    names = [each.named.name for each in part]
    return same and len(set(names)) == len(names) and all(_agree_on(name, part) for name in HOW)


def _agree_on(name: str, part: Sequence[Candidate]) -> bool:
    """Whether all that depend on one of `HOW` want the same."""
    return len({each.how.get(name) for each in part if getattr(each.named.attack, HOW[name])}) < 2


def _command(reference: str, part: Sequence[Candidate], spec: dict[str, Any], about: Any, places: Sequence[str]) -> str:
    words = ["robench", "evaluate", reference, "--dataset", about.at_hand(about.dataset)]
    words += ["--cascade"] if len(part) > 1 else []
    words += [word for each in part for word in ("-a", each.named.name)]
    words += [word for name, value in _given(part).items() for word in ("-o", f"{name}={value}")]
    words += ["--norm", spec["norm"]] if spec["norm"] != norms.DEFAULT else []
    words += ["--eps", about.eps, "-n", str(spec["count"])]
    told = {name: spec.get(name) for name in ("seed", "eot")}
    for each in part:
        told |= each.how
    words += [word for name, value in told.items() if value for word in (f"--{name.replace('_', '-')}", str(value))]
    words += [word for layer in spec.get("bpda") or [] for word in ("--bpda", layer)]
    return command_line([*words, *places])


def _taken(group: Sequence[EvaluationFolder], rows: dict[str, Any]) -> dict[str, int]:
    """By attack, how many finds were taken over from its evaluation within a larger eps and made nowhere else."""
    below = [folder for folder in group if folder.spec.get("below")]
    others = [broken(rows[folder.job_id]) for folder in group if folder not in below]
    found = {}
    for folder in below:
        mine = rows[folder.job_id]
        alone = broken(mine) & (mine["trial"] == TAKEN_OVER).to_numpy()
        found[folder.label] = int((alone & ~np.any([np.zeros(len(mine), dtype=bool), *others], axis=0)).sum())
    return {name: count for name, count in found.items() if count}


def _notes(
    steps: Sequence[Step], order: Sequence[Candidate], commands: Sequence[str], union: int, below: dict[str, int]
) -> list[str]:
    notes, reached = [], sum(step.broken for step in steps)
    if not union:
        notes.append("No stored evaluation broke any of these images, so there is no order of attacks to advise.")
    if below:
        told = ", ".join(f"{name} ({count})" for name, count in below.items())
        notes.append(f"Finds that were made within a larger eps count; by itself an attack may miss them: {told}.")
    if len(commands) > 1:
        notes.append(
            "One command cannot say all of it, since an option holds for every attack that has it and some attacks "
            "only count by themselves: each command begins with all images, so it takes more than is expected here, "
            "and 'robench leaderboard' has the worst case over all of them."
        )
    if reached < union:
        notes.append(f"{union - reached} images were broken by attacks that are not in this order, so it leaves more.")
    unknown = [step for step in steps if step.unknown]
    if unknown:
        told = ", ".join(f"{step.attack.name} ({step.unknown})" for step in unknown)
        notes.append(
            "Images that an attack never tried, because others had broken them before or what it took on them within "
            f"a larger eps is not stored, are taken for images that it leaves standing: {told}."
        )
    batched = [each.known.name for each in order if each.named.attack.batched]
    if batched:
        notes.append(f"What {', '.join(batched)} finds depends on which images share a batch, so it may find others.")
    return notes

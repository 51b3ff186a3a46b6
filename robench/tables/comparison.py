"""Two models, or two evaluations, paired image by image: what both withstand, one alone, or neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from robench.errors import BadInput, unknown
from robench.evaluation.attacks import label_of
from robench.results import rows as of
from robench.results.accuracy import WHITE_BOX, Measure, entering, enters, standing
from robench.results.paired import Paired
from robench.results.rows import COUNTED
from robench.results.summary import UNSTABLE
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.runs import Store
from robench.tables.doubts import fired
from robench.tables.left_out import digests
from robench.tables.rendering import Grid, grid, percent
from robench.threat import ThreatModel
from robench.trust.bounds import upper_bound_of_all, walked
from robench.trust.flags import advice
from robench.trust.newest import newest
from robench.trust.origins import aged

if TYPE_CHECKING:  # takes its time to load
    import pandas as pd

CLEAN, WORST = "clean", "worst case"
# what two evaluations must share to be about the same images within one threat model, in a sentence's words
SHARED = {"data_digest": "data", "split": "split", "norm": "norm", "eps": "eps"}
NOTE = (
    "Images that are right for both, for one alone, for neither. A - B: in percent of all images, with a 95% interval "
    "for paired shares (Bonett and Price, 2012); p: McNemar's exact test, two-sided."
)


@dataclass(frozen=True)
class Side:
    """One of the two: its title, the evaluations that count, and the labels of their attacks."""

    title: str
    folders: tuple[EvaluationFolder, ...]
    labels: tuple[str, ...]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of the first evaluation."""
        return self.folders[0].spec

    def ids(self) -> set[int]:
        """The examples that all of its evaluations have."""
        ranges = [range(f.spec["start"], f.spec["start"] + f.spec["count"]) for f in self.folders]
        return set(ranges[0]).intersection(*ranges[1:])

    def tables(self, ids: set[int]) -> list[pd.DataFrame]:
        """The rows of those examples, per evaluation."""
        every = (folder.rows(COUNTED) for folder in self.folders)
        return [rows[rows["example_id"].isin(ids)].reset_index(drop=True) for rows in every]

    @property
    def rejected(self) -> int | None:
        """Behind a detector, its class for what it rejects."""
        return self.folders[0].about.classes if self.spec.get("detector") else None


@dataclass(frozen=True)
class Comparison:
    """Two sides on the same images within one threat model: a pairing of clean answers, and one under attack."""

    a: Side
    b: Side
    dataset: str
    threat: ThreatModel
    pairs: tuple[Paired, ...]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, a: Side, b: Side, notes: Iterable[str] = ()) -> Comparison:
        """The comparison on the images that both have. Raises BadInput where there are none."""
        ids = a.ids() & b.ids()
        if not ids:
            raise BadInput(
                f"{a.title} and {b.title} were evaluated on no common images; evaluate both with the same -n."
            )
        ours, theirs = a.tables(ids), b.tables(ids)
        under = [a.labels[0] if a.labels == b.labels else f"{a.labels[0]} and {b.labels[0]}"]
        question = under[0] if len(a.folders) == 1 else WORST
        pairs = (
            Paired.of(CLEAN, of.correct(ours[0]), of.correct(theirs[0])),
            Paired.of(question, standing(ours, a.rejected), standing(theirs, b.rejected)),
        )
        whole = max(len(a.ids()), len(b.ids()))
        told = [f"Only the {len(ids):,} images that both were evaluated on."] if len(ids) < whole else []
        told += [f"{WORST.capitalize()} over: {', '.join(a.labels)}."] if question == WORST else []
        told += notes
        threat = ThreatModel.of(a.spec["norm"], a.spec["eps"])
        return cls(a, b, a.folders[0].about.dataset, threat, pairs, tuple(told))

    @property
    def title(self) -> str:
        """Both sides, the data and the threat model in words."""
        return f"A: {self.a.title}, B: {self.b.title}; {self.dataset}, {self.threat}, n = {self.pairs[0].n:,}"

    def to_json(self) -> dict[str, Any]:
        """The pairings as JSON types, and which evaluations they are of."""
        return {
            "a": {"name": self.a.title, "evaluations": [folder.job_id for folder in self.a.folders]},
            "b": {"name": self.b.title, "evaluations": [folder.job_id for folder in self.b.folders]},
            "dataset": self.dataset, "norm": self.threat.norm, "eps": self.threat.eps_text,
            "attacks": list(self.a.labels), "pairs": [pair.to_json() for pair in self.pairs],
            "notes": list(self.notes),
        }  # fmt: skip

    def table(self) -> Grid:
        """A column per question."""
        shown = grid(self.title, (NOTE, *self.notes))
        shown.add_column("", no_wrap=True)
        for pair in self.pairs:
            shown.add_column(pair.question, justify="right", overflow="fold")
        columns = [_cells(pair) for pair in self.pairs]
        for name in columns[0]:
            shown.add_row(name, *(cells[name] for cells in columns))
        return shown


def _cells(pair: Paired) -> dict[str, str]:
    """What is said of a pairing, by the names of a table's lines."""
    (a, b), (low, high) = pair.shares, pair.interval
    return {
        "both right": f"{pair.both:,}",
        "only A": f"{pair.only_a:,}",
        "only B": f"{pair.only_b:,}",
        "neither": f"{pair.neither:,}",
        "A %": percent(a),
        "B %": percent(b),
        "A - B": f"{100 * pair.difference:+.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        "p": f"{pair.p:.2g}",
    }


def compare(store: Store, a: str, b: str, attack: str | None = None) -> list[Comparison]:
    """Two models, or two evaluations by the beginnings of their ids: a comparison per threat model that they share.

    attack: compare under this one alone, by its name or its label. Raises BadInput for what is not in the store, what
    is incomplete, and for different data, norms or eps.
    """
    folders, damaged = store.intact()
    known = sorted({folder.about.model for folder in folders})
    models = [name in known for name in (a, b)]
    if all(models):
        return _of_models(store, folders, a, b, attack)
    if not any(models):
        found = [_evaluation(store, name, known, damaged) for name in (a, b)]
        if attack is not None:
            raise BadInput(f"-a {attack!r} is given with two evaluations, which have an attack each; leave it out.")
        _same(*found)
        first, second = (Side(f"{f.about.model} ({f.job_id[:6]})", (f,), (label_of(f),)) for f in found)
        return [Comparison.of(first, second, [*_doubts(store, first), *_doubts(store, second)])]
    other = b if models[0] else a
    if any(job_id.startswith(other) for job_id in store.evaluation_ids()):
        raise BadInput(f"{a!r} and {b!r} are a model and an evaluation; give two models, or two evaluations.")
    raise unknown("model that was evaluated, or evaluation,", other, known)


def _evaluation(store: Store, name: str, known: Sequence[str], damaged: dict[str, str]) -> EvaluationFolder:
    """A complete evaluation. Raises BadInput where there is none of that id."""
    if not any(job_id.startswith(name) for job_id in store.evaluation_ids()):
        raise unknown("model that was evaluated, or evaluation,", name, known)
    found = store.find_evaluation(name)
    if found.job_id in damaged:
        raise BadInput(damaged[found.job_id])
    if found.result is None:
        raise BadInput(f"The evaluation {found.job_id} is incomplete; run its command again, then compare.")
    return found


def _same(a: EvaluationFolder, b: EvaluationFolder) -> None:
    """Raise BadInput unless two evaluations are on the same data within one threat model."""
    for name, words in SHARED.items():
        ours, theirs = a.spec.get(name), b.spec.get(name)
        if ours != theirs:
            if name == "data_digest":
                ours, theirs = a.about.dataset, b.about.dataset
                words += "" if ours != theirs else ", by the same name"
            if name == "eps":
                ours, theirs = (ThreatModel.of(f.spec["norm"], f.spec["eps"]).eps_text for f in (a, b))
            raise BadInput(
                f"The evaluations {a.job_id} and {b.job_id} have different {words} ({ours} and {theirs}), so their "
                "images cannot be paired; compare two on the same data within one threat model."
            )


# the evaluations of a model by the values of SHARED
Groups = dict[tuple[Any, ...], dict[str, EvaluationFolder]]


@dataclass(frozen=True)
class _Entry:
    """An evaluation as a worst case asks about it."""

    folder: EvaluationFolder
    access: str
    metric: str


def _groups(store: Store, folders: Sequence[EvaluationFolder], model: str, attack: str | None) -> Groups:
    """The complete evaluations of a model by threat model, then by label; the widest of a label, and by today's code
    where it made the same. What was run for the diagnostics alone, of few images, counts where there is nothing else.
    Raises BadInput where there is none, and where the name stands for several models."""
    trained, found = digests(store), defaultdict[tuple[Any, ...], dict[str, EvaluationFolder]](dict)
    mine = [f for f in folders if f.about.model == model]
    mine = [f for f in mine if trained.get(model, f.spec["model_digest"]) == f.spec["model_digest"]]
    if len({f.spec["model_digest"] for f in mine}) > 1:
        raise BadInput(f"The name {model!r} stands for several models; compare two evaluations by their ids instead.")
    mine = [f for f in mine if not f.about.probes] or mine
    whole = newest(folder for folder in mine if folder.result is not None)
    for folder in sorted(whole, key=lambda f: (f.spec["count"], f.spec["attack_version"], f.job_id)):
        seed = folder.spec["seed"]
        label = label_of(folder) + (f" [seed {seed}]" if seed else "")
        chosen = enters(folder.about.access, WHITE_BOX) if attack is None else attack in (label, folder.spec["attack"])
        if chosen:
            found[tuple(folder.spec.get(name) for name in SHARED)][label] = folder
    if not found:
        under = f" under {attack!r}" if attack else ""
        raise BadInput(
            f"There is no complete evaluation of {model!r}{under} to compare; run 'robench evaluate {model}' first."
        )
    return found


def _of_models(
    store: Store, folders: Sequence[EvaluationFolder], a: str, b: str, attack: str | None
) -> list[Comparison]:
    if a == b:
        raise BadInput(f"{a!r} is given twice; give two models, or two evaluations.")
    ours, theirs = (_groups(store, folders, name, attack) for name in (a, b))
    found = []
    for key in sorted(ours.keys() & theirs.keys(), key=str):
        labels = sorted(label for label in ours[key] if label in theirs[key])
        alone = [
            f"{label} (only {name})"
            for name, mine, other in ((a, ours[key], theirs[key]), (b, theirs[key], ours[key]))
            for label in mine
            if label not in other
        ]
        notes = [f"Left out, as one model alone has them: {', '.join(alone)}."] if alone else []
        for question in _questions(ours[key], labels, each=attack is not None):
            first, second = (_side(name, group, question) for name, group in ((a, ours[key]), (b, theirs[key])))
            found.append(Comparison.of(first, second, [*notes, *_doubts(store, first), *_doubts(store, second)]))
    if not found:
        raise BadInput(_nothing_shared(a, ours, b, theirs))
    return found


def _questions(group: dict[str, EvaluationFolder], labels: Sequence[str], *, each: bool) -> list[list[str]]:
    """What two models are compared in: the worst case over those of the shared labels that enter it; each: and every
    other one alone, since what is up against another thing, or aims at a class, has no worst case with these."""
    inside = {entry.folder.job_id for entry in entering(_entries(group, labels))}
    worst = [label for label in labels if group[label].job_id in inside]
    others = [[label] for label in labels if label not in worst] if each else []
    return [question for question in (worst, *others) if question]


def _side(title: str, group: dict[str, EvaluationFolder], labels: Sequence[str]) -> Side:
    return Side(title, tuple(group[label] for label in labels), tuple(labels))


def _entries(group: dict[str, EvaluationFolder], labels: Sequence[str]) -> list[_Entry]:
    return [_Entry(group[label], group[label].about.access, group[label].about.metric) for label in labels]


def _nothing_shared(a: str, ours: Groups, b: str, theirs: Groups) -> str:
    """Why two models cannot be paired, in a sentence."""
    if ours.keys() & theirs.keys():
        return (
            f"{a!r} ({_attacks(ours)}) and {b!r} ({_attacks(theirs)}) share no attack whose figure is robust accuracy; "
            "evaluate both under the same one, or name it with -a."
        )
    return (
        f"{a!r} ({_places(ours)}) and {b!r} ({_places(theirs)}) share no data, norm and eps, so their images cannot be "
        "paired; evaluate both on the same data within one threat model."
    )


def _attacks(groups: Groups) -> str:
    return ", ".join(dict.fromkeys(label for group in groups.values() for label in group))


def _places(groups: Groups) -> str:
    """Where a model was evaluated, in words."""
    first = [next(iter(group.values())) for group in groups.values()]
    return "; ".join(f"{f.about.dataset}, {ThreatModel.of(f.spec['norm'], f.spec['eps'])}" for f in first)


def _doubts(store: Store, side: Side) -> list[str]:
    """What speaks against a side's figures: that they are upper bounds or of other code than today's, their flags, and
    the gates that fired about the model."""
    results = [(folder, folder.result) for folder in side.folders if folder.result]
    flags = sorted({flag for _, result in results for flag in result.flags})
    unstable, others = [f for f in UNSTABLE if f in flags], [f for f in flags if f not in UNSTABLE]
    found = []
    if unstable:
        found.append(f"{side.title} is flagged {', '.join(unstable)}: its images may fall otherwise in the next run.")
    found += [f"{side.title} is flagged {flag}: {advice(flag)}." for flag in others]
    found += [f"{side.title}: made by {old}; {advice('made by')}." for old in sorted({*map(aged, side.folders)}) if old]
    if all(folder.about.access == WHITE_BOX and folder.about.metric == Measure.ROBUST for folder in side.folders):
        kinds = [folder.about.kind for folder in side.folders]
        bound = upper_bound_of_all(side.spec["norm"], any(map(walked, side.folders)), kinds)
        found += [f"{side.title}: {bound}."] if bound else []
    told = dict.fromkeys(each.gate for folder in side.folders for each in fired(store, folder, flags))
    if told:
        found.append(
            f"{side.title} is not to be trusted before this is explained: {', '.join(told)}; see 'robench diagnose'."
        )
    return found

"""Robust accuracy against passes per image, and what stages cost, read from the rows of stored evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robench.errors import BadInput
from robench.evaluation.attacks import label_of
from robench.results.accuracy import Figure
from robench.results.rows import Marks, correct, spent, succeeded
from robench.store.chains import rested_on, spent_on
from robench.store.labels import endings
from robench.store.runs import EvaluationFolder, Store
from robench.tables.cells import whole_rows
from robench.tables.model_names import told_apart
from robench.tables.rendering import Grid, grid, lines
from robench.threat import ThreatModel
from robench.trust.origins import marked

# what evaluations share that are compared
SUBJECT = ("model_digest", "data_digest", "split", "start", "count", "norm", "eps")

NOTE = (
    "A forward pass is 1, a backward pass 2 more, the harness's own not counted; of a cascade, with the evaluations "
    "before it, and below a larger eps with that one's. Robust: percent of all n images, a broken one from all that "
    "was spent on it on. Attacked: images on which more was spent; mean: passes per image up to there, of those that "
    "cost any. A dash: no image cost as much."
)
STAGE_NOTE = (
    "Of the evaluation itself. Ended there: images whose last stage it was, broken or left standing, and what they "
    "cost in all stages, on average."
)


@dataclass(frozen=True)
class Spending:
    """What the images of one evaluation cost, one element per image.

    passes: int64 [n], with those of the evaluations that it goes on from, in a cascade or within larger eps; own:
    without. clean, standing: bool [n],
    classified correctly before and after the attack. stages: names per image, as in its row.
    surrogate: the model that the images were crafted on, whose passes these then are; "" for the attacked one itself.
    """

    evaluation: str
    model: str
    attack: str
    threat: str
    passes: NDArray[np.int64]
    own: NDArray[np.int64]
    clean: Marks
    standing: Marks
    stages: tuple[str, ...]
    surrogate: str = ""

    @classmethod
    def of(cls, folder: EvaluationFolder) -> Spending:
        """Raises BadInput for an evaluation that is incomplete or counts goals."""
        spec, about = folder.spec, folder.about
        rows = whole_rows(folder, "accuracy that passes lower", "ask what it cost")
        own = spent(rows)
        passes = own + spent_on(rested_on(folder), rows["example_id"].tolist())
        told = rows["stages"].fillna("").astype(str) if "stages" in rows else pd.Series([""] * len(rows))
        clean, threat = correct(rows), str(ThreatModel.of(spec["norm"], spec["eps"]))
        return cls(folder.job_id, about.model, label_of(folder) + marked(folder), threat, passes, own, clean,
                   clean & ~succeeded(rows), tuple(told), about.surrogate if spec.get("surrogate") else "")  # fmt: skip

    def at(self, most: int) -> Figure:
        """Robust accuracy once `most` was spent on every image: one is broken when all that was spent on it is."""
        return Figure(int((self.clean & (self.standing | (self.passes > most))).sum()), len(self.passes))

    def attacked(self, most: int) -> int:
        """How many images cost more than `most`, so that they are still attacked there."""
        return int((self.passes > most).sum())

    def mean(self, most: int | None = None) -> float:
        """What an image that was attacked cost on average, up to `most`."""
        found = self.passes[self.passes > 0]
        return float(np.minimum(found, found.max() if most is None else most).mean()) if len(found) else 0.0

    def points(self) -> list[int]:
        """10, 30, 100, 300, ... up to what was spent."""
        dearest = int(self.passes.max(initial=0))
        found = [factor * 10**power for power in range(1, 19) for factor in (1, 3)]
        return [each for each in found if each < dearest]

    def totals(self) -> dict[str, float | int]:
        """Mean, median and most passes of the attacked images, and the mean of those that stand."""
        found, left = self.passes[self.passes > 0], self.passes[self.standing]
        return {
            "images": len(found),
            "mean": round(self.mean(), 2),
            "median": float(np.median(found)) if len(found) else 0.0,
            "max": int(self.passes.max(initial=0)),
            "standing": int(self.standing.sum()),
            "mean_standing": round(float(left.mean()), 2) if len(left) else 0.0,
        }

    def by_stage(self) -> list[dict[str, Any]]:
        """Of every stage in order: images that entered it, that ended there and were broken, and what these cost."""
        lists = [each.split(";") if each else [] for each in self.stages]
        names = _in_order(lists)
        lasts = np.array([own[-1] if own else "" for own in lists], dtype=object)
        found = []
        for name in names:
            ended = lasts == name
            found.append({
                "stage": name,
                "entered": sum(name in own for own in lists),
                "broken": int((ended & ~self.standing).sum()),
                "ended": int(ended.sum()),
                "mean_passes": round(float(self.own[ended].mean()), 2) if ended.any() else 0.0,
            })  # fmt: skip
        return found

    def to_json(self, points: Sequence[int]) -> dict[str, Any]:
        """The evaluation, its figures at `points` and at the end, and its stages."""
        found = [(most, self.at(most)) for most in [*points, int(self.passes.max(initial=0))]]
        return {
            "evaluation": self.evaluation,
            "model": self.model,
            "attack": self.attack,
            **({"passes_of": self.surrogate} if self.surrogate else {}),
            "n": len(self.passes),
            "points": [
                {"passes": most, "robust_accuracy": figure.value, "interval": list(figure.interval),
                 "attacked": self.attacked(most), "mean_passes": round(self.mean(most), 2)}
                for most, figure in found
            ],
            "passes": self.totals(),
            "stages": self.by_stage(),
        }  # fmt: skip


def _in_order(lists: Sequence[Sequence[str]]) -> list[str]:
    """The names in all lists, each after those that stand before it in any."""
    left, found = dict.fromkeys(name for own in lists for name in own), list[str]()
    earlier = {name: {each for own in set(map(tuple, lists)) if name in own for each in own[: own.index(name)]}
               for name in left}  # fmt: skip
    while left:
        name = next((name for name in left if earlier[name] <= set(found)), next(iter(left)))
        found.append(name)
        del left[name]
    return found


def collect(store: Store, names: Sequence[str]) -> list[Spending]:
    """What the named evaluations cost. Raises BadInput where none is named, where one cannot be read, and where they
    are not about the same model, images and threat model."""
    if not names:
        raise BadInput("No evaluation is named; give ids, which 'robench list evaluations' has.")
    ids = dict.fromkeys(store.find_evaluation(name).job_id for name in names)
    folders = [store.evaluation(job_id) for job_id in ids]
    for other in folders[1:]:
        for field in SUBJECT:
            if other.spec.get(field) != folders[0].spec.get(field):
                raise BadInput(
                    f"The evaluations {folders[0].job_id} and {other.job_id} differ in {field.replace('_digest', '')}, "
                    "so their costs do not compare; name those of one model, the same images and one eps."
                )
    titles = told_apart((folder.spec["model_digest"], folder.about) for folder in folders)
    spendings = [Spending.of(folder) for folder in folders]
    ends = endings(folders, {each.evaluation: each.attack for each in spendings})
    return [
        replace(each, model=titles[each.model, folder.spec["model_digest"]], attack=each.attack + ends[each.evaluation])
        for folder, each in zip(folders, spendings, strict=True)
    ]


def points_of(found: Sequence[Spending]) -> list[int]:
    """The numbers of passes that a table shows: those of the dearest."""
    return max((each.points() for each in found), key=len)


def tables(found: Sequence[Spending]) -> Iterator[Grid]:
    """A line per number of passes, columns for every evaluation; then a table of stages for each that has them."""
    about = f"{found[0].model}, {found[0].threat}, n {len(found[0].passes):,}"
    shown = grid(f"Robust accuracy against passes per image: {about}", " ".join([NOTE, *whose(found)]))
    shown.add_column("passes", justify="right", no_wrap=True)
    for each in found:
        shown.add_column(lines(each.attack, "robust"), justify="right", overflow="fold", min_width=6)
        for name in ("attacked", "mean"):
            shown.add_column(name, justify="right", no_wrap=True)
    for most in points_of(found):
        shown.add_row(f"{most:,}", *(cell for each in found for cell in _cells(each, most)))
    shown.add_row("all", *(cell for each in found for cell in _cells(each, None)))
    for name in ("median", "max", "mean_standing"):
        title = {"mean_standing": "mean, standing"}.get(name, name)
        shown.add_row(title, *(cell for each in found for cell in ("", "", f"{each.totals()[name]:,.0f}")))
    yield shown
    for each in found:
        if any(each.stages):
            yield _stages(each)


def whose(found: Sequence[Spending]) -> list[str]:
    """Sentences on passes that are those of a surrogate and not of the model that is attacked."""
    return [
        f"{each.attack}: the passes are those on {each.surrogate}, where its images were crafted; {each.model} was "
        "asked for verdicts alone."
        for each in found if each.surrogate
    ]  # fmt: skip


def _cells(each: Spending, most: int | None) -> tuple[str, str, str]:
    dearest = int(each.passes.max(initial=0))
    if most is not None and most >= dearest:
        return "-", "-", "-"
    at = dearest if most is None else most
    attacked = each.totals()["images"] if most is None else each.attacked(most)
    return f"{100 * each.at(at).value:.1f}", f"{attacked:,}", f"{each.mean(at):,.1f}"


def _stages(each: Spending) -> Grid:
    shown = grid(f"Stages of {each.attack}", STAGE_NOTE)
    shown.add_column("stage")
    for name in ("entered", "ended there", "broken there", "mean passes"):
        shown.add_column(name, justify="right")
    for one in each.by_stage():
        counts = (f"{one[name]:,}" for name in ("entered", "ended", "broken"))
        shown.add_row(one["stage"], *counts, f"{one['mean_passes']:,.1f}")
    return shown

"""A baseline's evaluations beside the same ones of today: pairs of outcomes per image, and the lines they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from robench.baseline import UNSTABLE, Kept, Outcomes, encode
from robench.comparison import CLEAN, WORST, Line, Marks
from robench.errors import BadInput
from robench.store import Store


@dataclass(frozen=True)
class Pair:
    """An evaluation then and now: outcomes per example, now None where it is incomplete; row: today's summary."""

    kept: Kept
    row: Mapping[str, Any]
    then: Outcomes
    now: Outcomes | None

    @classmethod
    def of(cls, kept: Kept, row: Mapping[str, Any], store: Store) -> Pair:
        """The pair, today's outcomes read from the store. Raises BadInput where they are no basis for a comparison."""
        then = Outcomes.of(kept.outcomes, kept.metric)
        if row["status"] != "complete":
            return cls(kept, row, then, None)
        unstable = [flag for flag in UNSTABLE if flag in row["flags"]]
        if unstable:
            raise BadInput(
                f"The model {kept.model!r} is now flagged {', '.join(unstable)} under {kept.label}, so its outcomes "
                "cannot be compared with the baseline's; make its answers repeatable first."
            )
        letters = encode(store.evaluation(row["evaluation"]), kept.spec)
        return cls(kept, row, then, Outcomes.of(letters, kept.metric))

    def attacked(self) -> Line:
        """What the attack left standing, not yet judged."""
        kept = self.kept
        line = replace(self.line(kept.label, kept.metric, kept.figure), evaluation=self.row["evaluation"])
        if self.now is None:
            return line
        figure = self.row["attack_success_rate" if kept.metric == "attack success rate" else "robust_accuracy"]
        line = replace(line, flags=tuple(self.row["flags"]), seconds=self.row["seconds"])
        return line.counted(self.then.stood, self.now.stood, figure)

    def clean(self) -> Line:
        """The clean images classified correctly, not yet judged."""
        line = self.line(CLEAN, "clean accuracy", self.kept.clean_accuracy)
        line = replace(line, evaluation=self.row["evaluation"])
        return line.counted(self.then.correct, self.now.correct, self.row["clean_accuracy"]) if self.now else line

    def line(self, attack: str, metric: str, then: float) -> Line:
        """A line about this model and these images, without today's figure."""
        return Line(self.kept.model, attack, self.kept.spec.count, metric, then, subject=self.row["model"])

    @property
    def in_worst_case(self) -> bool:
        """Whether it is of an attack that the worst case is over: white-box, on the model itself, at any class."""
        access, metric = self.row["access"], self.kept.metric
        return bool(access == "white-box" and metric == "robust accuracy" and self.kept.spec.surrogate is None)


def lines_of(pairs: Sequence[Pair]) -> list[Line]:
    """Every comparison that pairs allow: clean accuracies, worst cases, attacks; not yet judged."""
    return [*_clean(pairs), *_worst(pairs), *(pair.attacked() for pair in pairs)]


def _clean(pairs: Sequence[Pair]) -> Iterator[Line]:
    """One clean line per model and data, on the most images that any of its evaluations has."""
    widest: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        key = (pair.kept.model, pair.kept.spec.data_digest)
        if key not in widest or pair.kept.spec.count > widest[key].kept.spec.count:
            widest[key] = pair
    return (pair.clean() for pair in widest.values())


def _worst(pairs: Sequence[Pair]) -> Iterator[Line]:
    """A line per model, images and threat model under several attacks: what all of them together leave standing."""
    groups: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        if pair.in_worst_case:
            spec = pair.kept.spec
            key = (pair.kept.model, spec.data_digest, spec.norm, spec.eps, spec.start, spec.count)
            groups.setdefault(key, []).append(pair)
    for group in groups.values():
        if len(group) > 1:
            then = _all([pair.then.stood for pair in group])
            line = group[0].line(f"{WORST}, {group[0].kept.threat}", "robust accuracy", float(then.mean()))
            outcomes = [pair.now for pair in group if pair.now is not None]
            if len(outcomes) == len(group):
                now = _all([each.stood for each in outcomes])
                line = line.counted(then, now, float(now.mean()))
            yield line


def _all(marks: Sequence[Marks]) -> Marks:
    return reduce(np.logical_and, marks)

"""Which evaluations leaderboards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robench.errors import unknown
from robench.evaluation.attacks import label_of
from robench.store.runs import EvaluationFolder


@dataclass(frozen=True)
class Chosen:
    """Which evaluations tables are made of; what is empty chooses all.

    attacks: plugins' names, or labels as columns have them. least: how many images, at least. probes: also what was run
    for the diagnostics alone.
    """

    models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    norms: Sequence[str] = ()
    attacks: Sequence[str] = ()
    least: int = 0
    probes: bool = False

    def __call__(self, folder: EvaluationFolder) -> bool:
        """Whether an evaluation is among them."""
        spec, about = folder.spec, folder.about
        wanted = ((self.models, {about.model}), (self.datasets, {about.dataset}), (self.norms, {spec["norm"]}),
                  (self.attacks, {spec["attack"], label_of(folder)} if self.attacks else set()))  # fmt: skip
        fits = all(not names or not mine.isdisjoint(names) for names, mine in wanted)
        return fits and spec["count"] >= self.least and (self.probes or not about.probes)

    def check(self, folders: Sequence[EvaluationFolder]) -> None:
        """Raise BadInput for a name that none of the evaluations has."""
        for what, names, there in (
            ("model with an evaluation", self.models, {folder.about.model for folder in folders}),
            ("dataset with an evaluation", self.datasets, {folder.about.dataset for folder in folders}),
            ("attack with an evaluation", self.attacks,
             {name for each in folders for name in (each.spec["attack"], label_of(each))} if self.attacks else ()),
        ):  # fmt: skip
            for name in names:
                if name not in there:
                    raise unknown(what, name, there)


EVERYTHING = Chosen()

"""Two models on the same images: how often both are right, one alone, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robench.results.rows import Marks
from robench.results.statistics import mcnemar, paired_interval


@dataclass(frozen=True)
class Paired:
    """How many of the same n images two models have right: `question` says under what."""

    question: str
    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, question: str, a: Marks, b: Marks) -> Paired:
        """From whether each has an image right, bool [n] in the same order."""
        return cls(question, int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum()), int((~a & ~b).sum()))

    @property
    def n(self) -> int:
        """All images."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def shares(self) -> tuple[float, float]:
        """The accuracy of each."""
        return (self.both + self.only_a) / self.n, (self.both + self.only_b) / self.n

    @property
    def difference(self) -> float:
        """The accuracy of the first without that of the second."""
        return (self.only_a - self.only_b) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of a 95% interval for that."""
        return paired_interval(self.only_b, self.only_a, self.n)

    @property
    def p(self) -> float:
        """The exact two-sided p of McNemar's test that both are right equally often."""
        return mcnemar(self.only_b, self.only_a)

    def to_json(self) -> dict[str, Any]:
        """The counts and what follows from them, as fractions."""
        a, b = self.shares
        return {
            "question": self.question, "n": self.n, "both": self.both, "only_a": self.only_a, "only_b": self.only_b,
            "neither": self.neither, "accuracy_a": a, "accuracy_b": b, "difference": self.difference,
            "interval": list(self.interval), "p": self.p,
        }  # fmt: skip

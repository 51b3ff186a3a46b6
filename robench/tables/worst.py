"""What several attacks on one model leave standing together, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from robench.evaluation.summaries import Result
from robench.results.accuracy import Figure, entering, worst_case
from robench.results.rows import COUNTED
from robench.results.summary import COMPLETE, INCOMPLETE
from robench.store.runs import Store
from robench.trust.bounds import upper_bound_of_all


@dataclass(frozen=True)
class WorstCase:
    """What several attacks on one model leave standing together, image by image; None while one is incomplete.

    surrogate: where all images were crafted on another model, its name. note: that it is an upper bound alone.
    nested: what it is where finds within smaller eps of the same report count too, None where they change nothing.
    """

    model: str
    dataset: str
    norm: str
    eps: str
    n: int
    attacks: tuple[str, ...]
    figure: Figure | None
    flags: tuple[str, ...]
    surrogate: str = ""
    note: str = ""
    seed: int = 0
    nested: Figure | None = None

    @classmethod
    def of(cls, group: Sequence[Result], store: Store, within: Sequence[Result] = ()) -> WorstCase:
        """The worst case of evaluations on the same images, from the store's rows.

        within: evaluations of the same model on the same images within smaller eps.
        """
        first, complete = group[0], all(result.summary.complete for result in group)
        rows = [store.evaluation(result.evaluation).rows(COUNTED) for result in group] if complete else []
        figure, nested = worst_case(rows) if rows else None, None
        if rows:
            more = [store.evaluation(each.evaluation).rows(COUNTED) for each in within if each.summary.complete]
            counted = worst_case([*rows, *more])
            nested = counted if counted != figure else None
        return cls(
            first.model, first.about.dataset, first.norm, first.about.eps, first.summary.n,
            tuple(result.label for result in group), figure,
            tuple(sorted({flag for result in group for flag in result.summary.flags})),
            note=upper_bound_of_all(
                first.norm, any(result.boundary for result in group), (result.about.kind for result in group)
            ),
            seed=first.seed, nested=nested,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, the accuracy as a fraction."""
        value, interval = (self.figure.value, self.figure.interval) if self.figure else (None, (0.0, 1.0))
        found = {
            "model": self.model,
            "dataset": self.dataset,
            "norm": self.norm,
            "eps": self.eps,
            "n": self.n,
            "attacks": list(self.attacks),
            "robust_accuracy": value,
            "interval": list(interval),
            "flags": list(self.flags),
            "status": COMPLETE if self.figure else INCOMPLETE,
        }
        found |= {"counting_smaller_eps": self.nested.value} if self.nested else {}
        more = {"surrogate": self.surrogate, "note": self.note, "seed": self.seed}
        return found | {name: told for name, told in more.items() if told}


def worst_cases(results: Iterable[Result], store: Store) -> list[WorstCase]:
    """The worst case over each model's white-box attacks, within each threat model and with each seed."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        key = (result.model, result.about.dataset, result.norm, result.seed, Fraction(result.about.eps))
        groups.setdefault(key, []).append(result)
    entered = {key: kept for key, group in groups.items() if (kept := entering(group))}
    found: list[WorstCase] = []
    for key, group in entered.items():
        smaller = [kept for other, kept in entered.items() if other[:-1] == key[:-1] and other[-1] < key[-1]]
        found.append(WorstCase.of(group, store, [each for kept in smaller for each in kept]))
    return found


def transfers(results: Sequence[Result], store: Store) -> list[WorstCase]:
    """The worst case over the attacks from each surrogate, for each target, threat model and seed."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        source = result.about.surrogate_digest
        key = (result.model, result.about.dataset, source, result.norm, result.about.eps, result.seed)
        groups.setdefault(key, []).append(result)
    kept = {key: group for key, each in groups.items() if (group := entering(each, "transfer"))}
    sources: dict[str, set[str]] = {}
    for key, group in kept.items():
        sources.setdefault(group[0].about.surrogate, set()).add(key[2])

    def title(name: str, digest: str) -> str:
        return f"{name}#{digest[:6]}" if len(sources[name]) > 1 and "#" not in name else name

    return [
        replace(WorstCase.of(group, store), surrogate=title(group[0].about.surrogate, key[2]))
        for key, group in kept.items()
    ]

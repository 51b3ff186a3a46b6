"""Gradient masking: what the rows of several attacks on one model say about how far its figures can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import pandas as pd

from robench.results.rows import Marks, broken, correct, marked
from robench.results.statistics import at_least, most_by_luck
from robench.threat import ThreatModel
from robench.trust.flagged import FLAGGED

# a share of all images that a weaker attack may break alone, or that more effort may still break, before it is told
SHARE = 0.01
# ... and never fewer images than this
LEAST = 3
# share of the attacked images whose gradient is exactly zero, and of all their pixels without one
ZERO_IMAGES, ZERO_PIXELS = 0.05, 0.9
# how sure it is that a draw of images has no more of the largest class than is allowed for
SURE = 0.999
# images below which clean accuracy is no evidence, and how often luck may reach it
FEWEST, BY_LUCK = 20, 0.05

# the kinds that only follow gradients, those that go on until they find something, and the options that make them go on
#
# What follows gradients climbs an objective within the ball, or walks along the decision boundary (`boundary`). Gates
# on pairs pool runs, and an image that any member of the stronger pool breaks is no evidence. A walk is in no such
# pool: it breaks images that every ascent misses, and would hide that queries, noise, another model's images or one
# step break them too. It has a gate of its own against the ascents, outside of the others' pools. An ensemble has both
# in one figure: it excuses a long search that misses what one step finds, and gradients that do worse than noise, but
# not the ascents beside it.
WHITE, SEARCHES = ("iterative", "single-step"), ("iterative", "query", "ensemble")
EFFORT = ("steps", "restarts", "queries")


@dataclass(frozen=True)
class Finding:
    """The outcome of one gate: whether it fired, on what evidence, against what threshold, and what to do next.

    images: how many images are the evidence, 0 where that is something else than images.
    """

    gate: str
    fired: bool
    evidence: str
    threshold: str
    advice: str
    model: str = ""
    model_digest: str = ""
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


@dataclass(frozen=True)
class AttackRun:
    """One complete evaluation as the gates see it.

    kind: a `Kind`, "noise", "transfer" or "guided". pixels: numbers in an image, which only norms without a `largest`
    eps ask for. absent: the classes that no image is of, in words. images: how many test images there are, and chance:
    the share of the largest class among them, None where nobody noted it. boundary: whether it walks along the decision
    boundary. broken: per image, classified correctly and misclassified under the attack.
    """

    name: str
    attack: str
    kind: str
    options: Mapping[str, Any]
    threat: ThreatModel
    rows: pd.DataFrame
    flags: tuple[str, ...]
    pixels: int = 0
    absent: str = ""
    boundary: bool = False
    images: int | None = None
    chance: float | None = None

    @property
    def part(self) -> bool:
        """Whether there are more images than these."""
        return self.images is not None and self.images > len(self.rows)

    @property
    def ascends(self) -> bool:
        """Whether it only climbs, along the gradient of an objective."""
        return self.kind in WHITE and not self.boundary

    @property
    def walks(self) -> bool:
        """Whether it only walks along the decision boundary, and not as one of several attacks."""
        return self.kind in WHITE and self.boundary

    @property
    def broken(self) -> Marks:
        """Which images the attack broke, bool [n]."""
        return broken(self.rows)

    @property
    def at(self) -> str:
        """Attack and threat model in words."""
        return f"{self.name} at {self.threat}"


# what a gate finds in all runs of a model
Gate = Callable[[Sequence[AttackRun]], Iterator[Finding]]


def diagnose(runs: Sequence[AttackRun], gates: Sequence[Gate] | None = None) -> list[Finding]:
    """Every gate, or each of `gates`, for which the runs hold evidence, those that fired first."""
    findings = [finding for gate in (GATES if gates is None else gates) for finding in gate(runs)]
    absent = next((f"; of these images {run.absent}" for run in runs if run.absent), "")
    findings = [replace(finding, evidence=finding.evidence + absent) for finding in findings]
    return sorted(findings, key=lambda finding: not finding.fired)


def together(findings: Iterable[Finding]) -> dict[Finding, list[str]]:
    """Those findings that fired, what one gate says of one model in several places as one, without evidence: that is a
    line each; what it saw alike in several runs, "RUN: ...", is one line with all of them."""
    found: dict[Finding, dict[str, dict[str, None]]] = {}
    for finding in findings:
        if finding.fired:
            run, colon, seen = finding.evidence.partition(": ")
            names = found.setdefault(replace(finding, evidence="", images=0), {}).setdefault(seen if colon else run, {})
            names |= {run: None} if colon else {}
    return {
        finding: [f"{'; '.join(names)}: {seen}" if names else seen for seen, names in lines.items()]
        for finding, lines in found.items()
    }


# --- gates on single runs --------------------------------------------------------------------------------------------


def _flagged(flag: str, gate: str, advice: str) -> Gate:
    """A gate on a flag that the judge sets about the model itself."""

    def found(runs: Sequence[AttackRun]) -> Iterator[Finding]:
        marked = [run.name for run in runs if any(f.startswith(flag) for f in run.flags)]
        if runs:
            where = f"on {len(runs[0].rows):,} images in {runs[0].threat.norm}"
            evidence = f"seen in {len(marked)} of {len(runs)} runs {where}"
            yield Finding(gate, bool(marked), evidence, "0 runs", advice)

    return found


def _zero_gradient(runs: Sequence[AttackRun]) -> Iterator[Finding]:
    for run in runs:
        if run.kind not in (*WHITE, "ensemble") or not (run.rows["backwards"] > 0).any():
            continue
        tried = run.rows[run.rows["backwards"] > 0]
        images = marked(tried, "zero-gradient").mean()
        pixels = tried["zero_pixels"].fillna(0.0).mean() if "zero_pixels" in tried else 0.0  # not every attack says
        yield Finding(
            "zero gradient",
            bool(images > ZERO_IMAGES or pixels > ZERO_PIXELS),
            f"{run.at}: no gradient at all for {images:.1%} of {len(tried):,} attacked images, and for {pixels:.1%} of "
            "their pixels at the first step",
            f"{ZERO_IMAGES:.0%} of the images, {ZERO_PIXELS:.0%} of the pixels",
            "look for rounding, saturation or a detached step in the model; attack with a margin loss, with BPDA for "
            "the layer in question, and with a query attack",
        )


def _marked(mark: str, gate: str, words: str, advice: str) -> Gate:
    """A gate on a mark that an attack made of stages sets on images, where it looked for it."""

    def found(runs: Sequence[AttackRun]) -> Iterator[Finding]:
        for run in runs:
            if "stages" not in run.rows or not (run.rows["stages"] != "").any():
                continue
            n, count = len(run.rows), int(marked(run.rows, mark).sum())
            evidence = f"{run.at}: {words} {count:,} of {n:,} images"
            yield Finding(gate, too_many(count, n), evidence, f"{ZERO_IMAGES:.0%}", advice, images=count)

    return found


def too_many(count: int, n: int) -> bool:
    """Whether a mark on so many of n images is more than a slip of the attack."""
    return count >= max(LEAST, int(ZERO_IMAGES * n) + 1)


# --- gates on pairs of runs ------------------------------------------------------------------------------------------


def _union(runs: Sequence[AttackRun]) -> Marks:
    found = runs[0].broken
    for run in runs[1:]:
        found = found | run.broken
    return found


def _by_threat(runs: Sequence[AttackRun]) -> dict[ThreatModel, list[AttackRun]]:
    groups: dict[ThreatModel, list[AttackRun]] = {}
    for run in runs:
        groups.setdefault(run.threat, []).append(run)
    return groups


def _least(n: int) -> int:
    return max(LEAST, int(SHARE * n) + 1)


def _share(n: int) -> str:
    return f"{_least(n) - 1:,} of {n:,} images"


# says of a run whether it belongs to one side of a comparison
Side = Callable[[AttackRun], bool]


def _kinds(*kinds: str) -> Side:
    """Runs of these kinds that do not walk along the boundary."""
    return lambda run: run.kind in kinds and not run.walks


def _beats(gate: str, weak: Side, strong: Side, advice: str) -> Gate:
    """A gate that fires where the weaker runs break images that all of the stronger ones leave standing."""

    def found(runs: Sequence[AttackRun]) -> Iterator[Finding]:
        for threat, group in _by_threat(runs).items():
            weaker, stronger = [r for r in group if weak(r)], [r for r in group if strong(r)]
            if not weaker or not stronger:
                continue
            alone = int((_union(weaker) & ~_union(stronger)).sum())
            n = len(weaker[0].rows)
            evidence = (
                f"{', '.join(r.name for r in weaker)} broke {alone:,} of {n:,} images that "
                f"{', '.join(r.name for r in stronger)} left standing at {threat}"
            )
            yield Finding(gate, alone >= _least(n), evidence, _share(n), advice, images=alone)

    return found


def _not_rising(runs: Sequence[AttackRun]) -> Iterator[Finding]:
    """An image broken within a small eps is also broken within a larger one; a search that misses it is weak.

    One step, noise and images made on another model do not search, and may well miss it.
    """
    for first, second in combinations([run for run in runs if run.kind in SEARCHES], 2):
        same = first.attack == second.attack and first.options == second.options and first.name == second.name
        if not same or first.threat == second.threat:
            continue
        small, large = sorted((first, second), key=lambda run: run.threat.eps)
        lost = int((small.broken & ~large.broken).sum())
        n = len(small.rows)
        yield Finding(
            "success not rising with eps",
            lost >= _least(n),
            f"{small.name} broke {int(small.broken.sum()):,} of {n:,} images at {small.threat} and "
            f"{int(large.broken.sum()):,} at {large.threat}, where it missed {lost:,} of the former",
            _share(n),
            "the search fails at large steps: give more and smaller steps, or a margin loss with Adam",
            images=lost,
        )


def _above_chance(runs: Sequence[AttackRun]) -> Iterator[Finding]:
    """Within half the box every image can be made grey, and a classifier has one answer to a grey image."""
    for threat, group in _by_threat(runs).items():
        white = [run for run in group if run.kind in (*WHITE, *SEARCHES)]
        if not any(run.kind in SEARCHES for run in white) or not _unbounded(white[0]):
            continue
        rows = white[0].rows
        standing = int((correct(rows) & ~_union(white)).sum())
        chance = _chance(rows, white[0])
        yield Finding(
            "robust at eps that allows anything",
            standing > (chance + SHARE) * len(rows),
            f"{standing:,} of {len(rows):,} images stand at {threat}, under {', '.join(run.name for run in white)}",
            f"the largest class's share{_of_data(white[0])}, {chance:.1%}, plus {SHARE:.0%}",
            "the attacks do not find what must exist: no figure of this model at smaller eps can be trusted",
            images=standing,
        )


def _at_chance(runs: Sequence[AttackRun]) -> Iterator[Finding]:
    """A model that is right no more often than one answer to everything; asked of the run on the most images."""
    run = max((run for run in runs if run.kind in (*WHITE, *SEARCHES)), key=lambda run: len(run.rows), default=None)
    if run is None or len(run.rows) < FEWEST:
        return
    n, right, chance = len(run.rows), int(correct(run.rows).sum()), run.chance
    if chance is None:
        chance = float(run.rows["label"].value_counts(normalize=True).max())
    yield Finding(
        "clean answers at chance",
        at_least(right, n, chance) > BY_LUCK,
        f"{right:,} of {n:,} clean images are classified correctly",
        f"so few that luck gets as many in {BY_LUCK:.0%} of draws where one answer to all is right for {chance:.1%}",
        "labels in another order, another preprocessing, or weights that were never loaded: find out which first, as "
        "robustness of such a model says nothing",
    )


def _of_data(run: AttackRun) -> str:
    """That the share is of all the data, of which these images are a part."""
    return f" of all images, with what a draw of {len(run.rows):,} varies" if run.images and run.part else ""


def _chance(rows: pd.DataFrame, run: AttackRun) -> float:
    """The share of images that one answer may get right: of the largest class of the data, which of a part of them may
    be a little larger; of a part with fewer classes than the data, that of its own largest."""
    own = float(rows["label"].value_counts(normalize=True).max())
    if run.chance is None or not run.part:
        return own
    return max(own, most_by_luck(SURE, len(rows), run.chance) / len(rows))


def _unbounded(run: AttackRun) -> bool:
    norm = run.threat.geometry
    known = norm.largest is not None or run.pixels > 0
    return known and run.threat.eps >= norm.grey(run.pixels)


def _effort(run: AttackRun) -> float:
    return math.prod(float(run.options.get(name) or 1) for name in EFFORT)


def _more_effort(runs: Sequence[AttackRun]) -> Iterator[Finding]:
    """The run of most effort against the next that has at most half of it: whether the figure has come to rest."""
    groups: dict[str, list[AttackRun]] = {}
    for run in runs:
        if run.kind in SEARCHES:
            other = {name: value for name, value in run.options.items() if name not in EFFORT}
            groups.setdefault(repr((run.attack, run.kind, run.threat, sorted(other.items()))), []).append(run)
    for group in groups.values():
        more = max(group, key=_effort)
        half = [run for run in group if 2 * _effort(run) <= _effort(more)]
        if not half:
            continue
        less, n = max(half, key=_effort), len(more.rows)
        new = int((more.broken & ~less.broken).sum())
        yield Finding(
            "more effort still breaks images",
            new >= _least(n),
            f"{more.name} broke {new:,} of {n:,} images that {less.name} left standing at {less.threat}",
            _share(n),
            "the attack has not converged: double steps and restarts until the figure stays",
        )


# by mark, the gates on what an attack made of stages notes of an image
MARKED: dict[str, Gate] = {
    "queries-beat-gradients": _marked(
        "queries-beat-gradients", "queries come nearer than gradients",
        "a few queries came nearer than all gradients to",
        "the gradients are worse than none: attack with BPDA for the layer hiding them, and with more queries",
    ),
    "walks-beat-ascents": _marked(
        "walks-beat-ascents", "walks break what ascents do not",
        "a walk along the boundary broke, where ascents had taken less than half of the margin away,",
        "gradients at the images mislead: report the worst case with a boundary attack, and no figure of ascents alone",
    ),
}  # fmt: skip
# gates that hold runs within one threat model against each other by nothing but which images each of them broke
WITHIN: tuple[Gate, ...] = (
    _beats(
        "single step beats iteration", _kinds("single-step"), _kinds("iterative", "ensemble"),
        "an iterative attack contains its single step: use smaller steps, more of them, and restarts",
    ),
    _beats(
        "black box beats white box", _kinds("transfer", "guided", "noise"), _kinds(*WHITE, "ensemble"),
        "the model's own gradients mislead: attack a smoothed copy of it, with a margin loss and with BPDA",
    ),
    _beats(
        "queries beat gradients", _kinds("query"), _kinds(*WHITE),
        "the gradients are worse than none: attack with BPDA for the layer hiding them, and report the query attack",
    ),
    _beats(
        "boundary attack beats ascent", lambda run: run.walks, lambda run: run.ascends,
        "the figure of gradient ascent is an upper bound and no more: report the boundary attack with it (fab-t with "
        "more targets and steps, or the set standard)",
    ),
    _above_chance,
)  # fmt: skip
# ... and runs within several
ACROSS: tuple[Gate, ...] = (_not_rising,)
GATES: tuple[Gate, ...] = (
    *(_flagged(*each) for each in FLAGGED),
    _zero_gradient,
    *MARKED.values(),
    *WITHIN,
    *ACROSS,
    _at_chance,
    _more_effort,
)  # fmt: skip

"""A baseline's evaluations beside the same ones of today: pairs of outcomes per image, and the lines they make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from robench.errors import BadInput
from robench.evaluation.summaries import Result
from robench.regression.baseline import Kept, Outcomes, encode
from robench.regression.masking import GROWTH, POINTS, Held, fired_anew, unwitnessed
from robench.regression.verdict import CLEAN, CLEAN_METRIC, WORST, Line
from robench.results.accuracy import Measure, entering
from robench.results.rows import Marks
from robench.results.summary import NOT_SEALED, UNSTABLE
from robench.store.runs import Store
from robench.trust.bounds import upper_bound_of_all
from robench.trust.diagnosis import run_of
from robench.trust.gates import AttackRun
from robench.trust.origins import identified

# flags that say that an attack may have failed where the model would not have stood
TROUBLE = (
    "zero-gradient", "non-finite", "invalid-proposal", "gradient-at-inference", "squashed-outputs", "extreme-logits",
    "flat-logits", "sudden-answers", "wrong-gradients", "moved-nothing", "changes-torch", "changes-global-state",
    "reaches-outside", "unchecked-gradients", NOT_SEALED,
)  # fmt: skip
# a flag with its share of the images
SHARE = re.compile(r"(.+) (?:<1|([0-9]{1,3}))%")


@dataclass(frozen=True)
class Pair:
    """An evaluation then and now: outcomes per example, now None where it is incomplete; result: today's.

    run: today's as the gates see it. fired: what gates say of the model now and did not then. other: that the attack's
    source is another than the baseline's, in words, "" where it is the same.
    """

    kept: Kept
    result: Result
    then: Outcomes
    now: Outcomes | None
    run: AttackRun | None = None
    fired: tuple[str, ...] = ()
    other: str = ""

    @classmethod
    def of(cls, kept: Kept, result: Result, store: Store) -> Pair:
        """The pair, today's outcomes read from the store. Raises BadInput where they are no basis for a comparison."""
        then = Outcomes.of(kept.outcomes, kept.metric)
        if not result.summary.complete:
            return cls(kept, result, then, None, other=_other(kept))
        unstable = [flag for flag in UNSTABLE if flag in result.summary.flags]
        if unstable:
            raise BadInput(
                f"The model {kept.model!r} is now flagged {', '.join(unstable)} under {kept.label}, so its outcomes "
                "cannot be compared with the baseline's; make its answers repeatable first, and "
                "seed whatever its factory draws."
            )
        folder = store.evaluation(result.evaluation)
        now = Outcomes.of(encode(folder, kept.spec), kept.metric)
        return cls(kept, result, then, now, run_of(folder), other=_other(kept))

    def attacked(self) -> Line:
        """What the attack left standing, not yet judged."""
        kept = self.kept
        line = self.line(kept.label, kept.metric, kept.figure)
        line = replace(line, evaluation=self.result.evaluation, note=self.result.note)
        if self.now is None:
            return line
        found = self.result.summary
        line = replace(line, flags=found.flags, doubts=self.doubts, seconds=found.seconds or 0.0)
        return line.counted(self.then.stood, self.now.stood, found.value)

    def clean(self) -> Line:
        """The clean images classified correctly, not yet judged."""
        line = self.line(CLEAN, CLEAN_METRIC, self.kept.clean_accuracy)
        line = replace(line, evaluation=self.result.evaluation)
        return (
            line.counted(self.then.correct, self.now.correct, self.result.summary.clean_accuracy) if self.now else line
        )

    def line(self, attack: str, metric: str, then: float) -> Line:
        """A line about this model and these images, without today's figure."""
        return Line(self.kept.model, attack, self.kept.spec.count, metric, then, subject=self.result.model)

    @property
    def facts(self) -> dict[str, str]:
        """What may tell two evaluations with the same label apart."""
        kept, spec = self.kept, self.kept.spec
        return {
            "n": f"n {spec.count}",
            "seed": f"seed {spec.seed}",
            "data": f"on {kept.dataset}",
            "evaluation": f"evaluation {kept.evaluation}",
        }

    @property
    def doubts(self) -> tuple[str, ...]:
        """What says that today's figure is no better than the one then, whatever it is: see `trouble`, `fired` and
        `other`."""
        return (*self.trouble, *self.fired, *filter(None, [self.other]))

    @property
    def trouble(self) -> tuple[str, ...]:
        """Flags of gradient trouble that are new, or whose share of the images grew much, each with what it was."""
        then = dict(map(_share, self.kept.flags))
        found = []
        for flag in self.result.summary.flags:
            name, share = _share(flag)
            before = then.get(name)
            # shares of zero gradients are flagged above 5%, which a new training may come to pass by
            if name in TROUBLE and before is None and not (name == "zero-gradient" and share < 2 * POINTS):
                found.append(f"{flag} (not in the baseline)")
            elif name in TROUBLE and before is not None and share > GROWTH * before and share >= before + POINTS:
                found.append(f"{flag} ({before:.0f}% in the baseline)")
        return tuple(found)

    @property
    def news(self) -> str:
        """A sentence on what else is flagged now and was not then; "" where nothing is."""
        before = {*TROUBLE, *(_share(flag)[0] for flag in self.kept.flags)}
        new = [flag for flag in self.result.summary.flags if _share(flag)[0] not in before]
        told = f"{self.kept.model} under {self.kept.label} has flags it did not have: {', '.join(new)}."
        return told if new else ""

    @property
    def access(self) -> str:
        """What the attack was up against."""
        return self.result.access

    @property
    def metric(self) -> str:
        """What the attack's figure counts."""
        return self.kept.metric

    @property
    def tells_broken(self) -> bool:
        """Whether the outcomes kept say which images the attack broke; a targeted one's of old files do not."""
        return Measure(self.metric) is not Measure.SUCCESS or self.kept.misses is True


def _other(kept: Kept) -> str:
    """That the attack is not what it was, so that a change of the figure may be of its making; "" where it is, and for
    one that is not installed, which nothing can be run with."""
    name = f"attack {kept.spec.attack}"
    try:
        now = identified([("attack", kept.spec.attack)]) or {}
    except BadInput:
        return ""
    same = (kept.spec.sources or {}).get(name) == now.get(name)
    return "" if same else f"the source of the {name} is another than the baseline's"


def _share(flag: str) -> tuple[str, float]:
    """A flag's name and its share of the images in percent: "zero-gradient 12%"; 0 without one, or for "<1%".

    What stands in brackets behind a name, "changes-torch (torch.clamp)", is left out.
    """
    flag = flag.partition(" (")[0]
    found = SHARE.fullmatch(flag)
    return (found[1], float(found[2] or 0)) if found else (flag, 0.0)


def lines_of(pairs: Sequence[Pair]) -> list[Line]:
    """Every comparison that pairs allow: clean accuracies, worst cases, attacks; not yet judged.

    Where lines of one model would have the same label, what they differ in is appended.
    """
    pairs = gated(pairs)
    of_attacks = (_Made(pair.attacked(), pair, ("n", "seed", "data")) for pair in pairs)
    return _told_apart([*_clean(pairs), *_worst(pairs), *of_attacks])


def gated(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with what gates say of the models now and did not say then."""
    fired = iter(fired_anew(_held(pairs)))
    return [pair if pair.run is None else replace(pair, fired=next(fired)) for pair in pairs]


def lacking(pairs: Sequence[Pair]) -> dict[str, str]:
    """A sentence for each model of which nothing in the check could show that it hides its gradients."""
    return unwitnessed(_held(pairs)) if all(pair.run for pair in pairs) else {}


def _held(pairs: Sequence[Pair]) -> list[Held]:
    return [(pair.kept, pair.run) for pair in pairs if pair.run is not None]


@dataclass(frozen=True)
class _Made:
    """A line, a pair behind it, and which of that pair's facts may tell it from others."""

    line: Line
    pair: Pair
    facts: tuple[str, ...]


def _told_apart(made: Sequence[_Made]) -> list[Line]:
    groups: dict[tuple[str, str], list[_Made]] = {}
    for each in made:
        groups.setdefault((each.line.model, each.line.attack), []).append(each)
    lines = []
    for each in made:
        facts = [one.pair.facts for one in groups[each.line.model, each.line.attack]]
        names = [name for name in each.facts if len({one[name] for one in facts}) > 1]
        if len({tuple(one[name] for name in names) for one in facts}) < len(facts):
            names.append("evaluation")
        label = ", ".join([each.line.attack, *(each.pair.facts[name] for name in names)])
        lines.append(replace(each.line, attack=label))
    return lines


def _clean(pairs: Sequence[Pair]) -> Iterator[_Made]:
    """One clean line per model and data, on the most images that any of its evaluations has."""
    widest: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        key = (pair.kept.model, pair.kept.spec.data_digest)
        if key not in widest or pair.kept.spec.count > widest[key].kept.spec.count:
            widest[key] = pair
    return (_Made(pair.clean(), pair, ("data",)) for pair in widest.values())


def _worst(pairs: Sequence[Pair]) -> Iterator[_Made]:
    """A line per model, images and threat model under several attacks: what all of them together leave standing."""
    groups: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        spec = pair.kept.spec
        key = (pair.kept.model, spec.data_digest, spec.norm, spec.eps, spec.start, spec.count)
        groups.setdefault(key, []).append(pair)
    for every in groups.values():
        group = [pair for pair in entering(every) if pair.tells_broken]
        if len(group) > 1:
            then = _all([pair.then.robust for pair in group])
            line = group[0].line(f"{WORST}, {group[0].kept.threat}", Measure.ROBUST, float(then.mean()))
            spec, boundary = group[0].kept.spec, any(pair.result.boundary for pair in group)
            kinds = [pair.result.about.kind for pair in group]
            line = replace(line, note=upper_bound_of_all(spec.norm, boundary, kinds))
            outcomes = [pair.now for pair in group if pair.now is not None]
            if len(outcomes) == len(group):
                now = _all([each.robust for each in outcomes])
                line = line.counted(then, now, float(now.mean()))
                line = replace(line, doubts=_shared(group))
            yield _Made(line, group[0], ("n", "data"))


def _shared(group: Sequence[Pair]) -> tuple[str, ...]:
    """Those of all attacks, if all have some: one that can be trusted bounds the worst case. It says nothing of a rise
    where another attack has changed meanwhile."""
    every = [pair.doubts for pair in group]
    doubts = [doubt for each in every for doubt in each] if all(every) else [pair.other for pair in group if pair.other]
    return tuple(dict.fromkeys(doubts))


def _all(marks: Sequence[Marks]) -> Marks:
    return reduce(np.logical_and, marks)

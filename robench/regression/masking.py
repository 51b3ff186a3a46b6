"""Gates on a baseline's outcomes and on the same of today: what says now that a model hides its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from robench.regression.baseline import BROKEN, MISSED, ROBUST, Kept
from robench.results.accuracy import Measure
from robench.trust.gates import ACROSS, MARKED, WHITE, WITHIN, AttackRun, Gate, diagnose, too_many

# what counts as much more than before: by this factor, and by as many percent of the images
GROWTH, POINTS = 1.5, 5
# gates that fire on honest models, too, as walks and queries find some images that ascents miss: of two trainings
# one may pass them by chance
USUAL = ("boundary attack beats ascent", "queries beat gradients")


class Seen(NamedTuple):
    """Whether a gate fired, and on how many images."""

    fired: bool
    images: int


NOTHING = Seen(False, 0)
# an evaluation of a baseline, and the run that stands for it now
Held = tuple[Kept, AttackRun]


def then_of(held: Held) -> AttackRun:
    """The run that a baseline kept of an evaluation: its outcomes, in the place of today's on the same images."""
    kept, run = held
    letters = np.array(list(kept.outcomes), dtype="U1")
    label = run.rows["label"].to_numpy()
    fell = np.isin(letters, [BROKEN, MISSED])
    rows = run.rows[["example_id", "label"]].assign(
        clean_correct=fell | (letters == ROBUST), adv_pred=np.where(fell, label + 1, label)
    )
    return replace(run, rows=rows, flags=())


def fired_anew(held: Sequence[Held]) -> list[tuple[str, ...]]:
    """Per evaluation, each gate that fires now on the model within that threat model and did not on what the baseline
    keeps, or fires now on far more images; with how many they are."""
    found: list[dict[str, None]] = [{} for _ in held]
    for group, gates in _groups(held):
        now, then = (_seen(runs, gates) for runs in ([held[i][1] for i in group], [then_of(held[i]) for i in group]))
        n = held[group[0]][0].spec.count
        told = [said for gate, seen in now.items() if (said := _told(gate, seen, then.get(gate, NOTHING), n))]
        for i in group:
            found[i] |= dict.fromkeys(told)
    for i, (kept, run) in enumerate(held):
        found[i] |= dict.fromkeys(_marked_anew(kept, run))
    return [tuple(each) for each in found]


def _marked_anew(kept: Kept, run: AttackRun) -> Iterator[str]:
    """The gates on marks of an attack made of stages that fire now and did not then, or on far more images; where the
    baseline does not say how many had them, all that fire."""
    n = kept.spec.count
    for mark, gate in MARKED.items():
        for found in gate([run]):
            before = None if kept.marks is None else kept.marks.get(mark, 0)
            if before is None and found.fired:
                yield f"{found.gate} on {found.images:,} of {n:,} images (the baseline does not say on how many)"
            elif before is not None and (
                told := _told(found.gate, Seen(found.fired, found.images), Seen(too_many(before, n), before), n)
            ):
                yield told


def _told(gate: str, now: Seen, then: Seen, n: int) -> str:
    """That a gate fires on so many of n images, beside those then; "" where it does not, or is no worse."""
    grew = now.images > GROWTH * then.images and 100 * (now.images - then.images) >= POINTS * n
    if not now.fired or not (grew or (not then.fired and gate not in USUAL)):
        return ""
    before = f"{then.images:,} in the baseline" if then.fired else "it did not in the baseline"
    return f"{gate} on {now.images:,} of {n:,} images ({before})"


def _groups(held: Sequence[Held]) -> Iterator[tuple[list[int], Sequence[Gate]]]:
    """Places of evaluations that can be held against each other, with the gates that do so: those of a model on the
    same images within one threat model, and within one norm."""
    within: dict[tuple[object, ...], list[int]] = {}
    across: dict[tuple[object, ...], list[int]] = {}
    for i, (kept, _) in enumerate(held):
        spec = kept.spec
        if kept.metric == Measure.ROBUST and not spec.max_passes:
            key = kept.model, spec.data_digest, spec.norm, spec.start, spec.count
            within.setdefault((*key, spec.eps), []).append(i)
            across.setdefault(key, []).append(i)
    yield from ((group, WITHIN) for group in within.values())
    yield from ((group, ACROSS) for group in across.values())


def _seen(runs: Sequence[AttackRun], gates: Sequence[Gate]) -> dict[str, Seen]:
    """What gates say of runs; of one that is asked several times, where it has the most images."""
    found: dict[str, Seen] = {}
    for each in diagnose(runs, gates):
        found[each.gate] = max(found.get(each.gate, NOTHING), Seen(each.fired, each.images))
    return found


def unwitnessed(held: Sequence[Held]) -> dict[str, str]:
    """A sentence for each model whose attacks only follow gradients, with nothing beside them to show that these are
    hidden: no two attacks that a gate compares, and none that holds several against each other by itself."""
    alone: dict[str, list[Held]] = {}
    for each in held:
        alone.setdefault(each[0].model, []).append(each)
    for group, gates in _groups(held):
        runs = [held[i][1] for i in group]
        if diagnose(runs, gates) or any(run.kind == "ensemble" for run in runs):
            alone.pop(held[group[0]][0].model, None)
    followed = {model: [each for each in group if each[1].kind in WHITE] for model, group in alone.items()}
    return {model: _no_witness(model, group) for model, group in followed.items() if group}


def _no_witness(model: str, held: Sequence[Held]) -> str:
    kept, run = max(held, key=lambda each: each[0].spec.count)
    attacks = ", ".join(dict.fromkeys(run.name for _, run in held))
    command = f"robench evaluate {kept.reference or model} --attack square --eps {run.threat.eps_text}"
    return (
        f"{model}: nothing beside {attacks} could show that the model hides its gradients; '{command} --norm "
        f"{run.threat.norm} -n {kept.spec.count}' adds a witness, and '--attack standard' brings its own."
    )

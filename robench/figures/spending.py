"""Robust accuracy against what was spent: passes per image, and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from robench import registry
from robench.attack.waves import waves
from robench.errors import BadInput
from robench.figures.drawing import MARKERS, Drawing, legend, numbers, style, whole_ticks
from robench.figures.stored import Stored, stored
from robench.results.accuracy import Figure, Measure
from robench.results.rows import CUT, correct, marked, succeeded
from robench.store.runs import Store
from robench.store.specs import leans
from robench.tables.costs import Spending, collect, whose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# the mark of a model whose answers are no function of the image
RANDOMISED = "randomised"


@dataclass(frozen=True)
class Line:
    """Accuracy at some numbers: a title, the numbers in order, the figure at each, and which of these are exact."""

    title: str
    at: list[int]
    figures: list[Figure]
    exact: list[bool]
    evaluation: str
    model: str

    def records(self, name: str) -> list[dict[str, Any]]:
        """Lines of a csv file."""
        return [
            numbers({"evaluation": self.evaluation, "model": self.model, "attack": self.title, name: at,
                     "robust_accuracy": figure.value, "low": figure.interval[0], "high": figure.interval[1],
                     "n": figure.n, "exact": exact})
            for at, figure, exact in zip(self.at, self.figures, self.exact, strict=True)
        ]  # fmt: skip


def passes(store: Store, names: Sequence[str]) -> Drawing:
    """Robust accuracy against passes per image: an image is broken from all that was spent on it on.

    Raises BadInput as `tables.costs.collect`, and where no image cost anything.
    """
    found = collect(store, names)
    lines = [_passes_of(each) for each in found]
    told = [one.told for one in stored(store, [each.evaluation for each in found])]
    caption = (
        *told,
        "A forward pass is 1, a backward pass 2 more; before 1 pass stands clean accuracy. Bands: 95% Wilson "
        "intervals. A broken image counts from all that was spent on it on; in a cascade the evaluations before it "
        "count too, and below a larger eps that one.",
        *whose(found),
    )
    records = [record for line in lines for record in line.records("passes")]
    return Drawing(
        "Robust accuracy against passes per image", caption, records, (7, 3.8),
        lambda picture: _draw(picture.add_subplot(), lines, "passes per image", logarithmic=True),
    )  # fmt: skip


def _passes_of(each: Spending) -> Line:
    broken = each.clean & ~each.standing
    at = [0, *np.unique(each.passes[broken]).tolist()]
    last = int(each.passes.max(initial=0))
    at = sorted({*at, last})
    if not last:
        raise BadInput(f"The evaluation {each.evaluation} cost no pass that was counted; name another.")
    figures = [each.at(most) for most in at]
    return Line(each.attack, at, figures, [True] * len(at), each.evaluation, each.model)


def restarts(store: Store, names: Sequence[str]) -> Drawing:
    """Robust accuracy after 1, 2, 3, ... random starts, from the trial that found each image.

    Restarts are run in groups, of whose finds the strongest is kept: only at the end of a group is it known who had
    fallen, and between the curve is an upper bound; so it is wherever images ran out of their budget. Raises BadInput
    for an attack whose trials are no restarts, a model that answers at random, and an evaluation that goes on from
    another.
    """
    found = stored(store, names)
    lines = [_restarts_of(one) for one in found]
    caption = (
        *(one.told for one in found),
        "Filled markers: exact, at the ends of the groups in which restarts are run (1, then 8 each); between them an "
        "upper bound, since of a group's finds the strongest is kept. Bands: 95% Wilson intervals.",
        *_cuts(found),
    )
    records = [record for line in lines for record in line.records("restarts")]
    return Drawing("Robust accuracy against restarts", caption, records, (7, 3.8),
                   lambda picture: _draw(picture.add_subplot(), lines, "restarts"))  # fmt: skip


def _restarts_of(one: Stored) -> Line:
    folder, rows = one.folder, one.rows
    whole = _count_of(one)
    if leans(folder.spec) or (rows["trial"] < -1).any():
        raise BadInput(
            f"The evaluation {folder.job_id} goes on from another, so its restarts are not all there were; name one "
            "that stands alone."
        )
    if any(flag.startswith(RANDOMISED) for flag in (folder.result.flags if folder.result else ())):
        raise BadInput(
            f"The model of evaluation {folder.job_id} answers at random, so that every image was attacked to the last "
            "restart, and which of them found it is not known; name another."
        )
    clean, won = correct(rows), succeeded(rows)
    trial: NDArray[np.int64] = np.maximum(rows["trial"].to_numpy(), 0)
    at = list(range(whole + 1))
    figures = [Figure(int((clean & ~(won & (trial < k))).sum()), len(rows)) for k in at]
    ends = {0, whole} if _cut(one) else {0, *(wave.stop for wave in waves(whole))}
    return Line(one.title, at, figures, [k in ends for k in at], folder.job_id, one.model)


def _cut(one: Stored) -> int:
    """How many images ran out of their budget: what fewer restarts would have found on those is not known."""
    return int(marked(one.rows, CUT).sum())


def _cuts(found: Sequence[Stored]) -> list[str]:
    """What is said of evaluations whose images ran out of their budget."""
    told = [f"{cut:,} of {one.folder.job_id}" for one in found if (cut := _cut(one))]
    if not told:
        return []
    return [f"Images ran out of their budget ({', '.join(told)}), so that there only the first and the last are exact."]


def _count_of(one: Stored) -> int:
    """How many restarts of one search an evaluation's attack runs. Raises BadInput where its trials are others."""
    spec, about = one.folder.spec, one.folder.about
    plugin = registry.load("attack", spec["attack"])
    classes = len(one.classes())
    zero = torch.zeros(1, dtype=torch.int64)
    plan = plugin.build(spec["attack_options"]).trials(zero, torch.zeros(1, classes), zero, 0)
    same = bool((plan.goal == -1).all()) and plan.key[0].tolist() == list(range(len(plan)))
    if about.metric != Measure.ROBUST or not same or len(plan) < 2:
        raise BadInput(
            f"The evaluation {one.folder.job_id} ({spec['attack']}) has no restarts of one search, as an attack such "
            "as pgd or untargeted has with --restarts 10; name one of those."
        )
    return len(plan)


def _draw(axes: Axes, lines: Sequence[Line], name: str, *, logarithmic: bool = False) -> None:
    handles = []
    for place, line in enumerate(lines):
        x = np.array(line.at, dtype=float)
        y = np.array([100 * figure.value for figure in line.figures])
        ends = 100 * np.array([figure.interval for figure in line.figures])
        how = style(place)
        (drawn,) = axes.step(x, y, where="post", **how)
        handles.append(drawn)
        axes.fill_between(x, ends[:, 0], ends[:, 1], step="post", color=how["color"], alpha=0.12, linewidth=0)
        if not logarithmic:
            for exact in (True, False):
                at = [i for i, found in enumerate(line.exact) if found is exact]
                axes.plot(x[at], y[at], MARKERS[place % len(MARKERS)], color=how["color"], markersize=4,
                          markerfacecolor=how["color"] if exact else "white")  # fmt: skip
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    else:
        whole_ticks(axes.xaxis)
    axes.set_xlim(0)
    axes.set_ylim(0, 102)
    axes.set_xlabel(name)
    axes.set_ylabel("robust accuracy (%)")
    axes.grid(alpha=0.3)
    legend(axes, handles, [line.title for line in lines])

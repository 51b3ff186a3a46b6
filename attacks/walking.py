"""Walks along the boundary in one gradient per step, from far outside of eps into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robench import BatchModel, PlaneNorm, either, expand, misclassified_margin, picked, targeted_margin
from robench_attacks.fab import ETA, Finds, move, product

# what is left of a find's perturbation
KEPT = 0.7
# of the ways from the original to a find, where a step begins at the boundary itself
HALVINGS = 4
# the share of a gap that a plane which is met leaves by rounding
MET = 1e-3


@dataclass(frozen=True)
class Gait:
    """How a walk steps.

    home: the least and the largest weight of the original's own projection. over: how far beyond the boundary as it is
    linear a step goes that begins before it; from beyond it goes as far as FAB's. closing: at so many first steps a
    find's perturbation is halved back to the boundary, where the gradient is taken anew: far outside it says little.
    """

    home: tuple[float, float] = (0.0, 0.2)
    over: float = ETA
    closing: int = 0


PLAIN = Gait()


def walk(finds: Finds, x: Tensor, steps: int, *, gait: Gait, to_any: bool) -> Tensor:
    """A walk of FAB's kind (Croce and Hein, 2020) in one gradient per step.

    x: where it begins; to_any: to whichever class is likeliest, not to the goals. As there, a step goes to
    (1 - a)(x + e d) + a (x0 + e d0), where d and d0 lead from x and x0 to the boundary as it is linear; from a
    misclassified image a share of the way from x0 to it is kept. Other than there, how far the boundary is from the
    point kept follows from the gradient at the image, which saves an answer per step.

    Returns how far from every original the boundary at its nearest find is, were it a plane: float64 [B], infinite
    without a find. Where that is much nearer than the find, the walk has not come to its end, of which nothing speaks
    either where the find is of another class than the goal, or the plane outside of the box: there it is 0.
    """
    batch, norm, planes = finds.batch, finds.norm, _Planes(finds)
    assert isinstance(norm, PlaneNorm)  # as the attack's norms are
    model, rows, x0, y, goal = finds.model, torch.arange(len(batch), device=x.device), batch.x, batch.y, batch.goal
    least, most = gait.home
    for step in range(steps):
        lead = partial(_lead, y=y, goal=None if to_any else goal)
        logits, slope = model.gradient(x, lead)
        broken = planes.record(rows, x, logits, step, lead, slope)
        kept = either(broken, x0 + KEPT * (x - x0), x)
        far = (broken & ~finds.done[finds.group[rows]]).nonzero()[:, 0] if step < gait.closing else rows[:0]
        if len(far):
            some, to = model.select(far.cpu()), None if to_any else goal[far]
            near = _boundary(some, x0[far], x[far], y[far])
            x, kept, logits, slope = x.clone(), kept.clone(), logits.clone(), slope.clone()
            x[far] = kept[far] = near
            theirs = partial(_lead, y=y[far], goal=to)
            logits[far], slope[far] = some.gradient(near, theirs)
            planes.record(rows[far], near, logits[far], step, theirs, slope[far])
        slope = slope.nan_to_num(0.0, posinf=0.0, neginf=0.0)
        gap = -lead(logits).nan_to_num() - product(slope, kept - x)
        keep = (~finds.done[finds.group[rows]]).nonzero()[:, 0]
        if len(keep) < len(rows):
            if not len(keep):
                break
            rows, x0, kept, y, goal, broken = picked(keep, rows, x0, kept, y, goal, broken)
            (slope, gap), model = picked(keep, slope, gap), model.select(keep.cpu())
        over = torch.where(broken, ETA, gait.over).to(x.dtype)
        x = move(norm, x0, kept, slope, gap, most, least=least, over=over)
    return planes.away()


class _Planes:
    """The boundary at every row's nearest find, as a plane."""

    def __init__(self, finds: Finds) -> None:
        self.finds = finds
        self.slope, self.lead = torch.zeros_like(finds.x), finds.x.new_zeros(len(finds.x))

    def record(
        self, rows: Tensor, x: Tensor, logits: Tensor, step: int, lead: Callable[[Tensor], Tensor], slope: Tensor
    ) -> Tensor:
        """As `Finds.record`, with the slope of the lead at x."""
        before = self.finds.distance[rows]
        broken = self.finds.record(rows, x, logits, step)
        found = self.finds.distance[rows] != before
        self.slope[rows[found]] = slope[found].nan_to_num(0.0, posinf=0.0, neginf=0.0)
        self.lead[rows[found]] = lead(logits)[found].nan_to_num()
        return broken

    def away(self) -> Tensor:
        """How far they are from the originals, float64 [B]: see `walk`."""
        norm, x0, slope = self.finds.norm, self.finds.batch.x, self.slope
        assert isinstance(norm, PlaneNorm)
        gap = -self.lead - product(slope, x0 - self.finds.x)
        way = norm.onto_plane(x0, slope, gap)
        met = (product(slope, way) - gap).abs() <= MET * gap.abs()
        away = norm.distance(torch.zeros_like(way), way).masked_fill(~met | (self.lead < 0), 0.0)
        return away.masked_fill(self.finds.distance.isinf(), torch.inf)


def _lead(logits: Tensor, y: Tensor, goal: Tensor | None) -> Tensor:
    """How far past the boundary to the goals, or to whichever class is likeliest, [B]."""
    return misclassified_margin(logits, y) if goal is None else targeted_margin(logits, y, goal)


def _boundary(model: BatchModel, x0: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The misclassified image nearest to x0 on the way from there to x, by halving."""
    low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        logits = model(x0 + expand(share, x) * (x - x0))
        broken = ~logits.isfinite().all(1) | (misclassified_margin(logits, y) > 0)
        low, high = torch.where(broken, low, share), torch.where(broken, share, high)
    return x0 + expand(high, x) * (x - x0)

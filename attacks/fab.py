"""The fast adaptive boundary attack: a walk along the decision boundary to the nearest image beyond it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from robench import (
    Attack,
    Batch,
    BatchModel,
    Cost,
    PlaneNorm,
    Proposal,
    Range,
    Restarts,
    Steps,
    ThreatModel,
    Trials,
    check_count,
    either,
    expand,
    firm_margin,
    misclassified_margin,
    picked,
    targeted_margin,
)
from robench_attacks.targets import likeliest, targeted_trials

ALPHA_MAX = 0.1  # the largest weight of the original's own projection
ETA = 1.05  # how far beyond the linear boundary a step goes
BETA = 0.9  # what is left of a find's perturbation before the next step
HALVINGS = 12  # of the ways from the original to the nearest find, at the end
BEYOND = 1.1  # how far beyond the boundary that is linear at the find such a way begins


class FAB(Attack):
    """The fast adaptive boundary attack towards the likeliest wrong classes (Croce and Hein, 2020, Algorithm 1).

    A step takes f_goal - f_y for linear at x and projects x and the original x0 onto its zeros in the box, in the norm;
    it goes to (1 - a)(x + 1.05 d) + a (x0 + 1.05 d0), where d and d0 lead to the two projections and a = |d| / (|d| +
    |d0|), at most 0.1. From a misclassified image nine tenths of the way from x0 to it are kept. The first restart
    begins at x0, further ones at a random point eps/2 away.

    An image leaves with its first find within eps, and what was found beyond is proposed projected. With `nearest` it
    goes on for all targets and restarts, and halves the way back to the nearest find: with a wide eps the rows'
    distances give the accuracy at every eps.

    targets: how many wrong classes are tried, in the order of their clean logits.
    """

    transfers: ClassVar[bool] = False
    boundary: ClassVar[bool] = True

    def __init__(
        self,
        *,
        steps: Steps = 100,
        targets: Annotated[int, Range(1, 1000)] = 9,
        restarts: Restarts = 1,
        nearest: bool = False,
    ) -> None:
        check_count("steps", steps)
        check_count("targets", targets)
        check_count("restarts", restarts)
        self.steps, self.targets, self.restarts, self.nearest = steps, targets, restarts, nearest

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart and target, or a single one that takes all of them where the nearest find is sought."""
        del example_id, seed
        if self.nearest:
            return Trials.untargeted(len(y), 1)
        return targeted_trials(y, logits, self.restarts, self.targets)

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """A gradient and an answer per step; with `nearest`, for all targets, and what orders them and refines."""
        del threat
        if not self.nearest:
            return Cost(self.steps, 2 * self.steps)
        walks = self.restarts * min(self.targets, classes - 1)
        return Cost(walks * self.steps + 1, 2 * walks * self.steps + 2 + 2 * (1 + HALVINGS))

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """A find within eps, or the nearest one, projected; where there is none, the last image, projected."""
        finds = Finds(model, batch, self.nearest)
        if not self.nearest:
            start = expand((batch.trial >= model.classes).to(batch.x.device), batch.x)
            other = beside(batch, "start", batch.threat.radius) if bool(start.any()) else batch.x
            walk(finds, batch.goal, torch.where(start, other, batch.x), self.steps)
        else:
            goals = likeliest(batch.y, model(batch.x).nan_to_num(), min(self.targets, model.classes - 1))
            for restart in range(self.restarts):
                for rank, goal in enumerate(goals.unbind(1)):
                    radius = finds.distance.clamp(max=batch.threat.radius)
                    start = beside(batch, f"start-{restart}-{rank}", radius) if restart else batch.x
                    walk(finds, goal, start, self.steps)
            finds.refine()
        model.note_nonfinite(finds.nonfinite)
        return Proposal(batch.threat.project(batch.x, finds.x), finds.step.cpu())


class Finds:
    """What a walk found for every row of a batch: the nearest image, how far it is, and the step that found it.

    x holds the latest image of rows without a find. group: a row leaves once its group has been found within eps.
    """

    def __init__(self, model: BatchModel, batch: Batch, nearest: bool) -> None:
        self.model, self.batch, self.norm = model, batch, batch.threat.geometry
        # a random model's luckiest draw says nothing: there nobody leaves, and the latest find counts
        self.nearest, self.luck = nearest, model.randomised
        self.stays = nearest or model.randomised or model.crafting
        self.group, self.x = batch.group.to(batch.x.device), batch.x.clone()
        self.distance = batch.x.new_full((len(batch),), torch.inf, dtype=torch.float64)
        self.step = torch.full_like(batch.y, -1)
        self.done = torch.zeros_like(self.group, dtype=torch.bool)
        self.nonfinite = torch.zeros_like(self.done)

    def record(self, rows: Tensor, x: Tensor, logits: Tensor, step: int) -> Tensor:
        """Note the images x [R, C, H, W] of `rows` int64 [R] and their answers; which are misclassified, bool [R]."""
        y, before = self.batch.y[rows], self.distance[rows]
        finite = logits.isfinite().all(1)
        # a model that answers with NaN has given no right answer: a find, for the judge to confirm
        margin = torch.where(finite, misclassified_margin(logits, y), torch.inf)
        firm, distance = ~finite | firm_margin(margin, logits), self.norm.distance(self.batch.x[rows], x)
        leaves = firm & (distance <= self.batch.threat.radius) & (not self.stays)
        better = (firm if self.nearest else margin > 0) & ((distance < before) | self.luck) | leaves
        self.nonfinite[rows] |= ~finite
        nearer = (better | before.isinf()).nonzero()[:, 0]
        self.x[rows[nearer]] = x[nearer]
        self.distance[rows] = torch.where(better, distance, before)
        self.step[rows] = self.step[rows].masked_fill(better, step)
        self.done[self.group[rows[leaves]]] = True
        return margin > 0

    def refine(self) -> None:
        """Go back from every find to the boundary, in two ways, and keep the nearer image.

        The one shortens the find's perturbation, the other projects the original onto the boundary as it is linear at
        the find: a little beyond, and then ever less.
        """
        rows = self.distance.isfinite().nonzero()[:, 0]
        if not len(rows) or self.luck:
            return
        norm = self.norm
        assert isinstance(norm, PlaneNorm)  # as the attack's norms are
        model, x0, x, y = self.model.select(rows.cpu()), self.batch.x[rows], self.x[rows], self.batch.y[rows]
        logits, slope = model.gradient(x, partial(misclassified_margin, y=y))
        slope = slope.nan_to_num(0.0, posinf=0.0, neginf=0.0)
        gap = -misclassified_margin(logits, y).nan_to_num() - product(slope, x0 - x)
        for at in (
            lambda share: norm.nearer(x0, x, share),
            lambda share: (x0 + norm.onto_plane(x0, slope, BEYOND * share.to(gap) * gap)).clamp_(0.0, 1.0),
        ):
            image, broken = _shortest(model, y, at)
            distance = self.norm.distance(x0, image)
            better = broken & (distance < self.distance[rows])
            self.x[rows[better]], self.distance[rows[better]] = image[better], distance[better]


def _shortest(model: BatchModel, y: Tensor, at: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The image at(share) with about the least share [B] up to 1 that is firmly misclassified, and whether it is."""
    low, high = torch.zeros(len(y), device=y.device), torch.ones(len(y), device=y.device)
    share, found = high, torch.zeros_like(y, dtype=torch.bool)
    for _ in range(1 + HALVINGS):
        logits = model(at(share))
        broken = ~logits.isfinite().all(1) | firm_margin(misclassified_margin(logits, y), logits)
        found = found | broken
        low, high = torch.where(broken, low, share), torch.where(broken, share, high)
        share = (low + high) / 2
    return at(high), found


def walk(finds: Finds, goal: Tensor, start: Tensor, steps: int) -> None:
    """Walk along the boundary between the label and `goal` int64 [B], from `start` [B, C, H, W]."""
    batch, norm = finds.batch, finds.norm
    assert isinstance(norm, PlaneNorm)  # as the attack's norms are
    rows = (~finds.done[finds.group]).nonzero()[:, 0]
    model, x0, x = finds.model.select(rows.cpu()), batch.x[rows], start[rows]
    y, goal = batch.y[rows], goal[rows]
    for step in range(steps):
        logits, slope = model.gradient(x, partial(targeted_margin, y=y, goal=goal))
        if step == 0:
            model.note_zero_gradient(slope)
        slope = slope.nan_to_num(0.0, posinf=0.0, neginf=0.0)
        gap = -targeted_margin(logits, y, goal).nan_to_num()
        x = move(norm, x0, x, slope, gap)
        broken = finds.record(rows, x, model(x), step)
        x = either(broken, x0 + BETA * (x - x0), x)
        keep = (~finds.done[finds.group[rows]]).nonzero()[:, 0]
        if len(keep) < len(rows):
            if not len(keep):
                return
            rows, x0, x, y, goal = picked(keep, rows, x0, x, y, goal)
            model = model.select(keep.cpu())


def move(
    norm: PlaneNorm,
    x0: Tensor,
    x: Tensor,
    slope: Tensor,
    gap: Tensor,
    most: float = ALPHA_MAX,
    *,
    least: float = 0.0,
    over: Tensor | None = None,
) -> Tensor:
    """One step from x [B, ...], where a linear function with this slope lacks `gap` [B] of being zero.

    least, most: the weight of x0's own projection. over: how far beyond the linear boundary x goes, [B], if not ETA.
    """
    gaps = torch.cat([gap, gap - product(slope, x0 - x)])
    both = norm.onto_plane(torch.cat([x, x0]), slope.repeat(2, *(1,) * (x.dim() - 1)), gaps)
    lengths = norm.distance(torch.zeros_like(both), both).clamp(min=1e-8)
    (here, there), (length, other) = both.chunk(2), lengths.chunk(2)
    share = expand((length / (length + other)).clamp(least, most).to(x.dtype), x)
    far = ETA if over is None else expand(over, x)
    return ((1 - share) * (x + far * here) + share * (x0 + ETA * there)).clamp_(0.0, 1.0)


def product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each row, [B, ...], [B, ...] -> float32 [B]."""
    return (a.double() * b.double()).flatten(1).sum(1).float()


def beside(batch: Batch, stream: str, radius: float | Tensor) -> Tensor:
    """A random image half of `radius`, a number or one per row, away from every original, clipped to the box."""
    norm = batch.threat.geometry
    noise = batch.gaussian(stream) if norm.directed else 2 * batch.uniform(stream) - 1
    length = norm.distance(torch.zeros_like(noise), noise).clamp(min=1e-12)
    return (batch.x + expand((radius / (2 * length)).to(noise.dtype), noise) * noise).clamp_(0.0, 1.0)

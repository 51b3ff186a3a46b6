"""Which images of a batch stand, and how near an attack made of several stages came to each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robench import Batch, BatchModel, Proposal, firm_margin, misclassified_margin, targeted_margin
from robench_attacks.targets import likeliest

# answers behind a margin of a model that answers at random
DRAWS = 8
# of the way to a boundary that ascents point to, the share at which one must be found to say that they are misled; and
# the share of the clean margin that they must take away not to be stuck
MISLED, STUCK = 0.25, 0.25
# the share of the clean margin that is left where it is level
LEVEL = 0.8
# how far outside, in eps, the nearest misclassified image is of an image that walks have lost
LOST = 2.0
# trials of one stage at most, which key its noise
TRIALS = 100_000


class Standing:
    """What is known of every image of a batch, and which of them stand.

    x, step, margin: the best image so far, when it was found, and how far past the boundary it is. beyond: how much
    farther than eps the nearest misclassified image is that was found, as a share of eps; plane: how much farther the
    boundary there would be if it were a plane. led: whether answers alone led farther than gradients. ascended: whether
    ascents were run. order: the likeliest wrong classes [B, K], the likeliest first, or sorted the nearest; reach: the
    best margins towards each. rows: who stands, int64 on the CPU. stage: what is being run.
    """

    def __init__(self, model: BatchModel, batch: Batch, targets: int) -> None:
        self.model, self.batch, self.targets = model, batch, min(targets, model.classes - 1)
        self.device = batch.x.device
        self.rows = torch.arange(len(batch))
        self.x, self.step = batch.x.clone(), torch.full((len(batch),), -1)
        self.logits = self._answers(model, batch.x)
        self.margin = past(self.logits, batch.y)
        self.clean = (-self.margin).clamp(min=1e-30)
        self.climbed = self.margin.clone()
        self.ascended = torch.zeros_like(self.margin, dtype=torch.bool)
        self.beyond = torch.full_like(self.margin, torch.inf)
        self.plane = self.beyond.clone()
        self.led = torch.zeros_like(self.margin, dtype=torch.bool)
        self.order = likeliest(batch.y, self.logits.nan_to_num(), self.targets)
        self.reach = torch.full(self.order.shape, -torch.inf, device=self.device)
        self.sorted = False
        self.stage = self.trials = self.steps = 0

    def begin(self, stage: int, steps: int) -> None:
        """Begin with a stage; steps: of all stages before it, at most."""
        self.stage, self.trials, self.steps = stage, 0, steps

    def went(self, trials: int, steps: int) -> None:
        """Go on counting within a stage."""
        self.trials += trials
        self.steps += steps

    def within(self, near: float, beyond: float) -> Tensor:
        """Who stands and was come near to, int64: of whose clean margin no more than a share `near` is left, or of
        which a misclassified image is known that is at most a share `beyond` of eps outside."""
        close = (-self.margin / self.clean <= near) | (self.beyond <= beyond)
        return self.rows[close.cpu()[self.rows]]

    @property
    def gained(self) -> Tensor:
        """The share of the clean margin that ascents took away, [B]."""
        return 1 + self.climbed / self.clean

    @property
    def stuck(self) -> Tensor:
        """Where ascents gain next to nothing, as those of a robust model do, and those whose gradients vanish: [B]."""
        return self.gained < STUCK

    @property
    def level(self) -> Tensor:
        """Of which hardly any of the clean margin is gone at the best image so far: [B]. Where walks led there, the way
        to what they found farther away says nothing about what lies within eps."""
        return -self.margin / self.clean >= LEVEL

    @property
    def lost(self) -> Tensor:
        """Where walks went so far away that they were not back near eps when they ended, or found nothing: [B]. Their
        boundary is no farther than others', as it turns out, so that another walk is worth more than elsewhere."""
        return self.beyond > LOST

    @property
    def unsettled(self) -> Tensor:
        """Where walks are lost, or aslant, bool [B]."""
        return self.lost | self.aslant

    @property
    def aslant(self) -> Tensor:
        """Where the boundary that walks found nearest would come within eps if it were a plane, or nothing is known of
        it: they have not come to their ends, [B]. On networks trained by interval bounds nearly all that stands after
        a walk is so, and falls; on others few are."""
        return self.plane <= 0

    @property
    def misled(self) -> Tensor:
        """Where gradients at the image are not to be believed, bool [B]: a walk found a boundary in less than MISLED of
        the way on which ascents, at the rate at which they gained, would reach one."""
        return (1 + self.beyond) * self.gained < MISLED

    def still(self, rows: Tensor) -> Tensor:
        """Those of `rows` that stand."""
        return rows[torch.isin(rows, self.rows)]

    def part(
        self,
        rows: Tensor,
        copies: int = 1,
        goal: Tensor | None = None,
        trial: Tensor | None = None,
        *,
        begin: Tensor | None = None,
    ) -> tuple[BatchModel, Batch]:
        """The model and a batch for `rows` int64 [R], each `copies` times; goal int64 [R].

        trial: what keys the noise; if not given, what no other stage has drawn. begin: where starts are, if not random.
        """
        group = torch.arange(len(rows)).repeat_interleave(copies)
        some, batch = rows.repeat_interleave(copies), self.batch
        at = some.to(self.device)
        if trial is None:
            trial = self.stage * TRIALS + self.trials + torch.arange(copies).repeat(len(rows))
        goals = batch.goal[at] if goal is None else goal.repeat_interleave(copies)
        return self.model.select(some), _Part(
            batch.x[at], batch.y[at], goals, batch.example_id[some], trial, group, batch.threat, batch.seed, begin
        )

    def take(self, rows: Tensor, found: Proposal, copies: int = 1) -> Tensor:
        """Ask about what was found for `rows` and keep what is better; how far past the boundary that is, [R].

        Who has been broken firmly takes no part in what follows, but with a random model, where that may be luck.
        """
        handle, at = self.model.select(rows.repeat_interleave(copies)), rows.to(self.device)
        logits = self._answers(handle, found.x)
        reached = past(logits, self.batch.y[at].repeat_interleave(copies))
        best = reached.reshape(-1, copies).argmax(1) + torch.arange(len(rows), device=self.device) * copies
        reached, logits = reached[best], logits[best]
        better = reached > self.margin[at]
        self.x[at[better]], self.margin[at[better]] = found.x[best[better]], reached[better]
        step = found.step[best.cpu()]
        self.step[rows[better.cpu()]] = torch.where(step >= 0, self.steps + step, -1)[better.cpu()]
        broken = firm_margin(reached, logits) | reached.isposinf()
        if not self.model.randomised:
            self.rows = self.rows[~torch.isin(self.rows, rows[broken.cpu()])]
        return reached

    def sort(self) -> None:
        """Order the classes of who stands by nearness, once, with a gradient for each.

        That is the margin over the dual norm of its gradient: how far the boundary would be if the model were linear
        (Melamed et al., 2024: MALT).
        """
        if self.sorted:
            return
        at, self.sorted = self.rows.to(self.device), True
        handle, part = self.part(self.rows)
        away = part.x.new_zeros(self.order[at].shape)
        for place, goal in enumerate(self.order[at].unbind(1)):
            logits, grad = handle.gradient(part.x, partial(targeted_margin, y=part.y, goal=goal))
            slope = grad * part.threat.geometry.steepest(torch.zeros_like(grad), grad, 1.0)
            gap = -targeted_margin(logits, part.y, goal)
            away[:, place] = gap / slope.flatten(1).sum(1).clamp(min=1e-30)
        ranks = away.nan_to_num(torch.inf).argsort(dim=1, stable=True)
        self.order[at], self.reach[at] = self.order[at].gather(1, ranks), self.reach[at].gather(1, ranks)

    def _answers(self, model: BatchModel, x: Tensor) -> Tensor:
        """The answers to x; of a model that answers at random, the mean of a few."""
        if not model.randomised:
            return model(x)
        return torch.stack([model(x) for _ in range(DRAWS)]).mean(0)


@dataclass(frozen=True)
class _Part(Batch):
    """A batch whose ascents start as far from the images as the ball goes, or where they are told to."""

    begin: Tensor | None = None

    def start(self) -> Tensor:
        """A random corner of the cube in linf, a random point of the sphere in L2, clipped to the box."""
        if self.begin is not None:
            return self.begin.clone()
        threat = self.threat
        noise = self.gaussian("start-direction") if threat.geometry.directed else self.uniform("start") - 0.5
        return threat.project(self.x, threat.geometry.steepest(self.x, noise, threat.radius))


def past(logits: Tensor, y: Tensor) -> Tensor:
    """How far past the boundary, [B]; an answer that is not finite is a find, for the judge to confirm."""
    return torch.where(logits.isfinite().all(1), misclassified_margin(logits, y), torch.inf)

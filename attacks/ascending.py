"""Short ascents, of which the stages of an attack are made."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robench import Attack, GradientAttack, Proposal, Search, ThreatModel, margin
from robench_attacks.standing import Standing


class Ascent(GradientAttack):
    """One ascent, of steps that fall along a cosine from `first`, in eps; the stage asks about its last image."""

    def __init__(
        self,
        objective: Callable[[Tensor, Tensor, Tensor], Tensor],
        steps: int,
        random_start: bool,
        first: float = 1.0,
    ) -> None:
        self._objective, self._steps, self._random_start, self._first = objective, steps, random_start, first

    def search(self, threat: ThreatModel) -> Search:
        """first eps (1 + cos(pi k / steps)) / 2 for each step k."""
        shares = [self._first * (1 + math.cos(math.pi * step / self._steps)) / 2 for step in range(self._steps)]
        return Search([threat.radius * share for share in shares], "momentum", self._random_start, looks=False)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """A margin."""
        return self._objective(logits, y, goal)


def to_likeliest(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """The margin to the likeliest wrong class, [B]."""
    del goal
    return margin(logits, y)


def ascend(standing: Standing, rows: Tensor, ascent: Attack, copies: int = 1, goal: Tensor | None = None) -> Tensor:
    """An ascent of `rows` [R], `copies` of each side by side; how far past the boundary it came, [R]."""
    answer = ascent.perturb(*standing.part(rows, copies, goal))
    assert isinstance(answer, Proposal)
    reached, at = standing.take(rows, answer, copies), rows.to(standing.device)
    standing.ascended[at] = True
    standing.climbed[at] = torch.maximum(standing.climbed[at], reached)
    return reached


def climb(
    standing: Standing, rows: Tensor, x: Tensor, steps: int, before: int = 0, first: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Ascents of so many steps from elsewhere, x [R, C, H, W], after `before` answers of the same stage; how far past
    the boundary they came [R], and where they ended. They say nothing of how far gradients lead from the image.

    first: how long the first step is, in eps.
    """
    answer = Ascent(to_likeliest, steps, True, first).perturb(*standing.part(rows, begin=x))
    assert isinstance(answer, Proposal)
    step = torch.where(answer.step >= 0, before + answer.step, -1)
    return standing.take(rows, Proposal(answer.x, step)), answer.x

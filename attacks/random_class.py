"""Steps towards a class drawn at random, for transfer: Step-Rand, Iter-Rand and PGD-Rand of the PARADISE paper."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from robench import (
    ADDED,
    LossAttack,
    Range,
    Search,
    ThreatModel,
    Trials,
    Variant,
    check_count,
)
from robench_attacks.pgd import step_length
from robench_attacks.random_targeted import random_goals


class RandomClass(LossAttack):
    """Sign steps that lower the cross-entropy of a random wrong class, from a random start (Hoang et al., 2020).

    Any wrong answer is a success. The paper gives the names only; this reads them as Kurakin et al.'s (2017) step to
    a target class, its iteration, and the same from a random start.

    step: length of a step in pixels ("0.01", "1/255"), "eps" or "eps/4". steps: how many; 0 stands for Kurakin et
    al.'s min(eps + 4, 1.25 eps) with eps in 1/255, rounded up. success: "any" step counts, or only the "last".
    loss: "targeted-ce", or another objective with a goal.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def __init__(
        self,
        *,
        steps: Annotated[int, Range(0, 100_000)] = 20,
        step: str = "eps/4",
        random_start: bool = True,
        success: str = "any",
        loss: Annotated[str, ADDED] = "targeted-ce",
    ) -> None:
        check_count("steps", steps, least=0)
        step_length(step, 1.0)
        self.steps, self.step, self.random_start, self.success = steps, step, random_start, success
        super().__init__(loss, targeted=True)
        self.search(ThreatModel.of("linf", 1))  # refuses what a search cannot be

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial, towards the class that random-targeted aims at too."""
        goal = random_goals(y, logits.shape[1], example_id, seed)[:, None]
        return Trials(torch.zeros_like(goal), goal)

    def search(self, threat: ThreatModel) -> Search:
        """`steps` steps of one length."""
        steps = self.steps or iterations(threat.eps)
        sizes = [step_length(self.step, threat.radius)] * steps
        return Search(sizes, random_start=self.random_start, success=self.success)


step_rand = Variant(
    RandomClass,
    "One sign step of length eps towards a random wrong class, from the image (Hoang et al., 2020).",
    {"steps": 1, "step": "eps", "random_start": False, "success": "last"},
)
iter_rand = Variant(
    RandomClass,
    "Sign steps of 1/255 towards a random wrong class, min(eps + 4, 1.25 eps) of them (Hoang et al., 2020).",
    {"steps": 0, "step": "1/255", "random_start": False},
)
pgd_rand = Variant(
    RandomClass,
    "Twenty sign steps of eps/4 towards a random wrong class, from a random start (Hoang et al., 2020).",
)


def iterations(eps: Fraction) -> int:
    """min(eps + 4, 1.25 eps) rounded up, at least 1, for eps in pixels (Kurakin et al., 2017, section 2)."""
    levels = 255 * eps
    return max(1, math.ceil(min(levels + 4, levels * Fraction(5, 4))))

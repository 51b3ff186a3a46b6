"""Adam-PGD towards one class drawn at random, reported as attack success rate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robench import Metric, Trials, randomness
from robench_attacks.adam_pgd import AdamPGD


class RandomTargeted(AdamPGD):
    """Maximise f_r - f_y for a class r != y drawn once per image (Hoang et al., 2020; Qin et al., 2019).

    Success is a prediction of r; the rate is over all images, those the clean model gets wrong included.
    """

    metric: ClassVar[Metric] = "attack success rate"
    aims_at_goal = True

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart, all with the same goal."""
        goal = random_goals(y, logits.shape[1], example_id, seed)
        key = torch.arange(self.restarts).expand(len(y), self.restarts)
        return Trials(key, goal[:, None].expand_as(key))


def random_goals(y: Tensor, classes: int, example_id: Tensor, seed: int) -> Tensor:
    """A class other than the label for every example, uniform, keyed by (seed, example id): int64 [B]."""
    draw = randomness.integers(seed, example_id.tolist(), classes - 1, "goal")
    return draw + (draw >= y)  # skip the label

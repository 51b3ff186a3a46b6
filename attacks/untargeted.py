"""Untargeted Adam-PGD on the logit margin."""

from __future__ import annotations

from torch import Tensor

from robench import Restarts, Steps, Trials, margin
from robench_attacks.adam_pgd import DECAY, AdamPGD


class Untargeted(AdamPGD):
    """Maximise max_s f_s - f_y by Adam, 200 steps, 20 random starts (Hoang et al., 2020; Qin et al., 2019)."""

    def __init__(
        self,
        *,
        restarts: Restarts = 20,
        steps: Steps = 200,
        schedule: str = DECAY,
        rule: str = "adam",
        success: str = "any",
    ) -> None:
        super().__init__(restarts=restarts, steps=steps, schedule=schedule, rule=rule, success=success)

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """max_{s != y} f_s - f_y."""
        del goal
        return margin(logits, y)

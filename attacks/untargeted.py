"""Untargeted Adam-PGD on the logit margin."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor

from robench import ADDED, Restarts, Steps, Trials
from robench_attacks.adam_pgd import DECAY, AdamPGD


class Untargeted(AdamPGD):
    """Maximise max_s f_s - f_y by Adam, 200 steps, 20 random starts (Hoang et al., 2020; Qin et al., 2019)."""

    targeted: ClassVar[bool] = False

    def __init__(
        self,
        *,
        restarts: Restarts = 20,
        steps: Steps = 200,
        schedule: str = DECAY,
        rule: str = "adam",
        success: str = "any",
        loss: Annotated[str, ADDED] = "margin",
    ) -> None:
        super().__init__(restarts=restarts, steps=steps, schedule=schedule, rule=rule, success=success, loss=loss)

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

"""Adam-PGD towards every wrong class in turn: the strongest attack of the PARADISE paper."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from robench import ADDED, Restarts, Steps, Trials
from robench_attacks.adam_pgd import AdamPGD
from robench_attacks.targets import targeted_trials


class MultiTargeted(AdamPGD):
    """Maximise f_i - f_y for every class i != y; success is any wrong class (Gowal et al., 2019; Hoang et al., 2020).

    Classes are tried in the order of their clean logits, the likeliest first. A trial's noise is keyed by its class
    and restart, so the order does not change the starts. `restarts` counts starts per class.
    """

    def __init__(
        self,
        *,
        restarts: Restarts = 1,
        steps: Steps = 200,
        schedule: str = "0.1",
        rule: str = "adam",
        success: str = "any",
        loss: Annotated[str, ADDED] = "targeted-margin",
    ) -> None:
        super().__init__(restarts=restarts, steps=steps, schedule=schedule, rule=rule, success=success, loss=loss)

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per wrong class and restart."""
        del example_id, seed
        return targeted_trials(y, logits, self.restarts)

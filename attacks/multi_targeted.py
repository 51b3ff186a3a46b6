"""Adam-PGD towards every wrong class in turn: the strongest attack of the PARADISE paper."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor

from robench import ADDED, Range, Restarts, Steps, Trials, check_count
from robench_attacks.adam_pgd import AdamPGD
from robench_attacks.targets import targeted_trials

# above so many classes only the likeliest are tried, unless the user says how many
MANY, FEW = 50, 20


class MultiTargeted(AdamPGD):
    """Maximise f_i - f_y for every class i != y; success is any wrong class (Gowal et al., 2019; Hoang et al., 2020).

    Classes are tried in the order of their clean logits, the likeliest first. A trial's noise is keyed by its class
    and restart, so the order does not change the starts. `restarts` counts starts per class.

    targets: how many wrong classes, those with the largest clean logits; 0 for all of them, and with more than 50
    classes for 20.
    """

    version: ClassVar[int] = 2

    def __init__(
        self,
        *,
        restarts: Restarts = 1,
        steps: Steps = 200,
        schedule: str = "0.1",
        rule: str = "adam",
        success: str = "any",
        loss: Annotated[str, ADDED] = "targeted-margin",
        targets: Annotated[int, Range(0, 100_000), ADDED] = 0,
    ) -> None:
        check_count("targets", targets, least=0)
        super().__init__(restarts=restarts, steps=steps, schedule=schedule, rule=rule, success=success, loss=loss)
        self.targets = targets

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per class that is tried and restart."""
        del example_id, seed
        return targeted_trials(y, logits, self.restarts, self.targets or (FEW if logits.shape[1] > MANY else None))

"""Adam-PGD towards every wrong class in turn: the strongest attack of the PARADISE paper."""

from __future__ import annotations

import torch
from torch import Tensor

from robench import Restarts, Steps, Trials, require, targeted_margin
from robench_attacks.adam_pgd import AdamPGD

# trials of one image; the plan of a shard holds all of them
MOST = 100_000


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
    ) -> None:
        super().__init__(restarts=restarts, steps=steps, schedule=schedule, rule=rule, success=success)

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per wrong class and restart."""
        del example_id, seed
        classes = logits.shape[1]
        require(
            self.restarts * classes <= MOST,
            "restarts",
            self.restarts,
            f"at most {MOST // classes:,} with {classes} classes",
        )
        wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, : classes - 1]
        goal = wrong.repeat(1, self.restarts)
        restart = torch.arange(self.restarts).repeat_interleave(classes - 1)
        return Trials(restart * classes + goal, goal)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """f_i - f_y."""
        return targeted_margin(logits, y, goal)

"""Projected gradient descent with sign steps, as in adversarial training."""

from __future__ import annotations

import re
from typing import Annotated

from torch import Tensor

from robench import (
    ADDED,
    LossAttack,
    Restarts,
    Search,
    Steps,
    ThreatModel,
    Trials,
    check_count,
    read_fraction,
    require,
)

# pixels of one step; the box ends after one
LONGEST = 1000


class PGD(LossAttack):
    """Steepest steps on the cross-entropy from a random start (Madry et al., 2018).

    step: length of a step in pixels ("0.01", "2/255") or a part of eps; by default eps/4, as Madry et al. use on
    CIFAR-10 (2/255 of 8/255); on MNIST they use 40 steps of 0.01 at eps 0.3. loss: "ce", or another objective without
    a goal.
    """

    def __init__(
        self,
        *,
        steps: Steps = 40,
        step: str = "eps/4",
        restarts: Restarts = 1,
        random_start: bool = True,
        success: str = "any",
        loss: Annotated[str, ADDED] = "ce",
    ) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        self.steps, self.step, self.restarts, self.random_start, self.success = (
            steps, step, restarts, random_start, success,
        )  # fmt: skip
        super().__init__(loss, targeted=False)
        step_length(step, 1.0)
        require(success in ("any", "last"), "success", success, "'any' or 'last'")

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

    def search(self, threat: ThreatModel) -> Search:
        """`steps` steps of one length."""
        sizes = [step_length(self.step, threat.radius)] * self.steps
        return Search(sizes, random_start=self.random_start, success=self.success)


def step_length(step: str, radius: float) -> float:
    """The length in pixels of a step given as "eps", a part such as "eps/4", or a length such as "0.01" or "2/255".

    Raises BadInput for anything else.
    """
    share, of_eps = re.sub(r"^eps(?=/|$)", "1", step), step.startswith("eps")
    try:
        length = float(read_fraction(share))
    except (ValueError, ZeroDivisionError, OverflowError):
        length = -1.0
    allowed = f"a length in pixels such as 0.01 or 2/255, or 'eps/4', and at most {LONGEST}"
    require(0 < length <= LONGEST, "step", step, allowed)
    return radius * length if of_eps else length

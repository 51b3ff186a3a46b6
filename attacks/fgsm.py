"""The fast gradient sign method."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from robench import ADDED, GradientAttack, Search, ThreatModel, objective_named


class FGSM(GradientAttack):
    """One step of length eps along the sign of the cross-entropy's gradient (Goodfellow et al., 2015).

    In L2 the step follows the gradient itself. Starts at the image. loss: "ce", or another objective without a goal.
    """

    def __init__(self, *, loss: Annotated[str, ADDED] = "ce") -> None:
        self.loss, self._objective = loss, objective_named(loss, targeted=False)

    def search(self, threat: ThreatModel) -> Search:
        """A single steepest step of length eps; only its end counts."""
        return Search([threat.radius], random_start=False, success="last")

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """The objective that `loss` names: by default the cross-entropy."""
        return self._objective.value(logits, y, goal)

"""The fast gradient sign method."""

from __future__ import annotations

from typing import Annotated

from robench import ADDED, LossAttack, Search, ThreatModel


class FGSM(LossAttack):
    """One step of length eps along the sign of the cross-entropy's gradient (Goodfellow et al., 2015).

    In L2 the step follows the gradient itself. Starts at the image. loss: "ce", or another objective without a goal.
    """

    def __init__(self, *, loss: Annotated[str, ADDED] = "ce") -> None:
        super().__init__(loss, targeted=False)

    def search(self, threat: ThreatModel) -> Search:
        """A single steepest step of length eps; only its end counts."""
        return Search([threat.radius], random_start=False, success="last")

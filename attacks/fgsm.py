"""The fast gradient sign method."""

from __future__ import annotations

from torch import Tensor

from robench import GradientAttack, Search, ThreatModel, cross_entropy


class FGSM(GradientAttack):
    """One step of length eps along the sign of the cross-entropy's gradient (Goodfellow et al., 2015).

    In L2 the step follows the gradient itself. Starts at the image.
    """

    def search(self, threat: ThreatModel) -> Search:
        """A single steepest step of length eps; only its end counts."""
        return Search([threat.radius], random_start=False, success="last")

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """Cross-entropy."""
        del goal
        return cross_entropy(logits, y)

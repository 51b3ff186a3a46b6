"""The fast gradient sign method after a random step."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robench import Attack, Batch, BatchModel, Cost, ThreatModel, cross_entropy, require


class RFGSM(Attack):
    """A random step to a corner of a smaller cube, then one gradient sign step for the rest (Tramer et al., 2018).

    share: length of the random step as a share of eps.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    guided = True

    def __init__(self, *, share: float = 0.5) -> None:
        require(0 <= share < 1, "share", share, "in [0, 1)")
        self.share = share

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """One of each kind."""
        del threat, classes
        return Cost(1, 1)

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """x' = clip(x + a sign(N(0, 1))), then clip(x' + (eps - a) sign(grad at x')), with a = share * eps."""
        radius, threat = batch.threat.radius, batch.threat
        first = self.share * radius
        start = threat.project(batch.x, batch.x + first * batch.gaussian("corner").sign())
        logits, grad = model.gradient(start, lambda logits: cross_entropy(logits, batch.y))
        model.note_zero_gradient(grad)
        model.note_nonfinite(~logits.isfinite().all(1))
        return threat.project(batch.x, start + (radius - first) * grad.nan_to_num(0.0).sign())

"""Step rules: what turns a gradient into a step."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from robench.attack.picking import either, picked
from robench.errors import BadInput
from robench.norms import AdamNorm, SteepestNorm, expand, unit
from robench.threat import ThreatModel

# Squares of larger entries overflow float32 moments, after which a row would never move again.
LARGEST_GRADIENT = 1e15


class StepRule(Protocol):
    """Turns gradients into steps; its state has one row per row of the batch."""

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x [B, ...] moved along its gradient [B, ...], not yet projected."""
        ...

    def select(self, keep: Tensor) -> None:
        """Keep the state of the rows at positions `keep`."""
        ...


class Steepest:
    """The steepest step of the given length in the threat model's norm: sign in linf, the unit gradient in L2.

    Raises BadInput for a norm whose steepest step nobody has said.
    """

    def __init__(self, x: Tensor, threat: ThreatModel, steps: int = 1) -> None:
        del x, steps
        norm = threat.geometry
        if not isinstance(norm, SteepestNorm):
            raise BadInput(f"The rule 'steepest' does not know norm {norm.name}; choose another norm or attack.")
        self.norm = norm

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + the step of length `size` that a linear function with this gradient gains most by."""
        return self.norm.steepest(x, grad, size)

    def select(self, keep: Tensor) -> None:
        """Nothing to keep."""


class Adam:
    """Adam on the perturbation (Kingma & Ba, 2015), bias-corrected, moments untouched by the projection.

    Each row's gradients are divided by the largest entry of its first one, so that the scale of a model's logits
    neither overflows the moments nor vanishes beside the 1e-9. In L2 the second moment is one number per row, the
    square of its gradient's norm, so that a constant gradient keeps its direction, which is the optimum there; steps
    are then multiples of eps: size 0.1 moves by one radius. Raises BadInput for a norm that says nothing of these.
    """

    beta1, beta2, tiny = 0.9, 0.999, 1e-9

    def __init__(self, x: Tensor, threat: ThreatModel, steps: int = 1) -> None:
        del steps
        norm = threat.geometry
        if not isinstance(norm, AdamNorm):
            raise BadInput(f"The rule 'adam' does not know norm {norm.name}; choose another norm, rule or attack.")
        self.norm, self.radius = norm, threat.radius
        self.first, self.second = torch.zeros_like(x), norm.second_moment(x)
        self.unit = x.new_ones(len(x), *(1,) * (x.dim() - 1))
        self.count = 0

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * m / (sqrt(v) + 1e-9), with bias correction of m and v."""
        self.count += 1
        if self.count == 1:
            self.unit = expand(unit(grad), grad)
        grad = (grad * self.unit).clamp_(-LARGEST_GRADIENT, LARGEST_GRADIENT)
        self.first.lerp_(grad, 1 - self.beta1)
        self.norm.average(self.second, grad, self.beta2)
        length = self.norm.adam_length(size, self.radius)
        correction1, correction2 = 1 - self.beta1**self.count, 1 - self.beta2**self.count
        scale = self.second.sqrt().mul_(correction2**-0.5).add_(self.tiny)
        return torch.addcdiv(x, self.first, scale, value=length / correction1)

    def select(self, keep: Tensor) -> None:
        """Keep the moments of the rows at positions `keep`."""
        self.first, self.second, self.unit = picked(keep, self.first, self.second, self.unit)


class Momentum:
    """Steepest steps, each with a quarter of what the one before moved (Croce and Hein, 2020: APGD's momentum).

    Raises BadInput for a norm whose steepest step nobody has said.
    """

    keep = 0.75

    def __init__(self, x: Tensor, threat: ThreatModel, steps: int = 1) -> None:
        del steps
        norm = threat.geometry
        if not isinstance(norm, SteepestNorm):
            raise BadInput(f"The rule 'momentum' does not know norm {norm.name}; choose another norm or attack.")
        self.norm, self.before, self.count = norm, x, 0

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + 0.75 steps of `size` + 0.25 (x - the one before x); the first step is taken whole."""
        before, self.before = self.before, x
        self.count += 1
        moved = self.norm.steepest(x, grad, size)
        return moved if self.count == 1 else torch.lerp(x, moved, self.keep).add_(x - before, alpha=1 - self.keep)

    def select(self, keep: Tensor) -> None:
        """Keep the points before of the rows at positions `keep`."""
        (self.before,) = picked(keep, self.before)


class AutoStep:
    """APGD: steepest steps with momentum, whose length a row halves where its objective says so.

    Croce and Hein (2020), algorithm 1, with their momentum of 0.75, rho of 0.75 and checkpoints; no row looks at
    another. At a checkpoint a row that rose in fewer than rho of the steps since the last one, or that kept its length
    there and has not been higher since, halves it and goes on from its best point. The loop asks `turn` where to go on
    from, projects what `move` makes of it, and projects again what `carry` adds. Raises BadInput for a norm whose
    steepest step nobody has said.
    """

    keep, rho = 0.75, 0.75

    def __init__(self, x: Tensor, threat: ThreatModel, steps: int = 1) -> None:
        norm = threat.geometry
        if not isinstance(norm, SteepestNorm):
            raise BadInput(f"The rule 'apgd' does not know norm {norm.name}; choose another norm, rule or attack.")
        self.norm, self.count, self.looked = norm, 0, 0
        self.checkpoints = checkpoints(steps)
        self.share = x.new_ones(len(x))
        self.best, self.slope, self.before = x, torch.zeros_like(x), x
        self.top, self.last, self.then = x.new_full((3, len(x)), -torch.inf)
        self.rises, self.halved = torch.zeros_like(self.top), torch.zeros_like(self.top, dtype=torch.bool)

    def turn(self, x: Tensor, grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Where the rows go on from, and the gradient there: x [B, ...], of value `values` [B], or their best point."""
        values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        better = values > self.top
        self.best, self.slope = either(better, x, self.best), either(better, grad, self.slope)
        self.top = torch.where(better, values, self.top)
        self.rises += values > self.last
        self.last, at = values, self.count
        self.count += 1
        if at not in self.checkpoints:
            self.rises *= float(at > 0)  # the first value is no rise
            return x, grad
        halve = (self.rises < self.rho * (at - self.looked)) | (~self.halved & (self.top <= self.then))
        self.share = torch.where(halve, self.share / 2, self.share)
        self.last = torch.where(halve, self.top, self.last)
        self.halved, self.then, self.looked = halve, self.top, at
        self.rises.zero_()
        return either(halve, self.best, x), either(halve, self.slope, grad)

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + the steepest step of `size` times each row's share."""
        return torch.addcmul(x, self.norm.steepest(torch.zeros_like(x), grad, size), expand(self.share, x))

    def carry(self, x: Tensor, moved: Tensor) -> Tensor:
        """x + 0.75 (moved - x) + 0.25 (x - the one before x); the first step is taken whole."""
        before, self.before = self.before, x
        if self.count == 1:
            return moved
        return torch.lerp(x, moved, self.keep).add_(x - before, alpha=1 - self.keep)

    def select(self, keep: Tensor) -> None:
        """Keep the state of the rows at positions `keep`."""
        self.share, self.rises, self.halved = picked(keep, self.share, self.rises, self.halved)
        self.top, self.last, self.then = picked(keep, self.top, self.last, self.then)
        self.best, self.slope, self.before = picked(keep, self.best, self.slope, self.before)


def checkpoints(steps: int) -> frozenset[int]:
    """The steps of so many after which APGD looks back (Croce and Hein, 2020, section 3.2).

    ceil(p_j steps) with p_1 = 0.22 and p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), below 1.
    """
    found, share, span = set(), Fraction(22, 100), Fraction(22, 100)
    while share < 1:
        found.add(-int(-share * steps // 1))
        span = max(span - Fraction(3, 100), Fraction(6, 100))
        share += span
    return frozenset(found)


RULES: dict[str, type[Steepest] | type[Adam] | type[Momentum] | type[AutoStep]] = {
    "steepest": Steepest, "adam": Adam, "momentum": Momentum, "apgd": AutoStep,
}  # fmt: skip

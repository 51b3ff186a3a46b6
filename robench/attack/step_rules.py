"""Step rules: what turns a gradient into a step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

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

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        del x
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

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
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
        self.first, self.second, self.unit = self.first[keep], self.second[keep], self.unit[keep]


RULES: dict[str, type[Steepest] | type[Adam]] = {"steepest": Steepest, "adam": Adam}

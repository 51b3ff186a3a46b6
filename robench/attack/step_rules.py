"""Step rules: what turns a gradient into a step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from robench.threat import ThreatModel, expand

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
    """The steepest step of the given length in the threat model's norm: sign in linf, the unit gradient in L2."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        del x
        self.linf = threat.norm == "linf"

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * sign(g), or x + size * g / ||g||_2."""
        if self.linf:
            return torch.add(x, grad.sign(), alpha=size)
        grad = grad * expand(_unit(grad), grad)
        return torch.addcdiv(x, grad, expand(grad.flatten(1).norm(dim=1).clamp(min=1e-30), grad), value=size)

    def select(self, keep: Tensor) -> None:
        """Nothing to keep."""


class Adam:
    """Adam on the perturbation (Kingma & Ba, 2015), bias-corrected, moments untouched by the projection.

    Each row's gradients are divided by the largest entry of its first one, so that the scale of a model's logits
    neither overflows the moments nor vanishes beside the 1e-9. In L2 the second moment is one number per row, the
    square of its gradient's norm, so that a constant gradient keeps its direction, which is the optimum there; steps
    are then multiples of eps: size 0.1 moves by one radius.
    """

    beta1, beta2, tiny = 0.9, 0.999, 1e-9

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.linf, self.radius = threat.norm == "linf", threat.radius
        self.first = torch.zeros_like(x)
        self.second = torch.zeros_like(x) if self.linf else x.new_zeros(len(x), *(1,) * (x.dim() - 1))
        self.unit = x.new_ones(len(x), *(1,) * (x.dim() - 1))
        self.count = 0

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * m / (sqrt(v) + 1e-9), with bias correction of m and v."""
        self.count += 1
        if self.count == 1:
            self.unit = expand(_unit(grad), grad)
        grad = (grad * self.unit).clamp_(-LARGEST_GRADIENT, LARGEST_GRADIENT)
        self.first.lerp_(grad, 1 - self.beta1)
        if self.linf:
            self.second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
            length = size
        else:
            self.second.lerp_(expand(grad.flatten(1).square().sum(1), grad), 1 - self.beta2)
            length = size * 10 * self.radius
        correction1, correction2 = 1 - self.beta1**self.count, 1 - self.beta2**self.count
        scale = self.second.sqrt().mul_(correction2**-0.5).add_(self.tiny)
        return torch.addcdiv(x, self.first, scale, value=length / correction1)

    def select(self, keep: Tensor) -> None:
        """Keep the moments of the rows at positions `keep`."""
        self.first, self.second, self.unit = self.first[keep], self.second[keep], self.unit[keep]


def _unit(grad: Tensor) -> Tensor:
    """1 over the largest entry of each row, [B]; 1 for a row of zeros."""
    largest = grad.flatten(1).abs().amax(1)
    return torch.where(largest > 0, largest.clamp(min=1e-37), 1.0).reciprocal()


RULES: dict[str, type[Steepest] | type[Adam]] = {"steepest": Steepest, "adam": Adam}

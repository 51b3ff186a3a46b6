"""What stands in for a part of a model where that has no useful gradient: a layer passed through, a sigmoid undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robench.errors import BadInput


def through_sigmoid(answers: Tensor) -> Tensor:
    """What a sigmoid made `answers` in [0, 1] of: the same order, without its flat ends."""
    inside = answers.clamp(1e-37, 1 - 2.0**-24)
    return inside.log() - (-inside).log1p() + (answers - inside)


def identity_gradient(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor:
    """The layer's answer with the gradient of its input."""
    x = given[0]
    if x.shape != answer.shape:
        raise BadInput(
            f"The layer {type(layer).__name__} turns {tuple(x.shape)} into {tuple(answer.shape)}, but --bpda needs one "
            "that keeps the shape; name another."
        )
    return _StraightThrough.apply(x, answer)  # type: ignore[no-any-return]


class _StraightThrough(torch.autograd.Function):
    """The second argument forwards, the gradient to the first one backwards."""

    @staticmethod
    def forward(context: Any, x: Tensor, answer: Tensor) -> Tensor:
        """The layer's answer."""
        del context, x
        return answer.clone()

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        """All of the gradient to the layer's input."""
        del context
        return grad, None

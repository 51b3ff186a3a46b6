"""What the detectors share: a look at a model's layers while it runs, and exact distances between vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count

import torch
from torch import Tensor, nn


@contextmanager
def watching(modules: Iterable[nn.Module], see: Callable[[int, Tensor, object], None]) -> Iterator[None]:
    """Call `see(place, input, output)` whenever one of `modules` has run; `place` counts these calls from 0.

    Input and output may be overwritten later in the same pass: copy what is to be kept.
    """
    places = count()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        del module
        see(next(places), inputs[0], output)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2, float64 [A, B] and never negative, of vectors a [A, D] and b [B, D]; smooth where it is 0.

    The expanded square needs one matrix product. Taking the first b away from both keeps its rounding small beside
    the distances, and makes the distance between constant vectors exactly 0.
    """
    b = b.double()
    a, b = a.double() - b[:1], b - b[:1]
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2).clamp(min=0)

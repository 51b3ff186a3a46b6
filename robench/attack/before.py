"""A model as it was before it was attacked."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Before:
    """Copies of a model's buffers, and of itself where that is possible and asked for."""

    buffers: list[Tensor] | None = None
    module: nn.Module | None = None

    @classmethod
    def of(cls, module: nn.Module, *, copied: bool = True) -> Before:
        """The model as it is now."""
        return cls(_buffers(module), _copy(module) if copied else None)

    def moved(self, module: nn.Module) -> bool:
        """Whether buffers of the model are no longer what they were, where they were looked at."""
        if self.buffers is None:
            return False
        return any(not torch.equal(a, b) for a, b in zip(self.buffers, _buffers(module), strict=True))


def _buffers(module: nn.Module) -> list[Tensor]:
    return [buffer.detach().clone() for buffer in nn.Module.buffers(module)]


def _copy(module: nn.Module) -> nn.Module | None:
    """The model as it is before its first call, or None for one that cannot be copied."""
    try:
        made = copy.deepcopy(module)
    except Exception:  # whatever a user's model holds
        return None
    return None if made is module else made

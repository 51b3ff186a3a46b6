"""Noise as a function of (seed, example id, trial, stream), never of the batch an example happens to be in."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, example: int, trial: int, stream: str) -> np.random.Generator:
    """A counter-based generator (Philox 4x64) whose key is the seed and whose counter starts at the other three.

    The counter's lowest word counts the draws, so two different (example, trial, stream) never overlap.
    """
    counter = [0, trial, example, zlib.crc32(stream.encode())]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def uniform(seed: int, examples: Sequence[int], trials: Sequence[int], stream: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform noise in [0, 1), float32 [B, *shape], one row per (example, trial)."""
    rows = [
        generator(seed, e, t, stream).random(shape, dtype=np.float32) for e, t in zip(examples, trials, strict=True)
    ]
    return _stack(rows, shape)


def gaussian(seed: int, examples: Sequence[int], trials: Sequence[int], stream: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float32 [B, *shape], one row per (example, trial)."""
    rows = [
        generator(seed, e, t, stream).standard_normal(shape, dtype=np.float32)
        for e, t in zip(examples, trials, strict=True)
    ]
    return _stack(rows, shape)


def integers(seed: int, examples: Sequence[int], high: int, stream: str) -> Tensor:
    """One integer in [0, high) per example, int64 [B]."""
    return torch.tensor([int(generator(seed, e, 0, stream).integers(high)) for e in examples], dtype=torch.int64)


def _stack(rows: list[np.ndarray], shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *shape)

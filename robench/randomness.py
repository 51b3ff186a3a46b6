"""Noise as a function of (seed, example id, trial, stream), never of the batch an example happens to be in."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

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
    return _rows("random", seed, examples, trials, stream, shape)


def gaussian(seed: int, examples: Sequence[int], trials: Sequence[int], stream: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float32 [B, *shape], one row per (example, trial)."""
    return _rows("standard_normal", seed, examples, trials, stream, shape)


def integers(seed: int, examples: Sequence[int], high: int, stream: str) -> Tensor:
    """One integer in [0, high) per example, int64 [B]."""
    return torch.tensor([int(generator(seed, e, 0, stream).integers(high)) for e in examples], dtype=torch.int64)


def _rows(
    draw: str, seed: int, examples: Sequence[int], trials: Sequence[int], stream: str, shape: tuple[int, ...]
) -> Tensor:
    """What `generator` draws for each (example, trial), float32 [B, *shape].

    It is one generator, put at each one's counter, as making another takes as long as drawing a thousand numbers.
    """
    made = generator(seed, 0, 0, stream)
    state: Any = made.bit_generator.state
    counter, found = state["state"]["counter"], np.empty((len(examples), math.prod(shape)), np.float32)
    for row, example, trial in zip(found, examples, trials, strict=True):
        counter[1:3] = trial, example
        made.bit_generator.state = state
        getattr(made, draw)(out=row, dtype=np.float32)
    return torch.from_numpy(found).reshape(len(examples), *shape)

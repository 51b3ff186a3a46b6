"""A shard: what is attacked, how, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

# called with the share of a shard's work that is done, in [0, 1]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Settings:
    """How a shard is computed. Batch size, device and layout are speed; the others change what is computed.

    crafting: every example is attacked to the end, whatever the model makes of it, since the images are for others.
    draws: passes whose mean is the gradient of a randomised model (expectation over transformation). bpda: submodules
    whose gradient is replaced by the identity's in the search, for steps without useful gradients. precision: "bf16"
    takes the gradients of attacks that say so in bfloat16; every verdict stays float32. max_passes: what an attack may
    spend on an image, in forward passes; None for as much as it wants.
    """

    seed: int = 0
    batch_size: int = 250
    device: str = "cpu"
    channels_last: bool = False
    crafting: bool = False
    draws: int = 1
    bpda: tuple[str, ...] = ()
    precision: str = "fp32"
    max_passes: int | None = None


@dataclass(frozen=True)
class Examples:
    """Images float32 [n, C, H, W] in [0, 1], labels int64 [n] and example ids int64 [n], all on the CPU.

    prior: the adversarial images of an attack before this one, if there was one; only what they leave standing is
    attacked. spent: the passes that it and those before it took, int64 [n]. stood: bool [n], those that the same
    attack left standing within a larger eps; `prior` are its images then.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    prior: Tensor | None = None
    spent: Tensor | None = None
    stood: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class ShardOutcome:
    """The outcome of a shard: one row per example, the adversarial images [n, C, H, W], and flags about the model.

    logits: the model's to the "clean" and the "adversarial" images, each [n, classes]. search: how gradients were taken
    where they were to be in bfloat16.
    """

    rows: pd.DataFrame
    images: Tensor
    flags: tuple[str, ...]
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    search: str = ""

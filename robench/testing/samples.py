"""What the rules are tried on: random images, grey and coloured, and a small smooth model of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robench.data.dataset import DataInfo, Split


def data_info(family: str, channels: int, side: int, classes: int = 10) -> DataInfo:
    """Square images of a family of data."""
    return DataInfo(family, channels, side, side, classes, (0.4,) * channels, (0.3,) * channels, family)


GREY, COLOUR = data_info("digits", 1, 8), data_info("other", 3, 32, 3)
# a defense may refuse some of them, as one for large images does
FOR_DEFENSES = (GREY, data_info("mnist", 1, 28), data_info("other", 3, 32))


def random_images(data: DataInfo, count: int = 16) -> tuple[Tensor, Tensor]:
    """The same `count` random images [N, C, H, W] in [0, 1] and labels [N], at every call."""
    noise = torch.Generator().manual_seed(5)
    x = torch.rand(count, *data.shape, generator=noise)
    return x, torch.randint(data.classes, (count,), generator=noise)


class SmallModel(nn.Module):
    """A smooth model in eval mode for square images, the same at every call, with a code: its last hidden layer."""

    def __init__(self, channels: int, classes: int, side: int = 8) -> None:
        super().__init__()
        self.classes = classes
        width = 6 * ((side - 3) // 2 + 1) ** 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(width, classes)
            )
        self.eval()

    @classmethod
    def of(cls, data: DataInfo) -> SmallModel:
        """The model for images of this shape."""
        return cls(data.channels, data.classes, data.height)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.body(3 * x)
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """The code [B, D]."""
        code: Tensor = self.body[:-1](3 * x)
        return code


class FirmModel(SmallModel):
    """The small model with a margin that nothing breaks, class 0 everywhere, and gradients all the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits = 1e-3 * super().forward(x)
        return logits + 10 * functional.one_hot(torch.zeros(len(x), dtype=torch.int64), self.classes)


class _Noise:
    """Random bytes [N, C, H, W], read by example id."""

    def __init__(self, data: DataInfo, count: int) -> None:
        self.shape = data.shape
        self.array = np.random.default_rng(7).integers(0, 256, (count, *data.shape), dtype=np.uint8)

    def read(self, rows: Any) -> Any:
        """The images of these ids."""
        return self.array[rows]


def random_split(data: DataInfo, count: int = 240) -> Split:
    """Random training images, as many of one class as of another."""
    return Split(_Noise(data, count), torch.arange(count) % data.classes, torch.arange(count))

"""What a detector author writes: features of an image under a classifier; the harness turns them into one score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from robench.data.dataset import Split


class Detector(nn.Module, ABC):
    """A detector plugin. Constructor keywords are its options; `fit` learns from clean training images.

    What `fit` learns is kept in buffers by `keep`, so that it is stored and loaded with the detector. `features` is
    differentiable with respect to the image, since adaptive attacks go through it. `version` enters the identity of
    every figure: raise it when a change of code changes scores.
    """

    version: ClassVar[int] = 1
    scaler: ClassVar[Literal["standard", "minmax"]] = "standard"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def fit(self, model: nn.Module, train: Split) -> None:
        """Learn from clean training images with their true labels. Raises BadInput for a model it cannot watch."""

    @abstractmethod
    def features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits [B, classes] of images [B, C, H, W], and features [B, F] of how usual they look."""

    def keep(self, name: str, tensor: Tensor) -> None:
        """Hold a fitted tensor as the attribute `name`, stored and moved with the detector."""
        if hasattr(self, name):
            delattr(self, name)
        self.register_buffer(name, tensor.detach())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors a fitted detector had kept."""
        for name, tensor in tensors.items():
            self.keep(name, tensor)


def pixel_batches(split: Split, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of a split in order, float32 [B, C, H, W] in [0, 1] with labels int64 [B], `size` at a time."""
    for start in range(0, len(split), size):
        part = slice(start, min(start + size, len(split)))
        yield split.pixels(part), split.labels[part]

"""Random parts of image files to train on, cut out of the whole image before it is brought to the network's size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from robench.data.pixels import Files
from robench.data.split import Split
from robench.defense.augment import random_part
from robench.defense.recipe import Recipe

# larger than a file has images, so that no two of an epoch share a stream
_APART = 2_000_000_011


class Parts:
    """A split whose images are random parts of their files, each a function of the seed, the epoch and the image."""

    def __init__(self, split: Split, files: Files, seed: int) -> None:
        self.split, self.files, self.seed, self.epoch = split, files, seed, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch in one call, as a DataLoader asks for it: images uint8 [B, C, H, W], labels int64 [B]."""
        index = torch.as_tensor(list(indices), dtype=torch.int64)
        streams = [(self.seed * 1_000_003 + self.epoch) * _APART + i for i in self.split.ids[index].tolist()]
        cuts = [partial(random_part, generator=torch.Generator().manual_seed(each % 2**63)) for each in streams]
        return self.split.parts(self.files, index, cuts), self.split.labels[index]


def parts_of(split: Split, recipe: Recipe, seed: int) -> Parts | None:
    """Parts of the split's files where the recipe trains on such and there are files; else None, as images that are no
    files are cut by `augment`, where they lie."""
    files = split.files if recipe.augment == "imagenet" else None
    return None if files is None else Parts(split, files, seed)

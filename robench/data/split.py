"""One split of a dataset: images by position, labels, stable example ids and a content digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.data.images import Cut
from robench.data.pixels import Files, Numbers, Ordered, Pixels, Values

Index = Tensor | Sequence[int] | slice
Keys = NDArray[np.uint64]

_CHUNK_BYTES = 1 << 22


class Split:
    """One split: `labels` and `ids` int64 [N]; an id is the example's position in its file's official order."""

    def __init__(self, source: Pixels, labels: Tensor, ids: Tensor) -> None:
        self._source, self.labels, self.ids = source, labels, ids

    def __len__(self) -> int:
        return len(self.ids)

    def _positions(self, index: Index) -> Tensor:
        if not isinstance(index, slice):
            index = index.cpu() if isinstance(index, Tensor) else torch.as_tensor(list(index), dtype=torch.int64)
        return torch.arange(len(self))[index]

    def images(self, index: Index) -> Tensor:
        """The images at `index`, [B, C, H, W]: uint8, or float32 in [0, 1] of data that are no levels of 255.

        Raises IndexError beyond the end, `BadInput` if unreadable.
        """
        return torch.from_numpy(self._source.read(self.ids[self._positions(index)].numpy()))

    def pixels(self, index: Index) -> Tensor:
        """The same images as float32 [B, C, H, W] in [0, 1]."""
        images = self.images(index)
        return images if images.is_floating_point() else images.to(torch.float32) / 255

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch in one call, as a DataLoader asks for it: images [B, C, H, W] from 0 to 255, uint8 or, of data that
        are no such levels, float32, and labels int64 [B]."""
        images = self.images(indices)
        return images * 255 if images.is_floating_point() else images, self.labels[self._positions(indices)]

    @property
    def files(self) -> Files | None:
        """The image files that its images are made of, None where it has none."""
        return getattr(self._source, "files", None)

    def parts(self, files: Files, index: Index, cuts: Sequence[Cut]) -> Tensor:
        """Parts of the files of the images at `index`, uint8 [B, C, H, W], see `robench.data.images.part`."""
        return torch.from_numpy(files.parts(self.ids[self._positions(index)].numpy(), cuts))

    def subset(self, index: Index) -> Split:
        """The examples at `index`, in that order, with their ids."""
        chosen = self._positions(index)
        return Split(self._source, self.labels[chosen], self.ids[chosen])

    def reordered(self, order: Numbers) -> Split:
        """The examples at the positions `order` int64 [n], numbered anew from 0."""
        return view(Ordered(self._source, self.ids.numpy()), self.labels, order)

    @property
    def digest(self) -> str:
        """First 16 hex characters of the SHA-256 of shape, pixels and labels in order, and of the type if not uint8."""
        return self._read_through[0]

    @property
    def keys(self) -> Keys:
        """A number per image that two have in common where their bytes are the same, uint64 [N]."""
        return self._read_through[1]

    @cached_property
    def _read_through(self) -> tuple[str, Keys]:
        """The digest and the keys, for which each image is read once."""
        state = hashlib.sha256(repr((len(self), *self._source.shape)).encode())
        keys = []
        for batch in chunks(self._source, self.ids.numpy()):
            if batch.dtype != np.uint8:
                state.update(batch.dtype.str.encode())
            held = np.ascontiguousarray(batch)
            state.update(held.tobytes())
            keys += [hashlib.blake2b(each.tobytes(), digest_size=8).digest() for each in held]
        state.update(self.labels.numpy().astype("<i8").tobytes())
        return state.hexdigest()[:16], np.frombuffer(b"".join(keys), np.uint64)


def view(source: Pixels, labels: Tensor, order: Numbers) -> Split:
    """Examples of a source in another order, or some of them, numbered from 0."""
    return Split(Ordered(source, order), labels[torch.from_numpy(order)], torch.arange(len(order)))


def chunks(source: Pixels, rows: Numbers) -> Iterator[Values]:
    """The images at `rows`, a few MB at a time."""
    step = max(1, _CHUNK_BYTES // math.prod(source.shape))
    for start in range(0, len(rows), step):
        yield source.read(rows[start : start + step])

"""Images by position: arrays in memory or in a mapped file, or files that are decoded whenever they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robench.data.images import Cut, read_all

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
# uint8 levels, or float32 in [0, 1] of images that are not such levels
Values = NDArray[Any]


# what is said of a split that somebody has stored as masks, or divided by 255 already
OF_ONES = "has no pixel above 1 of 255, so that every image is black; multiply pixels from 0 to 1 by 255."


class Pixels(Protocol):
    """The images of one file or folder, read by position."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def read(self, rows: Numbers) -> Values: ...


class Array:
    """Images [N, C, H, W] in memory or in a mapped file."""

    def __init__(self, array: Values) -> None:
        self.array = np.asarray(array)  # of a mapped file a view, so that what is read of it is a plain array
        self.shape: tuple[int, int, int] = (array.shape[1], array.shape[2], array.shape[3])

    def read(self, rows: Numbers) -> Values:
        return np.take(self.array, rows, axis=0)


class Files:
    """Image files of any size, decoded whenever they are asked for and brought to `size` (height, width).

    channels: 1 for grey ones, whose one channel is kept.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], channels: int = 3) -> None:
        self.paths, self.shape = paths, (channels, *size)

    def read(self, rows: Numbers) -> Values:
        return read_all([self.paths[row] for row in rows], self.shape[1:], self.shape[0])

    @property
    def files(self) -> Files:
        """Itself."""
        return self

    def parts(self, rows: Numbers, cuts: Sequence[Cut]) -> Values:
        """Parts of the files at `rows`, one of each, see `robench.data.images.part`."""
        return read_all([self.paths[row] for row in rows], self.shape[1:], self.shape[0], cuts)


class Decoded(Array):
    """Image files that were decoded once, in memory or in a mapped file; and the files."""

    def __init__(self, array: Values, files: Files) -> None:
        super().__init__(array)
        self.files = files


class Ordered:
    """The images of another in another order, or some of them."""

    def __init__(self, source: Pixels, order: Numbers) -> None:
        self.source, self.order, self.shape = source, order, source.shape

    def read(self, rows: Numbers) -> Values:
        return self.source.read(self.order[rows])

"""The names a dataset can have and where each one's files come from; imports no torch, so that listing is instant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robench.data.catalogue import DATASETS, Entry, Part
from robench.data.folder import Folder
from robench.data.images import reading
from robench.data.pixels import OF_ONES, Array, Pixels
from robench.data.sides import Side
from robench.environment import expanded
from robench.errors import BadInput, unknown

_NPZ_KEYS: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
# labels number the classes, and a model has an output for each
MOST_CLASSES = 100_000
# of the images of a folder, in pixels a side
SIZE = re.compile(r"\d{1,30}")
LARGEST_SIDE = 4096


class Source(Protocol):
    """Where the splits of a dataset come from: `load` gives pixels and labels of a part, unchecked.

    classes: how many there are; where it is only `guessed` from the labels, there may be more. told: how what was
    loaded is understood, in sentences.
    """

    @property
    def classes(self) -> int: ...
    @property
    def guessed(self) -> bool: ...
    @property
    def told(self) -> Sequence[str]: ...
    @property
    def where(self) -> Path: ...
    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]: ...


class _Digits:
    """scikit-learn's bundled digits, whose 17 grey levels are spread over 0..255."""

    classes, where, guessed, told = DATASETS["digits"].classes, Path("digits"), False, ()

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        from sklearn.datasets import load_digits  # takes a second to import, and only this dataset needs it

        digits = load_digits()
        rows = slice(None, -500) if part == "train" else slice(-500, None)
        return Array(np.rint(digits.images[rows, None] * 255 / 16).astype(np.uint8)), digits.target[rows]


class Torchvision:
    """A dataset that torchvision knows, in torchvision's own file layout under `root`."""

    guessed, told = False, ()

    def __init__(self, entry: Entry, root: Path) -> None:
        self.entry, self.root, self.classes = entry, root, entry.classes
        self.where = root / entry.files.partition("{")[0]

    def build(self, part: Part, download: bool) -> Any:
        from torchvision import datasets  # slow to import, and npz: or folder: data do without

        assert self.entry.torchvision is not None
        return getattr(datasets, self.entry.torchvision)(str(self.root), download=download, **self.entry.asking(part))

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        name, where = self.entry.name, self.root / self.entry.files.format(part=part)
        command = f"`robench data fetch {name} --data {self.root}`"
        if not where.exists():
            raise BadInput(f"The dataset {name} was not found in {self.root}; run {command}.")
        with reading(where, f"delete it and run {command}"):
            raw = self.build(part, download=False)
            images, labels = np.asarray(raw.data), np.asarray(raw.targets if hasattr(raw, "targets") else raw.labels)
            return _in_memory(images, labels, f"The {part} split of {name} in {self.root}"), labels


class _Npz:
    """Arrays in one .npz file, of which only the asked ones are read."""

    guessed = True

    def __init__(self, path: Path) -> None:
        self.where = path
        self.told: list[str] = []

    def _read(self, part: Part, which: int, optional: bool = False) -> NDArray[Any] | None:
        """The images (0) or labels (1) of a part; None for an `optional` part of which the file has no key at all."""
        with reading(self.where, "give an .npz file of plain arrays"), open(self.where, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            have = sorted(getattr(file, "files", []))
            keys = max(_NPZ_KEYS[part], key=lambda pair: sum(key in have for key in pair))
            if all(key in have for pair in _NPZ_KEYS[part] for key in pair):
                names = " and as ".join(pair[0] for pair in _NPZ_KEYS[part])
                raise BadInput(f"{self.where} has the {part} split twice, as {names}; keep one of them.")
            missing = [key for key in keys if key not in have]
            if optional and len(missing) == len(keys):
                return None
            if missing:
                lacks, has = " and no ".join(missing), ", ".join(have) or "none"
                raise BadInput(f"{self.where} has no {lacks}, which the {part} split needs; its keys are {has}.")
            return np.asarray(file[keys[which]])

    def _labels(self, part: Part, optional: bool = False) -> NDArray[Any] | None:
        labels = self._read(part, 1, optional)
        if labels is None:
            return None
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
            raise BadInput(
                f"The {part} labels of {self.where} are {labels.dtype} {list(labels.shape)}{_lowest(labels)}, "
                "but must be one integer from 0 upwards per image, [N] or [N, 1]."
            )
        if labels.size and int(labels.max()) >= MOST_CLASSES:
            raise BadInput(
                f"The {part} labels of {self.where} go up to {labels.max()}, but they number the classes from 0, and "
                f"there may be at most {MOST_CLASSES:,}; number them anew."
            )
        return labels

    @cached_property
    def classes(self) -> int:
        both = self._labels("test"), self._labels("train", optional=True)
        return 1 + max((int(labels.max()) for labels in both if labels is not None and labels.size), default=0)

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        labels, images = self._labels(part), self._read(part, 0)
        assert labels is not None  # only an optional part may be None
        assert images is not None
        where = f"The {part} split of {self.where}"
        found = _in_memory(images, labels, where)
        largest = int(found.array.max())
        if largest == 1:
            raise BadInput(f"{where} {OF_ONES}")
        self.told.append(_understood(where, images, found, labels, largest))
        return found, labels


def find_source(name: str, root: Path) -> Source:
    """Where the files of dataset `name` are; raises `BadInput` for an unknown name or a path that is not there."""
    if name == "digits":
        return _Digits()
    if name in DATASETS and DATASETS[name].torchvision:
        return Torchvision(DATASETS[name], root)
    kind, _, text = name.partition(":")
    if kind not in ("npz", "folder") or not text:
        raise unknown("dataset", name, DATASETS)
    if kind == "npz":
        path = expanded(text)
        if not path.is_file():
            raise BadInput(f"There is no file {path}, which the dataset {name} names.")
        return _Npz(path)
    path, size = sized_folder(text)
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise BadInput(f"The image size in {name} must be from 1 to {LARGEST_SIDE:,} pixels.")
    if not path.is_dir():
        raise BadInput(f"There is no folder {path}, which the dataset {name} names.")
    return Folder(path, size, root)


def sized_folder(text: str) -> tuple[Path, int | None]:
    """The folder and the size of PATH or PATH@SIZE; a folder that itself ends in "@" and digits is taken for one.

    Raises BadInput where it could be either.
    """
    whole, (head, _, digits) = expanded(text), text.rpartition("@")
    side = Side.read(digits)
    if not head or not (SIZE.fullmatch(digits) or side):
        return whole, None
    folder = expanded(head)
    if whole.is_dir() and folder.is_dir():
        raise BadInput(
            f"folder:{text} could be the folder {whole}, or {folder} at {digits} pixels; write folder:{text}/ for the "
            f"first, folder:{head}/@{digits} for the second."
        )
    return (whole, None) if whole.is_dir() else (folder, side or int(digits))


def _in_memory(images: NDArray[Any], labels: NDArray[Any], where: str) -> Array:
    """The images as uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W], where C is 1 or 3."""
    if images.dtype != np.uint8:
        raise BadInput(
            f"{where} has {images.dtype} images, but they must be uint8, from 0 to 255; multiply those in [0, 1] by "
            "255, round, and store them as uint8."
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise BadInput(f"{where} has images {list(images.shape)}, but they must be [N, H, W] or [N, H, W, 1 or 3].")
    if len(images) != len(labels):
        raise BadInput(f"{where} has {len(images)} images but {len(labels)} labels.")
    if 0 in images.shape:
        raise BadInput(f"{where} is empty.")
    return Array(np.ascontiguousarray(images))


def _understood(where: str, raw: NDArray[Any], found: Array, labels: NDArray[Any], largest: int) -> str:
    """How arrays are understood, in a sentence."""
    layout = "[N, H, W]" if raw.ndim == 3 else "[N, H, W, C]" if raw.shape[3] in (1, 3) else "[N, C, H, W]"
    (channels, height, width), last = found.shape, int(labels.max())
    return (
        f"{where}: {len(raw):,} images {layout} of {channels} x {height} x {width}, pixels up to {largest} of 255, "
        f"labels from {labels.min()} to {last}."
    )


def _lowest(labels: NDArray[Any]) -> str:
    """The lowest label, where that is what is wrong."""
    wrong = labels.ndim == 1 and labels.dtype.kind == "i" and labels.size
    return f" with {labels.min()}" if wrong else ""

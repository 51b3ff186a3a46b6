"""The names a dataset can have and where each one's files come from; imports no torch, so that listing is instant."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robench.data.cache import Bytes, keep, mapped
from robench.data.catalogue import DATASETS, Entry, Part
from robench.environment import expanded
from robench.errors import BadInput, disk_error, first_line, unknown

Numbers = NDArray[np.int64]

_NPZ_KEYS: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
# raise when files are decoded to other pixels: what is in the cache was decoded as it was then
DECODING = 2
# of the images of a folder, in pixels
SIZE = re.compile(r"[0-9]{1,9}")
_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Pixels(Protocol):
    """The images of one file or folder, read by position."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def read(self, rows: Numbers) -> Bytes: ...


class _Array:
    """Images [N, C, H, W] in memory or in a mapped file."""

    def __init__(self, array: Bytes) -> None:
        self.array = np.asarray(array)  # of a mapped file a view, so that what is read of it is a plain array
        self.shape: tuple[int, int, int] = (array.shape[1], array.shape[2], array.shape[3])

    def read(self, rows: Numbers) -> Bytes:
        return np.take(self.array, rows, axis=0)


class _Files:
    """Image files of any size, decoded whenever they are asked for and brought to `size` (height, width)."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self.paths, self.shape = paths, (3, *size)

    def read(self, rows: Numbers) -> Bytes:
        out = np.empty((len(rows), *self.shape), np.uint8)

        def decode(place: int) -> None:
            out[place] = _decode(self.paths[rows[place]], self.shape[1:])

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            list(pool.map(decode, range(len(rows))))
        return out


class Source(Protocol):
    """Where the splits of a dataset come from: `load` gives pixels and labels of a part, unchecked."""

    @property
    def classes(self) -> int: ...
    @property
    def where(self) -> Path: ...
    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]: ...


class _Digits:
    """scikit-learn's bundled digits, whose 17 grey levels are spread over 0..255."""

    classes, where = DATASETS["digits"].classes, Path("digits")

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        from sklearn.datasets import load_digits  # takes a second to import, and only this dataset needs it

        digits = load_digits()
        rows = slice(None, -500) if part == "train" else slice(-500, None)
        return _Array(np.rint(digits.images[rows, None] * 255 / 16).astype(np.uint8)), digits.target[rows]


class Torchvision:
    """A dataset that torchvision knows, in torchvision's own file layout under `root`."""

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
        with _reading(where, f"delete it and run {command}"):
            raw = self.build(part, download=False)
            images, labels = np.asarray(raw.data), np.asarray(raw.targets if hasattr(raw, "targets") else raw.labels)
            return _in_memory(images, labels, f"The {part} split of {name} in {self.root}"), labels


class _Npz:
    """Arrays in one .npz file, of which only the asked ones are read."""

    def __init__(self, path: Path) -> None:
        self.where = path

    def _read(self, part: Part, which: int, optional: bool = False) -> NDArray[Any] | None:
        """The images (0) or labels (1) of a part; None for an `optional` part of which the file has no key at all."""
        with _reading(self.where, "give an .npz file of plain arrays"), open(self.where, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            have = sorted(getattr(file, "files", []))
            keys = max(_NPZ_KEYS[part], key=lambda pair: sum(key in have for key in pair))
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
                f"The {part} labels of {self.where} are {labels.dtype} {list(labels.shape)}, "
                "but must be one integer from 0 upwards per image, [N] or [N, 1]."
            )
        return labels

    @cached_property
    def classes(self) -> int:
        both = self._labels("test"), self._labels("train", optional=True)
        largest = max((int(labels.max()) for labels in both if labels is not None and labels.size), default=0)
        if largest < 1:
            raise BadInput(f"{self.where} has labels of fewer than two classes.")
        return largest + 1

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        labels, images = self._labels(part), self._read(part, 0)
        assert labels is not None  # only an optional part may be None
        assert images is not None
        return _in_memory(images, labels, f"The {part} split of {self.where}"), labels


class _Folder:
    """Class folders of images, decoded once into a mapped array under `root`/cache, or streamed when too large."""

    def __init__(self, path: Path, size: int | None, root: Path) -> None:
        self.where, self.size, self.cache = path, size, root / "cache"

    @cached_property
    def names(self) -> list[str]:
        names = _class_folders(self.where / "train")
        if len(names) < 2:
            raise BadInput(f"{self.where / 'train'} must hold one folder of images for each of two or more classes.")
        return names

    @property
    def classes(self) -> int:
        return len(self.names)

    @cached_property
    def parts(self) -> dict[Part, list[tuple[Path, int]]]:
        """(file, label) of every example, by class and then by path."""
        known = set(self.names)
        held = [self.where / name for name in ("test", "val") if (self.where / name).is_dir()]
        if not held:
            raise BadInput(f"{self.where} has neither a test nor a val folder beside train.")
        # Tiny ImageNet's test folder has no labels: take val where only that has class folders
        test = next((folder for folder in held if known & set(_class_folders(folder))), held[0])
        strange = sorted(set(_class_folders(test)) - known)
        if strange or not _class_folders(test):
            found = f"the folder {strange[0]!r}, which is no class of train" if strange else "no class folders"
            raise BadInput(f"{test} has {found}; put every image under {test}/CLASS, with CLASS a folder of train.")
        return {"train": self._list(self.where / "train"), "test": self._list(test)}

    def _list(self, folder: Path) -> list[tuple[Path, int]]:
        labelled = ((folder / name, label) for label, name in enumerate(self.names))
        return [(path, label) for place, label in labelled for path in _image_files(place)]

    def _size(self) -> tuple[int, int]:
        """(height, width): SIZE where given, what all images of both parts share, or 224."""
        if self.size is not None:
            return self.size, self.size
        first: tuple[int, int] | None = None
        for path, _ in (*self.parts["train"], *self.parts["test"]):
            with _reading(path, "replace or remove it"), Image.open(path) as image:
                size = image.height, image.width
            first = first or size
            if size != first:
                return 224, 224
        return first or (224, 224)

    @cached_property
    def key(self) -> str:
        """A name for this very content; both parts count, since together they decide the common size.

        A file's time of modification can be set at will and its time of change cannot, so what was put in its place has
        another one.
        """
        state = hashlib.sha256(repr((DECODING, self.size)).encode())
        for path, label in (*self.parts["train"], *self.parts["test"]):
            with _reading(path, "replace or remove it"):
                status = path.stat()
            told = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            state.update(repr((str(path.relative_to(self.where)), label, *told)).encode())
        return state.hexdigest()[:32]

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        examples = self.parts[part]
        labels = np.array([label for _, label in examples], np.int64)
        target = self.cache / f"{self.key}-{part}.npy"
        ready = mapped(target, len(examples))
        files = _Files([path for path, _ in examples], self._size() if ready is None else ready.shape[2:])
        if not examples or len(examples) * math.prod(files.shape) > memory_limit():
            return files, labels
        return _Array(_decode_to(target, files) if ready is None else ready), labels


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
    if size == 0:
        raise BadInput(f"The image size in {name} must be at least 1 pixel.")
    if not path.is_dir():
        raise BadInput(f"There is no folder {path}, which the dataset {name} names.")
    return _Folder(path, size, root)


def sized_folder(text: str) -> tuple[Path, int | None]:
    """The folder and the size of PATH or PATH@SIZE; a folder that itself ends in "@" and digits is taken for one.

    Raises BadInput where it could be either.
    """
    whole, (head, _, digits) = expanded(text), text.rpartition("@")
    if not head or not SIZE.fullmatch(digits):
        return whole, None
    folder = expanded(head)
    if whole.is_dir() and folder.is_dir():
        raise BadInput(
            f"folder:{text} could be the folder {whole}, or {folder} at {digits} pixels; write folder:{text}/ for the "
            f"first, folder:{head}/@{digits} for the second."
        )
    return (whole, None) if whole.is_dir() else (folder, int(digits))


def memory_limit() -> float:
    """Bytes that a decoded folder may take: half of this machine's memory; more is decoded batch by batch."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def reason(error: BaseException) -> str:
    """The first sentence of an error's text without its full stop, or its type where it has no text."""
    return first_line(error).split(". ")[0].rstrip(".: ")


@contextlib.contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Turn whatever a decoder raises on bad bytes into `BadInput` naming the file."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # zip, pickle, numpy, scipy and PIL have no common error
        raise BadInput(f"{path} is missing, incomplete or damaged ({reason(error)}); {advice}.") from error


def _in_memory(images: NDArray[Any], labels: NDArray[Any], where: str) -> _Array:
    """The images as uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W], where C is 1 or 3."""
    if images.dtype != np.uint8:
        raise BadInput(f"{where} has {images.dtype} images, but they must be uint8, from 0 to 255.")
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
    return _Array(np.ascontiguousarray(images))


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    """Every image file anywhere under `folder`, sorted by path, whatever the system's own order."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in _EXTENSIONS)


def _decode(path: Path, size: tuple[int, int]) -> Bytes:
    """One image as uint8 [3, H, W]: as it is where it has that size, else its middle, as ImageNet is evaluated."""
    with _reading(path, "replace or remove it"), Image.open(path) as image:
        rgb = image.convert("RGB")
        height, width = size
        if (rgb.height, rgb.width) != size:
            short, wanted = min(rgb.size), round(min(size) * 256 / 224)
            rgb = rgb.resize((rgb.width * wanted // short, rgb.height * wanted // short), Image.Resampling.BILINEAR)
            left, top = round((rgb.width - width) / 2), round((rgb.height - height) / 2)
            rgb = rgb.crop((left, top, left + width, top + height))
        return np.asarray(rgb, np.uint8).transpose(2, 0, 1)


def _decode_to(path: Path, files: _Files) -> Bytes:
    """Decode every file into the cache file `path` and map it."""
    try:
        return keep(path, (len(files.paths), *files.shape), lambda start, stop: files.read(np.arange(start, stop)))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, path) from error
        raise BadInput(f"Cannot write {path} ({reason(error)}); choose another data folder with --data.") from error

"""The names a dataset can have and where each one's files come from; imports no torch, so that listing is instant."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robench.data.arrays import understood
from robench.data.catalogue import DATASETS, Entry, Part
from robench.data.folder import Folder
from robench.data.images import reading
from robench.data.pixels import Array, Pixels
from robench.data.sides import Side
from robench.data.stored import stored
from robench.data_names import PATHS, DataName
from robench.environment import expanded
from robench.errors import BadInput, unknown

# of the images of a folder, in pixels a side
SIZE = re.compile(r"\d{1,30}")
LARGEST_SIDE = 4096


class Source(Protocol):
    """Where the splits of a dataset come from: `load` gives pixels and labels of a part, unchecked.

    classes: how many there are; where it is only `guessed` from the labels, there may be more. told: how what was
    loaded is understood, in sentences. names: the classes' own, if they have any. paths: of the files of a part.
    """

    @property
    def classes(self) -> int: ...
    @property
    def guessed(self) -> bool: ...
    @property
    def told(self) -> Sequence[str]: ...
    @property
    def where(self) -> Path: ...
    @property
    def names(self) -> Sequence[str]: ...
    def paths(self, part: Part) -> Sequence[Path]: ...
    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]: ...


class _Digits:
    """scikit-learn's bundled digits, whose 17 grey levels are spread over 0..255."""

    classes, where, guessed, told, names = DATASETS["digits"].classes, Path("digits"), False, (), ()

    def paths(self, part: Part) -> Sequence[Path]:
        return ()

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        images, labels = _digits()
        rows = slice(None, -500) if part == "train" else slice(-500, None)
        return Array(np.rint(images[rows, None] * 255 / 16).astype(np.uint8)), labels[rows].copy()


@cache
def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """All of them, read once from scikit-learn's file, without scikit-learn: that takes a second to import."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    values = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return values[:, :-1].reshape(-1, 8, 8), values[:, -1].astype(np.int64)


class Torchvision:
    """A dataset that torchvision knows, in torchvision's own file layout under `root`."""

    guessed, told, names = False, (), ()

    def paths(self, part: Part) -> Sequence[Path]:
        """Images have no files of their own."""
        return ()

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
            return understood(images, labels, f"The {part} split of {name} in {self.root}", {})[0], labels


def _unknown(name: DataName) -> BadInput:
    """The error for a name that is no dataset's; of a path, with the kind that it lacks."""
    end = Path(name.place).suffix[1:].lower()
    kind = "folder" if expanded(name.place or "?").is_dir() else {"pth": "pt", "tsv": "csv"}.get(end, end)
    if name.kind or kind not in PATHS:
        return unknown("dataset", name.base, DATASETS)
    what = "folder" if kind == "folder" else "file"
    return BadInput(f"The dataset {name.base!r} is a {what}, of which the kind must be said; give {kind}:{name.base}.")


def find_source(name: DataName, root: Path) -> Source:
    """Where the files of a dataset are; raises `BadInput` for an unknown name or a path that is not there."""
    kind, text = name.kind, name.place
    if text in DATASETS and not kind:
        _allow(name, ("ids", "eps", "draw"))
        return _Digits() if text == "digits" else Torchvision(DATASETS[text], root)
    if not kind or not text:
        raise _unknown(name)
    _allow(name, _SETTINGS[kind])
    if kind == "memory":
        from robench.data.handed import Handed

        return Handed(name.base, name.settings)
    if kind in ("medmnist", "hf-data"):
        from robench.data import hub

        return hub.medmnist(text, root, name.settings) if kind == "medmnist" else hub.HuggingFace(text, name.settings)
    return _folder(name, root) if kind == "folder" else _file(name)


def _file(name: DataName) -> Source:
    """Data in a file, or in a folder of one file per part. Raises BadInput where it is not there."""
    path = expanded(name.place)
    if not path.is_file() and (name.kind == "npz" or not path.is_dir()):
        raise BadInput(f"There is no file {path}, which the dataset {name} names.")
    if name.kind in ("csv", "parquet"):
        from robench.data.tabular import Table

        return Table(name.kind, path, name.settings)
    return stored(name.kind, path, name.settings)


def _folder(name: DataName, root: Path) -> Source:
    path, size = sized_folder(name.place)
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise BadInput(f"The image size in {name} must be from 1 to {LARGEST_SIDE:,} pixels.")
    if not path.is_dir():
        raise BadInput(f"There is no folder {path}, which the dataset {name} names.")
    return Folder(path, size, root, name.settings)


_ANY = ("ids", "eps", "draw", "names", "labels-from", "one-hot")
_PICTURES = ("size", "channels")
_ARRAYS = (*_ANY, "layout", "range", "images", "labels", "split")
# the settings that mean something to a kind
_SETTINGS = {
    "npz": _ARRAYS,
    "npy": _ARRAYS,
    "pt": _ARRAYS,
    "medmnist": _ARRAYS,
    "csv": (*_ARRAYS, *_PICTURES),
    "parquet": (*_ARRAYS, *_PICTURES),
    "hf-data": (*_ARRAYS, *_PICTURES, "config"),
    "memory": (*_ANY, *_PICTURES, "layout", "range"),
    "folder": ("ids", "eps", "draw", "channels", "split"),
}


def _allow(name: DataName, known: Sequence[str]) -> None:
    """Raise BadInput for a setting that means nothing to this kind of data."""
    strange = next((key for key in name.settings if key not in known), None)
    if strange is not None:
        flag = {"labels-from": "--labels-from", "one-hot": "--one-hot", "layout": "--layout", "range": "--range",
                "names": "--classes with names"}.get(strange, f"the setting {strange}")  # fmt: skip
        raise BadInput(
            f"{flag[0].upper()}{flag[1:]} is given for {name.base}, where it means nothing; leave it out. These data "
            f"take {', '.join(known)}."
        )


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

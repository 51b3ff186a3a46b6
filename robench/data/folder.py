"""Datasets that are folders of images, one per class."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.data.cache import keep, mapped
from robench.data.catalogue import Part
from robench.data.images import Headers, Size, crop_told, image_files, reading, reason
from robench.data.pixels import OF_ONES, Bytes, Decoded, Files, Pixels
from robench.data.tiny_imagenet import annotated, labelled, wnids
from robench.errors import BadInput, disk_error

# raise when files are decoded to other pixels: what is in the cache was decoded as it was then
DECODING = 4


class Folder:
    """Class folders of images, decoded once into a mapped array under `root`/cache, or streamed when too large.

    What the headers of files that are in the cache said lies under `root`/headers. settings: "channels", and the
    "split" that is the test split.
    """

    guessed = False

    def __init__(self, path: Path, size: int | None, root: Path, settings: Mapping[str, str] = {}) -> None:
        self.where, self.size, self.cache, self.settings = path, size, root / "cache", settings
        self._others: Counter[str] = Counter()

    @cached_property
    def names(self) -> list[str]:
        """The classes, in the order of their numbers: as the folders of train are sorted, or those of test without."""
        places = [self.where / "train"] if (self.where / "train").is_dir() else self._held
        holder = max(places, key=lambda place: len(_class_folders(place)))
        names = _class_folders(holder)
        if annotated(places[0]):
            names = wnids(self.where, places[0])
        if len(names) < 2:
            raise BadInput(f"{holder} must hold one folder of images for each of two or more classes.")
        return names

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def _held(self) -> list[Path]:
        """The folders that test images may be in: those so called, one with annotations first, or else all of it."""
        asked = self.settings.get("split")
        held = [self.where / name for name in ([asked] if asked else ("test", "val")) if (self.where / name).is_dir()]
        if asked and not held:
            raise BadInput(f"{self.where} has no folder {asked}, which ?split={asked} asks for.")
        if not held and (self.where / "train").is_dir():
            raise BadInput(f"{self.where} has neither a test nor a val folder beside train.")
        if not held and len(_class_folders(self.where)) > 1:
            return [self.where]
        return sorted(held, key=lambda place: not annotated(place)) or [self.where / "test"]

    @cached_property
    def test(self) -> Path:
        """The folder of test images. Raises BadInput where there is none, or one of other classes."""
        known, held = set(self.names), self._held
        if annotated(held[0]):
            return held[0]
        # Tiny ImageNet's test folder has no labels: take val where only that has class folders
        test = next((folder for folder in held if known & set(_class_folders(folder))), held[0])
        strange = sorted(set(_class_folders(test)) - known)
        if strange or not _class_folders(test):
            found = f"the folder {strange[0]!r}, which is no class of train" if strange else "no class folders"
            raise BadInput(f"{test} has {found}; put every image under {test}/CLASS, with CLASS a folder of train.")
        return test

    @cached_property
    def parts(self) -> dict[Part, list[tuple[Path, int]]]:
        """(file, label) of every example, by class and then by path."""
        test = labelled(self.test, self.names) if annotated(self.test) else self._list(self.test)
        return {"train": self._list(self.where / "train"), "test": test}

    def paths(self, part: Part) -> list[Path]:
        """The files of a part, in order."""
        return [path for path, _ in self.parts[part]]

    def _list(self, folder: Path) -> list[tuple[Path, int]]:
        found: list[tuple[Path, int]] = []
        for label, name in enumerate(self.names):
            paths, others = image_files(folder / name) if (folder / name).is_dir() else ([], Counter[str]())
            found += [(path, label) for path in paths]
            self._others += others
        return found

    @property
    def told(self) -> list[str]:
        """What was made of the test images; of their headers only what was looked at, which may have been another
        time."""
        names = [f"{i} = {name}" for i, name in enumerate(self.names)]
        names = names if len(names) <= 4 else [*names[:3], "...", names[-1]]
        phrases = [f"{len(self.parts['test']):,} test images from {self.test}", *self._looked]
        phrases += [f"{count:,} files {kind} are left out" for kind, count in sorted(self._others.items())]
        return [f"{'; '.join(phrases)}; classes in the order of their folders' names: {', '.join(names)}."]

    @property
    def _looked(self) -> list[str]:
        """What the headers of all files say, looked at now, earlier, or not at all."""
        if "headers" in vars(self):
            told = self.headers.told(self.size is not None)
        else:
            try:
                told = [str(each) for each in list(json.loads(self._notes.read_text()))]
            except (OSError, ValueError, TypeError, RecursionError):
                told = []
        return [crop_told(self.size), *told] if self.size is not None else told

    @cached_property
    def headers(self) -> Headers:
        """What the headers of all files say. Raises BadInput for a file that is no image."""
        return Headers.of([path for path, _ in (*self.parts["train"], *self.parts["test"])])

    @property
    def _notes(self) -> Path:
        return self.cache.with_name("headers") / f"{self.key}.json"

    def _size(self) -> Size:
        """(height, width): SIZE where given, what all images of both parts share, or 224."""
        return self.headers.common_size(self.where) if self.size is None else (self.size, self.size)

    def _channels(self) -> int:
        return self.headers.channels(self.settings.get("channels"), self.where)

    @cached_property
    def key(self) -> str:
        """A name for this very content; both parts count, since together they decide the common size.

        A file's time of modification can be set at will and its time of change cannot, so what was put in its place has
        another one.
        """
        size = getattr(self.size, "written", self.size)
        state = hashlib.sha256(repr((DECODING, size, self.settings.get("channels"))).encode())
        for path, label in (*self.parts["train"], *self.parts["test"]):
            with reading(path, "replace or remove it"):
                status = path.stat()
            told = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            state.update(repr((str(path.relative_to(self.where)), label, *told)).encode())
        return state.hexdigest()[:32]

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        if part == "train" and not (self.where / "train").is_dir():
            raise BadInput(f"{self.where} has no train folder, which training needs; evaluating needs test alone.")
        examples = self.parts[part]
        labels = np.array([label for _, label in examples], np.int64)
        target = self.cache / f"{self.key}-{part}.npy"
        ready = mapped(target, len(examples))
        if ready is not None and self.size is not None and ready.shape[2:] != self._size():
            ready = None
        size = ready.shape[2:] if ready is not None and self.size is None else self._size()
        files = Files([path for path, _ in examples], size, self._channels() if ready is None else ready.shape[1])
        if not examples or len(examples) * math.prod(files.shape) > memory_limit():
            return files, labels
        if ready is None:
            ready = _decode_to(target, files)
            with contextlib.suppress(OSError):  # what is told is of use, and no more
                self._notes.parent.mkdir(exist_ok=True)
                self._notes.write_text(json.dumps(self.headers.told(self.size is not None)))
        found = Decoded(ready, files)
        if _of_ones(found, len(labels)):
            raise BadInput(f"The {part} split of {self.where} {OF_ONES}")
        return found, labels


def _of_ones(images: Pixels, count: int) -> bool:
    """Whether the largest pixel of all is 1; looks no further than the first that is larger."""
    largest = 0
    for start in range(0, count, 256):
        largest = max(largest, int(images.read(np.arange(start, min(start + 256, count))).max()))
        if largest > 1:
            break
    return largest == 1


def memory_limit() -> float:
    """Bytes that a decoded folder may take: half of this machine's memory; more is decoded batch by batch."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.exists():
            raise BadInput(f"{entry} is a link to {entry.readlink()}, which is not there; mend or remove it.")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _decode_to(path: Path, files: Files) -> Bytes:
    """Decode every file into the cache file `path` and map it."""
    try:
        return keep(path, (len(files.paths), *files.shape), lambda start, stop: files.read(np.arange(start, stop)))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, path) from error
        raise BadInput(f"Cannot write {path} ({reason(error)}); choose another data folder with --data.") from error

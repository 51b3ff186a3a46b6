"""Datasets by name: uint8 images, labels, stable example ids and a content digest, loaded split by split."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robench.data.arrays import MOST_CLASSES
from robench.data.catalogue import DATASETS, Part
from robench.data.draw import LOOKED_AT, balanced, check_way, listed, looks, ordered, shifted
from robench.data.images import reason
from robench.data.pixels import Pixels
from robench.data.sources import Source, Torchvision, find_source
from robench.data.split import Split, chunks, view
from robench.data_names import DataName, parse
from robench.environment import expanded
from robench.errors import BadInput, disk_error, require
from robench.progress import say
from robench.text.terminal import tell

__all__ = ["DATASETS", "DataInfo", "Dataset", "Split", "default_root", "fetch", "open_dataset"]

_VALIDATION_KEY = 20181  # fixed for good: another key would move examples between train and validation
_VALIDATION_MOST = 5000
_STATISTICS_MOST = 100_000  # images that mean and std look at, evenly spaced; only ImageNet-sized sets have more
_told: set[str] = set()  # what this process has said of data


@dataclass(frozen=True)
class DataInfo:
    """What a model needs to know of its data: shape in pixels, classes, and mean and std per channel in [0, 1]."""

    name: str
    channels: int
    height: int
    width: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    family: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.height, self.width

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, for a model card."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataInfo:
        """The inverse of `to_json`; raises `BadInput` where fields are missing, unknown or of a wrong kind."""
        try:
            return cls(**{**values, "mean": tuple(map(float, values["mean"])), "std": tuple(map(float, values["std"]))})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"The data entry of the model card is damaged ({reason(error)}).") from error


class Dataset:
    """A dataset whose splits are loaded when first asked for; each raises `BadInput` where data are missing or bad."""

    def __init__(self, name: DataName, source: Source, classes: int | None = None) -> None:
        self.name, self._source, self._classes, self._parsed = str(name), source, classes, name
        check_way(name.settings.get("draw"))
        self._loaded: dict[Part, tuple[Pixels, Tensor]] = {}
        self._inferred = False  # the number of classes is a model's

    @cached_property
    def classes(self) -> int:
        """The number of classes; reads no pixels. Raises BadInput where it was given and cannot be that."""
        asked, found = self._classes, self._source.classes
        if asked is None and found < 2:
            raise BadInput(f"{self._source.where} has labels of fewer than two classes; say how many with --classes.")
        if asked is None or asked == found:
            return found
        if not self._source.guessed:
            raise BadInput(f"--classes is {asked}, but {self.name} has {found} classes; leave it out.")
        require(found < asked <= MOST_CLASSES, "--classes", asked,
                f"from {found} to {MOST_CLASSES:,}, since {self.name} has labels up to {found - 1}")  # fmt: skip
        return asked

    @property
    def open_ended(self) -> bool:
        """Whether there may be more classes than labels were seen of, and nobody has said how many."""
        return self._classes is None and self._source.guessed

    def answered(self, classes: int) -> Dataset:
        """The same data for a model that answers for so many classes, where there may be more than labels show."""
        if not self.open_ended or classes <= self._source.classes or classes > MOST_CLASSES:
            return self
        other = Dataset(self._parsed, self._source, classes)
        other._loaded, other._inferred = self._loaded, True
        return other

    @property
    def stated(self) -> int | None:
        """The number of classes where somebody had to say it, as it is more than labels were seen of."""
        return self.classes if self.classes != self._source.classes else None

    def tell(self) -> None:
        """Say on stderr how the user's own data were understood, the same only once."""
        self._load("test")
        for sentence in [*self._source.told, *self._more]:
            if sentence not in _told:
                _told.add(sentence)
                say(sentence)

    @property
    def _more(self) -> list[str]:
        """That there are more classes than the labels show."""
        whose = "for so many the model answers" if self._inferred else "as --classes says"
        seen = self._source.classes - 1
        return [f"{self.name} has labels up to {seen}, of {self.classes} classes: {whose}."] if self.stated else []

    @cached_property
    def info(self) -> DataInfo:
        """Shape, classes and statistics; mean and std are of the whole training file, validation examples included."""
        source, labels = self._load("train")
        mean, std = _statistics(source, len(labels))
        family = _family(self._parsed.base, source.shape, self.classes)
        return DataInfo(self.name, *source.shape, self.classes, mean, std, family)

    @cached_property
    def test(self) -> Split:
        """The test split in its own order, or the images that are listed; the training pixels are not touched."""
        source, labels = self._load("test")
        if not self._parsed.settings.get("ids"):
            return Split(source, labels, torch.arange(len(labels)))
        path = expanded(self._parsed.settings["ids"])
        eps = self._parsed.settings.get("eps")
        return view(source, labels, listed(path, len(labels), self._source.paths("test"), eps))

    @cached_property
    def names(self) -> list[str]:
        """The classes' own names in the order of their numbers, if they have any."""
        names = list(self._source.names)
        return names if len(names) == self.classes else []

    @property
    def asked_way(self) -> str | None:
        """The draw that the name asks for, None where it leaves that to `way`."""
        return check_way(self._parsed.settings.get("draw"))

    def way(self, count: int | None) -> str | None:
        """How `count` test images are drawn (None: all of them): "balanced" where the test images are ordered, by class
        or by what they look like, or the name says so, None for the first ones."""
        if count is None or count >= len(self.test):
            return None
        asked = self.asked_way
        return "balanced" if (not self._mixed if asked is None else asked == "balanced") else None

    @cached_property
    def _mixed(self) -> bool:
        """Whether the first test images stand for all."""
        if ordered(self.test.labels.numpy()):
            return False
        places = np.linspace(0, len(self.test) - 1, min(len(self.test), LOOKED_AT)).astype(np.int64)
        some = np.concatenate([looks(self.test.pixels(part.tolist()).numpy()) for part in np.array_split(places, 10)])
        return not shifted(some, self.test.labels.numpy()[places])

    def drawn(self, way: str | None) -> Split:
        """The test split in the order in which images are drawn, see `way`; an example's id is its place there."""
        return self._balanced if check_way(way) == "balanced" else self.test

    def places(self, way: str | None) -> Tensor:
        """Where the images of `drawn` stand in the test split's own order, int64 [N]."""
        return self._order if check_way(way) == "balanced" else torch.arange(len(self.test))

    @cached_property
    def _order(self) -> Tensor:
        return torch.from_numpy(balanced(self.test.labels.numpy()))

    @cached_property
    def _balanced(self) -> Split:
        return self.test.reordered(self._order.numpy())

    @cached_property
    def chance(self) -> float:
        """The share of the largest class among all test images: what a model that gives one answer gets right."""
        return float(torch.bincount(self.test.labels).max()) / len(self.test)

    @cached_property
    def train(self) -> Split:
        """The training split without the validation examples."""
        return self._training(validation=False)

    @cached_property
    def val(self) -> Split:
        """A tenth of the training file, at most 5,000 examples, always the same ones."""
        return self._training(validation=True)

    def _training(self, validation: bool) -> Split:
        source, labels = self._load("train")
        order = np.random.Generator(np.random.Philox(key=_VALIDATION_KEY)).permutation(len(labels))
        held_out = min(_VALIDATION_MOST, len(labels) // 10)
        ids = torch.from_numpy(np.sort(order[:held_out] if validation else order[held_out:]).astype(np.int64))
        return Split(source, labels[ids], ids)

    def _load(self, part: Part) -> tuple[Pixels, Tensor]:
        if part not in self._loaded:
            source, labels = self._source.load(part)
            where = f"The {part} split of {self._source.where}"
            if len(labels) == 0:
                raise BadInput(f"{where} is empty.")
            if labels.min() < 0 or labels.max() >= self.classes:
                raise BadInput(f"{where} has labels outside 0..{self.classes - 1}.")
            for other, _ in self._loaded.values():
                if other.shape != source.shape:
                    raise BadInput(f"{where} has images of shape {source.shape}, the other split of {other.shape}.")
            self._loaded[part] = source, torch.from_numpy(labels.astype(np.int64))
        return self._loaded[part]


def open_dataset(name: str, root: Path | None = None, classes: int | None = None) -> Dataset:
    """The dataset called `name` (a key of `DATASETS`, with PATH filled in), its files under `root` or `default_root()`.

    classes: how many there are, where labels alone cannot say. Nothing is loaded yet. Raises `BadInput` for an unknown
    name and for a file or folder that is not there.
    """
    require(classes is None or classes >= 2, "--classes", classes, "at least 2")
    found = parse(name)
    return Dataset(found, find_source(found, default_root() if root is None else Path(root)), classes)


def default_root() -> Path:
    """The data folder: ROBENCH_DATA if set, else robench/data in the user's cache folder."""
    chosen = os.environ.get("ROBENCH_DATA")
    if chosen:
        return expanded(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robench" / "data"


def fetch(name: str, root: Path) -> None:
    """Download a dataset into `root` unless it is there; raises `BadInput` where that is impossible or fails."""
    parsed = parse(name)
    if parsed.kind == "medmnist":
        from robench.data.hub import fetch_medmnist  # imports pandas

        _downloaded(name, root, lambda: fetch_medmnist(parsed.place, root))
        return
    source = find_source(parsed, root)
    if name == "digits":
        tell("digits come with scikit-learn: nothing to do.")
        return
    if not isinstance(source, Torchvision):
        known = ", ".join(entry.name for entry in DATASETS.values() if entry.torchvision)
        raise BadInput(f"{name} is your own data, not something to fetch; fetch knows {known} and medmnist:NAME.")
    _downloaded(name, root, lambda: [source.build(part, download=True) for part in ("train", "test")])


def _downloaded(name: str, root: Path, download: Callable[[], object]) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        download()
    except BadInput:
        raise
    except Exception as error:  # torchvision, urllib, tarfile and gzip raise whatever they like
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, root) from error
        raise BadInput(
            f"Could not fetch {name} into {root} ({reason(error)}); check the network and the folder, and try again."
        ) from error


def _statistics(source: Pixels, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], to 4 digits, from exact counts of the 256 levels; of
    images that are no such levels from the nearest ones."""
    channels = source.shape[0]
    counts = np.zeros((channels, 256), np.int64)
    for batch in chunks(source, np.arange(0, count, math.ceil(count / _STATISTICS_MOST), dtype=np.int64)):
        if batch.dtype != np.uint8:
            batch = np.rint(batch * 255).astype(np.uint8)
        for channel in range(channels):
            counts[channel] += np.bincount(batch[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-3) for s in std)


def _family(name: str, shape: tuple[int, int, int], classes: int) -> str:
    """Whose training recipes fit: the dataset's own, or for a user's data those of the one with such images."""
    if name in DATASETS:
        return name
    if shape == (1, 28, 28):
        return "mnist"
    if shape == (3, 32, 32):
        return "cifar100" if classes == 100 else "cifar10"
    if shape == (3, 96, 96):
        return "stl10"
    return "imagenet" if shape[0] == 3 and min(shape[1:]) >= 64 else "other"

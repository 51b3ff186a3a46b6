"""Arrays in files of the user's own: .npz, .npy and .pt, of which only the asked ones are read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robench.data.arrays import Settings, check_first, names_of, numbered, understood
from robench.data.catalogue import Part
from robench.data.images import reading
from robench.data.pixels import Pixels
from robench.environment import expanded
from robench.errors import BadInput

# the names that images and labels of a part go by; those without a part are of a file that is one part, the test images
_KEYS: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("X_train", "y_train")),
    "test": (
        ("x_test", "y_test"), ("test_images", "test_labels"), ("X_test", "y_test"), ("x", "y"), ("X", "y"),
        ("images", "labels"), ("data", "targets"), ("data", "labels"),
    ),
}  # fmt: skip
# what a file of images ends in, and its labels instead
_BESIDE = (("x_test", "y_test"), ("images", "labels"), ("data", "labels"), ("data", "targets"), ("x", "y"), ("X", "y"))


class Bag(Protocol):
    """Arrays by name, each read when it is asked for."""

    @property
    def keys(self) -> list[str]: ...
    def get(self, key: str) -> NDArray[Any]: ...


class Arrays:
    """Data in a bag of arrays. where: what it is called; settings: see `data_names.SETTINGS`."""

    def __init__(self, where: Path, bag: Bag, settings: Settings) -> None:
        self.where, self._bag, self._settings = where, bag, settings
        self.told: list[str] = []
        self.names = names_of(settings)

    @property
    def guessed(self) -> bool:
        """Whether the number of classes is only what the labels show."""
        return not self.names

    def paths(self, part: Part) -> list[Path]:
        """Images have no files of their own."""
        return []

    def _pairs(self, part: Part) -> tuple[tuple[str, str], ...]:
        """The names that a part may go by."""
        images, labels, split = (self._settings.get(name) for name in ("images", "labels", "split"))
        pairs = _KEYS[part]
        if part == "test" and split:
            pairs = tuple((a.replace("test", split), b.replace("test", split)) for a, b in pairs if "test" in a)
        if part == "test" and (images or labels):
            pairs = tuple(dict.fromkeys((images or a, labels or b) for a, b in pairs))
            have = self._bag.keys
            pairs = tuple(pair for pair in pairs if all(key in have for key in pair))[:1] or pairs[:1]
        return pairs

    def _read(self, part: Part, which: int, optional: bool = False) -> NDArray[Any] | None:
        """The images (0) or labels (1) of a part; None for an `optional` part of which there is no key at all."""
        have, pairs = self._bag.keys, self._pairs(part)
        keys = max(pairs, key=lambda pair: sum(key in have for key in pair))
        whole = [pair for pair in pairs if all(key in have for key in pair)]
        if len(whole) > 1:
            names = " and as ".join(" with ".join(pair) for pair in whole[:2])
            if len({pair[0] for pair in whole[:2]}) == 2:
                names = " and as ".join(pair[0] for pair in whole[:2])
            raise BadInput(f"{self.where} has the {part} split twice, as {names}; keep one of them.")
        missing = [key for key in keys if key not in have]
        if optional and len(missing) == len(keys):
            return None
        if missing:
            lacks, has = " and no ".join(missing), ", ".join(have) or "none"
            raise BadInput(f"{self.where} has no {lacks}, which the {part} split needs; its keys are {has}.")
        return self._bag.get(keys[which])

    def _labels(self, part: Part, optional: bool = False) -> NDArray[np.int64] | None:
        labels = self._read(part, 1, optional)
        told: list[str] = []
        found = None if labels is None else numbered(labels, f"The {part} labels of {self.where}", self._settings, told)
        self.told += [each for each in told if each not in self.told]
        return found

    @cached_property
    def classes(self) -> int:
        """How many the labels of both parts show, or as many as were named."""
        both = [labels for labels in (self._labels("test"), self._labels("train", optional=True)) if labels is not None]
        check_first(both, str(self.where), self._settings)
        return len(self.names) or 1 + max((int(labels.max()) for labels in both if labels.size), default=0)

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        """Pixels and labels of a part. Raises BadInput for arrays that are no such thing, or take a guess."""
        labels, images = self._labels(part), self._read(part, 0)
        assert labels is not None  # only an optional part may be None
        assert images is not None
        found, told = understood(images, labels, f"The {part} split of {self.where}", self._settings)
        self.told.append(told)
        return found, labels


class _Npz:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def keys(self) -> list[str]:
        with self._reading(), open(self.path, "rb") as stream:
            return sorted(getattr(np.load(stream, allow_pickle=False), "files", []))

    def get(self, key: str) -> NDArray[Any]:
        with self._reading(), open(self.path, "rb") as stream:
            return np.asarray(np.load(stream, allow_pickle=False)[key])

    def _reading(self) -> Any:
        return reading(self.path, "give an .npz file of plain arrays")


class _Npy:
    """Files by name, each of one array."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    @property
    def keys(self) -> list[str]:
        return sorted(self.files)

    def get(self, key: str) -> NDArray[Any]:
        path = self.files[key]
        with reading(path, "give an .npy file of a plain array"):
            found = np.load(path, allow_pickle=False, mmap_mode="r")
            if not isinstance(found, np.ndarray):
                raise BadInput(f"{path} is no .npy file of one array; name an .npz file as npz:{path}.")
            return found


class _Pt:
    """Tensors in what torch.save wrote: a dictionary, or a pair of images and labels."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for ending, path in self.files.items():
            value = _tensors_of(path)
            found |= {f"{name}{ending}": each for name, each in value.items()} if ending else value
        return found

    @property
    def keys(self) -> list[str]:
        return sorted(self._tensors)

    def get(self, key: str) -> NDArray[Any]:
        import torch

        value = self._tensors[key]
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            return np.asarray((value.float() if value.is_floating_point() else value).numpy())
        return np.asarray(value)


def _tensors_of(path: Path) -> dict[str, Any]:
    import torch

    with reading(path, "save tensors, as in torch.save({'x': images, 'y': labels}, FILE), and no objects of classes"):
        value = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"x": value[0], "y": value[1]}
    if isinstance(value, Mapping):
        return {str(key): each for key, each in value.items() if isinstance(each, torch.Tensor | list)}
    raise BadInput(
        f"{path} holds {type(value).__name__}, but must hold images and labels, as a pair or as a dictionary such as "
        "{'x': images, 'y': labels}."
    )


def stored(kind: str, path: Path, settings: Settings) -> Arrays:
    """npz:, npy: or pt: data at a path. Raises BadInput where there is nothing of that kind."""
    if kind == "npz":
        return Arrays(path, _Npz(path), settings)
    if kind == "pt":
        files = {f"_{part}": path / f"{part}.pt" for part in ("train", "test")} if path.is_dir() else {"": path}
        return Arrays(path, _Pt({name: file for name, file in files.items() if file.is_file()}), settings)
    if path.is_dir():
        return Arrays(path, _Npy({file.stem: file for file in sorted(path.glob("*.npy"))}), settings)
    labels = expanded(settings["labels"]) if settings.get("labels") else _labels_beside(path)
    if not labels.is_file():
        raise BadInput(f"There is no file {labels}, which holds the labels of npy:{path}.")
    rest = {key: value for key, value in settings.items() if key not in ("images", "labels")}
    return Arrays(path, _Npy({"x": path, "y": labels}), rest)


def _labels_beside(path: Path) -> Path:
    """The file of labels beside one of images. Raises BadInput where none is called as usual."""
    found = [path.with_name(b + path.suffix) for a, b in _BESIDE if path.stem == a]
    found = [each for each in found if each.is_file()]
    if len(found) != 1:
        raise BadInput(f"{path} has images alone; say where their labels are with npy:{path}?labels=FILE.npy.")
    return found[0]

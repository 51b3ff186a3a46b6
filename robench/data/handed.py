"""Data handed over in a program: a pair of arrays or tensors, a TensorDataset, any data set of items, a DataLoader."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.data.arrays import Settings, check_first, names_of, numbered, understood
from robench.data.catalogue import Part
from robench.data.pixels import Pixels
from robench.data.tabular import pictures
from robench.errors import BadInput, first_line

# data that a process keeps by their names
KEPT = 8
_handed: OrderedDict[str, tuple[Any, NDArray[Any], bool]] = OrderedDict()


def hand_over(data: object) -> str:
    """The name under which `open_dataset` finds data in this process: "memory:" and a digest of what they hold.

    data: (x, y), a torch TensorDataset or another data set of (image, label), or a DataLoader, whose data set is meant.
    Raises BadInput for anything else.
    """
    images, labels, tensors = _pair(data)
    state = hashlib.sha256(b"tensors" if tensors else b"")
    for each in [*(images if isinstance(images, list) else [images]), labels]:
        array = np.ascontiguousarray(np.asarray(each))
        state.update(repr((array.dtype.str, array.shape)).encode())
        state.update(array.tobytes())
    name = f"memory:{state.hexdigest()[:12]}"
    _handed[name] = images, labels, tensors
    _handed.move_to_end(name)
    while len(_handed) > KEPT:
        _handed.popitem(last=False)
    return name


class Handed:
    """The data of that name. Raises BadInput where this process was not handed them."""

    def __init__(self, name: str, settings: Settings) -> None:
        if name not in _handed:
            raise BadInput(
                f"The data {name} were handed over in a program, so only that process has them; hand them over again, "
                "or name a file of them with --dataset."
            )
        *self._data, tensors = _handed[name]
        # torch has channels first, which is said where the numbers alone leave it open
        first = tensors and getattr(self._data[0], "ndim", 0) == 4 and self._data[0].shape[1] in (1, 3)
        self.where, self._settings = Path(name), {"layout": "chw", **settings} if first else settings
        self.told: list[str] = []
        self.names = names_of(settings)

    @property
    def guessed(self) -> bool:
        """Whether the number of classes is only what the labels show."""
        return not self.names

    def _labels(self) -> NDArray[np.int64]:
        return numbered(self._data[1], f"The labels of {self.where}", self._settings)

    @property
    def classes(self) -> int:
        """How many the labels show, or as many as were named."""
        labels = self._labels()
        check_first([labels], str(self.where), self._settings)
        return len(self.names) or 1 + max(map(int, labels), default=0)

    def paths(self, part: Part) -> list[Path]:
        """Images have no files of their own."""
        return []

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        """Pixels and labels of the test images. Raises BadInput for the train part, and as `understood`."""
        if part == "train":
            raise BadInput(f"The data {self.where} are test images alone, and this needs training images.")
        labels, images = self._labels(), self._data[0]
        where = f"The data {self.where}"
        if isinstance(images, list):
            found, told = pictures(images, where, self._settings)
        else:
            found, told = understood(images, labels, where, self._settings)
        self.told.append(told)
        return found, labels


def _pair(data: Any) -> tuple[Any, NDArray[Any], bool]:
    """Images, an array or a list of Pillow's, and labels; and whether the images were torch's tensors."""
    if type(data).__name__ == "DataLoader" and hasattr(data, "dataset"):
        data = data.dataset
    tensors = getattr(data, "tensors", data)
    if isinstance(tensors, tuple | list) and len(tensors) == 2 and all(hasattr(each, "shape") for each in tensors):
        return _array(tensors[0]), _array(tensors[1]), hasattr(tensors[0], "detach")
    if isinstance(data, str) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise BadInput(
            f"The data are {type(data).__name__}, but must be a pair (images, labels) of arrays or tensors, a data set "
            "of such pairs, or a DataLoader of one."
        )
    return _items(data)


def _items(data: Any) -> tuple[Any, NDArray[Any], bool]:
    """What a data set of (image, label) holds."""
    images: list[Any] = []
    labels: list[Any] = []
    tensors = True
    for i in range(len(data)):
        try:
            image, label = data[i]
        except Exception as error:  # whatever a data set of others does
            raise BadInput(
                f"Item {i} of the data ({type(data).__name__}) cannot be read as (image, label) ({first_line(error)})."
            ) from error
        tensors = tensors and hasattr(image, "detach")
        images.append(image if _is_picture(image) else _array(image))
        labels.append(_array(label))
    if not images:
        raise BadInput(f"The data ({type(data).__name__}) are empty.")
    if all(map(_is_picture, images)):
        return images, np.stack(labels), False
    try:
        return np.stack(images), np.stack(labels), tensors
    except ValueError as error:
        raise BadInput(
            f"The images of the data ({type(data).__name__}) are not all of one shape ({first_line(error)})."
        ) from error


def _is_picture(value: object) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _array(value: Any) -> NDArray[Any]:
    """A tensor, an array or a number as an array; bfloat16 as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        return np.asarray(value.numpy())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 0:
        raise BadInput("The data are empty.")
    return np.asarray(value)

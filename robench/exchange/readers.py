"""Files of adversarial images made elsewhere: tensors, arrays, and the folder that an export is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.errors import BadInput, first_line
from robench.exchange.writers import IMAGES, RECORD, ROWS

# what images, the places of their originals and their labels may be called, the likeliest first
NAMES = (IMAGES, "x_adv", "adv_complete", "adv", "advs", "adversarials", "adv_images", "images", "x")
IDS = ("example_id", "example_ids", "ids", "id", "indices", "index", "idx")
LABELS = ("label", "labels", "y", "y_test", "y_true", "y_orig")
# pixels this far outside of [0, 1] are not meant as pixels of [0, 1]
FAR = 0.5
CHUNK = 500


@dataclass(frozen=True)
class Reading:
    """What a file holds: images, float32 [n, C, H, W] by `chunk(start, stop)`, the places of their originals among the
    test images and their labels where it says so, how it was understood, and what an export says of itself."""

    path: Path
    shape: tuple[int, int, int, int]
    chunk: Callable[[int, int], Tensor]
    ids: list[int] | None = None
    labels: list[int] | None = None
    told: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True)
class _Held:
    """Arrays by name, or one without, as a file has them."""

    images: Any
    ids: Any = None
    labels: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path, shape: Sequence[int]) -> Reading:
    """The images in a .pt, .npz or .npy file, or in the folder of an export, for data of `shape`, [C, H, W].

    Raises BadInput for any other file, one that is no such images, and pixels that are not in [0, 1].
    """
    if not path.exists():
        raise BadInput(f"There is no file {path}; give a .pt, .npz or .npy file, or the folder of an export.")
    readers = {".pt": _torch, ".pth": _torch, ".npz": _npz, ".npy": _npy}
    reader = _folder if path.is_dir() else readers.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path} is neither .pt, .npz or .npy nor the folder of an export; save the images as one.")
    try:
        held = reader(path)
    except BadInput:
        raise
    except Exception as error:  # whatever torch, numpy, pillow and pandas say of a file that is damaged
        raise BadInput(f"{path} cannot be read ({first_line(error, 120, end='.')}); save the images again.") from error
    images, told = _laid_out(path, held.images, tuple(shape))
    count = len(images)
    ids, labels = _numbers(path, "example ids", held.ids, count), _numbers(path, "labels", held.labels, count)

    def chunk(start: int, stop: int) -> Tensor:
        part = np.asarray(images[start:stop])
        return torch.from_numpy(part.astype(np.float32) / np.float32(255 if part.dtype == np.uint8 else 1))

    found = Reading(path, (count, *map(int, shape)), chunk, ids, labels, told, held.about)  # type: ignore[arg-type]
    _check_pixels(found)
    return found


def _torch(path: Path) -> _Held:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(
            f"{path} is no file of tensors alone ({type(error).__name__}), and no pickle is loaded; "
            "save the images with torch.save({'adversarial': x_adv, 'example_id': ids}, PATH)."
        ) from error
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        value = {NAMES[0]: value[0], **({LABELS[0]: value[1]} if len(value) > 1 else {})}
    if isinstance(value, Tensor):
        value = {NAMES[0]: value}
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__}, but must hold a tensor or a dictionary of tensors.")
    return _of_names(path, {str(k): v.numpy() if isinstance(v, Tensor) else v for k, v in value.items()})


def _npz(path: Path) -> _Held:
    with np.load(path, allow_pickle=False) as file:
        return _of_names(path, {name: file[name] for name in file.files})


def _npy(path: Path) -> _Held:
    return _Held(np.load(path, allow_pickle=False, mmap_mode="r"))


def _of_names(path: Path, held: Mapping[str, Any]) -> _Held:
    """Images, ids and labels by their usual names; the images alone where there is one array."""
    arrays = [name for name, value in held.items() if getattr(value, "ndim", 0) >= 3]
    name = next((each for each in NAMES if each in arrays), arrays[0] if len(arrays) == 1 else None)
    if name is None:
        raise BadInput(f"{path} holds {', '.join(map(repr, held)) or 'nothing'}; name the images {IMAGES!r}.")
    about = {}
    if "about" in held:
        try:
            about = json.loads(str(held["about"]))
        except ValueError:
            about = {}
    return _Held(held[name], _first(held, IDS), _first(held, LABELS), about if isinstance(about, dict) else {})


def _first(held: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((held[name] for name in names if name in held), None)


def _folder(path: Path) -> _Held:
    import pandas as pd
    from PIL import Image

    if not (path / RECORD).is_file() or not (path / ROWS).is_file():
        raise BadInput(f"{path} is no folder of an export, which has {RECORD} and {ROWS}; name another.")
    rows = pd.read_csv(path / ROWS)
    pictures = []
    for name in rows["file"].astype(str):
        place = path / name
        if not place.resolve().is_relative_to(path.resolve()):
            raise BadInput(f"{path / ROWS} names {name!r}, which lies outside of the folder; export it again.")
        with Image.open(place) as image:
            pixels = np.asarray(image)
        pictures.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    about = json.loads((path / RECORD).read_text(encoding="utf-8"))
    return _Held(np.stack(pictures), rows["example_id"].to_numpy(), rows["label"].to_numpy(), about)


def _laid_out(path: Path, images: Any, shape: tuple[int, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Images [n, C, H, W] from the layouts that are usual, and how they were understood. Raises BadInput."""
    array: NDArray[Any] = images if isinstance(images, np.ndarray) else np.asarray(images)
    channels, height, width = shape
    if array.dtype.kind not in "fu" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        raise BadInput(f"{path} has {array.dtype} images, but they must be floats in [0, 1], or uint8 from 0 to 255.")
    told = (f"{path}: pixels are uint8, read as k/255.",) if array.dtype == np.uint8 else ()
    if len(array.shape) < 3 or not len(array):
        raise BadInput(f"{path} has images {list(array.shape)}, but they must be [n, {channels}, {height}, {width}].")
    if array.shape[1:] == shape:
        return array, told
    if array.shape[1:] == (height, width, channels):
        return array.transpose(0, 3, 1, 2), (*told, f"{path}: images are [n, H, W, C].")
    if array.shape[1:] == (height, width) and channels == 1:
        return array[:, None], (*told, f"{path}: images are [n, H, W].")
    raise BadInput(
        f"{path} has images {list(array.shape[1:])}, but those of the data are {[channels, height, width]}; give the "
        "right --dataset, or the images in that shape."
    )


def _numbers(path: Path, what: str, values: Any, count: int) -> list[int] | None:
    """Whole numbers, one per image. Raises BadInput for anything else."""
    if values is None:
        return None
    found = np.asarray(values).reshape(-1)
    if len(found) != count or found.dtype.kind not in "iu":
        raise BadInput(f"{path} has {len(found)} {what} ({found.dtype}) for {count} images; give a whole number each.")
    return [int(each) for each in found]


def _check_pixels(reading: Reading) -> None:
    """Raise BadInput for pixels that are plainly not of [0, 1]; what leaves it a little is projected and flagged."""
    low, high = 0.0, 1.0
    for start in range(0, len(reading), CHUNK):
        part = reading.chunk(start, min(start + CHUNK, len(reading)))
        part = part[part.isfinite()]
        if part.numel():
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low < -FAR or high > 1 + FAR:
        advice = "divide them by 255" if low >= 0 and high > 2 else "undo the normalisation"
        raise BadInput(
            f"{reading.path} has pixels from {low:.4g} to {high:.4g}, but they must be in [0, 1]; {advice} first."
        )

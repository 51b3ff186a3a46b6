"""What arrays of images and labels mean: layout, range and type of pixels, numbers of labels; or why it is unclear."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.data.pixels import OF_ONES, Array
from robench.errors import BadInput

# labels number the classes, and a model has an output for each
MOST_CLASSES = 100_000
# how far a float may be from k/255 and still be that
EXACT = 2e-7
# what is looked at at once, in numbers
PIECE = 1 << 24
Settings = Mapping[str, str]
_LAYOUTS = {"chw": "[N, C, H, W]", "hwc": "[N, H, W, C]"}


def understood(images: NDArray[Any], labels: NDArray[Any], where: str, settings: Settings) -> tuple[Array, str]:
    """The images of a part as an `Array`, and in a sentence how they were read.

    images: [N, H, W], [N, C, H, W], [N, H, W, C] or, flattened, [N, H W] or [N, 3 H W] with H = W; uint8, whole numbers
    from 0 to 255, or floats in [0, 1] or in what settings["range"] says. labels: int64 [N]. Raises BadInput where that
    is a guess.
    """
    if len(images.shape) > 1 and len(images) != len(labels):
        raise BadInput(f"{where} has {len(images)} images but {len(labels)} labels.")
    found, layout = laid_out(images, where, settings)
    if 0 in found.shape:
        raise BadInput(f"{where} is empty.")
    pixels, reach = in_range(found, where, settings)
    array = Array(np.ascontiguousarray(pixels))
    channels, height, width = array.shape
    told = (
        f"{where}: {len(pixels):,} images {layout} of {channels} x {height} x {width}, {reach}, "
        f"labels from {labels.min()} to {labels.max()}."
    )
    return array, told


def laid_out(images: NDArray[Any], where: str, settings: Settings) -> tuple[NDArray[Any], str]:
    """The images [N, C, H, W], C being 1 or 3, and what they were. Raises BadInput where there are two answers."""
    asked = settings.get("layout")
    if asked is not None and asked not in _LAYOUTS:
        raise BadInput(f"The layout is {asked}, but must be chw or hwc.")
    if images.ndim == 3:
        return images[:, None], "[N, H, W]"
    if images.ndim == 2:
        return _unflattened(images, where, asked)
    if images.ndim != 4:
        raise _no_images(images, where)
    last, first = images.shape[3] in (1, 3), images.shape[1] in (1, 3)
    if last and first and asked is None:
        raise BadInput(
            f"{where} has images {list(images.shape)}, which can be read with channels first or last; say which with "
            "--layout chw or --layout hwc."
        )
    if not (last or first) or (asked == "hwc" and not last) or (asked == "chw" and not first):
        raise _no_images(images, where, asked)
    hwc = last if asked is None else asked == "hwc"
    return (images.transpose(0, 3, 1, 2), _LAYOUTS["hwc"]) if hwc else (images, _LAYOUTS["chw"])


def _no_images(images: NDArray[Any], where: str, asked: str | None = None) -> BadInput:
    wanted = _LAYOUTS[asked] if asked else "[N, H, W], [N, H, W, 1 or 3] or [N, 1 or 3, H, W]"
    also = " with 1 or 3 channels; leave --layout out or give the other" if asked else "; store them so"
    return BadInput(f"{where} has images {list(images.shape)}, but they must be {wanted}{also}.")


def _unflattened(images: NDArray[Any], where: str, asked: str | None) -> tuple[NDArray[Any], str]:
    count, size = images.shape
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if size % channels or side * side * channels != size or side == 0:
            continue
        if channels == 1:
            return images.reshape(count, 1, side, side), "[N, H W]"
        if asked is None:
            raise BadInput(
                f"{where} has {size} numbers an image, which is 3 x {side} x {side}; say with --layout chw or "
                "--layout hwc whether the channels come first or last."
            )
        if asked == "chw":
            return images.reshape(count, 3, side, side), "[N, C H W]"
        return images.reshape(count, side, side, 3).transpose(0, 3, 1, 2), "[N, H W C]"
    raise BadInput(
        f"{where} has {size} numbers an image, which no square image of 1 or 3 channels has; store it [N, H, W]."
    )


def in_range(images: NDArray[Any], where: str, settings: Settings) -> tuple[NDArray[Any], str]:
    """The images as uint8 or, where they are not levels of 255, float32 in [0, 1]; and what they reach, in words."""
    kind, asked = images.dtype.kind, settings.get("range")
    if kind not in "iuf" or (kind == "u" and images.dtype.itemsize > 1 and int(images.max()) > 255):
        raise BadInput(
            f"{where} has {images.dtype} images{_reach(images)}, but they must be uint8 from 0 to 255 or floats from 0 "
            "to 1; convert them."
        )
    if asked is not None:
        return _scaled(images, where, *_limits(asked))
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput(f"{where} has images with NaN or infinity; replace or remove those.")
    if kind in "iu":
        return _levels(images, low, high, where)
    if low < 0 or high > 1:
        raise BadInput(
            f"{where} has {images.dtype} images from {low:.4g} to {high:.4g}, but floats must be in [0, 1]; "
            f"{_advice(low, high)}."
        )
    if 0 < high <= 1 / 255 + EXACT:
        raise BadInput(f"{where} has no pixel above {high:.4g} of 1, so that every image is black; divide by 255 once.")
    return _eight_bits(images, high)


def _levels(images: NDArray[Any], low: float, high: float, where: str) -> tuple[NDArray[Any], str]:
    """Whole numbers from 0 to 255."""
    if low < 0 or high > 255:
        raise BadInput(
            f"{where} has {images.dtype} images from {int(low)} to {int(high)}, but whole numbers must be from 0 to "
            f"255; {_advice(low, high)}."
        )
    if high == 1:
        raise BadInput(f"{where} {OF_ONES}")
    also = "" if images.dtype == np.uint8 else f" ({images.dtype})"
    return images.astype(np.uint8, copy=False), f"pixels up to {int(high)} of 255{also}"


def _advice(low: float, high: float) -> str:
    if low >= 0:
        return f"say what they reach with --range 0..{255 if high <= 255 else 65535 if high <= 65535 else 'MOST'}"
    if low >= -1 and high <= 1:
        return "say so with --range -1..1"
    return "if they were normalised, store them before that step and put the normalisation inside the model"


def _reach(images: NDArray[Any]) -> str:
    return f" from {images.min()} to {images.max()}" if images.dtype.kind in "iu" and images.size else ""


def _limits(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(-?\d{1,9}(?:\.\d{1,9})?)\.\.(-?\d{1,9}(?:\.\d{1,9})?)", text)
    if not found or float(found[1]) >= float(found[2]):
        raise BadInput(f"The range is {text}, but must be LOW..HIGH, such as 0..255 or -1..1.")
    return float(found[1]), float(found[2])


def _scaled(images: NDArray[Any], where: str, low: float, high: float) -> tuple[NDArray[Any], str]:
    """What the user says reaches from low to high."""
    least, most = float(images.min()), float(images.max())
    if not low <= least <= most <= high:
        raise BadInput(
            f"{where} has pixels from {least:.4g} to {most:.4g}, which do not lie in {low:g}..{high:g} as --range says."
        )
    scaled = (images.astype(np.float64) - low) / (high - low)
    found, _ = _eight_bits(scaled, float(scaled.max()))
    return found, f"pixels from {least:.4g} to {most:.4g} of {low:g}..{high:g}"


def _eight_bits(images: NDArray[Any], high: float) -> tuple[NDArray[Any], str]:
    """Floats in [0, 1]: as the 256 levels where all are such, else as float32."""
    flat = images.reshape(len(images), -1)
    step = max(1, PIECE // max(1, flat.shape[1]))
    out = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), step):
        piece = flat[start : start + step].astype(np.float64)
        levels = np.rint(piece * 255)
        if np.abs(levels / 255 - piece).max(initial=0.0) > EXACT:
            return images.astype(np.float32), f"pixels up to {high:.4g} of 1, kept as float32"
        out[start : start + step] = levels
    return out.reshape(images.shape), f"pixels up to {high:.4g} of 1, all of them levels of 255"


def numbered(labels: NDArray[Any], where: str, settings: Settings, told: list[str] | None = None) -> NDArray[np.int64]:
    """Labels as int64 [N] from 0 upwards. where: "The test labels of FILE". told: takes what was made of text.

    Raises BadInput for those that are no numbers of classes, with the option that makes them so where there is one.
    """
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 2 and "one-hot" in settings:
        return _from_one_hot(labels, where)
    if "one-hot" in settings:
        raise BadInput(f"{where} are {labels.dtype} {list(labels.shape)}, which is not one-hot; leave out --one-hot.")
    if labels.ndim == 1 and labels.dtype.kind in "OUS" and len(labels):
        return _from_names(labels, where, settings, told)
    first = _first(settings)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and int(labels.min()) < first):
        hint = "; if they are one-hot, give --one-hot" if _one_hot(labels) else ""
        raise BadInput(
            f"{where} are {labels.dtype} {list(labels.shape)}{_lowest(labels)}, but must be one integer from {first} "
            f"upwards per image, [N] or [N, 1]{hint}."
        )
    if labels.size and int(labels.max()) - first >= MOST_CLASSES:
        raise BadInput(
            f"{where} go up to {labels.max()}, but they number the classes from {first}, and there may be at most "
            f"{MOST_CLASSES:,}; number them anew."
        )
    return labels.astype(np.int64) - first


def check_first(parts: Sequence[NDArray[np.int64]], where: str, settings: Settings) -> None:
    """Raise BadInput where no label of any part is 0 and some are 1: they may be numbered from 1."""
    if "labels-from" in settings or "one-hot" in settings:
        return
    lowest = min((int(part.min()) for part in parts if part.size), default=0)
    if lowest == 1:
        raise BadInput(
            f"The labels of {where} start at 1, but classes are numbered from 0; give --labels-from 1 if 1 is the "
            "first class, or --labels-from 0 if the first class only has no image."
        )


def _first(settings: Settings) -> int:
    text = settings.get("labels-from", "0")
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise BadInput(f"--labels-from is {text}, but must be a whole number, such as 1.")
    return int(text)


def _one_hot(labels: NDArray[Any]) -> bool:
    if labels.ndim != 2 or labels.dtype.kind not in "iufb" or not labels.size:
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def _from_one_hot(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    if not _one_hot(labels):
        raise BadInput(
            f"{where} are {labels.dtype} {list(labels.shape)}, but a row of one-hot labels holds a single 1 and zeros; "
            "images with several labels cannot be judged."
        )
    found: NDArray[np.int64] = labels.argmax(axis=1).astype(np.int64)
    return found


def names_of(settings: Settings) -> list[str]:
    """The classes' names as they were given, in the order of their numbers; empty where they were not."""
    return [name.strip() for name in settings["names"].split(",")] if settings.get("names") else []


def _from_names(labels: NDArray[Any], where: str, settings: Settings, told: list[str] | None) -> NDArray[np.int64]:
    """Labels that are words: by the names that were given, else in the order of the alphabet."""
    words = [each.decode() if isinstance(each, bytes) else each for each in labels.tolist()]
    if not all(isinstance(each, str) for each in words):
        raise BadInput(f"{where} are of mixed types, but must be one integer from 0 upwards, or one name, per image.")
    names = names_of(settings) or sorted(set(words))
    strange = sorted(set(words) - set(names))
    if strange:
        raise BadInput(f"{where} hold {strange[0]!r}, which --classes does not name; its names are {', '.join(names)}.")
    if told is not None:
        shown = [f"{i} = {name}" for i, name in enumerate(names)]
        shown = shown if len(shown) <= 4 else [*shown[:3], "...", shown[-1]]
        order = "as --classes says" if settings.get("names") else "in the order of their names"
        told.append(f"{where} are names; classes {order}: {', '.join(shown)}.")
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[each] for each in words], np.int64)


def _lowest(labels: NDArray[Any]) -> str:
    """The lowest label, where that is what is wrong."""
    wrong = labels.ndim == 1 and labels.dtype.kind == "i" and labels.size
    return f" with {labels.min()}" if wrong else ""

"""Image files: what their headers say, and their pixels as 8-bit RGB, or in one sentence why they are not read."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robench.data.sides import Side
from robench.errors import BadInput, first_line

Bytes = NDArray[np.uint8]
Size = tuple[int, int]
# a part of an image, (top, left, height, width) in pixels that need not be whole numbers, and whether it is mirrored
Region = tuple[tuple[float, float, float, float], bool]
# which part to cut out of an image of a height and a width
Cut = Callable[[int, int], Region]

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# of images that are not all of one size, the share from which on those of other sizes are taken for mistakes
MOST = 0.9
# height and width that images of many sizes are brought to, and of what its shorter side is a crop
USUAL, SHORT = 224, 256
# pixels of 16 bits up to this are taken for those of a camera or scanner of fewer bits, whose range is not known
DIM = 4095
_ORIENTATION = 274  # the number of EXIF's tag
# Pillow's modes without colour, but for those of 16 bits
GREY = ("1", "L", "LA", "La", "I", "F")


@dataclass
class Headers:
    """What the headers of many image files say: how many have each (height, width), and one file of it; how many have
    transparent pixels, 16 bits, no colour, or a note of how to turn them."""

    sizes: Counter[Size] = field(default_factory=Counter)
    examples: dict[Size, Path] = field(default_factory=dict)
    marks: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Headers:
        """Those of these files. Raises BadInput for a file that is no image."""
        found = cls()
        for path in paths:
            with reading(path, "replace or remove it"), Image.open(path) as image:
                found.add(image, path)
        return found

    def add(self, image: Image.Image, path: Path) -> None:
        """Take an image, whose file or place is `path`, into account."""
        size = image.height, image.width
        self.sizes[size] += 1
        self.examples.setdefault(size, path)
        self.marks.update(_marks(image))

    def channels(self, asked: str | None, where: object) -> int:
        """1 where no image has colour, else 3; or what was `asked` for. Raises BadInput where that cannot be."""
        grey = self.marks["grey"] == self.sizes.total() > 0
        if asked not in (None, "1", "3"):
            raise BadInput(f"The channels of {where} are to be {asked}, but must be 1 or 3.")
        if asked == "1" and not grey:
            colour = self.sizes.total() - self.marks["grey"]
            raise BadInput(f"{where} has {colour:,} images in colour, so they have 3 channels; leave out channels=1.")
        return 1 if grey and asked != "3" else 3

    def common_size(self, where: Path) -> Size:
        """(height, width) that all have, or the usual one where there are many. Raises BadInput where a few differ."""
        if len(self.sizes) < 2:
            return next(iter(self.sizes), (USUAL, USUAL))
        (size, count), total = self.sizes.most_common(1)[0], self.sizes.total()
        if count >= MOST * total:
            other = next(each for each in self.examples if each != size)
            raise BadInput(
                f"Of the {total:,} images of {where}, {count:,} are {_by(size)}, and {total - count:,} are not, such "
                f"as {self.examples[other]} ({_by(other)}); replace or remove those, or give folder:{where}@SIZE to "
                "bring every image to one size."
            )
        return USUAL, USUAL

    def told(self, sized: bool) -> list[str]:
        """What is made of sizes, and of images that are not plain, a phrase each; `sized`: a size was asked for."""
        sizes = sorted(self.sizes)
        one = f"all {_by(sizes[0])}" if len(sizes) == 1 else ""
        several = (
            f"{len(sizes):,} sizes from {_by(sizes[0])} to {_by(sizes[-1])} (height x width)" if len(sizes) > 1 else ""
        )
        if several and not sized:
            several += (
                f", so unless @SIZE is given the shorter side of each is scaled to {SHORT} and its middle "
                f"{USUAL}x{USUAL} taken"
            )
        words = {
            "transparent": "transparency is dropped, as torchvision does, from {} of them",
            "turned": "{} of them have an EXIF orientation, which is not applied, as in torchvision",
            "deep": "the high byte is kept of the 16-bit pixels of {} of them",
        }
        marks = [text.format(f"{self.marks[mark]:,}") for mark, text in words.items() if self.marks[mark]]
        if self.marks["grey"] == self.sizes.total() > 0:
            marks.append("all without colour, so of one channel unless ?channels=3 is given")
        return [*filter(None, [one, several]), *marks]


def crop_told(size: int) -> str:
    """What becomes of images that are not size x size, in a phrase."""
    if isinstance(size, Side):
        return size.told
    return f"those not {size}x{size} are scaled to a shorter side of {round(size * SHORT / USUAL)} and cropped to that"


def decode(path: Path, size: Size, channels: int = 3) -> Bytes:
    """One image as uint8 [C, H, W], see `fitted`. Raises BadInput for a file that is no image, or as `fitted`."""
    with reading(path, "replace or remove it"), Image.open(path) as image:
        return fitted(image, path, size, channels)


def fitted(image: Image.Image, path: Path, size: Size, channels: int = 3) -> Bytes:
    """An image as uint8 [C, H, W]: as it is where it has that size, else its middle, as ImageNet is evaluated.

    Then the shorter side of the image becomes that of `size` times 256/224. path: what it is called. channels: 1 of a
    grey one. Raises BadInput for one whose pixels cannot be brought to 8 bits without a guess.
    """
    found = _of_channels(image, path, channels)
    height, width = size
    if isinstance(height, Side):
        found = height.cut(found)
    elif (found.height, found.width) != size:
        found = _scaled(found, size)
        left, top = round((found.width - width) / 2), round((found.height - height) / 2)
        found = found.crop((left, top, left + width, top + height))
    return _array(found)


def part(path: Path, size: Size, channels: int, cut: Cut) -> Bytes:
    """A part of one image as uint8 [C, H, W], brought to `size` bilinearly, as ImageNet is trained on.

    cut: which part, of the whole image scaled as in `fitted`, so that also what is left and right of its middle may be
    in it. Raises BadInput as `decode`.
    """
    with reading(path, "replace or remove it"), Image.open(path) as image:
        found, (height, width) = _of_channels(image, path, channels), size
        if isinstance(height, Side):
            found = height.cut(found)
        elif (found.height, found.width) != size:
            found = _scaled(found, size)
        (top, left, tall, wide), mirrored = cut(found.height, found.width)
        box = (left, top, min(left + wide, found.width), min(top + tall, found.height))
        found = found.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return _array(found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else found)


def _scaled(image: Image.Image, size: Size) -> Image.Image:
    """The whole image, its shorter side that of `size` times 256/224."""
    short, wanted = min(image.size), round(min(size) * SHORT / USUAL)
    return image.resize((image.width * wanted // short, image.height * wanted // short), Image.Resampling.BILINEAR)


def _array(image: Image.Image) -> Bytes:
    """An image in grey or RGB as uint8 [C, H, W]."""
    array = np.asarray(image, np.uint8)
    return array[None] if image.mode == "L" else array.transpose(2, 0, 1)


def _of_channels(image: Image.Image, path: Path, channels: int) -> Image.Image:
    """An image in RGB, or of one channel in grey."""
    found = _rgb(image, path)
    return found.getchannel(0) if channels == 1 else found  # all three are the same


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """An image of any of Pillow's modes in RGB; raises BadInput where that takes a guess."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a photograph with its own preview is one image
        raise BadInput(f"{path} holds {getattr(image, 'n_frames', 2)} images; keep one of them.")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _high_byte(np.asarray(image), path).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise BadInput(
            f"{path} has {kind} as pixels (Pillow's mode {image.mode}), whose range is not known; save it with 8 or 16 "
            "bits per channel."
        )
    if image.mode == "La":
        image = image.convert("LA")
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")


def _high_byte(pixels: NDArray[Any], path: Path) -> Image.Image:
    """16-bit pixels as 8-bit ones, which gives back what was made of 8 bits in either of the usual ways."""
    largest = int(pixels.max(initial=0))
    if 0 < largest <= DIM:
        raise BadInput(
            f"{path} has 16-bit pixels up to {largest} of 65535, which would be almost black; save it with 8 bits per "
            "channel, or stretch its pixels to 0..65535."
        )
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _marks(image: Image.Image) -> Iterator[str]:
    """What is to be told of an image, from its header."""
    if image.mode in GREY or image.mode.startswith("I;16"):
        yield "grey"
    if image.has_transparency_data:
        yield "transparent"
    if image.mode.startswith("I"):
        yield "deep"
    raw = image.info.get("exif")
    if raw and image.format != "TIFF":  # which Pillow turns
        exif = Image.Exif()
        with contextlib.suppress(Exception):  # what is damaged there is of no use to anyone
            exif.load(raw)
        if exif.get(_ORIENTATION, 1) not in (0, 1):
            yield "turned"


def read_all(paths: Sequence[Path], size: Size, channels: int = 3, cuts: Sequence[Cut] | None = None) -> Bytes:
    """The images uint8 [N, C, H, W], decoded side by side, or the parts of them that `cuts` say, one of each. Raises
    BadInput as `decode`."""
    out = np.empty((len(paths), channels, *size), np.uint8)

    def put(place: int) -> None:
        path = paths[place]
        out[place] = decode(path, size, channels) if cuts is None else part(path, size, channels, cuts[place])

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(put, range(len(paths))))
    return out


def image_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Every image file anywhere under `folder`, links followed, sorted by path whatever the system's own order; and how
    many other files there are, by extension. Raises BadInput for a folder that cannot be read."""
    found, others = list[Path](), Counter[str]()
    with reading(folder, "check its permissions"):
        for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
            folders[:] = [name for name in folders if not _leads_back(place, name)]
            for name in names:
                path = Path(place, name)
                if name.startswith("."):
                    continue
                if path.suffix.lower() in EXTENSIONS:
                    found.append(path)
                else:
                    others[path.suffix or name] += 1
    return sorted(found), others


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in, be it by way of other links."""
    path = os.path.join(place, name)
    here = Path(os.path.abspath(place))
    return os.path.islink(path) and os.path.realpath(path) in [os.path.realpath(each) for each in (here, *here.parents)]


def _raise(error: OSError) -> None:
    raise error


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def reason(error: BaseException) -> str:
    """The first sentence of an error's text without its full stop, or its type where it has no text."""
    return first_line(error).split(". ")[0].rstrip(".: ")


@contextlib.contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Turn whatever a decoder raises on bad bytes into `BadInput` naming the file."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # zip, pickle, numpy, scipy and PIL have no common error
        raise BadInput(f"{path} is missing, incomplete or damaged ({reason(error)}); {advice}.") from error

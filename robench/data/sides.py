"""The side that images of files are brought to, where a model's library says in its own way how."""

from __future__ import annotations

import re

from PIL import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_WRITTEN = re.compile(rf"(\d{{1,4}})-(\d{{1,5}})(?:x(\d{{1,5}}))?-({'|'.join(INTERPOLATIONS)})")


class Side(int):
    """Height and width in pixels, of the middle of an image whose shorter side was scaled to `resize`, or both sides
    where there are two numbers (height, width), whatever size it had."""

    resize: tuple[int, ...]
    interpolation: str

    @classmethod
    def read(cls, text: str) -> Side | None:
        """The side that is written as in 224-232-bicubic or 224-224x224-bilinear; None for other text."""
        found = _WRITTEN.fullmatch(text)
        if found is None or not int(found[1]) or 0 in (int(found[2]), int(found[3] or 1)):
            return None
        side = cls(found[1])
        side.resize = (int(found[2]), int(found[3])) if found[3] else (int(found[2]),)
        side.interpolation = found[4]
        return side

    @property
    def written(self) -> str:
        """The side as it was read; its repr is a number's, which files of arrays need."""
        return f"{int(self)}-{'x'.join(map(str, self.resize))}-{self.interpolation}"

    @property
    def told(self) -> str:
        """What becomes of images, in a phrase."""
        by = " x ".join(map(str, self.resize)) if len(self.resize) == 2 else f"a shorter side of {self.resize[0]}"
        return f"each is scaled to {by} ({self.interpolation}), and its middle {int(self)}x{int(self)} is taken"

    def cut(self, image: Image.Image) -> Image.Image:
        """The image in this size, as torchvision's transforms make it."""
        if len(self.resize) == 2:
            height, width = self.resize
        else:
            short, wanted = min(image.size), self.resize[0]
            width, height = (side * wanted // short for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = round((width - int(self)) / 2), round((height - int(self)) / 2)
        return image.crop((left, top, left + int(self), top + int(self)))

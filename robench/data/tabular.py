"""Tables of the user's own, .csv and .parquet: pixels in columns, images in a column, or the paths of image files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from robench.data.arrays import Settings, check_first, names_of, numbered, understood
from robench.data.catalogue import Part
from robench.data.images import Headers, crop_told, fitted, reading
from robench.data.pixels import Array, Files, Pixels
from robench.errors import BadInput

_LABELS = ("label", "labels", "class", "target", "y", "fine_label")
_IMAGES = ("image", "img", "path", "file", "file_name", "filename", "images", "pixels")


class Table:
    """Data in a file that is one part, the test images, or in a folder of test and train files."""

    def __init__(self, kind: str, path: Path, settings: Settings) -> None:
        self.kind, self.where, self._settings = kind, path, settings
        self.told: list[str] = []
        self.names = names_of(settings)
        self._frames: dict[Part, pd.DataFrame] = {}

    @property
    def guessed(self) -> bool:
        """Whether the number of classes is only what the labels show."""
        return not self.names and not self._worded

    def _file(self, part: Part) -> Path:
        if not self.where.is_dir():
            return self.where
        return self.where / f"{(self._settings.get('split') or part) if part == 'test' else part}.{self.kind}"

    def _there(self, part: Part) -> bool:
        return self._file(part).is_file() and (part == "test" or self.where.is_dir())

    def _frame(self, part: Part) -> pd.DataFrame:
        if part not in self._frames:
            path = self._file(part)
            if not self._there(part):
                raise BadInput(
                    f"{self.where} has no {part} split; give a folder with train.{self.kind} and test.{self.kind}."
                )
            with reading(path, f"give a .{self.kind} file with a column of labels"):
                self._frames[part] = _read_csv(path) if self.kind == "csv" else pd.read_parquet(path)
        return self._frames[part]

    def _column(self, part: Part, setting: str, usual: Sequence[str]) -> str | None:
        """A column by its setting, or the only one that has a usual name."""
        columns, asked = [str(each) for each in self._frame(part).columns], self._settings.get(setting)
        if asked is not None:
            if asked not in columns:
                known = ", ".join(columns[:8])
                raise BadInput(f"{self._file(part)} has no column {asked!r} of {setting}; its columns are {known}.")
            return asked
        found = [name for name in columns if name.lower() in usual]
        if len(found) > 1:
            names = " or ".join(found)
            raise BadInput(f"The {setting} of {self._file(part)} may be {names}; say which with ?{setting}=COLUMN.")
        return found[0] if found else None

    def _raw_labels(self, part: Part) -> tuple[str, NDArray[Any]]:
        frame, name = self._frame(part), self._column(part, "labels", _LABELS)
        if name is None:
            known = ", ".join(str(each) for each in frame.columns[:8])
            raise BadInput(
                f"{self._file(part)} has no column of labels ({known}); say which it is with ?labels=COLUMN."
            )
        values = frame[name]
        if values.isna().any():
            row = int(values.isna().to_numpy().argmax())
            raise BadInput(f"{self._file(part)} has no label in row {row}; fill it in or remove the row.")
        found = values.to_numpy()
        return name, np.stack(list(found)) if len(found) and isinstance(found[0], np.ndarray | list) else found

    def _labels(self, part: Part) -> NDArray[np.int64]:
        told: list[str] = []
        _, values = self._raw_labels(part)
        settings = self._settings
        if self._worded and not self.names:  # the same numbers in both parts
            settings = {**settings, "names": ",".join(self._worded)}
        found = numbered(values, f"The {part} labels of {self._file(part)}", settings, told)
        self.told += [each for each in told if each not in self.told]
        return found

    @cached_property
    def _worded(self) -> list[str]:
        """The classes where labels are words, in the order of the alphabet, of both parts."""
        values = [self._raw_labels(part)[1] for part in self._parts]
        found = {each for labels in values if labels.dtype.kind in "OUS" for each in labels.tolist()}
        words = sorted(each for each in found if isinstance(each, str))
        comma = next((word for word in words if "," in word), None)
        if comma is not None:
            raise BadInput(f"The class {comma!r} of {self.where} holds a comma; rename it.")
        return words

    @property
    def _parts(self) -> list[Part]:
        """The parts that there are."""
        return ["test", "train"] if self._there("train") else ["test"]

    @cached_property
    def classes(self) -> int:
        """How many the labels of both parts show, or as many as were named."""
        both = [self._labels(part) for part in self._parts]
        check_first(both, str(self.where), self._settings)
        return len(self.names) or 1 + max((int(labels.max()) for labels in both if labels.size), default=0)

    def paths(self, part: Part) -> list[Path]:
        """The image files of a part, where the table holds paths."""
        name = self._column(part, "images", _IMAGES)
        values = [] if name is None else self._frame(part)[name].tolist()
        folder = self._file(part).parent
        return [folder / each for each in values] if values and all(isinstance(each, str) for each in values) else []

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        """Pixels and labels of a part. Raises BadInput for columns that are no such thing, or take a guess."""
        labels, where = self._labels(part), f"The {part} split of {self._file(part)}"
        name, frame = self._column(part, "images", _IMAGES), self._frame(part)
        if name is None:
            return self._of_columns(frame, self._raw_labels(part)[0], labels, where), labels
        values = frame[name].tolist()
        if paths := self.paths(part):
            return self._of_files(paths, where), labels
        if values and all(isinstance(each, bytes | dict) for each in values):
            found, told = pictures([_opened(each, where, i) for i, each in enumerate(values)], where, self._settings)
            self.told.append(told)
            return found, labels
        try:
            array = np.stack([_nested(each) for each in values])
        except (ValueError, TypeError):
            raise BadInput(f"{where} has images in the column {name!r} that are not all of one shape.") from None
        found, told = understood(array, labels, where, self._settings)
        self.told.append(told)
        return found, labels

    def _of_columns(self, frame: pd.DataFrame, label: str, labels: NDArray[np.int64], where: str) -> Pixels:
        rest = frame.drop(columns=[label])
        odd = [str(name) for name in rest.columns if rest[name].dtype.kind not in "iuf"]
        if odd or rest.empty:
            raise BadInput(
                f"{where} has the column {odd[0] if odd else label!r} beside no images; say which holds the images or "
                "their paths with ?images=COLUMN, and keep no others but labels and pixels."
            )
        found, told = understood(rest.to_numpy(), labels, where, self._settings)
        self.told.append(told)
        return found

    def _of_files(self, paths: list[Path], where: str) -> Pixels:
        lost = next((path for path in paths if not path.is_file()), None)
        if lost is not None:
            raise BadInput(f"There is no file {lost}, which {where[0].lower()}{where[1:]} names.")
        headers = Headers.of(paths)
        size, also = wanted_size(headers, where, self._settings)
        channels = headers.channels(self._settings.get("channels"), where)
        self.told.append(f"{where}: {len(paths):,} image files; {'; '.join([*also, *headers.told(bool(also))])}.")
        return Files(paths, size, channels)


def wanted_size(headers: Headers, where: str, settings: Settings) -> tuple[tuple[int, int], list[str]]:
    """(height, width) that images are brought to, and what is to be said of it. Raises BadInput as `common_size`."""
    asked = settings.get("size")
    if asked is None:
        return headers.common_size(Path(where)), []
    if not re.fullmatch(r"[1-9]\d{0,3}", asked) or int(asked) > 4096:
        raise BadInput(f"The size is {asked}, but must be from 1 to 4,096 pixels.")
    return (int(asked), int(asked)), [crop_told(int(asked))]


def pictures(images: Sequence[Image.Image], where: str, settings: Settings) -> tuple[Array, str]:
    """Pillow's images as an `Array`, and in a sentence how they were read. Raises BadInput as `decode` does."""
    headers = Headers()
    for i, image in enumerate(images):
        headers.add(image, Path(f"image {i}"))
    size, also = wanted_size(headers, where, settings)
    channels = headers.channels(settings.get("channels"), where)
    found = [fitted(image, Path(f"image {i} of {where}"), size, channels) for i, image in enumerate(images)]
    return Array(np.stack(found)), f"{where}: {len(images):,} images; {'; '.join([*also, *headers.told(bool(also))])}."


def _opened(value: Any, where: str, row: int) -> Image.Image:
    raw = value.get("bytes") if isinstance(value, dict) else value
    with reading(Path(f"image {row} of {where}"), "replace or remove it"):
        if not isinstance(raw, bytes):
            raise ValueError("no bytes of an image")
        image = Image.open(io.BytesIO(raw))
        image.load()
        return image


def _nested(value: Any) -> NDArray[Any]:
    """A list of lists as an array; parquet gives arrays of arrays."""
    several = isinstance(value, list) or np.ndim(value) > 0
    return np.array([_nested(each) for each in value]) if several else np.asarray(value)


def _read_csv(path: Path) -> pd.DataFrame:
    """The table; one whose first line is numbers alone has no header, and its labels come first."""
    with open(path, encoding="utf-8") as stream:
        first = stream.readline().strip()
    if re.fullmatch(r"[-+.\deE,;\s]+", first):
        found = pd.read_csv(path, header=None)
        return found.rename(columns={0: "label"}).rename(columns=str)
    return pd.read_csv(path)

"""The forms that evaluations are exported in: a writer per form, which takes a shard at a time and holds no more."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from robench.errors import BadInput, disk_error
from robench.store.parts import aside_of
from robench.text import escaping

if TYPE_CHECKING:
    import pandas as pd

# the name of the images in every form, and of the record beside a folder's
IMAGES, RECORD, ROWS = "adversarial", "export.json", "rows.csv"
Array = NDArray[Any]


class Writer(ABC):
    """Writes images and rows to `place`, a part at a time.

    shape: [n, C, H, W] of all images; kind: float32, or uint8; about: what is recorded beside them.
    """

    ending: ClassVar[str]
    # what is to be known of what was written, "" where it is what was judged
    note: ClassVar[str] = ""

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        self.place, self.shape, self.kind, self.about = place, shape, kind, dict(about)

    @abstractmethod
    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """The next rows and their images [m, C, H, W] of `kind`."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left. Nothing is complete before."""

    def abandon(self) -> None:  # noqa: B027 - most have nothing open
        """Give up what is open, after a failure."""


class FolderWriter(Writer):
    """images/000012.png for example 12, rows.csv, and export.json."""

    ending = ""
    note = (
        "PNG holds 256 levels, so every pixel was rounded to the nearest, which may move an image outside eps or undo "
        "a find; --uint8 rounds inside eps and judges again."
    )

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        super().__init__(place, shape, kind, about)
        if shape[1] not in (1, 3):
            raise BadInput(f"Images of {shape[1]} channels are no PNG; give --to npz, parquet, csv or pt.")
        (place / "images").mkdir(parents=True)
        self._rows: IO[str] = (place / ROWS).open("w", encoding="utf-8", newline="")
        self._begun = False

    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """A file per image, a line per row."""
        from PIL import Image

        levels = images if self.kind == "uint8" else np.rint(images * 255).astype(np.uint8)
        names = [f"images/{example:06d}.png" for example in rows["example_id"]]
        for name, image in zip(names, levels, strict=True):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(pixels)).save(self.place / name)
        _csv(rows.assign(file=names), self._rows, header=not self._begun)
        self._begun = True

    def close(self) -> None:
        """The record last: a folder without it is not whole."""
        self._rows.close()
        rounding = "inside eps" if self.kind == "uint8" else "to the nearest"
        record = {**self.about, "pixels": "PNG", "rounded": rounding}
        (self.place / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

    def abandon(self) -> None:
        """Close the rows."""
        self._rows.close()


class NpzWriter(Writer):
    """An npz of "adversarial" [n, C, H, W], an array per column of the rows, and "about" as JSON; no pickle."""

    ending = ".npz"

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        super().__init__(place, shape, kind, about)
        self._file = zipfile.ZipFile(place, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._images = self._file.open(f"{IMAGES}.npy", "w", force_zip64=True)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._images, header)
        self._rows: list[pd.DataFrame] = []

    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """The images go to the file at once; rows are few bytes each."""
        self._images.write(np.ascontiguousarray(images).tobytes())
        self._rows.append(rows)

    def close(self) -> None:
        """The columns, and the record."""
        self._images.close()
        for name, column in {**columns_of(self._rows), "about": np.array(json.dumps(self.about))}.items():
            with self._file.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, column, allow_pickle=False)
        self._file.close()

    def abandon(self) -> None:
        """Close the archive."""
        with contextlib.suppress(ValueError):
            self._images.close()
        self._file.close()


class TorchWriter(Writer):
    """A dictionary of tensors, for torch.load(weights_only=True): "adversarial", a tensor or list per column, "about"
    as JSON."""

    ending = ".pt"

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        super().__init__(place, shape, kind, about)
        self._aside = aside_of(place)
        self._images = np.memmap(self._aside, dtype=kind, mode="w+", shape=shape)  # not in memory, but on the disk
        self._rows: list[pd.DataFrame] = []
        self._at = 0

    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """The images go to a file that torch then reads from."""
        self._images[self._at : self._at + len(images)] = images
        self._at += len(images)
        self._rows.append(rows)

    def close(self) -> None:
        """Everything in one file."""
        import torch

        columns = columns_of(self._rows)
        plain = {k: v.tolist() if v.dtype.kind == "U" else torch.tensor(v) for k, v in columns.items()}
        whole = {IMAGES: torch.from_numpy(self._images), **plain, "about": json.dumps(self.about)}
        torch.save(whole, self.place)
        self.abandon()

    def abandon(self) -> None:
        """Take the file away that held the images."""
        self._aside.unlink(missing_ok=True)


class CsvWriter(Writer):
    """A line per image: its row, then its pixels, "x_C_H_W", with as many digits as tell float32 apart."""

    ending = ".csv"

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        super().__init__(place, shape, kind, about)
        self._names = [f"x_{c}_{h}_{w}" for c in range(shape[1]) for h in range(shape[2]) for w in range(shape[3])]
        self._file: IO[str] = place.open("w", encoding="utf-8", newline="")
        self._begun = False

    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """The lines."""
        import pandas as pd

        pixels = pd.DataFrame(images.reshape(len(images), -1), columns=self._names, index=rows.index)
        _csv(pd.concat([rows, pixels], axis=1), self._file, header=not self._begun)
        self._begun = True

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def abandon(self) -> None:
        """End the file."""
        self._file.close()


class ParquetWriter(Writer):
    """The rows with a column "adversarial" of C*H*W numbers; their shape, and the record, in the file's metadata."""

    ending = ".parquet"

    def __init__(self, place: Path, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]) -> None:
        super().__init__(place, shape, kind, about)
        self._writer: Any = None

    def add(self, rows: pd.DataFrame, images: Array) -> None:
        """A row group."""
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.Table.from_pandas(rows, preserve_index=False)
        values = pa.array(np.ascontiguousarray(images).reshape(-1))
        table = table.append_column(IMAGES, pa.FixedSizeListArray.from_arrays(values, images[0].size))
        if self._writer is None:
            record = {b"robench": json.dumps({**self.about, "shape": list(self.shape[1:])}).encode()}
            self._writer = parquet.ParquetWriter(self.place, table.schema.with_metadata(record))
        self._writer.write_table(table.cast(self._writer.schema))

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def abandon(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()


FORMS: dict[str, type[Writer]] = {
    "folder": FolderWriter, "npz": NpzWriter, "csv": CsvWriter, "parquet": ParquetWriter, "pt": TorchWriter,
}  # fmt: skip


def columns_of(parts: list[pd.DataFrame]) -> dict[str, Array]:
    """The columns of rows as arrays: whole numbers, truths, floats, and text, none of which needs pickle."""
    import pandas as pd

    rows = pd.concat(parts, ignore_index=True)
    found = {}
    for name in rows.columns:
        text = _is_text(rows[name])
        found[name] = np.array([str(each) for each in rows[name].fillna("")]) if text else rows[name].to_numpy().copy()
    return found


def _is_text(column: pd.Series[Any]) -> bool:
    return getattr(column.dtype, "kind", "O") not in "biuf"


def _csv(rows: pd.DataFrame, stream: IO[str], *, header: bool) -> None:
    """Lines of a csv file; text such that no spreadsheet takes it for a formula."""
    texts = {name: rows[name].map(escaping.csv) for name in rows.columns if _is_text(rows[name])}
    rows.assign(**texts).to_csv(stream, index=False, header=header, float_format="%.9g", lineterminator="\n")


def check_place(place: Path, form: str, force: bool) -> None:
    """Raise BadInput where something is there that nobody asked to replace, or that is no export."""
    ending = FORMS[form].ending
    if ending and place.suffix.lower() != ending:
        raise BadInput(f"--out is {str(place)!r}, but a file of --to {form} must end in {ending}.")
    if not place.is_symlink() and not place.exists():
        return
    if place.is_dir() and not any(place.iterdir()):
        if not ending:
            return
    elif not force:
        raise BadInput(f"--out {str(place)!r} is there already; give another, or --force to replace it.")
    if place.is_dir() and (ending or not (place / RECORD).is_file()):
        raise BadInput(f"--out {str(place)!r} is a folder that is no export, and stays as it is; give another.")


@contextmanager
def writing(
    place: Path, form: str, shape: tuple[int, ...], kind: str, about: Mapping[str, Any]
) -> Iterator[Callable[[Any, Array], None]]:
    """Takes rows with their images, part by part; `place` is there, whole, when this ends well, and untouched else.

    Raises DiskError.
    """
    aside, writer = aside_of(place), None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        writer = FORMS[form](aside, shape, kind, about)
        yield writer.add
        writer.close()
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        aside.replace(place)
    except BaseException as error:
        with contextlib.suppress(Exception):
            if writer is not None:
                writer.abandon()
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_error(error, place) from error
        raise

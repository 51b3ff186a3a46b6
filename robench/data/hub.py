"""Data sets that other packages bring: MedMNIST's files, and those of Hugging Face's datasets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robench.data.arrays import Settings, check_first, names_of, numbered, understood
from robench.data.catalogue import Part
from robench.data.images import reading, reason
from robench.data.pixels import Pixels
from robench.data.stored import Arrays, stored
from robench.data.tabular import pictures
from robench.environment import expanded
from robench.errors import BadInput

# of these, the package writes one into a folder by save_to_disk: of several splits, of one
SAVED = ("dataset_dict.json", "state.json")
_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels", "fine_label", "target", "class")


def medmnist(name: str, root: Path, settings: Settings) -> Arrays:
    """MedMNIST's file NAME.npz (pathmnist, or pathmnist_64 of a larger size), in the data folder or in MedMNIST's own.

    Raises BadInput where it is in neither.
    """
    places = [root / "medmnist" / f"{name}.npz", root / f"{name}.npz", Path.home() / ".medmnist" / f"{name}.npz"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise BadInput(
            f"There is no {name}.npz of medmnist:{name} in {places[0].parent}, {root} or {places[2].parent}; run "
            f"'robench data fetch medmnist:{name}', or put MedMNIST's file there."
        )
    return stored("npz", found, settings)


def fetch_medmnist(name: str, root: Path) -> None:
    """Download MedMNIST's file into root/medmnist. Raises BadInput where the package is missing or does not know it."""
    try:
        import medmnist as package
    except ImportError:
        raise BadInput(
            "The data medmnist:NAME are fetched by the package medmnist; run pip install 'robench[medmnist]'."
        ) from None
    stem, _, side = name.partition("_")
    if stem not in package.INFO or (side and not side.isdigit()):
        raise BadInput(f"MedMNIST has no data called {name!r}; it knows {', '.join(package.INFO)}.")
    folder = root / "medmnist"
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(package, package.INFO[stem]["python_class"])
    kind(split="test", download=True, root=str(folder), **({"size": int(side)} if side else {}))


class HuggingFace:
    """A data set that Hugging Face's datasets opens: OWNER/NAME, or a folder of its files here."""

    def __init__(self, place: str, settings: Settings) -> None:
        self.place, self.where, self._settings = place, Path(f"hf-data:{place}"), settings
        self.told: list[str] = []
        self.names = names_of(settings)

    @property
    def guessed(self) -> bool:
        """Whether the number of classes is only what the labels show."""
        return not self.names and self._said is None

    @cached_property
    def _splits(self) -> dict[str, Any]:
        try:
            import datasets
        except ImportError:
            raise BadInput(
                f"The data hf-data:{self.place} are opened by the package datasets; run pip install 'robench[hf-data]'."
            ) from None
        path = expanded(self.place)
        try:
            if any((path / name).is_file() for name in SAVED):
                return _saved(datasets.load_from_disk(str(path)))
            found = datasets.load_dataset(str(path) if path.exists() else self.place, self._settings.get("config"))
        except Exception as error:  # the package and what it calls have no common error
            raise BadInput(
                f"The data hf-data:{self.place} cannot be opened ({reason(error)}); give OWNER/NAME of a data set or a "
                "folder of its files, and ?config=NAME where it has several."
            ) from error
        return dict(found)

    def _split(self, part: Part) -> Any:
        asked = self._settings.get("split") if part == "test" else None
        names = [asked] if asked else ["train"] if part == "train" else ["test", "validation", "valid", "val"]
        found = next((self._splits[name] for name in names if name in self._splits), None)
        if found is None:
            have = ", ".join(self._splits)
            raise BadInput(
                f"{self.where} has no split {' or '.join(names)}; its splits are {have}: say which with ?split=NAME."
            )
        return found

    def _column(self, part: Part, setting: str, usual: Sequence[str]) -> str:
        have, asked = self._split(part).column_names, self._settings.get(setting)
        found = [asked] if asked else [name for name in have if name in usual]
        if len(found) != 1 or found[0] not in have:
            raise BadInput(
                f"{self.where} has the columns {', '.join(have)}; say which holds the {setting} with ?{setting}=COLUMN."
            )
        return str(found[0])

    @cached_property
    def _said(self) -> list[str] | None:
        """The classes that the data set itself names."""
        feature = self._split("test").features[self._column("test", "labels", _LABELS)]
        names = getattr(feature, "names", None)
        return list(names) if names else None

    @cached_property
    def classes(self) -> int:
        """How many it names, or the labels of the test split show."""
        if self.names or self._said:
            return len(self.names or self._said or [])
        labels = self._labels("test")
        check_first([labels], str(self.where), self._settings)
        return 1 + max(map(int, labels), default=0)

    def _labels(self, part: Part) -> NDArray[np.int64]:
        raw = np.asarray(self._split(part)[self._column(part, "labels", _LABELS)])
        return numbered(raw, f"The {part} labels of {self.where}", self._settings, self.told)

    def paths(self, part: Part) -> list[Path]:
        """Images have no files of their own."""
        return []

    def load(self, part: Part) -> tuple[Pixels, NDArray[Any]]:
        """Pixels and labels of a part. Raises BadInput as `pictures` and `understood`."""
        labels, where = self._labels(part), f"The {part} split of {self.where}"
        values = list(self._split(part)[self._column(part, "images", _IMAGES)])
        if values and all(isinstance(each, Image.Image) for each in values):
            found, told = pictures(values, where, self._settings)
        else:
            with reading(self.where, "its images must be pictures or arrays of one shape"):
                array = np.asarray(values)
            found, told = understood(array, labels, where, self._settings)
        self.told.append(told)
        return found, labels


def _saved(found: Any) -> dict[str, Any]:
    """The splits of what was read from a folder; one that has no name, or is alone, is the test split."""
    return dict(found) if hasattr(found, "keys") else {"test": found}

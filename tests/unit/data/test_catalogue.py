"""The catalogue's rows against torchvision's classes, the bundled digits, and the sources that read them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from robench.data.catalogue import DATASETS, Entry
from robench.data.dataset import fetch, open_dataset
from robench.errors import BadInput
from robench.suites.precheck import _data

KNOWN = [entry for entry in DATASETS.values() if entry.torchvision]
FILLED = [entry for entry in DATASETS.values() if entry.classes]


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.name)
def test_a_row_agrees_with_torchvisions_class(entry: Entry, tmp_path: Path) -> None:
    kind = getattr(torchvision.datasets, str(entry.torchvision))
    takes = inspect.signature(kind.__init__).parameters
    assert {"root", "download", entry.asked_by} <= set(takes)
    for part in ("train", "test"):
        inspect.signature(kind).bind("root", download=False, **entry.asking(part))
    if entry.asked_by == "split":
        assert {"train", "test"} <= set(getattr(kind, "splits", None) or kind.split_list)
    else:
        assert isinstance(takes["train"].default, bool)
        assert "split" not in takes, "train says all there is to say"
    folder = getattr(kind, "base_folder", entry.torchvision)  # MNIST's folder is named as its class
    if "{part}" in entry.files:
        assert [entry.files.format(part=part) for part in ("train", "test")] == [
            kind.split_list[part][1] for part in ("train", "test")
        ]
    else:
        assert entry.files == folder
    if hasattr(kind, "classes"):
        assert len(kind.classes) == entry.classes


@pytest.mark.parametrize("entry", FILLED, ids=lambda entry: entry.name)
def test_a_description_says_the_size_and_colour_of_the_row(entry: Entry) -> None:
    assert entry.description.startswith(f"{entry.side}x{entry.side} {'grey' if entry.channels == 1 else 'colour'}")
    assert f" {entry.classes} classes" in entry.description or entry.classes == 10


def test_the_row_of_the_digits_is_what_the_digits_are() -> None:
    dataset, entry = open_dataset("digits"), DATASETS["digits"]
    assert dataset.info.shape == (entry.channels, entry.side, entry.side)
    assert dataset.classes == entry.classes == len(dataset.test.labels.unique())
    assert entry.torchvision is None


def test_names_are_keys_and_the_users_own_have_nothing_else() -> None:
    assert all(name == entry.name for name, entry in DATASETS.items())
    own = [entry for entry in DATASETS.values() if ":" in entry.name]
    assert own == [Entry(entry.name, entry.description) for entry in own]
    assert [entry for entry in DATASETS.values() if not entry.classes] == own


def test_a_row_is_all_a_dataset_of_torchvision_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stars:
        """A dataset in the form of torchvision's."""

        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            self.data = np.full((3, 4, 4, 3), 255 * (split == "test"), np.uint8)
            self.targets = [0, 1, 6]

    monkeypatch.setattr(torchvision.datasets, "Stars", Stars, raising=False)
    row: Any = Entry("stars", "4x4 colour", 7, 3, 4, torchvision="Stars", files="stars-{part}", asked_by="split")
    monkeypatch.setitem(DATASETS, "stars", row)
    with pytest.raises(BadInput, match="stars was not found in"):
        open_dataset("stars", tmp_path).test  # noqa: B018
    for part in ("train", "test"):
        (tmp_path / f"stars-{part}").touch()
    dataset = open_dataset("stars", tmp_path)
    assert (dataset.classes, dataset.info.shape, dataset.info.family) == (7, (3, 4, 4), "stars")
    assert dataset.test.images([0]).unique().tolist() == [255]
    assert dataset.info.mean == (0.0, 0.0, 0.0)
    fetch("stars", tmp_path)
    planned = _data("stars")
    assert planned is not None
    assert (planned.shape, planned.classes) == (dataset.info.shape, dataset.classes)
    with pytest.raises(BadInput, match=r"fetch knows mnist, .*, stl10, stars and medmnist:NAME\."):
        fetch(f"folder:{tmp_path}", tmp_path)


def test_the_catalogue_needs_neither_torch_nor_torchvision() -> None:
    code = "import sys, robench.data.catalogue; assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

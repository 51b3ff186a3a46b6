"""Datasets: every source with small files in its true layout, splits, ids, digests, and what is said of bad data."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from robench.data import sources
from robench.data.dataset import DataInfo, Dataset, default_root, fetch, open_dataset
from robench.errors import BadInput

RNG = np.random.default_rng(0)


def noise(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def labels(count: int, classes: int = 10) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * 7 % classes


def complaint(action: Any) -> str:
    """The sentence of the `BadInput` that `action` raises, which must be a single one."""
    with pytest.raises(BadInput) as caught:
        action()
    text = str(caught.value)
    assert re.fullmatch(r".+\.", text)
    return text


def write_idx(root: Path, folder: str = "MNIST") -> dict[str, NDArray[np.uint8]]:
    (raw := root / folder / "raw").mkdir(parents=True)
    images = {"train": noise(20, 28, 28), "t10k": noise(6, 28, 28)}
    for part, array in images.items():
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *array.shape) + array.tobytes())
        marks = labels(len(array)).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(marks)) + marks.tobytes())
    return images


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read small stand-ins, whose checksums cannot be those of the real files."""
    for module in ("cifar", "svhn", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, *_: os.path.isfile(path))


def write_cifar(root: Path, kind: str, key: str, classes: int) -> dict[str, NDArray[np.uint8]]:
    made = getattr(torchvision.datasets, kind)
    images = {name: noise(10, 3, 32, 32) for name, _ in made.train_list + made.test_list}
    (folder := root / made.base_folder).mkdir()
    for name, array in images.items():
        (folder / name).write_bytes(pickle.dumps({"data": array.reshape(10, -1), key: labels(10, classes).tolist()}))
    (folder / made.meta["filename"]).write_bytes(pickle.dumps({made.meta["key"]: [str(c) for c in range(classes)]}))
    return images


def write_npz(path: Path, **changes: Any) -> Dataset:
    train = {"x_train": noise(30, 32, 32, 3), "y_train": labels(30)}
    arrays = {**train, "x_test": noise(12, 32, 32, 3), "y_test": labels(12), **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return open_dataset(f"npz:{path}")


def test_digits_spread_their_grey_levels_and_keep_the_last_500_for_testing() -> None:
    from sklearn.datasets import load_digits

    dataset, raw = open_dataset("digits"), load_digits()
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (1168, 129, 500)
    expected = [round(v * 255 / 16) for v in raw.images[-500:].astype(int).ravel().tolist()]
    assert dataset.test.images(slice(None)).ravel().tolist() == expected
    assert dataset.test.labels.tolist() == raw.target[-500:].tolist()
    assert (dataset.info.shape, dataset.info.family) == ((1, 8, 8), "digits")
    dataset.test.labels.zero_()  # what somebody does to his own is no business of the next
    assert open_dataset("digits").test.labels.tolist() == raw.target[-500:].tolist()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_in_torchvision_s_layout(tmp_path: Path, name: str, folder: str) -> None:
    images = write_idx(tmp_path, folder)
    dataset = open_dataset(name, tmp_path)
    assert np.array_equal(dataset.test.images(slice(None))[:, 0].numpy(), images["t10k"])
    assert dataset.test.labels.tolist() == labels(6).tolist()
    mean, std = ((round(float(value), 4),) for value in ((images["train"] / 255).mean(), (images["train"] / 255).std()))
    assert dataset.info == DataInfo(name, 1, 28, 28, 10, mean, std, name)


@pytest.mark.parametrize(("kind", "key", "classes"), [("CIFAR10", "labels", 10), ("CIFAR100", "fine_labels", 100)])
@pytest.mark.usefixtures("unchecked")
def test_cifar_pickles(tmp_path: Path, kind: str, key: str, classes: int) -> None:
    images = write_cifar(tmp_path, kind, key, classes)
    dataset = open_dataset(kind.lower(), tmp_path)
    train = np.concatenate([array for part, array in images.items() if "test" not in part])
    test = next(array for part, array in images.items() if "test" in part)
    assert np.array_equal(dataset.test.images(slice(None)).numpy(), test)
    assert np.array_equal(dataset.train.images(slice(None)).numpy(), train[dataset.train.ids.numpy()])
    assert dataset.test.labels.tolist() == labels(10, classes).tolist()
    assert np.allclose(dataset.info.mean, (train / 255).mean(axis=(0, 2, 3)), atol=1e-4)
    assert (dataset.classes, dataset.info.family) == (classes, kind.lower())


@pytest.mark.usefixtures("unchecked")
def test_svhn_where_ten_means_zero_and_stl10_which_lies_on_its_side(tmp_path: Path) -> None:
    images = noise(32, 32, 3, 12)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.arange(12)[:, None] % 10 + 1})
    test = open_dataset("svhn", tmp_path).test
    assert np.array_equal(test.images(slice(None)).numpy(), images.transpose(3, 2, 0, 1))
    assert test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    images = noise(5, 3, 96, 96)
    (tmp_path / "stl10_binary").mkdir()
    for name in ("train_X", "train_y", "unlabeled_X", "test_X", "test_y"):
        content = bytes(range(1, 6)) if "_y" in name else images.tobytes()
        (tmp_path / "stl10_binary" / f"{name}.bin").write_bytes(content)
    test = open_dataset("stl10", tmp_path).test
    assert np.array_equal(test.images(slice(None)).numpy(), images.transpose(0, 1, 3, 2))
    assert test.labels.tolist() == [0, 1, 2, 3, 4]


def test_missing_and_damaged_files_are_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name in ("mnist", "cifar10", "svhn", "stl10"):
        text = complaint(lambda name=name: open_dataset(name, tmp_path).test)
        assert f"not found in {tmp_path}; run `robench data fetch {name} --data {tmp_path}`." in text
    write_idx(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:9], b"", b"not an idx file at all", bytes(40)):
        path.write_bytes(content)
        assert str(tmp_path / "MNIST") in complaint(lambda: open_dataset("mnist", tmp_path).test)
    path.write_bytes(whole)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    for content, words in ((bytes(5), "6 images but 5 labels"), (bytes([0, 1, 2, 3, 4, 10]), "labels outside 0..9")):
        path.write_bytes(struct.pack(">2i", 2049, len(content)) + content)
        assert words in complaint(lambda: open_dataset("mnist", tmp_path).test)
    path.unlink()
    assert "download=True" not in complaint(lambda: open_dataset("mnist", tmp_path).test)
    write_cifar(tmp_path, "CIFAR10", "labels", 10)
    broken = tmp_path / "cifar-10-batches-py" / "test_batch"
    assert "Dataset not found or corrupted" in complaint(lambda: open_dataset("cifar10", tmp_path).test)
    request.getfixturevalue("unchecked")
    broken.write_bytes(broken.read_bytes()[:-5])
    assert str(broken.parent) in complaint(lambda: open_dataset("cifar10", tmp_path).test)


def test_validation_is_a_fixed_tenth_of_the_training_file(tmp_path: Path) -> None:
    dataset = write_npz(tmp_path / "a.npz")
    val = dataset.val.ids.tolist()
    assert sorted(dataset.train.ids.tolist() + val) == list(range(30))
    assert val == write_npz(tmp_path / "b.npz", x_train=noise(30, 32, 32, 3)).val.ids.tolist()
    # the split is part of every published figure, so it must survive new versions of numpy
    assert open_dataset("digits").val.ids[:6].tolist() == [14, 18, 29, 34, 36, 55]
    few = write_npz(tmp_path / "few.npz", x_train=noise(9, 32, 32, 3), y_train=labels(9))
    assert (len(few.train), len(few.val), len(few.val.images([]))) == (9, 0, 0)
    many = write_npz(tmp_path / "many.npz", x_train=noise(60000, 1, 1), y_train=labels(60000), x_test=noise(12, 1, 1))
    assert (len(many.train), len(many.val)) == (55000, 5000)


def test_split_indexing(tmp_path: Path) -> None:
    images = noise(12, 32, 32, 3)
    test = write_npz(tmp_path / "a.npz", x_test=images).test
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    mask = torch.arange(12) % 5 == 2
    for index in (slice(3, 9, 2), [4, 0, 4], torch.tensor([1, -1]), mask, range(2, 4), []):
        rows = list(index) if isinstance(index, range | list) else index
        assert torch.equal(test.images(index), expected[rows])
    assert (test.images([0]).dtype, test.pixels([3]).dtype) == (torch.uint8, torch.float32)
    assert torch.equal(test.pixels([3]), expected[[3]] / 255)
    assert torch.equal(test[7][0], expected[7])
    assert int(test[7][1]) == labels(12)[7]
    with pytest.raises(IndexError):
        test.images([12])
    batches = list(DataLoader(test, batch_size=5, collate_fn=lambda batch: batch))
    assert torch.equal(torch.cat([marks for _, marks in batches]), test.labels)
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_digests_and_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(12, 32, 32, 3)
    digest = write_npz(tmp_path / "a.npz", x_test=images).test.digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert write_npz(tmp_path / "b.npz", x_test=images, y_test=labels(12).astype(np.uint8)).test.digest == digest
    monkeypatch.setattr("robench.data.split._CHUNK_BYTES", 5000)
    assert write_npz(tmp_path / "c.npz", x_test=images).test.digest == digest
    for changes in ({"x_test": images ^ np.eye(32, dtype=np.uint8)[..., None]}, {"x_test": images[::-1]}):
        assert write_npz(tmp_path / "d.npz", **changes).test.digest != digest
    assert write_npz(tmp_path / "d.npz", x_test=images, y_test=labels(12)[::-1]).test.digest != digest
    val = write_npz(tmp_path / "d.npz").val
    part = val.subset([2, 0])
    assert (part.ids.tolist(), part.labels.tolist()) == (val.ids[[2, 0]].tolist(), val.labels[[2, 0]].tolist())
    assert torch.equal(part.subset([1]).images([0]), val.images([0]))
    assert len({part.digest, val.digest, part.subset([1, 0]).digest}) == 3
    flat = noise(12, 4, 9)
    bars = [write_npz(tmp_path / "e.npz", x_test=flat.reshape(12, *side)).test.digest for side in ((4, 9), (9, 4))]
    assert bars[0] != bars[1]


def test_data_info_survives_json_and_damaged_cards_are_refused() -> None:
    info = DataInfo("npz:a.npz", 3, 32, 40, 7, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "other")
    assert DataInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    for bad in ({}, {**info.to_json(), "extra": 1}, {**info.to_json(), "mean": None}):
        complaint(lambda bad=bad: DataInfo.from_json(bad))


def test_npz_layouts_and_families(tmp_path: Path) -> None:
    grey = {(28, 28): "mnist", (28, 28, 1): "mnist", (1, 20, 20): "other"}
    colour = {(32, 32, 3): "cifar10", (3, 32, 32): "cifar10", (64, 64, 3): "imagenet", (48, 80, 3): "other"}
    path = tmp_path / "a.npz"
    for shape, family in [*grey.items(), *colour.items(), ((96, 96, 3), "stl10"), ((32, 32, 3), "cifar100")]:
        classes = 100 if family == "cifar100" else 10
        images, marks = noise(100, *shape), np.arange(100, dtype=np.uint8)[:, None] % classes
        np.savez(path, train_images=images, train_labels=marks, test_images=images, test_labels=marks)
        dataset = open_dataset(f"npz:{path}")
        assert (dataset.classes, dataset.info.family, dataset.info.name) == (classes, family, f"npz:{path}")
        first = images[0] if len(shape) == 2 or shape[0] in (1, 3) else images[0].transpose(2, 0, 1)
        assert np.array_equal(dataset.test.images([0])[0].numpy(), first.reshape(dataset.info.shape))


def test_npz_that_are_odd_but_fine_and_npz_that_are_refused(tmp_path: Path) -> None:
    def refused(words: str, **changes: Any) -> None:
        text = complaint(lambda: write_npz(tmp_path / "a.npz", **changes).test)
        assert words in text
        assert str(tmp_path / "a.npz") in text

    assert len(write_npz(tmp_path / "b.npz", x_train=None, y_train=None).test) == 12
    assert len(write_npz(tmp_path / "b.npz", x_train=np.zeros(3)).test) == 12  # never looks at the training images
    assert write_npz(tmp_path / "b.npz", x_train=np.full((30, 32, 32, 3), 51, np.uint8)).info.std == (1e-3,) * 3
    refused("float32 images from 1.5 to 1.5, but floats must be in", x_test=np.full((12, 32, 32, 3), 1.5, np.float32))
    refused("no x_test and no y_test, which the test split needs; its keys are x_train, y_", x_test=None, y_test=None)
    refused("has no y_test", y_test=None)
    refused("[12, 32, 32, 4]", x_test=noise(12, 32, 32, 4))
    refused("has 32 numbers an image, which no square image", x_test=noise(12, 32))
    refused("11 images but 12 labels", x_test=noise(11, 32, 32, 3))
    refused("is empty", x_test=noise(0, 32, 32, 3), y_test=labels(0))
    for marks in (np.eye(12, dtype=np.int64), np.zeros(12), labels(12) - 1):
        refused("one integer from 0 upwards per image", y_test=marks)
    refused("damaged", y_test=np.array([{}] * 12))
    refused("fewer than two classes", y_test=labels(12) * 0, y_train=labels(30) * 0)


def test_npz_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path)
    whole = path.read_bytes()
    for content in (whole[:200], whole[: len(whole) // 2], b"", b"text", whole[:2000] + bytes(9000) + whole[11000:]):
        path.write_bytes(content)
        assert str(path) in complaint(lambda: [open_dataset(f"npz:{path}").train, open_dataset(f"npz:{path}").test])
    with open(path, "wb") as stream:
        np.save(stream, noise(3, 4))
    assert "its keys are none" in complaint(lambda: open_dataset(f"npz:{path}").test)
    unequal = write_npz(path, x_test=noise(12, 28, 28, 3))
    assert "images of shape" in complaint(lambda: [unequal.train, unequal.test])


def test_names_and_paths_and_the_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'mnist'" in complaint(lambda: open_dataset("mnits"))
    assert "npz:PATH" in complaint(lambda: open_dataset("npz:"))
    assert "no file" in complaint(lambda: open_dataset(f"npz:{tmp_path / 'none.npz'}"))
    assert "no folder" in complaint(lambda: open_dataset(f"folder:{tmp_path / 'none'}"))
    assert "from 1 to" in complaint(lambda: open_dataset(f"folder:{tmp_path}@0"))
    write_npz(tmp_path / "here.npz")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("npz:here.npz").test) == 12
    script = "import sys, robench.data.sources; assert 'torch' not in sys.modules"
    home = Path(sources.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=home)
    monkeypatch.setenv("HOME", "/home/me")
    for variable in ("ROBENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert default_root() == Path("/home/me/.cache/robench/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_root() == Path("/x/robench/data")
    monkeypatch.setenv("ROBENCH_DATA", "~/mine")
    assert default_root() == Path("/home/me/mine")


def test_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    fetch("digits", tmp_path)
    assert "nothing to do" in capsys.readouterr().out
    for name, module in (("mnist", "mnist"), ("cifar10", "cifar")):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
        assert f"Could not fetch {name} into {tmp_path}" in complaint(lambda name=name: fetch(name, tmp_path))
    assert "your own data" in complaint(lambda: fetch(f"folder:{tmp_path}", tmp_path))
    write_idx(tmp_path / "complete")
    fetch("mnist", tmp_path / "complete")

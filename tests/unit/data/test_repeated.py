"""Copies among test images, and test images among training images: counted by bytes, told above a share of 1%."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robench.data.dataset import Dataset, open_dataset
from robench.data.handed import hand_over
from robench.data.repeated import among_told, among_training, different, repeated_flag, repeated_told
from tests.unit.data.test_dataset import labels, noise, write_npz


def copied(path: Path, images: int, count: int) -> Dataset:
    """`count` test images of which `images` are different, in turn."""
    return write_npz(path, x_test=noise(images, 8, 8)[np.arange(count) % images], y_test=labels(count),
                     x_train=noise(30, 8, 8))  # fmt: skip


def test_keys_are_equal_where_bytes_are(tmp_path: Path) -> None:
    images = noise(6, 8, 8)
    images[4] = images[1]
    split = write_npz(tmp_path / "a.npz", x_test=images, y_test=labels(6), x_train=noise(30, 8, 8)).test
    keys = split.keys.tolist()
    assert (len(set(keys)), keys[4]) == (5, keys[1])
    assert split.reordered(np.arange(6)[::-1].copy()).keys.tolist() == keys[::-1]
    assert split.subset([4, 0]).keys.tolist() == [keys[4], keys[0]]


def test_copies_are_counted_among_those_that_are_evaluated(tmp_path: Path) -> None:
    split = copied(tmp_path / "a.npz", 2, 200).test
    assert different(split, 0, 200) == 2
    assert repeated_flag(split, 0, 200) == "repeated-images 99%"
    told = repeated_told(split, 0, 200)
    assert "Of the 200 test images 2 are different" in told
    assert "rest on 2 images" in told
    assert repeated_flag(split, 7, 2) == repeated_told(split, 7, 2) == ""


@pytest.mark.parametrize(("images", "flag"), [(200, ""), (198, ""), (197, "repeated-images 2%")])
def test_a_few_copies_are_passed_over(images: int, flag: str, tmp_path: Path) -> None:
    split = copied(tmp_path / "a.npz", images, 200).test
    assert repeated_flag(split, 0, 200) == flag
    assert bool(repeated_told(split, 0, 200)) == bool(flag)


@pytest.mark.parametrize(("among", "told"), [(0, False), (1, False), (2, True), (150, True)])
def test_test_images_among_training_images(among: int, told: bool, tmp_path: Path) -> None:
    train, test = noise(200, 8, 8), noise(150, 8, 8)
    test[:among] = train[:among]
    data = write_npz(tmp_path / "a.npz", x_train=train, y_train=labels(200), x_test=test, y_test=labels(150))
    assert among_training(data) == among
    sentence = among_told(among, 150, data.name)
    assert bool(sentence) == told
    assert not told or sentence.startswith(f"{among} of the 150 test images of {data.name} stand among its training")


def test_files_and_data_of_a_program_are_looked_at_too(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(12):
                image = np.random.default_rng(i if part == "train" else 100).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                image[0, 0] = ord(label)
                Image.fromarray(image).save(tmp_path / part / label / f"{i}.png")
    data = open_dataset(f"folder:{tmp_path}@8")
    assert (different(data.test, 0, 24), among_training(data)) == (2, 0)
    handed = open_dataset(hand_over((torch.rand(1, 1, 8, 8).repeat(40, 1, 1, 1), torch.arange(40) % 2)))
    assert repeated_flag(handed.test, 0, 40) == "repeated-images 98%"


def test_data_of_robench_s_own_have_none() -> None:
    data = open_dataset("digits")
    assert repeated_flag(data.test, 0, len(data.test)) == ""
    assert among_training(data) == 0

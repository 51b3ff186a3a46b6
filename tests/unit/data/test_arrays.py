"""npz files in every odd form: the same data whatever the layout in memory, or one sentence; and how many classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robench.data.dataset import Dataset, open_dataset
from robench.errors import BadInput

RNG = np.random.default_rng(2)
IMAGES = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 4


def npz(tmp_path: Path, classes: int | None = None, **changes: Any) -> Dataset:
    """A file with a test part alone, with these arrays instead or besides."""
    arrays = {"x_test": IMAGES, "y_test": LABELS, **changes}
    np.savez(tmp_path / "a.npz", **{name: value for name, value in arrays.items() if value is not None})
    return open_dataset(f"npz:{tmp_path / 'a.npz'}", classes=classes)


def complaint(dataset: Dataset) -> str:
    with pytest.raises(BadInput) as caught:
        dataset.test.digest  # noqa: B018
    assert re.fullmatch(r".+\.", str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"x_test": np.asfortranarray(IMAGES)},
        {"x_test": IMAGES[::-1][::-1]},
        {"x_test": IMAGES.transpose(0, 3, 1, 2)},
        {"x_test": IMAGES.astype(">u1")},
        {"y_test": LABELS.astype(">i8")},
        {"y_test": LABELS.astype(">u2")},
        {"y_test": LABELS.astype(np.uint64)},
        {"y_test": LABELS[:, None]},
        {"x_test": None, "y_test": None, "test_images": IMAGES, "test_labels": LABELS},
    ],
    ids=["fortran", "reversed", "channels first", "u1", "big-endian", "big unsigned", "uint64", "column", "medmnist"],
)
def test_the_same_data_in_another_form(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = npz(tmp_path).test.digest
    assert npz(tmp_path, **changes).test.digest == expected


def _with(value: float) -> Any:
    pixels = (IMAGES / 255).astype(np.float32)
    pixels[0, 0, 0, 0] = value
    return pixels


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_test": IMAGES.astype(object)}, "Object arrays cannot be loaded"),
        ({"x_test": _with(1.5)}, "float32 images from 0 to 1.5, but floats must be in [0, 1]; say what they reach"),
        (
            {"x_test": _with(-0.5)},
            "float32 images from -0.5 to 1, but floats must be in [0, 1]; say so with --range -1..1",
        ),
        ({"x_test": _with(-2.5)}, "from -2.5 to 1, but floats must be in [0, 1]; if they were normalised, store them"),
        ({"x_test": IMAGES.astype(np.float64)}, "float64 images from 0 to 255, but floats must be in [0, 1]; say what"),
        ({"x_test": _with(0.5) / 255}, "so that every image is black; divide by 255 once"),
        ({"x_test": _with(np.nan)}, "images with NaN or infinity"),
        (
            {"x_test": IMAGES.astype(np.int64) * 2},
            "int64 images from 0 to 510, but whole numbers must be from 0 to 255",
        ),
        ({"x_test": IMAGES.astype(">u2") * 257}, "from 0 to 65535, but they must be uint8"),
        ({"x_test": IMAGES > 127}, "bool images, but they must be uint8"),
        ({"x_test": (IMAGES > 127).astype(np.uint8)}, "no pixel above 1"),
        ({"x_test": np.uint8(7)}, "images [], but they must be [N, H, W]"),
        ({"x_test": IMAGES.view([("r", "u1"), ("g", "u1"), ("b", "u1")])}, "but they must be uint8"),
        ({"y_test": LABELS.astype(np.float64)}, "float64 [12], but must be one integer from 0"),
        (
            {"y_test": np.eye(4)[LABELS]},
            "float64 [12, 4], but must be one integer from 0 upwards per image, [N] or [N, 1]; "
            "if they are one-hot, give --one-hot",
        ),
        ({"y_test": np.eye(4, dtype=np.int64)[LABELS]}, "if they are one-hot, give --one-hot"),
        ({"y_test": LABELS + 1}, "start at 1, but classes are numbered from 0; give --labels-from 1 if 1 is the first"),
        ({"x_test": IMAGES[:, :3, :, :]}, "which can be read with channels first or last; say which with --layout chw"),
        ({"y_test": LABELS - 1}, "int64 [12] with -1, but must be one integer from 0 upwards"),
        ({"y_test": LABELS > 1}, "bool [12], but must be one integer"),
        ({"y_test": np.int64(3)}, "int64 [], but must be one integer"),
        ({"y_test": LABELS * 10**15}, "go up to 3000000000000000, but they number the classes"),
        ({"y_test": LABELS.astype(np.uint64) + np.uint64(2**63)}, "go up to 9223372036854775811"),
        ({"test_images": IMAGES, "test_labels": LABELS}, "has the test split twice, as x_test and as test_images"),
        ({"y_test": LABELS * 0}, "fewer than two classes; say how many with --classes"),
    ],
)
def test_what_takes_a_guess_is_refused_in_a_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    text = complaint(npz(tmp_path, **changes))
    assert told in text
    assert str(tmp_path / "a.npz") in text


def test_an_npy_file_has_no_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    text = complaint(open_dataset(f"npz:{tmp_path / 'a.npy'}"))
    assert "a.npy has no x_test and no y_test" in text


def test_how_arrays_were_understood_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz(tmp_path, x_test=IMAGES // 4).tell()
    assert capsys.readouterr().err == (
        f"robench: The test split of {tmp_path / 'a.npz'}: 12 images [N, H, W, C] of 3 x 6 x 5, pixels up to 63 "
        "of 255, labels from 0 to 3.\n"
    )
    npz(tmp_path, x_test=IMAGES // 4).tell()
    assert capsys.readouterr().err == ""
    npz(tmp_path, x_test=IMAGES.transpose(0, 3, 1, 2)).tell()
    assert "12 images [N, C, H, W] of 3 x 6 x 5, pixels up to 25" in capsys.readouterr().err
    npz(tmp_path, x_test=IMAGES[..., 0]).tell()
    assert "12 images [N, H, W] of 1 x 6 x 5" in capsys.readouterr().err


def test_the_number_of_classes_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert npz(tmp_path, None).classes == 4
    for count in (4, 10):
        assert npz(tmp_path, count).classes == count
    assert npz(tmp_path, 10, y_test=LABELS * 0).classes == 10
    assert npz(tmp_path, 10).test.digest == npz(tmp_path).test.digest
    npz(tmp_path, 10).tell()
    assert "has labels up to 3, of 10 classes: as --classes says." in capsys.readouterr().err
    for count in (3, 10**6):
        assert f"--classes is {count}, but must be from 4 to 100,000" in complaint(npz(tmp_path, count))
    with pytest.raises(BadInput, match="--classes is 1, but must be at least 2"):
        npz(tmp_path, 1)
    with pytest.raises(BadInput, match="--classes is 11, but digits has 10 classes; leave it out"):
        open_dataset("digits", classes=11).classes  # noqa: B018
    assert open_dataset("digits", classes=10).classes == 10


def test_a_model_says_the_number_of_classes_where_labels_leave_it_open(tmp_path: Path) -> None:
    dataset = npz(tmp_path)
    more = dataset.answered(6)
    assert (dataset.classes, more.classes, more.stated) == (4, 6, 6)
    assert dataset.answered(3) is dataset
    assert dataset.answered(4).classes == 4
    given = npz(tmp_path, 5)
    assert given.answered(6) is given
    digits = open_dataset("digits")
    assert digits.answered(20) is digits

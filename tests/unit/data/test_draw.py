"""Which images stand for all: the test of the order of labels, the fixed balanced draw, and lists of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robench.data.dataset import Dataset, open_dataset
from robench.data.draw import SHIFTED, balanced, images_told, looks, order_of, ordered, shift_of, shifted
from robench.errors import BadInput

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.repeat(np.arange(10), 100), True),
        (np.repeat(np.arange(10), 100)[::-1], True),
        (np.tile(np.repeat(np.arange(10), 20), 5), True),
        (np.repeat([0, 1], [990, 10]), True),
        (np.repeat(np.arange(500), 2), True),
        (RNG.integers(0, 10, 1000), False),
        (RNG.permutation(np.repeat([0, 1], [990, 10])), False),
        (np.tile(np.arange(10), 100), False),
        (RNG.permutation(np.repeat(np.arange(500), 2)), False),
        (np.zeros(50), False),
        (np.arange(50), False),
        (np.zeros(1), False),
    ],
    ids=["sorted", "downwards", "batches, each sorted", "rare", "pairs", "mixed", "rare, mixed", "in turns",
         "pairs, mixed", "one class", "one each", "one"],
)  # fmt: skip
def test_whether_labels_are_in_the_order_of_classes(labels: NDArray[np.int64], expected: bool) -> None:
    assert ordered(labels) is expected
    assert order_of(np.sort(labels)) in (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("sizes", [[100] * 10, [50, 30, 20], [5, 1, 94], [7] * 3])
def test_every_beginning_of_the_draw_has_of_each_class_its_share(sizes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = balanced(labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for n in range(1, len(labels)):
        drawn = np.bincount(labels[order[:n]], minlength=len(sizes))
        assert np.abs(drawn - n * np.array(sizes) / len(labels)).max() <= 1.01, n
    if len(set(sizes)) == 1:
        drawn = np.bincount(labels[order[: len(sizes)]], minlength=len(sizes))
        assert drawn.tolist() == [1] * len(sizes)
    assert order.tolist() == balanced(labels).tolist()
    assert not ordered(labels[order])


def test_the_draw_is_the_same_for_good() -> None:
    assert balanced(np.repeat(np.arange(3), 4)).tolist() == DRAWN


DRAWN = [3, 8, 7, 2, 6, 10, 5, 9, 0, 11, 1, 4]


def npz(tmp_path: Path, labels: NDArray[np.int64], more: str = "") -> Dataset:
    images = RNG.integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    images[:, 0, 0] = np.arange(len(labels)) % 256
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    return open_dataset(f"npz:{tmp_path / 'a.npz'}{more}")


def test_how_many_images_are_drawn_how(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(5), 20)
    data = npz(tmp_path, labels)
    assert [data.way(count) for count in (None, 100, 30, 1)] == [None, None, "balanced", "balanced"]
    drawn = data.drawn("balanced")
    assert drawn.ids.tolist() == list(range(100))
    assert np.bincount(drawn.labels[:30]).tolist() == [6] * 5
    places = drawn.images(slice(0, 100))[:, 0, 0, 0].tolist()
    assert sorted(places) == list(range(100))
    assert (drawn.labels == data.test.labels[places]).all()
    assert drawn.digest != data.test.digest == data.drawn(None).digest
    assert drawn.subset([3]).images([0]).equal(drawn.images([3]))
    assert npz(tmp_path, labels, "?draw=first").way(30) is None
    assert npz(tmp_path, RNG.permutation(labels)).way(30) is None
    assert npz(tmp_path, RNG.permutation(labels), "?draw=balanced").way(30) == "balanced"
    with pytest.raises(BadInput, match="draw is 'fair', but must be one of first, balanced"):
        npz(tmp_path, labels, "?draw=fair")


def by_two_hands(count: int, stroke: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images [N, 1, 6, 6] with a line whose brightness is another in the second half, and mixed labels."""
    labels = RNG.integers(0, 5, count)
    images = RNG.random((count, 1, 6, 6), dtype=np.float32) * 0.2
    images[np.arange(count), 0, labels] += 0.4
    images[count // 2 :, 0, :, 3] += stroke
    return images, labels


def test_images_in_stretches_of_another_look_are_ordered() -> None:
    images, labels = by_two_hands(1000, 0.1)
    assert not ordered(labels)
    assert shifted(looks(images), labels)
    order = balanced(labels)
    assert not shifted(looks(images[order]), labels[order])
    late = order[:200] >= 500
    assert 0.4 < late.mean() < 0.6
    plain, labels = by_two_hands(1000, 0.0)
    assert not shifted(looks(plain), labels)


@pytest.mark.parametrize("count", [2, 10, 70, 1000])
def test_random_orders_pass(count: int) -> None:
    """Of many random orders none is taken for one; their distances follow a chi-square with 9 degrees of freedom."""
    labels = RNG.integers(0, 3, count)
    found = [shift_of(RNG.random(count), labels) for _ in range(300)]
    assert max(found) < SHIFTED
    if count == 1000:
        assert np.mean(found) == pytest.approx(9, abs=1)
        assert np.var(found) == pytest.approx(18, rel=0.35)


def test_classes_of_another_brightness_are_no_order() -> None:
    """Ranks are taken within a class, and equal values share theirs."""
    labels = RNG.integers(0, 10, 1000)
    assert shift_of(labels.astype(float), labels) == 0
    assert shift_of(np.arange(1000) // 100 + labels * 20.0, labels) == pytest.approx(1000, rel=0.05)
    assert shift_of(np.zeros(1000), labels) == 0
    assert shift_of((np.arange(1000) % 2).astype(float), np.zeros(1000, np.int64)) < 1


def test_what_images_look_like() -> None:
    images = np.zeros((3, 1, 2, 2), np.float32)
    images[1], images[2, 0, :, 1] = 0.5, 1
    assert looks(images).tolist() == [[0, 0, 0, 0], [0.5, 0, 0, 1], [0.5, 0.5, 1, 0]]
    assert looks(np.ones((2, 3, 5, 1), np.float32))[:, 2].tolist() == [0, 0]


def test_the_first_of_two_hands_do_not_stand_for_both(tmp_path: Path) -> None:
    images, labels = by_two_hands(1000, 0.1)
    np.savez(tmp_path / "a.npz", x=np.round(images[:, 0] * 255).astype(np.uint8), y=labels)
    data = open_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert [data.way(count) for count in (None, 1000, 30)] == [None, None, "balanced"]
    assert open_dataset(f"npz:{tmp_path / 'a.npz'}?draw=first").way(30) is None


def test_digits_come_from_one_writer_after_the_other() -> None:
    assert open_dataset("digits").way(100) == "balanced"


def test_a_list_of_images(tmp_path: Path) -> None:
    labels = np.arange(100) % 5
    (tmp_path / "ids.txt").write_text("# mine\n7\n\n3\n98\n")
    data = npz(tmp_path, labels, f"?ids={tmp_path / 'ids.txt'}")
    assert data.test.images([0, 1, 2])[:, 0, 0, 0].tolist() == [7, 3, 98]
    assert data.test.labels.tolist() == [2, 3, 3]
    assert (data.classes, data.test.ids.tolist(), data.way(None)) == (5, [0, 1, 2], None)
    (tmp_path / "ids.csv").write_text("index,note\n7,a\n3,b\n98,c\n")
    assert npz(tmp_path, labels, f"?ids={tmp_path / 'ids.csv'}").test.labels.tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "", "lists no image"),
        ("a.txt", "7\n100\n", "lists image 100, but there are 100, numbered from 0 to 99"),
        ("a.txt", "7\n3\n7\n", "lists the image 7 twice"),
        ("a.txt", "-1\n", "lists '-1', which is no index, and these data have no files; give indices from 0"),
        ("a.csv", "index,eps\n7,0.1\n", "has an eps per image, and an evaluation has one eps"),
        ("a.csv", "number\n7\n", "must have one column called index or file; its columns are number"),
        ("a.csv", "index,file\n7,a\n", "must have one column called index or file"),
        ("a.csv", "index,note\n,a\n", "has an empty index in row 0"),
        ("b.txt", None, "There is no file"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=r"\w\.$") as caught:
        npz(tmp_path, np.arange(100) % 5, f"?ids={tmp_path / name}").test  # noqa: B018
    assert told in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_list_of_file_names(tmp_path: Path) -> None:
    for i in range(6):
        place = tmp_path / "test" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 40 * i).save(place / f"{i // 2}.png")
    (tmp_path / "ids.txt").write_text("b/1.png\ntest/a/0.png\n")
    data = open_dataset(f"folder:{tmp_path}?ids={tmp_path / 'ids.txt'}", tmp_path / "data")
    assert data.test.images([0, 1])[:, 0, 0, 0].tolist() == [120, 0]
    assert data.test.labels.tolist() == [1, 0]
    for word, told in (("1.png", "which 2 images are called; give more of its path"), ("c/1.png", "no test image is")):
        (tmp_path / "ids.txt").write_text(word)
        with pytest.raises(BadInput, match=told):
            open_dataset(f"folder:{tmp_path}?ids={tmp_path / 'ids.txt'}", tmp_path / "data").test  # noqa: B018


def test_images_of_a_draw_are_not_called_the_test_images_of_their_places() -> None:
    assert images_told(0, 99, 100, None) == "test images 0-99 (n = 100)"
    assert (
        images_told(0, 999, 1000, None, " (the first of 10,000)")
        == "test images 0-999 (n = 1,000, the first of 10,000)"
    )
    told = images_told(7, 1006, 1000, "balanced", " (balanced over classes, of 10,000)", "", "2 absent")
    assert told == "drawn images 7-1006 (n = 1,000, balanced over classes, of 10,000, 2 absent)"

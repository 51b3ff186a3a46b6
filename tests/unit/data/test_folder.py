"""Folders of images: decoded, cached, streamed, cropped, and what is said of bad ones."""

from __future__ import annotations

import hashlib
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from robench.data import folder, images
from robench.data.dataset import open_dataset
from tests.unit.data.test_dataset import complaint, noise


def write_folder(base: Path, size: tuple[int, int] = (8, 8), held: str = "test", inner: str = ".") -> Path:
    for part, count in (("train", 6), (held, 3)):
        for name in ("cat", "dog", "emu"):
            folder = base / part / name / (inner if part == "train" else ".")
            folder.mkdir(parents=True)
            for place in range(count):
                Image.fromarray(noise(*size, 3)).save(folder / f"{place}.png")
    return base


@pytest.mark.parametrize("suffix", ["", "@12"])
def test_streamed_equals_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    base = write_folder(tmp_path / "d", size=(20, 30))
    name = f"folder:{base}{suffix}"
    cached = open_dataset(name, tmp_path / "root")
    assert (len(cached.train), len(cached.val), cached.classes) == (17, 1, 3)
    assert cached.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    if not suffix:
        pixels = np.asarray(Image.open(base / "test" / "dog" / "1.png")).transpose(2, 0, 1)
        assert np.array_equal(cached.test.images([4])[0].numpy(), pixels)
    reference = [cached.info, cached.train.digest, cached.val.digest, cached.test.digest]
    assert [path.suffix for path in (tmp_path / "root" / "cache").iterdir()] == [".npy", ".npy"]
    monkeypatch.setattr(folder, "memory_limit", lambda: 0)
    for root in (tmp_path / "root", tmp_path / "other"):
        streamed = open_dataset(name, root)
        assert [streamed.info, streamed.train.digest, streamed.val.digest, streamed.test.digest] == reference
    assert not (tmp_path / "other").exists()


def test_the_cache_is_used_again_mended_and_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, root = write_folder(tmp_path / "d"), tmp_path / "root"
    digest = open_dataset(f"folder:{base}", root).test.digest
    (path,) = (root / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", None)
        patch.setattr(images.Image, "open", None)
        assert open_dataset(f"folder:{base}", root).test.digest == digest
    path.write_bytes(path.read_bytes()[:100])
    assert open_dataset(f"folder:{base}", root).test.digest == digest
    Image.fromarray(noise(8, 8, 3)).save(base / "test" / "cat" / "0.png")
    assert open_dataset(f"folder:{base}", root).test.digest != digest
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "No space left" in complaint(lambda: open_dataset(f"folder:{base}", root).train)
    assert not list((root / "cache").glob("*.part"))
    (tmp_path / "file").write_text("")
    assert "--data" in complaint(lambda: open_dataset(f"folder:{base}", tmp_path / "file").test)


def test_other_images_of_the_same_names_sizes_and_times_are_not_taken_for_those_in_the_cache(tmp_path: Path) -> None:
    base, root = tmp_path / "d", tmp_path / "root"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (base / part / name).mkdir(parents=True)
            Image.fromarray(noise(8, 8, 3)).save(base / part / name / "0.bmp")
    before = open_dataset(f"folder:{base}", root).test.digest
    path = base / "test" / "cat" / "0.bmp"
    status, size = path.stat(), path.stat().st_size
    Image.fromarray(other := noise(8, 8, 3)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, status.st_mtime_ns)
    test = open_dataset(f"folder:{base}", root).test
    assert test.digest != before
    assert np.array_equal(test.images([0])[0].numpy(), other.transpose(2, 0, 1))


@pytest.mark.parametrize("place", [0, 9, 200, -40, -1])
def test_a_changed_byte_in_the_cache_is_decoded_again(tmp_path: Path, place: int) -> None:
    """In the header, among the pixels, and in the seal itself."""
    base, root = write_folder(tmp_path / "d"), tmp_path / "root"
    digest = open_dataset(f"folder:{base}", root).test.digest
    (path,) = (root / "cache").iterdir()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[place] ^= 1
    path.write_bytes(changed)
    assert open_dataset(f"folder:{base}", root).test.digest == digest
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-192] + bytes(192))  # pixels set to zero, and no seal
    assert open_dataset(f"folder:{base}", root).test.digest == digest


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 8, 4), (3, 0, 8)])
def test_a_cache_of_images_of_another_size_is_decoded_again(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Whose seal fits."""
    base, root = write_folder(tmp_path / "d"), tmp_path / "root"
    digest, count = (test := open_dataset(f"folder:{base}@8", root).test).digest, len(test)
    (path,) = (root / "cache").iterdir()
    path.unlink()  # which stays mapped
    np.save(path, np.zeros((count, *shape), np.uint8))
    path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())
    assert open_dataset(f"folder:{base}@8", root).test.digest == digest


def test_a_cache_of_another_way_of_decoding_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, root = write_folder(tmp_path / "d"), tmp_path / "root"
    open_dataset(f"folder:{base}", root).test  # noqa: B018 - decodes
    monkeypatch.setattr(folder, "DECODING", folder.DECODING + 1)
    open_dataset(f"folder:{base}", root).test  # noqa: B018
    assert len(list((root / "cache").iterdir())) == 2


@pytest.mark.parametrize(("suffix", "short", "crop"), [("", 256, 224), ("@56", 64, 56)])
def test_images_are_cropped_as_torchvision_does(tmp_path: Path, suffix: str, short: int, crop: int) -> None:
    base = write_folder(tmp_path / "d")
    for place, size in enumerate([(70, 99), (131, 67), (300, 301), (50, 40)]):
        Image.fromarray(noise(*size, 3)).save(base / "test" / "cat" / f"x{place}.png")
    Image.fromarray(exact := noise(crop, crop, 3)).save(base / "test" / "cat" / "y.png")
    test = open_dataset(f"folder:{base}{suffix}", tmp_path).test
    for place in range(4):
        image = Image.open(base / "test" / "cat" / f"x{place}.png")
        expected = np.asarray(functional.center_crop(functional.resize(image, short), [crop, crop])).transpose(2, 0, 1)
        assert np.array_equal(test.images([3 + place])[0].numpy(), expected)
    assert np.array_equal(test.images([7])[0].numpy(), exact.transpose(2, 0, 1))


def test_tiny_imagenet_s_layout_and_images_of_other_modes(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "d", held="val", inner="images")
    (base / "train" / "cat" / "boxes.txt").write_text("")
    (base / "test" / "images").mkdir(parents=True)
    Image.fromarray(grey := noise(8, 8)).save(base / "val" / "cat" / "grey.PNG")
    Image.fromarray(noise(8, 8, 4)).save(base / "val" / "cat" / "rgba.png")
    (base / "val" / "cat" / "._0.png").write_bytes(b"not an image")
    dataset = open_dataset(f"folder:{base}", tmp_path)
    assert (len(dataset.train) + len(dataset.val), len(dataset.test)) == (18, 11)
    assert np.array_equal(dataset.test.images([3])[0].numpy(), np.stack([grey] * 3))
    (base / "val").rename(base / "classes")
    (base / "val" / "images").mkdir(parents=True)
    assert re.search("'images'.*/CLASS", complaint(lambda: open_dataset(f"folder:{base}", tmp_path).test))


def test_folder_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(base: Path) -> str:
        return complaint(lambda: open_dataset(f"folder:{base}", tmp_path).test)

    (tmp_path / "empty").mkdir()
    assert "two or more classes" in fails(tmp_path / "empty")
    words = {"x": "neither a test nor a val", "val": "no class folders", "val/cat": "empty", "test/fox": "'fox'"}
    for place, (inner, complained) in enumerate(words.items()):
        base = write_folder(tmp_path / str(place), held="other")
        (base / inner).mkdir(parents=True)
        assert complained in fails(base)
    path = (base := write_folder(tmp_path / "broken")) / "test" / "emu" / "2.png"
    path.write_bytes(path.read_bytes()[:90])
    for limit in (1e9, 0):
        monkeypatch.setattr(folder, "memory_limit", lambda limit=limit: limit)
        assert str(path) in complaint(lambda: open_dataset(f"folder:{base}", tmp_path).test.digest)
    path.write_bytes(b"nothing")
    assert str(path) in fails(base)


def test_parts_are_cut_out_of_the_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image of 20 x 60 at side 14, scaled to 16 x 48, the left end is no part of its middle."""
    base = write_folder(tmp_path / "d", size=(20, 60))
    path = base / "train" / "cat" / "0.png"
    whole = Image.open(path).convert("RGB").resize((48, 16), Image.Resampling.BILINEAR)
    train = open_dataset(f"folder:{base}@14", tmp_path / "root").train
    place = int((train.ids == 0).nonzero()[0])
    for _ in range(2):  # from the cache, and streamed
        assert train.files is not None
        seen: list[tuple[int, int]] = []

        def left_end(flipped: bool, height: int, width: int, seen: list[tuple[int, int]] = seen) -> images.Region:
            seen.append((height, width))  # in either order, as files are read side by side
            return (1.0, 0.0, 14.0, 14.0), flipped

        found = train.parts(train.files, [place, place], [partial(left_end, False), partial(left_end, True)]).numpy()
        expected = np.asarray(whole.crop((0, 1, 14, 15))).transpose(2, 0, 1)
        assert seen == [(16, 48)] * 2
        assert np.array_equal(found[0], expected)
        assert np.array_equal(found[1], expected[:, :, ::-1])
        (half,) = train.parts(
            train.files, [place], [lambda height, width: ((0, width / 2, height, 7.5), False)]
        ).numpy()
        resized = whole.resize((14, 14), Image.Resampling.BILINEAR, box=(24, 0, 31.5, 16))
        assert np.array_equal(half, np.asarray(resized).transpose(2, 0, 1))
        monkeypatch.setattr(folder, "memory_limit", lambda: 0)
        train = open_dataset(f"folder:{base}@14", tmp_path / "root").train
    assert open_dataset("digits").train.files is None

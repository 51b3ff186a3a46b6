"""Image files: every mode of Pillow read rightly or refused by name, sizes, links, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from robench.data.dataset import open_dataset
from robench.data.images import DIM, decode, image_files
from robench.errors import BadInput

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 256, (5, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)


def pixels(path: Path) -> NDArray[np.uint8]:
    """[H, W, 3] of a file of 5 x 6 pixels."""
    return decode(path, (5, 6)).transpose(1, 2, 0)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        decode(path, (5, 6))
    assert re.fullmatch(r".+\.", str(caught.value))
    assert str(path) in str(caught.value)
    return str(caught.value)


def grey_of(path: Path) -> NDArray[np.uint8]:
    found = pixels(path)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_high_byte(tmp_path: Path, ending: str) -> None:
    ramp = np.resize(np.array([0, 16384, 32768, 49152, 65535], np.uint16), (5, 6))
    found = grey_of(saved(tmp_path / f"ramp.{ending}", Image.fromarray(ramp)))
    assert sorted(set(found.ravel().tolist())) == [0, 64, 128, 192, 255]
    for made in (GREY.astype(np.uint16) * 257, GREY.astype(np.uint16) << 8):
        assert np.array_equal(grey_of(saved(tmp_path / f"a.{ending}", Image.fromarray(made))), GREY)


def test_sixteen_bits_of_the_other_byte_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((GREY.astype(np.uint16) * 257).astype(">u2")))
    with Image.open(path) as opened:
        assert opened.mode == "I;16B"
    assert np.array_equal(grey_of(path), GREY)


@pytest.mark.parametrize("largest", [1, 255, DIM])
def test_sixteen_bits_that_hold_fewer_are_refused(tmp_path: Path, largest: int) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.full((5, 6), largest, np.uint16)))
    assert f"16-bit pixels up to {largest} of 65535" in complaint(path)
    black = saved(tmp_path / "b.png", Image.fromarray(np.zeros((5, 6), np.uint16)))
    assert pixels(black).max() == 0


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, dtype: Any, mode: str) -> None:
    for scale in (1, 255):
        path = saved(tmp_path / "a.tif", Image.fromarray((GREY / 255 * scale).astype(dtype)))
        assert f"Pillow's mode {mode}), whose range is not known" in complaint(path)


def _palette(transparency: Any = None) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.fromarray(COLOUR).quantize(16)
    return image, {} if transparency is None else {"transparency": transparency}


PLAIN = {
    "1": (Image.fromarray(GREY).convert("1"), "png"),
    "L": (Image.fromarray(GREY), "png"),
    "LA": (Image.fromarray(np.dstack([GREY, GREY // 2])), "png"),
    "RGB": (Image.fromarray(COLOUR), "png"),
    "RGBA": (Image.fromarray(np.dstack([COLOUR, GREY])), "png"),
    "CMYK": (Image.fromarray(COLOUR).convert("CMYK"), "tif"),
    "YCbCr": (Image.fromarray(COLOUR).convert("YCbCr"), "tif"),
    "LAB": (Image.fromarray(COLOUR, "RGB"), "tif"),
    "P": (_palette()[0], "png"),
}


@pytest.mark.parametrize("mode", [name for name in PLAIN if name != "LAB"])
def test_an_image_is_read_as_torchvision_reads_it(tmp_path: Path, mode: str) -> None:
    image, ending = PLAIN[mode]
    assert image.mode == mode
    (tmp_path / "c").mkdir()
    path = saved(tmp_path / "c" / f"a.{ending}", image)
    expected = np.asarray(ImageFolder(str(tmp_path))[0][0])
    assert np.array_equal(pixels(path), expected)
    own = {"1": image.convert("L"), "L": image, "RGB": image}.get(mode)
    if own is not None:
        assert np.array_equal(pixels(path), np.asarray(own.convert("RGB")))


def test_lab_comes_near_the_colours_it_is_of(tmp_path: Path) -> None:
    from PIL import ImageCms

    smooth = np.linspace(60, 200, 90).reshape(5, 6, 3).astype(np.uint8)
    turn = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    path = saved(tmp_path / "a.tif", ImageCms.applyTransform(Image.fromarray(smooth), turn))
    with Image.open(path) as opened:
        assert opened.mode == "LAB"
    assert np.abs(pixels(path).astype(int) - smooth).max() <= 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))])
def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path, transparency: Any) -> None:
    image, options = _palette(transparency)
    path = saved(tmp_path / "a.png", image, **options)
    with Image.open(path) as opened:
        assert opened.has_transparency_data
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "PA", "HSV", "I;16L", "I;16N"])
def test_modes_that_no_file_here_opens_in(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of another Pillow may: it is RGB without a guess, or an image of 16 bits."""
    if mode.startswith("I;16"):
        image = Image.frombytes("I;16", (6, 5), (GREY.astype("<u2") * 257).tobytes()).convert("I").convert(mode)
        expected = np.stack([GREY] * 3, -1)
    else:
        source = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, "RGB")
        made = Image.fromarray(COLOUR).convert("L") if mode == "La" else Image.fromarray(COLOUR)
        image = made.convert(source).convert("P").convert("PA") if mode == "PA" else made.convert(source).convert(mode)
        expected = np.asarray(image.convert("LA" if mode == "La" else "RGBA").convert("RGB"))
    monkeypatch.setattr(Image, "open", lambda path: image)
    assert np.array_equal(pixels(tmp_path / "a.png"), expected)


def test_an_orientation_is_not_applied_as_in_torchvision(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "c").mkdir()
    path = saved(tmp_path / "c" / "a.png", Image.fromarray(COLOUR), exif=exif)
    assert np.array_equal(pixels(path), COLOUR)
    assert np.array_equal(np.asarray(ImageFolder(str(tmp_path))[0][0]), COLOUR)


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_a_file_of_several_images_is_refused(tmp_path: Path, ending: str) -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    path = saved(tmp_path / f"a.{ending}", first, save_all=True, append_images=[second])
    assert "holds 2 images; keep one" in complaint(path)


def write_tree(base: Path, count: int = 10, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Three classes of `count` images of 8 x 8 in every part."""
    for part in parts:
        for name in ("cat", "dog", "emu"):
            (base / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(base / part / name / f"{i}.png")
    return base


def said(base: str, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    open_dataset(base, root).tell()
    return capsys.readouterr().err


def test_one_image_of_another_size_among_many_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_tree(tmp_path / "d")
    digest = open_dataset(f"folder:{base}", tmp_path / "root").test.digest
    odd = base / "test" / "dog" / "9.png"
    Image.fromarray(RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(odd)
    with pytest.raises(BadInput) as caught:
        open_dataset(f"folder:{base}", tmp_path / "root").test  # noqa: B018
    assert f"59 are 8x8, and 1 are not, such as {odd} (9x8)" in str(caught.value)
    assert f"folder:{base}@SIZE" in str(caught.value)
    sized = open_dataset(f"folder:{base}@8", tmp_path / "root")
    assert sized.test.images([0]).shape == (1, 3, 8, 8)
    assert "those not 8x8 are scaled to a shorter side of 9 and cropped" in said(
        f"folder:{base}@8", tmp_path / "root", capsys
    )
    odd.unlink()
    whole = open_dataset(f"folder:{base}", tmp_path / "root")
    assert (len(whole.test), whole.test.images([0]).shape) == (29, (1, 3, 8, 8))
    assert whole.test.digest != digest


def test_images_of_many_sizes_are_scaled_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_tree(tmp_path / "d", count=2)
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (9 + i, 8, 3), dtype=np.uint8)).save(base / "test" / "cat" / f"x{i}.png")
    for _ in range(2):  # also when they come from the cache
        text = said(f"folder:{base}", tmp_path / "root", capsys)
        assert "5 sizes from 8x8 to 12x8 (height x width)" in text
        assert "scaled to 256 and its middle 224x224 taken" in text
        sized = said(f"folder:{base}@16-18-bicubic", tmp_path / "root", capsys)
        assert "5 sizes from 8x8 to 12x8 (height x width)" in sized
        assert "shorter side of 18 (bicubic)" in sized
        assert "224" not in sized  # which would be another size for the same images
        from robench.data import dataset

        dataset._told.clear()


def test_what_is_made_of_a_folder_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, exif = write_tree(tmp_path / "d"), Image.Exif()
    exif[274] = 3
    saved(base / "test" / "cat" / "a.png", Image.fromarray(np.zeros((8, 8, 4), np.uint8)))
    saved(base / "test" / "cat" / "b.png", Image.fromarray(np.full((8, 8), 65535, np.uint16)))
    saved(base / "test" / "cat" / "c.jpg", Image.fromarray(np.zeros((8, 8, 3), np.uint8)), exif=exif)
    (base / "test" / "dog" / "z.heic").write_bytes(b"")
    text = said(f"folder:{base}", tmp_path / "root", capsys)
    for words in (
        f"33 test images from {base / 'test'}", "all 8x8", "transparency is dropped, as torchvision does, from 1",
        "1 of them have an EXIF orientation, which is not applied", "high byte is kept of the 16-bit pixels of 1",
        "1 files .heic are left out", "order of their folders' names: 0 = cat, 1 = dog, 2 = emu.",
    ):  # fmt: skip
        assert words in text
    assert said(f"folder:{base}", tmp_path / "root", capsys) == ""


def test_a_class_that_is_a_link_and_links_within_it_are_followed(tmp_path: Path) -> None:
    base = write_tree(tmp_path / "d")
    (base / "test" / "emu").rename(tmp_path / "elsewhere")
    (base / "test" / "emu").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "more").mkdir()
    for i in range(5):
        (base / "test" / "dog" / f"{i}.png").rename(tmp_path / "more" / f"{i}.png")
    (base / "test" / "dog" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "up").symlink_to(base / "test" / "dog")
    (base / "test" / "dog" / "self").symlink_to(base / "test" / "dog")
    test = open_dataset(f"folder:{base}", tmp_path / "root").test
    assert len(test) == 30
    (tmp_path / "more" / "up").unlink()
    (base / "test" / "dog" / "self").unlink()
    expected = ImageFolder(str(base / "test"))
    assert test.labels.tolist() == expected.targets
    assert all(np.array_equal(test.images([i])[0].permute(1, 2, 0), np.asarray(expected[i][0])) for i in range(30))


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    base = write_tree(tmp_path / "d")
    (base / "test" / "fox").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"fox is a link to .*gone, which is not there"):
        open_dataset(f"folder:{base}", tmp_path / "root").test  # noqa: B018
    (base / "test" / "fox").unlink()
    (base / "test" / "emu" / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BadInput, match=r"emu/x\.png is missing"):
        open_dataset(f"folder:{base}", tmp_path / "root").test  # noqa: B018


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, followlinks: bool, onerror: Any) -> Any:
        onerror(PermissionError(13, "Permission denied", str(top)))

    monkeypatch.setattr("robench.data.images.os.walk", walk)
    with pytest.raises(BadInput, match=r"Permission denied.*check its permissions\.$"):
        image_files(tmp_path)


def test_a_folder_of_test_images_alone(tmp_path: Path) -> None:
    for part in ("test", "val"):
        base = write_tree(tmp_path / part, parts=(part,))
        dataset = open_dataset(f"folder:{base}", tmp_path / "root")
        assert (dataset.classes, len(dataset.test)) == (3, 30)
        with pytest.raises(BadInput, match="has no train folder, which training needs"):
            dataset.train  # noqa: B018


def test_sixteen_bit_files_are_the_same_data_as_eight_bit_ones(tmp_path: Path) -> None:
    digests = []
    for scale, dtype in ((1, np.uint8), (257, np.uint16)):
        base = tmp_path / str(scale)
        rng = np.random.default_rng(5)
        for part in ("train", "test"):
            for name in "ab":
                (base / part / name).mkdir(parents=True)
                for i in range(3):
                    image = rng.integers(0, 256, (8, 8)).astype(dtype) * dtype(scale)
                    Image.fromarray(image).save(base / part / name / f"{i}.png")
        digests.append(open_dataset(f"folder:{base}", tmp_path / "root").test.digest)
    assert digests[0] == digests[1]


def test_masks_of_zero_and_one_are_refused(tmp_path: Path) -> None:
    base = write_tree(tmp_path / "d")
    for path in (base / "test").rglob("*.png"):
        Image.fromarray(RNG.integers(0, 2, (8, 8), dtype=np.uint8)).save(path)
    with pytest.raises(BadInput, match=r"no pixel above 1 .*multiply pixels from 0 to 1 by 255"):
        open_dataset(f"folder:{base}", tmp_path / "root").test  # noqa: B018

"""Batched augmentation against plain per-image loops with the same offsets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robench.defense.augment import _boxes, augment, resized_crop, shifted_crop
from robench.errors import BadInput


def batch(count: int = 6, channels: int = 3, height: int = 9, width: int = 11) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(3))


def candidates(x: Tensor, kind: str) -> list[dict[bytes, tuple[int, int, bool]]]:
    """For each image, every outcome that `kind` allows, as bytes -> (top, left, mirrored), made one by one."""
    pad, mode, mirrors = {
        "crop-flip": (4, "constant", (False, True)),
        "reflect-crop-flip": (4, "reflect", (False, True)),
        "crop": (2, "constant", (False,)),
    }[kind]
    height, width = x.shape[-2:]
    outcomes: list[dict[bytes, tuple[int, int, bool]]] = []
    for image in x:
        padded = F.pad(image[None], (pad,) * 4, mode=mode)[0]
        outcomes.append({})
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                for mirror in mirrors:
                    window = padded[:, top : top + height, left : left + width]
                    outcome = window.flip(-1) if mirror else window
                    outcomes[-1][outcome.contiguous().numpy().tobytes()] = (top, left, mirror)
    return outcomes


@pytest.mark.parametrize("kind", ["crop-flip", "reflect-crop-flip", "crop"])
def test_every_crop_is_an_allowed_one_and_images_differ_in_their_draws(kind: str) -> None:
    x = batch(40)
    seen = [
        outcomes[out.numpy().tobytes()]
        for outcomes, out in zip(candidates(x, kind), augment(x, kind, torch.Generator().manual_seed(0)), strict=True)
    ]
    tops, lefts, mirrored = zip(*seen, strict=True)
    reach = 4 if kind == "crop" else 8
    assert {min(tops), min(lefts)} == {0}
    assert {max(tops), max(lefts)} == {reach}
    assert any(top != left for top, left in zip(tops, lefts, strict=True))
    assert 0 < sum(mirrored) < 40 if kind != "crop" else not any(mirrored)


def test_shifted_crop_equals_slicing_each_image() -> None:
    padded = batch(5, height=13, width=12)
    top, left = torch.tensor([0, 1, 4, 2, 3]), torch.tensor([4, 0, 1, 3, 2])
    flip = torch.tensor([True, False, True, True, False])
    got = shifted_crop(padded, (9, 8), top, left, flip)
    for image, out, t, s, mirror in zip(padded, got, top, left, flip, strict=True):
        window = image[:, t : t + 9, s : s + 8]
        assert torch.equal(out, window.flip(-1) if mirror else window)


def bilinear(image: Tensor, row: float, column: float) -> Tensor:
    """The value [C] at a point whose unit is a pixel and whose origin is the corner of the first one."""
    height, width = image.shape[-2:]
    row, column = min(max(row - 0.5, 0.0), height - 1.0), min(max(column - 0.5, 0.0), width - 1.0)
    top, left = math.floor(row), math.floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = row - top, column - left
    upper = image[:, top, left] * (1 - along) + image[:, top, right] * along
    lower = image[:, bottom, left] * (1 - along) + image[:, bottom, right] * along
    return upper * (1 - down) + lower * down


def test_resized_crop_equals_sampling_each_pixel() -> None:
    x = batch(4)
    height, width = x.shape[-2:]
    boxes = torch.tensor([[0.0, 0.0, 9.0, 11.0], [1.5, 2.25, 4.0, 6.5], [5.0, 0.0, 4.0, 4.0], [0.3, 7.0, 8.7, 4.0]])
    flip = torch.tensor([False, True, False, True])
    got = resized_crop(x, boxes, flip)
    for image, out, box, mirror in zip(x, got, boxes.tolist(), flip, strict=True):
        top, left, tall, wide = box
        for i in range(height):
            for j in range(width):
                place = width - 1 - j if mirror else j
                point = bilinear(image, top + (i + 0.5) / height * tall, left + (place + 0.5) / width * wide)
                assert torch.allclose(out[:, i, j], point, atol=1e-5)
    assert torch.allclose(got[0], x[0], atol=1e-6)


def test_boxes_lie_inside_and_have_the_asked_area_and_ratio() -> None:
    top, left, tall, wide = _boxes(4000, 24, 32, torch.device("cpu"), torch.Generator().manual_seed(1)).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 24 + 1e-4).all()
    assert (left + wide <= 32 + 1e-4).all()
    area, ratio = tall * wide / (24 * 32), wide / tall
    assert area.min() >= 0.0799
    assert area.max() <= 1.0001
    assert area.min() < 0.1
    assert area.max() > 0.9
    assert ratio.min() >= 0.7499
    assert ratio.max() <= 1.3334


@pytest.mark.parametrize("kind", ["crop-flip", "reflect-crop-flip", "crop", "imagenet"])
def test_the_generator_alone_decides_and_the_input_stays(kind: str) -> None:
    x = batch()
    before = x.clone()
    first, again, other = (augment(x, kind, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert first.min() >= 0
    assert first.max() <= 1


def test_half_of_the_images_are_mirrored() -> None:
    ramp = torch.linspace(0, 1, 16).expand(2000, 1, 16, 16)
    out = augment(ramp, "imagenet", torch.Generator().manual_seed(5))
    mirrored = (out[:, 0, 8, 0] > out[:, 0, 8, -1]).float().mean()
    assert abs(mirrored - 0.5) < 4 * 0.5 / math.sqrt(2000)


def test_none_and_unknown_kinds_and_an_empty_batch() -> None:
    x = batch()
    assert augment(x, "none") is x
    assert augment(x[:0], "crop-flip").shape == (0, 3, 9, 11)
    with pytest.raises(BadInput, match="did you mean 'crop-flip'"):
        augment(x, "crop-flop")

"""Random augmentation of whole batches on any device: padded crops, flips, random resized crops."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robench.errors import unknown

# kind -> (padding in pixels, padding mode, whether half of the images are mirrored)
_CROPS: dict[str, tuple[int, str, bool]] = {
    "crop-flip": (4, "constant", True),
    "reflect-crop-flip": (4, "reflect", True),
    "crop": (2, "constant", False),
}
KINDS = ("none", *_CROPS, "imagenet")
_SCALE = (0.08, 1.0)  # area of a random resized crop, as a share of the image's
_RATIO = (3 / 4, 4 / 3)  # its width over its height
_TRIES = 10  # boxes drawn per image, of which the first that fits is used


def augment(x: Tensor, kind: str, generator: torch.Generator | None = None) -> Tensor:
    """A randomly changed copy of float images [B, C, H, W], each image with its own draw; the shape stays.

    "crop-flip" pads 4 zeros, "reflect-crop-flip" mirrors 4 pixels, both then cut out H x W at random and mirror every
    second image on average; "crop" pads 2 zeros and never mirrors; "imagenet" cuts out 8-100% of the area at an aspect
    ratio of 3/4 to 4/3, enlarges it bilinearly and mirrors. "none" gives `x` itself. Draws come from `generator`, on
    its own device. Raises `BadInput` for another kind.
    """
    if kind not in KINDS:
        raise unknown("augmentation", kind, KINDS)
    if kind == "none" or len(x) == 0:
        return x
    if kind == "imagenet":
        boxes = _boxes(len(x), x.shape[-2], x.shape[-1], x.device, generator)
        return resized_crop(x, boxes, _coins(len(x), x.device, generator))
    padding, mode, mirrored = _CROPS[kind]
    offsets = torch.floor(_uniform((2, len(x)), x.device, generator) * (2 * padding + 1)).long()
    flip = _coins(len(x), x.device, generator) if mirrored else torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return shifted_crop(F.pad(x, (padding,) * 4, mode=mode), (x.shape[-2], x.shape[-1]), offsets[0], offsets[1], flip)


def shifted_crop(padded: Tensor, size: tuple[int, int], top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Windows of `size` (H, W) out of `padded` [B, C, H', W'], at `top` and `left` [B], mirrored where `flip` [B]."""
    height, width = size
    batch, channels = padded.shape[:2]
    device = padded.device
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    rows = top[:, None] + torch.arange(height, device=device)
    image = torch.arange(batch, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def resized_crop(x: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """The part of each image [B, C, H, W] inside its box, enlarged to H x W and mirrored where `flip` [B] holds.

    `boxes` [B, 4] are top, left, height and width in pixels and need not be whole numbers.
    """
    height, width = x.shape[-2:]
    top, left, tall, wide = boxes.unbind(1)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    # affine_grid maps output to input coordinates, both running from -1 to 1; a negative scale mirrors
    theta[:, 0, 0] = torch.where(flip, -wide, wide) / width
    theta[:, 0, 2] = (2 * left + wide) / width - 1
    theta[:, 1, 1] = tall / height
    theta[:, 1, 2] = (2 * top + tall) / height - 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False).to(x.dtype)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_part(height: int, width: int, generator: torch.Generator) -> tuple[tuple[float, float, float, float], bool]:
    """What "imagenet" draws for one image: the part (top, left, height, width) in pixels, and whether to mirror it."""
    top, left, tall, wide = _boxes(1, height, width, torch.device("cpu"), generator)[0].tolist()
    return (top, left, tall, wide), bool(_coins(1, torch.device("cpu"), generator))


def _boxes(batch: int, height: int, width: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Random boxes [B, 4] (top, left, height, width) inside the image; one that never fits is cut to the image."""
    area, aspect = _uniform((2, batch, _TRIES), device, generator)
    area = height * width * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = torch.exp(low + aspect * (high - low))
    wide, tall = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    first = ((wide <= width) & (tall <= height)).to(torch.uint8).argmax(dim=1, keepdim=True)
    wide = wide.gather(1, first).squeeze(1).clamp(max=width)
    tall = tall.gather(1, first).squeeze(1).clamp(max=height)
    place = _uniform((2, batch), device, generator)
    return torch.stack([place[0] * (height - tall), place[1] * (width - wide), tall, wide], dim=1)


def _coins(batch: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    return _uniform((batch,), device, generator) < 0.5


def _uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1), drawn where the generator lives and moved to `device`."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source).to(device)

"""Adversarial images in 8 bits that stay within the threat model: each pixel up or down, as is near and allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from robench.threat import TOLERANCE, ThreatModel

# steps of 1/255 by which float32 misses a whole number
NEAR = 1e-3


def rounded_inside(threat: ThreatModel, original: Tensor, x: Tensor) -> Tensor:
    """x, float32 [B, ...] in [0, 1] and within eps of `original`, uint8 [B, ...], as uint8 [B, ...] within eps of it.

    Every pixel becomes the nearest of 0 to 255, but where the image would lie outside the ball: then pixels that were
    rounded away from the original are rounded towards it instead, as few as suffice, in the order that the norm says.
    """
    assert original.dtype is torch.uint8, "other pixels are fractions of 1, not of 255"
    start = original.to(torch.float64)
    delta = (x.to(torch.float64) * 255).clamp(0, 255) - start
    nearest = delta.round()
    inward = torch.where((delta - nearest).abs() < NEAR, nearest, delta.trunc())
    beyond = (nearest.abs() > delta.abs()) & (nearest != inward)
    found = nearest.clone()
    outside = (~_inside(threat, start, nearest)).nonzero()[:, 0]
    if len(outside):
        part = _turned(threat, start[outside], nearest[outside], inward[outside], delta[outside], beyond[outside])
        found[outside] = _pulled(threat, start[outside], part)
    return (start + found).to(torch.uint8)


def _inside(threat: ThreatModel, start: Tensor, delta: Tensor) -> Tensor:
    """Whether whole steps from the originals are within eps, as float32 pixels are judged, bool [B]."""
    x0, x = (start / 255).float(), ((start + delta) / 255).float()
    return threat.distance(x0, x) <= threat.radius + TOLERANCE


def _turned(
    threat: ThreatModel, start: Tensor, nearest: Tensor, inward: Tensor, delta: Tensor, beyond: Tensor
) -> Tensor:
    """Of pixels that may be turned (`beyond`), the first few turned inwards, as few as bring the image inside."""
    size, over = nearest.flatten(1).abs(), (nearest - delta).flatten(1).abs()
    order = threat.geometry.turning(size, over).where(beyond.flatten(1), -torch.inf)
    rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1).reshape_as(nearest)
    least = torch.zeros(len(start), dtype=torch.int64)
    most = beyond.flatten(1).sum(1)
    while bool((least < most).any()):
        middle = (least + most) // 2
        within = _inside(threat, start, _with(nearest, inward, rank, beyond, middle))
        most = torch.where(within, middle, most)
        least = torch.where(within, least, middle + 1).minimum(most)
    return _with(nearest, inward, rank, beyond, most)


def _with(nearest: Tensor, inward: Tensor, rank: Tensor, beyond: Tensor, count: Tensor) -> Tensor:
    chosen = beyond & (rank < count.reshape(-1, *(1,) * (rank.dim() - 1)))
    return torch.where(chosen, inward, nearest)


def _pulled(threat: ThreatModel, start: Tensor, delta: Tensor) -> Tensor:
    """The same, a step nearer in the largest pixels as long as an image lies outside: one on the very edge of the ball,
    up to rounding, may."""
    while len(outside := (~_inside(threat, start, delta)).nonzero()[:, 0]):
        flat = delta[outside].flatten(1)
        largest = flat.abs() == flat.abs().amax(1, keepdim=True)
        delta[outside] = (flat - largest * flat.sign()).reshape_as(delta[outside])
    return delta

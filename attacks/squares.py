"""The images beside an image that a random search with squares asks about, in linf and L2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from robench import Batch, expand, picked

TILES = 5  # of the first L2 perturbation, per side


class Moves(ABC):
    """Where the search goes from an image, in one norm. Tensors hold the live rows.

    least: the smallest side of a square; numbers: how many a query draws for an image.
    """

    least: ClassVar[int]
    numbers: int

    @abstractmethod
    def start(self, batch: Batch) -> Tensor:
        """The first images, [B, C, H, W]."""

    @abstractmethod
    def step(self, x: Tensor, side: int, noise: Tensor, at: Tensor | None = None) -> Tensor:
        """Images beside x [B, C, H, W], of noise [B, numbers] in [0, 1); side: of the squares, at most H and W.

        at: which live rows those are, int64 [B]; None for all of them.
        """

    @abstractmethod
    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""


class Patches(Moves):
    """linf: a square at an end of its range. A query draws a corner, and a sign per channel."""

    least: ClassVar[int] = 1

    def __init__(self, batch: Batch) -> None:
        self.x0, self.radius = batch.x, batch.threat.radius
        self.low, self.high = (batch.x - self.radius).clamp_(min=0.0), (batch.x + self.radius).clamp_(max=1.0)
        self.numbers = 2 + batch.x.shape[1]

    def start(self, batch: Batch) -> Tensor:
        """Vertical stripes, a sign per column and channel."""
        return torch.where(batch.uniform("start")[:, :, :1] < 0.5, self.low, self.high)

    def step(self, x: Tensor, side: int, noise: Tensor, at: Tensor | None = None) -> Tensor:
        """x with one square at an end of its range, chosen per channel."""
        low, high = (self.low, self.high) if at is None else picked(at, self.low, self.high)
        inside = _square(x, noise[:, :2], side)
        ends = torch.where(noise[:, 2:, None, None] < 0.5, low, high)
        return torch.where(inside, ends, x)

    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""
        self.x0, self.low, self.high = picked(keep, self.x0, self.low, self.high)


class Bumps(Moves):
    """L2: the perturbation of one square moves to another. A query draws two corners, which way a bump lies, and a
    sign per channel."""

    least: ClassVar[int] = 3

    def __init__(self, batch: Batch) -> None:
        self.x0, self.radius = batch.x, batch.threat.radius
        self.numbers = 5 + batch.x.shape[1]

    def start(self, batch: Batch) -> Tensor:
        """A grid of bumps, each with a sign per channel and one of two ways to lie."""
        height, width = batch.x.shape[2:]
        side = max(min(height, width) // TILES, 1)
        sign, turned = batch.uniform("start") < 0.5, batch.uniform("turned") < 0.5
        delta = torch.zeros_like(batch.x)
        for top in _starts(height, side):
            for left in _starts(width, side):
                bump = _lying(turned[:, :1, top, left], side, batch.x)
                signs = torch.where(sign[:, :, top, left], -1.0, 1.0)
                delta[:, :, top : top + side, left : left + side] = signs[:, :, None, None] * bump
        return self._onto_sphere(self.x0, delta)

    def step(self, x: Tensor, side: int, noise: Tensor, at: Tensor | None = None) -> Tensor:
        """x with the perturbation of a second square spent on a bump in the first (Algorithm 3)."""
        side += (side + 1) % 2  # odd, as a bump has a middle
        side = min(side, *x.shape[2:])
        (x0,) = (self.x0,) if at is None else picked(at, self.x0)
        delta, channels = x - x0, x.shape[1]
        first, second = _square(x, noise[:, :2], side), _square(x, noise[:, 2:4], side)
        sign = torch.where(noise[:, 5:, None, None] < 0.5, -1.0, 1.0)
        bump = torch.zeros_like(x)
        bump[first.expand_as(x)] = (sign * _lying(noise[:, 4:5] < 0.5, side, x)).flatten()
        own = torch.where(first, delta, 0.0)
        mixed = bump + own / _length(own)
        spare = (self.radius**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0.0) / channels
        budget = torch.where(first | second, delta, 0.0).square().sum((2, 3), keepdim=True) + spare
        return self._onto_sphere(
            x0, torch.where(first, mixed / _length(mixed) * budget.sqrt(), torch.where(second, 0.0, delta))
        )

    def _onto_sphere(self, x0: Tensor, delta: Tensor) -> Tensor:
        length = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
        return (x0 + delta * expand(self.radius / length, delta)).clamp_(0.0, 1.0)

    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""
        (self.x0,) = picked(keep, self.x0)


def _square(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Where a square of `side` lies in x [B, C, H, W], placed by corner [B, 2] in [0, 1): bool [B, 1, H, W]."""
    rows, columns = (interval(corner[:, i], x.shape[2 + i], side) for i in range(2))
    return rows[:, None, :, None] & columns[:, None, None, :]


def interval(place: Tensor, length: int, side: int) -> Tensor:
    """`side` of `length` positions in a row, the first one drawn as place [B] in [0, 1): bool [B, length]."""
    first = (place * (length - side + 1)).long().clamp(max=length - side)[:, None]
    at = torch.arange(length, device=place.device)
    return (at >= first) & (at < first + side)


def _starts(length: int, side: int) -> range:
    """Where the tiles of one side begin, as many as fit and at most TILES, in the middle."""
    count = min(length // side, TILES)
    first = (length - count * side) // 2
    return range(first, first + count * side, side)


def _lying(turned: Tensor, side: int, like: Tensor) -> Tensor:
    """The bump of `side`, transposed in the rows marked in `turned`, bool [B, 1]: [B, 1, side, side]."""
    shape = bump(side).to(like)
    return torch.where(turned[:, :, None, None], shape.T, shape)


@cache
def bump(side: int) -> Tensor:
    """A hill in the upper half of a square and a hollow in the lower one, of length 1 (section 3.4): [side, side]."""
    upper = side // 2
    whole = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    return whole / whole.norm()


def _hill(height: int, width: int) -> Tensor:
    """Rectangles about one middle on top of each other, the k-th 1/k^2 high, of length 1: [height, width].

    The middle and the sizes, on which the paper is vague, are as in the authors' code.
    """
    away = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    most = max(height // 2, width // 2) + 1
    steps = torch.arange(1, most + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)  # sum over k >= its place
    hill = steps[away]
    return (hill / hill.norm().clamp(min=1e-12)).float()


def _length(delta: Tensor) -> Tensor:
    """The length of every channel: [B, C, H, W] -> [B, C, 1, 1], never zero."""
    return delta.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)

"""Square: random search with square patches, which asks for answers alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from robench import (
    Attack,
    Batch,
    BatchModel,
    Cost,
    Kind,
    Proposal,
    Range,
    Restarts,
    ThreatModel,
    Trials,
    check_count,
    either,
    expand,
    firm_from,
    misclassified_margin,
    picked,
    randomness,
)

# after so many of 10,000 queries a square covers half as many pixels (the authors' code; the paper's text has no 500)
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 500  # queries whose random numbers are drawn at once
TILES = 5  # of the first L2 perturbation, per side


class Square(Attack):
    """Random search with square patches; needs no gradient (Andriushchenko et al., 2020, Algorithms 1 to 3).

    linf begins with random stripes of +-eps and sets a random square to +-eps per channel; L2 begins with a grid of
    bumps and moves the perturbation of one square to another, which becomes a bump. What raises the margin max_{s != y}
    f_s - f_y firmly is kept: by more than another batch size changes it, so that no path hangs on rounding.

    queries: answers asked for, the first image's included. p_init: the share of the pixels that the first squares
    cover, halved as the authors do. Every number is a function of (seed, example, trial, query).
    """

    kind: ClassVar[Kind] = "query"

    def __init__(
        self,
        *,
        queries: Annotated[int, Range(1, 1_000_000)] = 5000,
        p_init: Annotated[float, Range(0.0, 1.0, above=True)] = 0.8,
        restarts: Restarts = 1,
    ) -> None:
        check_count("queries", queries)
        check_count("restarts", restarts)
        self.queries, self.p_init, self.restarts = queries, p_init, restarts

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """An answer per query."""
        del threat, classes
        return Cost(0, self.queries)

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """The image with the largest margin."""
        return self.improve(model, batch)

    def improve(self, model: BatchModel, batch: Batch, start: Tensor | None = None) -> Proposal:
        """The same from images `start` [B, C, H, W] within the ball, instead of stripes or bumps."""
        return _Search(self, model, batch).run(start)

    def side(self, query: int, height: int, width: int) -> int:
        """The side of the square of a query, in pixels, before a norm has its say."""
        halvings = sum(query * 10_000 // self.queries > after for after in HALVED)
        return round(math.sqrt(self.p_init / 2**halvings * height * width))


class _Moves(ABC):
    """Where the search goes from an image, in one norm. Tensors hold the live rows.

    least: the smallest side of a square; numbers: how many a query draws for an image.
    """

    least: ClassVar[int]
    numbers: int

    @abstractmethod
    def start(self, batch: Batch) -> Tensor:
        """The first images, [B, C, H, W]."""

    @abstractmethod
    def step(self, x: Tensor, side: int, noise: Tensor) -> Tensor:
        """Images beside x [B, C, H, W], of noise [B, numbers] in [0, 1); side: of the squares, at most H and W."""

    @abstractmethod
    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""


class _Patches(_Moves):
    """linf: a square at an end of its range. A query draws a corner, and a sign per channel."""

    least: ClassVar[int] = 1

    def __init__(self, batch: Batch) -> None:
        self.x0, self.radius = batch.x, batch.threat.radius
        self.low, self.high = (batch.x - self.radius).clamp_(min=0.0), (batch.x + self.radius).clamp_(max=1.0)
        self.numbers = 2 + batch.x.shape[1]

    def start(self, batch: Batch) -> Tensor:
        """Vertical stripes, a sign per column and channel."""
        return torch.where(batch.uniform("start")[:, :, :1] < 0.5, self.low, self.high)

    def step(self, x: Tensor, side: int, noise: Tensor) -> Tensor:
        """x with one square at an end of its range, chosen per channel."""
        inside = _square(x, noise[:, :2], side)
        ends = torch.where(noise[:, 2:, None, None] < 0.5, self.low, self.high)
        return torch.where(inside, ends, x)

    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""
        self.x0, self.low, self.high = picked(keep, self.x0, self.low, self.high)


class _Bumps(_Moves):
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
        return self._onto_sphere(delta)

    def step(self, x: Tensor, side: int, noise: Tensor) -> Tensor:
        """x with the perturbation of a second square spent on a bump in the first (Algorithm 3)."""
        side += (side + 1) % 2  # odd, as a bump has a middle
        side = min(side, *x.shape[2:])
        delta, channels = x - self.x0, x.shape[1]
        first, second = _square(x, noise[:, :2], side), _square(x, noise[:, 2:4], side)
        sign = torch.where(noise[:, 5:, None, None] < 0.5, -1.0, 1.0)
        bump = torch.zeros_like(x)
        bump[first.expand_as(x)] = (sign * _lying(noise[:, 4:5] < 0.5, side, x)).flatten()
        own = torch.where(first, delta, 0.0)
        mixed = bump + own / _length(own)
        spare = (self.radius**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0.0) / channels
        budget = torch.where(first | second, delta, 0.0).square().sum((2, 3), keepdim=True) + spare
        return self._onto_sphere(
            torch.where(first, mixed / _length(mixed) * budget.sqrt(), torch.where(second, 0.0, delta))
        )

    def _onto_sphere(self, delta: Tensor) -> Tensor:
        length = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
        return (self.x0 + delta * expand(self.radius / length, delta)).clamp_(0.0, 1.0)

    def select(self, keep: Tensor) -> None:
        """Keep the rows at positions `keep`."""
        (self.x0,) = picked(keep, self.x0)


class _Search:
    """The state of one run. Tensors hold the live rows, but for `out`, `out_step` and `nonfinite`, which hold all."""

    def __init__(self, attack: Square, model: BatchModel, batch: Batch) -> None:
        self.attack, self.whole, self.model, self.batch = attack, model, model, batch
        # a random model's luckiest draw ends nothing, nor does a surrogate's answer
        self.stays = model.randomised or model.crafting
        self.moves: _Moves = _Patches(batch) if batch.threat.norm == "linf" else _Bumps(batch)
        self.rows, self.group = torch.arange(len(batch), device=batch.x.device), batch.group.to(batch.x.device)
        self.x, self.y = batch.x, batch.y
        self.best = batch.x.new_full((len(batch),), -torch.inf)
        self.found = torch.zeros_like(self.group, dtype=torch.bool)
        self.out, self.out_step = batch.x.clone(), torch.full_like(batch.y, -1)
        self.nonfinite = torch.zeros_like(self.found)

    def run(self, start: Tensor | None = None) -> Proposal:
        """Ask for every query, or until all are found; start: the first images, if not the usual ones."""
        height, width = self.x.shape[2:]
        proposed, noise = self.moves.start(self.batch) if start is None else start, torch.empty(0)
        for query in range(self.attack.queries):
            if query:
                at = (query - 1) % BLOCK
                if at == 0:
                    noise = self._noise((query - 1) // BLOCK)
                side = min(max(self.attack.side(query - 1, height, width), self.moves.least), height, width)
                proposed = self.moves.step(self.x, side, noise[:, at])
            keep = self._record(proposed, query)
            if keep is not None:
                if not len(keep):
                    break
                self._select(keep)
                (noise,) = picked(keep, noise) if len(noise) else (noise,)
        self.out[self.rows] = self.x
        self.whole.note_nonfinite(self.nonfinite)
        return Proposal(self.batch.threat.project(self.batch.x, self.out), self.out_step.cpu())

    def _noise(self, block: int) -> Tensor:
        """The numbers of a block of queries: [B, BLOCK, numbers] in [0, 1)."""
        rows, batch = self.rows.cpu(), self.batch
        ids, trials = batch.example_id[rows].tolist(), batch.trial[rows].tolist()
        shape = (min(BLOCK, self.attack.queries), self.moves.numbers)
        return randomness.uniform(batch.seed, ids, trials, f"queries-{block}", shape).to(self.x.device)

    def _record(self, proposed: Tensor, query: int) -> Tensor | None:
        """Keep what is better; positions of the rows that still stand, or None where all do."""
        logits = self.model(proposed)
        finite = logits.isfinite().all(1)
        # a model that answers with NaN has given no right answer: a find, for the judge to confirm
        margin = torch.where(finite, misclassified_margin(logits, self.y), torch.inf)
        least = firm_from(logits)
        better = (margin - self.best > least) | ((margin > 0) & (self.best <= 0))
        self.x = either(better, proposed, self.x)
        self.best = torch.where(better, margin, self.best)
        self.out_step[self.rows[better]] = query
        self.nonfinite[self.rows] |= ~finite
        leaves = better & ((margin > least) | ~finite)
        if self.stays or not bool(leaves.any()):
            return None
        self.found[self.group[leaves]] = True
        return (~self.found[self.group]).nonzero()[:, 0]

    def _select(self, keep: Tensor) -> None:
        self.out[self.rows] = self.x
        self.rows, self.x, self.y, self.best = picked(keep, self.rows, self.x, self.y, self.best)
        (self.group,), self.model = picked(keep, self.group), self.model.select(keep.cpu())
        self.moves.select(keep)


def _square(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """Where a square of `side` lies in x [B, C, H, W], placed by corner [B, 2] in [0, 1): bool [B, 1, H, W]."""
    rows, columns = (_interval(corner[:, i], x.shape[2 + i], side) for i in range(2))
    return rows[:, None, :, None] & columns[:, None, None, :]


def _interval(place: Tensor, length: int, side: int) -> Tensor:
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
    bump = _bump(side).to(like)
    return torch.where(turned[:, :, None, None], bump.T, bump)


@cache
def _bump(side: int) -> Tensor:
    """A hill in the upper half of a square and a hollow in the lower one, of length 1 (section 3.4): [side, side]."""
    upper = side // 2
    bump = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    return bump / bump.norm()


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

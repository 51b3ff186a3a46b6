"""Minimal-norm readings of FGSM and PGD: the nearest image each of them finds, so that one run gives every eps."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from robench import (
    Attack,
    Batch,
    BatchModel,
    Cost,
    Range,
    Steps,
    ThreatModel,
    check_count,
    cross_entropy,
    expand,
    firm_margin,
    misclassified_margin,
    picked,
    require,
)

CHUNK = 10  # sizes of a line asked about in one batch
REFINED = 20  # a hit among this many first sizes of a line is looked for again, on a line of this many
CLOSED = 1e-6  # brackets narrower than this, in pixels, hold nothing worth a search


class MinimalFGSM(Attack):
    """The nearest misclassified image along the sign of the gradient, by line search (foolbox 2's FGSM).

    eps bounds the search; sizes are 1/line apart, and the first at which the answer is wrong counts. One among the
    first 20 is looked for again among 20 sizes up to it. With eps 1 the rows' distances give the accuracy at every eps.

    A model that answers at random, and a surrogate, for whose target its own boundary means nothing, are not searched:
    the image at eps is proposed.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    kind = "single-step"
    guided = True

    def __init__(self, *, line: Annotated[int, Range(1, 100_000)] = 1000) -> None:
        check_count("line", line)
        self.line = line

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """One backward pass; forwards, the whole line, and the refinement of an early hit."""
        del classes
        steps = self._sizes(threat)
        return Cost(1, 1 + max(steps, min(steps, REFINED) + REFINED - 1))

    def _sizes(self, threat: ThreatModel) -> int:
        """How many sizes the line has up to eps."""
        return math.ceil(threat.radius * self.line - 1e-9)

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The image at the first size that succeeds, or at eps where none does."""
        radius = batch.threat.radius
        logits, grad = model.gradient(batch.x, partial(cross_entropy, y=batch.y))
        model.note_zero_gradient(grad)
        model.note_nonfinite(~logits.isfinite().all(1))
        line = _Line(model, batch, grad.nan_to_num(0.0).sign())
        size = torch.full_like(grad[:, 0, 0, 0], radius)
        if not (model.randomised or model.crafting or radius == 0):
            steps = self._sizes(batch.threat)
            sizes = (torch.arange(1, steps + 1, device=size.device) / self.line).clamp(max=radius)
            rows = torch.arange(len(batch), device=size.device)
            first = line.first_hit(rows, sizes[:, None].expand(steps, len(rows)))
            size = torch.where(first < steps, sizes[first.clamp(max=steps - 1)], size)
            rows = (first < min(REFINED, steps)).nonzero()[:, 0]
            shares = torch.arange(1, REFINED, device=size.device) / REFINED
            first = line.first_hit(rows, shares[:, None] * size[rows])
            size[rows] *= torch.where(first < len(shares), (first + 1) / REFINED, 1.0)
        return batch.threat.project(batch.x, line.at(torch.arange(len(batch)), size))


class _Line:
    """The images x + size * direction of a batch."""

    def __init__(self, model: BatchModel, batch: Batch, direction: Tensor) -> None:
        self.model, self.x, self.y, self.direction = model, batch.x, batch.y, direction

    def at(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """The images of `rows` int64 [R] at `sizes` [R]."""
        return (self.x[rows] + expand(sizes, self.x) * self.direction[rows]).clamp_(0.0, 1.0)

    def first_hit(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """The position of the first of `sizes` [K, R] at which each of `rows` int64 [R] is broken, or K: int64 [R]."""
        count = len(sizes)
        first, live = torch.full_like(rows, count), torch.arange(len(rows), device=rows.device)
        for start in range(0, count, CHUNK):
            if not len(live):
                break
            part, here = sizes[start : start + CHUNK, live], rows[live]
            images, model = self.at(here.repeat(len(part)), part.flatten()), self.model.select(here.cpu())
            hit = _broken(model, model(images), self.y[here]).reshape(part.shape)
            place = torch.arange(start, start + len(part), device=rows.device)[:, None]
            first[live] = torch.where(hit, place, count).amin(0)
            live = live[~hit.any(0)]
        return first


class MinimalPGD(Attack):
    """The nearest misclassified image PGD finds, by a search over its eps (foolbox 2's PGD).

    `steps` sign steps on the cross-entropy from a random start, in balls `growth` times larger each from `first` on
    until one holds an example, then in `bisections` balls between those that hold one and those that do not; a find is
    as good as its own distance. reach: length of all steps together in radii; 4/3 is 40 steps of 0.01 at 0.3. eps
    bounds the search, and with eps 1 the rows' distances give the accuracy at every eps.

    A model that answers at random, and a surrogate, for whose target its own boundary means nothing, are not searched:
    the last image of all steps at eps is proposed.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    guided = True

    def __init__(
        self,
        *,
        steps: Steps = 40,
        reach: Annotated[float, Range(0.0, 1000.0, above=True)] = 4 / 3,
        first: Annotated[float, Range(1e-6, 1.0)] = 0.3,
        growth: Annotated[float, Range(1.01, 1000.0)] = 1.5,
        bisections: Annotated[int, Range(0, 100)] = 20,
    ) -> None:
        check_count("steps", steps)
        check_count("bisections", bisections, least=0)
        require(0 < reach < math.inf, "reach", reach, "a positive number")
        require(0 < first <= 1, "first", first, "a radius in (0, 1]")
        require(1 < growth < math.inf, "growth", growth, "a number above 1")
        self.steps, self.reach, self.first = steps, reach, first
        self.growth, self.bisections = growth, bisections

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """A search in every ball up to eps, and in those between for an example that is broken in the last one."""
        del classes
        most = threat.radius
        radius, searches = min(self.first, most), int(most > 0)
        while radius < most:
            radius, searches = min(self.growth * radius, most), searches + 1
        searches += self.bisections if most else 0
        return Cost(searches * self.steps, searches * (self.steps + 1))

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The nearest find, or the last image at eps where there is none."""
        most = batch.threat.radius
        if most == 0:
            return batch.x.clone()
        balls = _Balls(self, model, batch)
        rows = torch.arange(len(batch), device=batch.x.device)
        radius = most if balls.last_only else min(self.first, most)
        low = torch.zeros_like(balls.high)
        while True:
            rows = rows[~balls.search(rows, torch.full_like(low[rows], radius))]
            low[rows] = radius
            if not len(rows) or radius == most:
                break
            radius = min(self.growth * radius, most)
        for _ in range(self.bisections):
            rows = (balls.high.isfinite() & (balls.high - low > CLOSED)).nonzero()[:, 0]
            if not len(rows):
                break
            middle = (low[rows] + balls.high[rows]) / 2
            low[rows] = torch.where(balls.search(rows, middle), low[rows], middle)
        return batch.threat.project(batch.x, balls.best)


class _Balls:
    """PGD in balls of a radius per row, and what it found.

    best: the nearest find of every row, or its latest last image; high: the find's distance, or infinity.
    """

    def __init__(self, attack: MinimalPGD, model: BatchModel, batch: Batch) -> None:
        self.attack, self.model, self.x, self.y = attack, model, batch.x, batch.y
        self.noise = 2 * batch.uniform("start") - 1
        self.best, self.high = batch.x.clone(), torch.full_like(self.noise[:, 0, 0, 0], torch.inf)
        self.last_only, self.fresh = model.randomised or model.crafting, True

    def search(self, rows: Tensor, radius: Tensor) -> Tensor:
        """Whether each of `rows` int64 [R] is broken within `radius` [R]; a row leaves with its first find."""
        found = torch.zeros_like(rows, dtype=torch.bool)
        live = torch.arange(len(rows), device=rows.device)
        model, (low, high) = self.model.select(rows.cpu()), self._bounds(rows, radius)
        x = (self.x[rows] + expand(radius, self.x) * self.noise[rows]).clamp_(0.0, 1.0)
        for _ in range(self.attack.steps):
            here = rows[live]
            logits, grad = model.gradient(x, partial(cross_entropy, y=self.y[here]))
            if self.fresh:
                model.note_zero_gradient(grad)
                self.fresh = False
            hit = self._record(model, here, x, logits)
            if bool(hit.any()):
                found[live[hit]], keep = True, (~hit).nonzero()[:, 0]
                if not len(keep):
                    return found
                live, x, grad, low, high = picked(keep, live, x, grad, low, high)
                model = model.select(keep.cpu())
            size = expand(radius[live] * (self.attack.reach / self.attack.steps), x)
            x = (x + size * grad.nan_to_num(0.0).sign()).clamp(low, high)
        here = rows[live]
        without = self.high[here].isinf()
        self.best[here[without]] = x[without]
        if not self.last_only:
            found[live] = self._record(model, here, x, model(x))
        return found

    def _bounds(self, rows: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        reach = expand(radius, self.x)
        return (self.x[rows] - reach).clamp_(min=0.0), (self.x[rows] + reach).clamp_(max=1.0)

    def _record(self, model: BatchModel, rows: Tensor, x: Tensor, logits: Tensor) -> Tensor:
        """Keep the images x [R, C, H, W] of `rows` that are finds and nearer than earlier ones; which are finds."""
        if self.last_only:
            return torch.zeros_like(rows, dtype=torch.bool)
        hit, distance = _broken(model, logits, self.y[rows]), (x - self.x[rows]).abs().flatten(1).amax(1)
        better = hit & (distance < self.high[rows])
        self.best[rows[better]], self.high[rows[better]] = x[better], distance[better]
        return hit


def _broken(model: BatchModel, logits: Tensor, y: Tensor) -> Tensor:
    """Rows past the boundary by a margin that does not hang on rounding, or whose answer is not a number: bool [K].

    logits [K, classes] may hold several copies of the batch of `model`, whose labels are y [B].
    """
    copies, finite = len(logits) // len(y), logits.isfinite().all(1)
    model.note_nonfinite((~finite).reshape(copies, -1).any(0))
    return ~finite | firm_margin(misclassified_margin(logits, y.repeat(copies)), logits)

"""Square: random search with square patches, which asks for answers alone."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, NamedTuple

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
    firm_from,
    misclassified_margin,
    picked,
    randomness,
)
from robench_attacks.squares import Bumps, Moves, Patches

# after so many of 10,000 queries a square covers half as many pixels (the authors' code; the paper's text has no 500)
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 500  # queries whose random numbers are drawn at once
WASTED = 0.05  # of the queries of an image, the share that may be asked for nothing where some are asked ahead


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

    def improve(
        self, model: BatchModel, batch: Batch, start: Tensor | None = None, *, ahead: int = 1, most: int = 0
    ) -> Proposal:
        """The same from images `start` [B, C, H, W] within the ball, instead of stripes or bumps.

        ahead: so many queries of an image are asked at once, as if all but the last of them were refused, and those
        behind one that is kept are asked again: the same images in fewer and larger calls, of at most `most` images if
        that is not 0, for up to `wasted` answers more. Where answers are random or another model's, where what is firm
        hangs on the others of a call (with two classes), and where images have copies, that end together, one is asked
        at a time.
        """
        check_count("ahead", ahead)
        unsure = model.randomised or model.crafting or model.classes == 2
        if ahead == 1 or unsure or len(batch.group.unique()) < len(batch):
            return _Search(self, model, batch).run(start)
        return _Ahead(self, model, batch, ahead, most).run(start)

    @property
    def wasted(self) -> int:
        """How many answers at most are for nothing where some are asked ahead."""
        return math.floor(WASTED * self.queries)

    def side(self, query: int, height: int, width: int) -> int:
        """The side of the square of a query, in pixels, before a norm has its say."""
        halvings = sum(query * 10_000 // self.queries > after for after in HALVED)
        return round(math.sqrt(self.p_init / 2**halvings * height * width))


class _Judged(NamedTuple):
    """Of answers: how far past the boundary they are, which are not finite, which are better than the best before them
    and which of those end an image's search; each [B]."""

    margin: Tensor
    nonfinite: Tensor
    better: Tensor
    leaves: Tensor


class _Search:
    """The state of one run. Tensors hold the live rows, but for `out`, `out_step` and `nonfinite`, which hold all."""

    def __init__(self, attack: Square, model: BatchModel, batch: Batch) -> None:
        self.attack, self.whole, self.model, self.batch = attack, model, model, batch
        # a random model's luckiest draw ends nothing, nor does a surrogate's answer
        self.stays = model.randomised or model.crafting
        self.moves: Moves = Patches(batch) if batch.threat.norm == "linf" else Bumps(batch)
        self.rows, self.group = torch.arange(len(batch), device=batch.x.device), batch.group.to(batch.x.device)
        self.x, self.y = batch.x, batch.y
        self.best = batch.x.new_full((len(batch),), -torch.inf)
        self.found = torch.zeros_like(self.group, dtype=torch.bool)
        self.out, self.out_step = batch.x.clone(), torch.full_like(batch.y, -1)
        self.nonfinite = torch.zeros_like(self.found)

    def run(self, start: Tensor | None = None) -> Proposal:
        """Ask for every query, or until all are found; start: the first images, if not the usual ones."""
        self._record(self.moves.start(self.batch) if start is None else start, 0)
        self._search()
        self._write()
        self.whole.note_nonfinite(self.nonfinite)
        return Proposal(self.batch.threat.project(self.batch.x, self.out), self.out_step.cpu())

    def _search(self) -> None:
        """Every query after the first, of all live rows at once."""
        noise = torch.empty(0)
        for query in range(1, self.attack.queries):
            if not len(self.rows):
                return
            at = (query - 1) % BLOCK
            if at == 0:
                noise = self._noise(self.rows, (query - 1) // BLOCK)
            keep = self._record(self.moves.step(self.x, self._side(query), noise[:, at]), query)
            if keep is not None:
                (noise,) = picked(keep, noise)

    def _side(self, query: int) -> int:
        """Of the squares of a query after the first, in pixels."""
        height, width = self.x.shape[2:]
        return min(max(self.attack.side(query - 1, height, width), self.moves.least), height, width)

    def _noise(self, rows: Tensor, block: int) -> Tensor:
        """The numbers of a block of queries for `rows` int64 [K] of the batch: [K, BLOCK, numbers] in [0, 1)."""
        rows, batch = rows.cpu(), self.batch
        ids, trials = batch.example_id[rows].tolist(), batch.trial[rows].tolist()
        shape = (min(BLOCK, self.attack.queries), self.moves.numbers)
        return randomness.uniform(batch.seed, ids, trials, f"queries-{block}", shape).to(self.x.device)

    def _record(self, proposed: Tensor, query: int) -> Tensor | None:
        """Keep what is better; positions of the rows that still stand, if some have left, which is seen to."""
        answers = self._judged(self.model(proposed), self.y, self.best)
        self.x = either(answers.better, proposed, self.x)
        self.best = torch.where(answers.better, answers.margin, self.best)
        self.out_step[self.rows[answers.better]] = query
        self.nonfinite[self.rows] |= answers.nonfinite
        return self._leave(answers.leaves)

    def _judged(self, logits: Tensor, y: Tensor, best: Tensor) -> _Judged:
        """Answers [B, classes], beside the best margin before them, [B]."""
        finite = logits.isfinite().all(1)
        # a model that answers with NaN has given no right answer: a find, for the judge to confirm
        margin = torch.where(finite, misclassified_margin(logits, y), torch.inf)
        least = firm_from(logits)
        better = (margin - best > least) | ((margin > 0) & (best <= 0))
        return _Judged(margin, ~finite, better, better & ((margin > least) | ~finite))

    def _leave(self, leaves: Tensor) -> Tensor | None:
        """Let the images of the rows marked in `leaves` go; positions of the other rows, None if nobody goes."""
        if self.stays or not bool(leaves.any()):
            return None
        self.found[self.group[leaves]] = True
        keep = (~self.found[self.group]).nonzero()[:, 0]
        self._select(keep)
        return keep

    def _select(self, keep: Tensor) -> None:
        self._write()
        self.rows, self.x, self.y, self.best = picked(keep, self.rows, self.x, self.y, self.best)
        (self.group,), self.model = picked(keep, self.group), self.model.select(keep.cpu())
        self.moves.select(keep)

    def _write(self) -> None:
        self.out[self.rows] = self.x


class _Ahead(_Search):
    """The same with rows at queries of their own, some of which are asked at once.

    next: the query that a row asks first; spare: how many answers may still be for nothing; numbers: of the block
    `block` of queries that it is in. These are int64 on the CPU, but for the numbers.
    """

    def __init__(self, attack: Square, model: BatchModel, batch: Batch, ahead: int, most: int) -> None:
        super().__init__(attack, model, batch)
        self.ahead, self.most = ahead, most or len(batch) * ahead
        self.next, self.spare = torch.ones(len(batch), dtype=torch.int64), torch.full((len(batch),), attack.wasted)
        self.block = torch.full_like(self.next, -1)
        self.numbers = batch.x.new_empty(len(batch), min(BLOCK, attack.queries), self.moves.numbers)
        self.sides = torch.tensor([self._side(query) for query in range(1, attack.queries)])

    def _search(self) -> None:
        """Until every row has asked for every query after the first."""
        while len(self.rows):
            self._draw()
            left = (self.attack.queries - self.next).minimum(BLOCK - (self.next - 1) % BLOCK)
            many = left.minimum(self.spare + 1).clamp(max=self.ahead)
            if not bool(many.any()):
                return
            self._ask(many)
            if bool((done := self.next >= self.attack.queries).any()):
                self._select((~done).nonzero()[:, 0].to(self.x.device))

    def _draw(self) -> None:
        """The numbers of those that have come to another block."""
        block = (self.next - 1) // BLOCK
        for new in block[block != self.block].unique().tolist():
            at = ((block == new) & (self.block != new)).nonzero()[:, 0].to(self.x.device)
            self.numbers.index_copy_(0, at, self._noise(self.rows[at], new))
        self.block = block

    def _ask(self, many: Tensor) -> None:
        """The next queries of every live row, so `many` int64 [L], and keep the first of them that is better."""
        live = torch.arange(len(many))
        last = many.cumsum(0)
        row = live.repeat_interleave(many)
        place = torch.arange(len(row)) - (last - many)[row]  # among those of its row
        query, at = self.next[row] + place, row.to(self.x.device)
        images, logits = list[Tensor](), list[Tensor]()
        for some in torch.arange(len(row)).split(self.most):
            images.append(self._images(at[some.to(at.device)], query[some]))
            logits.append(self.model.select(row[some])(images[-1]))
        answers = self._judged(torch.cat(logits), *picked(at, self.y, self.best))
        first = many.scatter_reduce(0, row, torch.where(answers.better.cpu(), place, many[row]), "amin")
        kept = (first < many).nonzero()[:, 0]
        self.next += torch.where(first < many, first + 1, many)
        self.spare -= (many - 1 - first).clamp(min=0)
        place, to = (last - many + first)[kept], kept.to(at.device)
        source = place.to(at.device)
        self.x = self.x.index_copy(0, to, torch.cat(images).index_select(0, source))
        self.best = self.best.index_copy(0, to, answers.margin[source])
        self.out_step[self.rows[to]] = query[place].to(at.device)
        self.nonfinite[self.rows[to]] |= answers.nonfinite[source]
        self._leave(torch.zeros_like(self.found[: len(many)]).index_copy(0, to, answers.leaves[source]))

    def _images(self, at: Tensor, query: Tensor) -> Tensor:
        """What is asked about in queries int64 [Q] of live rows `at` int64 [Q]."""
        (x,), sides = picked(at, self.x), self.sides[query - 1]
        noise = self.numbers[at, ((query - 1) % BLOCK).to(at.device)]
        images = torch.empty_like(x)
        for side in sides.unique().tolist():
            where = (sides == side).nonzero()[:, 0].to(at.device)
            given, numbers, rows = picked(where, x, noise, at)
            images.index_copy_(0, where, self.moves.step(given, side, numbers, rows))
        return images

    def _select(self, keep: Tensor) -> None:
        super()._select(keep)
        self.next, self.spare, self.block = picked(keep.cpu(), self.next, self.spare, self.block)
        (self.numbers,) = picked(keep, self.numbers)

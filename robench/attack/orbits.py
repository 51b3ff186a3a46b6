"""Rows of a search that go round in a circle: what follows is known, so that nobody needs to compute it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from robench.attack.picking import picked

# steps after which a row is looked for where it was: sign steps of one length on a locally linear model end in circles
# of 1, 2 or 4 steps
LAG = 4
# steps between two looks, which cost about a fortieth of a step
EVERY = 2
# answers to one image differ by less than this share of their range, however large the batch is
SAME = 1e-3
# pixels that are compared first
FIRST = 32


@dataclass(frozen=True)
class _Visit:
    """Where rows were: live int64 [B], ascending; x [B, P]; logits [B, C]."""

    live: Tensor
    x: Tensor
    logits: Tensor


class Orbits:
    """Finds rows that are, to the last bit, where they were `lag` steps before.

    Where the next image follows from the last one alone, as with steepest steps of one length on a model without noise,
    such a row goes through the same images again until the end, and all of them have been asked about. A row whose
    answer is not what it was at the same image is left to go on: the model answers by more than the image. `sizes` are
    the lengths of all steps; `interval`, 1 or more, divides 8 and says how many steps lie between two calls of `ended`.
    """

    def __init__(self, sizes: list[float], interval: int) -> None:
        self.steps, self.interval, self.lag = len(sizes), max(EVERY, interval), max(LAG, interval)
        self.steady = max((step for step, size in enumerate(sizes) if size != sizes[-1]), default=-1) + 1
        self._visits: deque[_Visit] = deque(maxlen=self.lag // self.interval)

    def ended(self, step: int, live: Tensor, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """The positions of rows that go round, int64 [K], and where each is after the last step, [K, ...], or None.

        live: which rows of the batch these are, int64 [B], ascending; x [B, ...]: where they are at `step`; logits
        [B, C]: the answers there. Rows may have left since the call before, none may have come.
        """
        if step < self.steady or (self.steps - step) % self.interval:
            return None
        now = _Visit(live, x.flatten(1), logits)
        found = _again(self._visits[0], now) if len(self._visits) == self._visits.maxlen else None
        final = None
        if found is not None:
            visit = self._visits[(self.steps - step) % self.lag // self.interval]
            final = found, visit.x[torch.searchsorted(visit.live, live[found])].reshape(-1, *x.shape[1:])
        self._visits.append(now)
        return final


def _again(before: _Visit, now: _Visit) -> Tensor | None:
    """The positions of rows that are where they were, with the same answer; None where there are none."""
    then = torch.searchsorted(before.live, now.live)
    (logits,) = picked(then, before.logits)
    apart = (now.logits - logits).abs().amax(1)
    found = (apart <= SAME * (now.logits.amax(1) - now.logits.amin(1))).nonzero()[:, 0]
    few = max(now.x.shape[1] // FIRST, 1)
    for pixels in (slice(None, None, few), slice(None)):
        if not len(found):
            return None
        here, there = now.x[:, pixels].index_select(0, found), before.x[:, pixels].index_select(0, then[found])
        found = found[(here == there).all(1)]
    return found if len(found) else None

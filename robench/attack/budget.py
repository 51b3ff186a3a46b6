"""What an attack may spend on an image: passes are paid for before they are run, and what was asked is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from robench.attack.objectives import misclassified_margin
from robench.norms import expand

if TYPE_CHECKING:  # which knows the handle that is held to a budget
    from robench.attack.base import Batch


class Exhausted(Exception):
    """No image of a batch can pay for another pass. It ends an attack's `perturb`, and is no failure."""


class Budget:
    """At most `most` passes for each of n examples, in forward passes; a backward pass is two.

    before: what each has cost already, int64 [n]. out: bool [n], the examples that were refused a pass; from then on
    they are refused every one.
    """

    def __init__(self, most: int, before: Tensor) -> None:
        self.most, self.before = most, before
        self.out = torch.zeros(len(before), dtype=torch.bool)

    def affords(self, examples: Tensor, price: int, spent: Tensor) -> Tensor:
        """Which of the examples, int64 [K], can pay `price` as it is now, bool [K]."""
        return (self.before + spent)[examples] + price <= self.most

    def refused(self, examples: Tensor, price: int, spent: Tensor) -> Tensor | None:
        """The rows of a call that cannot pay `price`, bool [K], or None where all can.

        examples: int64 [K], whose example each row is; rows of one example pay one after another. spent: int64 [n],
        what the examples have cost since `before`.
        """
        costs = (self.before + spent)[examples] + price * (1 + places(examples))
        refused = self.out[examples] | (costs > self.most)
        if not bool(refused.any()):
            return None
        self.out[examples[refused]] = True
        return refused


def inert(labels: Tensor, classes: int) -> Tensor:
    """Answers that miss the labels, int64 [K], so that attacks let their images go: float32 [K, classes]."""
    return functional.one_hot((labels + 1) % classes, classes).float()


def places(values: Tensor) -> Tensor:
    """How many earlier elements equal each one, int64 [K]."""
    order = values.argsort(stable=True)
    ordered = values[order]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(values)) - torch.searchsorted(ordered, ordered)
    return found


class Asked:
    """The best image that each row of a batch has asked about, for the rows whose attack is cut short.

    x: float32 [B, C, H, W], on the CPU: the image with the largest margin within the threat model, by answers in
    float32; until there is one, the latest of all, at first the original. targeted: margins are towards the goals.
    last: the latest image within the threat model, as where the best answer would be a random model's luckiest draw.
    examples: int64 [B], positions in the shard.
    """

    def __init__(self, batch: Batch, examples: Tensor, *, targeted: bool, last: bool) -> None:
        self.batch, self.examples, self.targeted, self.last = batch, examples, targeted, last
        self.x = batch.x.detach().float().cpu().clone()
        self.best = torch.full((len(batch),), -torch.inf)

    def see(self, rows: Tensor, x: Tensor, logits: Tensor | None) -> None:
        """Note images x [K, C, H, W] of the rows int64 [K], which may repeat; logits None: no answer in float32."""
        x = x.detach()
        on = rows.to(x.device)
        inside = self.batch.threat.contains(self.batch.x[on], x)
        if self.last or logits is None:
            score = torch.zeros(len(x), device=x.device)
            inside = inside if self.last else torch.zeros_like(inside)
        else:
            score = self._margin(on, logits.detach())
        score = torch.where(inside, score, -torch.inf).cpu()
        at = _best_of(rows, score)
        better = (score[at] >= self.best[rows[at]]) if self.last else (score[at] > self.best[rows[at]])
        at = at[better | self.best[rows[at]].isneginf()]
        finite = x[at.to(x.device)].flatten(1).isfinite().all(1).cpu()
        at = at[finite]
        self.x[rows[at]], self.best[rows[at]] = x[at.to(x.device)].float().cpu(), score[at]

    def instead(self, proposed: Tensor, cut: Tensor) -> Tensor:
        """The proposals [B, C, H, W], but for the rows marked in `cut`, bool [B], their best images."""
        return torch.where(expand(cut, proposed), self.x, proposed) if proposed.shape == self.x.shape else proposed

    def _margin(self, rows: Tensor, logits: Tensor) -> Tensor:
        goal = self.batch.goal[rows] if self.targeted else None
        margin = misclassified_margin(logits, self.batch.y[rows], goal)
        wrong = -torch.inf if self.targeted else torch.inf
        return torch.where(logits.isfinite().all(1), margin, wrong).float()


def _best_of(rows: Tensor, score: Tensor) -> Tensor:
    """The positions of the largest score of every row, the latest of equal ones: int64 [number of rows]."""
    order = score.argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]
    ends = torch.ones(len(order), dtype=torch.bool)
    ends[:-1] = rows[order].diff() != 0
    return order[ends]

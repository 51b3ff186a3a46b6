"""Trials towards wrong classes in turn, the likeliest first."""

from __future__ import annotations

import torch
from torch import Tensor

from robench import Trials, require

# trials of one image; the plan of a shard holds all of them
MOST = 100_000


def likeliest(y: Tensor, logits: Tensor, count: int) -> Tensor:
    """The wrong classes with the largest logits [B, classes], the likeliest first: int64 [B, count]."""
    return logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]


def targeted_trials(y: Tensor, logits: Tensor, restarts: int, targets: int | None = None) -> Trials:
    """A trial per wrong class and restart, from labels [B] and clean logits [B, classes].

    The classes are the `targets` with the largest clean logits, or all of them, tried in that order, and all once
    before any a second time. A trial's noise is keyed by its class and restart, so the order does not change the
    starts. Raises BadInput for more trials than a plan holds.
    """
    classes = logits.shape[1]
    count = min(targets or classes, classes - 1)
    allowed = f"at most {MOST // classes:,} with {classes} classes"
    require(restarts * classes <= MOST, "restarts", restarts, allowed)
    wrong = likeliest(y, logits, count)
    restart = torch.arange(restarts).repeat_interleave(count)
    goal = wrong.repeat(1, restarts)
    return Trials(restart * classes + goal, goal)

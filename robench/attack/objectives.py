"""Objectives: [B, C] logits to [B] values that an attack maximises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def misclassified_margin(logits: Tensor, y: Tensor, goal: Tensor | None = None) -> Tensor:
    """How far an example is past the decision boundary, [B]: positive where the attack has succeeded.

    max_{s != y} f_s - f_y without a goal; f_goal - max_{s != goal} f_s where `goal` [B] is given.
    """
    target = y if goal is None else goal
    chosen = logits.gather(1, target[:, None])[:, 0]
    others = logits.scatter(1, target[:, None], -torch.inf).amax(1)
    return others - chosen if goal is None else chosen - others


# A margin smaller than this share of the largest logit can change its sign with the batch size: keep on attacking.
FIRM = 1e-5


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)_y (Madry et al., 2018)."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{s != y} f_s - f_y, with s chosen anew at every step (PARADISE, supplement Table 1: untargeted)."""
    return misclassified_margin(logits, y)


def targeted_margin(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """f_goal - f_y (Gowal et al., 2019; PARADISE, supplement Table 1: random-targeted and multi-targeted)."""
    pair = logits.gather(1, torch.stack([goal, y], dim=1))
    return pair[:, 0] - pair[:, 1]


def targeted_cross_entropy(logits: Tensor, goal: Tensor) -> Tensor:
    """log softmax(logits)_goal, the cross-entropy of the class aimed at, negated (Kurakin et al., 2017)."""
    return -cross_entropy(logits, goal)

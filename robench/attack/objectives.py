"""Objectives: [B, C] logits to [B] values that an attack maximises, and the names they go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robench.errors import BadInput, unknown

# A margin smaller than this share of the largest logit can change its sign with the batch size: keep on attacking.
FIRM = 1e-5
# keeps a quotient of differences finite where the largest logits are equal
TINY = 1e-12


def misclassified_margin(logits: Tensor, y: Tensor, goal: Tensor | None = None) -> Tensor:
    """How far an example is past the decision boundary, [B]: positive where the attack has succeeded.

    max_{s != y} f_s - f_y without a goal; f_goal - max_{s != goal} f_s where `goal` [B] is given.
    """
    target = y if goal is None else goal
    chosen = logits.gather(1, target[:, None])[:, 0]
    others = logits.scatter(1, target[:, None], -torch.inf).amax(1)
    return others - chosen if goal is None else chosen - others


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


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(max_{s != y} f_s - f_y) / (f_(1) - f_(3)), f_(k) the k-th largest (Croce and Hein, 2020, equation 6, negated).

    Neither a factor on the logits nor an offset changes it. With two classes there is no third: the cross-entropy
    stands in.
    """
    if logits.shape[1] < 3:
        return cross_entropy(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """(f_goal - f_y) / (f_(1) - (f_(3) + f_(4)) / 2) (Croce and Hein, 2020, equation 7, negated).

    With three classes there is no fourth: `dlr` stands in, and the cross-entropy with two.
    """
    if logits.shape[1] < 4:
        return dlr(logits, y)
    top = logits.topk(4, dim=1).values
    return targeted_margin(logits, y, goal) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{s != y} p_s - p_y with p the softmax of the logits: PMA's loss (Ma et al., 2020, "probability margin")."""
    return misclassified_margin(logits.softmax(1), y)


def targeted_probability_margin(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """p_goal - p_y with p the softmax of the logits, the part of PMA's loss that belongs to one class."""
    return targeted_margin(logits.softmax(1), y, goal)


def _level_dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Where the label is the third likeliest: there the ratio is 1."""
    if logits.shape[1] < 3:
        return torch.zeros_like(y, dtype=torch.bool)
    return logits.topk(3, dim=1).indices[:, 2] == y


def _level_targeted_dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Where the untargeted one stands in and is level."""
    return _level_dlr(logits, y) & (logits.shape[1] < 4)


@dataclass(frozen=True)
class NamedObjective:
    """An objective under a name: `value(logits [B, C], y [B], goal [B])` is [B].

    targeted: whether it asks for a goal. classes: how many it needs to be what it says; with fewer, what stands in for
    it asks for no goal. level: from logits and y, the rows where it is the same wherever the logits move a little, [B].
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    targeted: bool = False
    classes: int = 2
    level: Callable[[Tensor, Tensor], Tensor] = lambda logits, y: torch.zeros_like(y, dtype=torch.bool)


OBJECTIVES: dict[str, NamedObjective] = {
    "ce": NamedObjective(lambda logits, y, _: cross_entropy(logits, y)),
    "margin": NamedObjective(lambda logits, y, _: margin(logits, y)),
    "dlr": NamedObjective(lambda logits, y, _: dlr(logits, y), False, 3, _level_dlr),
    "pma": NamedObjective(lambda logits, y, _: probability_margin(logits, y)),
    "targeted-ce": NamedObjective(lambda logits, _, goal: targeted_cross_entropy(logits, goal), True),
    "targeted-margin": NamedObjective(targeted_margin, True),
    "targeted-dlr": NamedObjective(targeted_dlr, True, 4, _level_targeted_dlr),
    "targeted-pma": NamedObjective(targeted_probability_margin, True),
}


def objective_named(name: str, targeted: bool) -> NamedObjective:
    """The objective that an option `loss` names, for an attack with goals or without.

    Raises BadInput for a name that is none, and for an objective of the other kind.
    """
    if name in OBJECTIVES and OBJECTIVES[name].targeted != targeted:
        fitting = ", ".join(each for each, found in OBJECTIVES.items() if found.targeted == targeted)
        kind = "aims at a class" if targeted else "aims at no class"
        raise BadInput(f"loss is {name!r}, but this attack {kind}, so it must be one of {fitting}.")
    if name not in OBJECTIVES:
        raise unknown("loss", name, [each for each, found in OBJECTIVES.items() if found.targeted == targeted])
    return OBJECTIVES[name]

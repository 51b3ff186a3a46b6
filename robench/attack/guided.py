"""The gradient that a guide gives where another model answers (foolbox 2's CompositeModel)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robench.attack.strided import faster
from robench.attack.substitutes import through_sigmoid

if TYPE_CHECKING:  # which asks for it
    from robench.attack.classifier import Classifier, Objective


def guided_gradient(
    guide: Classifier, x: Tensor, logits: Tensor, rows: Tensor, objective: Objective, *, hinged: bool
) -> Tensor:
    """The gradient with respect to x [B, C, H, W] by a guide, from one forward and one backward pass of it.

    logits: what the model answers to x, [B, classes]. rows: int64 [K], for which it is asked; it is zero for the
    others. It is that of the objective of the guide's own answers. hinged: the objective's slope at the model's
    answers, passed back through the guide: an objective that is level once the model is broken asks for nothing more,
    whatever the guide answers.
    """
    grad = torch.zeros_like(x)
    if not len(rows):
        return grad
    with torch.enable_grad():
        given = x.detach()[rows].requires_grad_(True)
        answer = guide.ask(given).float()
        answer = through_sigmoid(answer) if guide.unsquash else answer
        total = _through(answer, logits, rows, objective) if hinged else _own(answer, logits, rows, objective)
        with guide.guard, faster(total) if guide.strided else nullcontext():
            found = torch.autograd.grad(total, given, allow_unused=True)[0] if total.requires_grad else None
    return grad if found is None else grad.index_copy_(0, rows, found)


def _own(answer: Tensor, logits: Tensor, rows: Tensor, objective: Objective) -> Tensor:
    """The objective of a guide's answers [K, classes] to the rows int64 [K] of a batch, summed."""
    return objective(logits.detach().index_copy(0, rows, answer))[rows].sum()


def _through(answer: Tensor, logits: Tensor, rows: Tensor, objective: Objective) -> Tensor:
    """A sum over a guide's answers [K, classes] with the objective's slope at the model's logits [B, classes]."""
    at = logits.detach().requires_grad_(True)
    total = objective(at).sum()
    slope = torch.autograd.grad(total, at, allow_unused=True)[0] if total.requires_grad else None
    return answer.sum() * 0 if slope is None else (slope[rows] * answer).sum()

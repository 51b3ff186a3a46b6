"""The L2 attack of Carlini and Wagner: the smallest perturbation that changes the answer."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from robench import (
    Adam,
    Attack,
    Batch,
    BatchModel,
    Cost,
    Proposal,
    Range,
    Steps,
    ThreatModel,
    check_count,
    expand,
    firm_margin,
    misclassified_margin,
    picked,
    require,
)

INSIDE = 0.999999  # pixels are drawn this far towards grey, since 0 and 1 lie at infinity in tanh space
LARGEST_C = 1e10
PROGRESS = 0.9999
PER_PIXEL = ThreatModel.of("linf", 1)  # Adam with a second moment per pixel


class CarliniWagner(Attack):
    """The smallest L2 perturbation, by Adam on ||delta||^2 + c * hinge with a search over c (Carlini & Wagner, 2017).

    Pixels are (tanh(w) + 1) / 2, and the hinge is max(f_y - max_{s != y} f_s + kappa, 0). The nearest example with
    margin kappa among all iterates is proposed, or the last iterate where there is none. eps takes no part in the
    search: a nearest example beyond it is projected by the harness like any other, and then seldom succeeds.

    steps: Adam steps of size `lr` per value of c. search_steps: values of c tried per image: times ten until one
    succeeds, then bisection. kappa: margin, in logits, that an example must have. abort_early: an image goes on to its
    next c when a tenth of the steps has neither lowered its loss by 0.01% nor found a nearer example; the paper's code
    asks for the loss of the whole batch, which would make an image's outcome depend on its neighbours.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    guided = True

    def __init__(
        self,
        *,
        steps: Steps = 1000,
        search_steps: Annotated[int, Range(1, 100)] = 9,
        lr: float = 0.01,
        initial_c: float = 1e-3,
        kappa: float = 0.0,
        abort_early: bool = True,
    ) -> None:
        check_count("steps", steps)
        check_count("search_steps", search_steps)
        require(0 < lr < math.inf, "lr", lr, "a positive number")
        require(0 < initial_c <= LARGEST_C, "initial_c", initial_c, f"a positive number of at most {LARGEST_C:g}")
        require(0 <= kappa < math.inf, "kappa", kappa, "a margin of at least 0")
        self.steps, self.search_steps, self.lr = steps, search_steps, lr
        self.initial_c, self.kappa, self.abort_early = initial_c, kappa, abort_early

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """One of each kind per step and value of c, or fewer with `abort_early`."""
        del threat, classes
        return Cost(self.search_steps * self.steps, self.search_steps * self.steps)

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """The nearest example found for any c, projected."""
        best = _Best(batch)
        c = torch.full_like(best.distance, self.initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for search in range(self.search_steps):
            found = _Descent(self, model, batch, c).run(best, first=search * self.steps)
            low, high = torch.where(found, low, c), torch.where(found, c, high)
            c = torch.where(high.isinf(), 10 * c, (low + high) / 2).clamp(max=LARGEST_C)
        model.note_nonfinite(best.nonfinite)
        return Proposal(batch.threat.project(batch.x, best.x), best.step.cpu())

    def gain(self, logits: Tensor, y: Tensor) -> Tensor:
        """kappa minus the hinge, [B]: the margin, as far as it counts."""
        return misclassified_margin(logits, y).clamp(max=self.kappa)

    def succeeded(self, logits: Tensor, y: Tensor) -> Tensor:
        """Rows with a margin of kappa that does not hang on rounding, or whose answer is not a number: bool [B]."""
        margin, finite = misclassified_margin(logits, y), logits.isfinite().all(1)
        return ~finite | ((margin >= self.kappa) & firm_margin(margin, logits))


class _Descent:
    """Adam from the images, with one weight c for every row. Tensors hold the rows that are still going."""

    def __init__(self, attack: CarliniWagner, model: BatchModel, batch: Batch, c: Tensor) -> None:
        self.attack, self.model = attack, model
        self.x0, self.y, self.c = batch.x, batch.y, c
        self.rows, self.before = torch.arange(len(batch), device=c.device), torch.full_like(c, torch.inf)
        self.w = torch.atanh((2 * self.x0 - 1) * INSIDE)
        self.adam = Adam(self.w, PER_PIXEL)
        # a random model's luckiest draw says nothing: there only the last iterate counts
        self.last_only = model.randomised

    def run(self, best: _Best, first: int) -> Tensor:
        """Whether each row of the batch was broken, bool [B]; `best` gets every iterate, numbered from `first`."""
        steps, abort_early = self.attack.steps, self.attack.abort_early and not self.last_only
        tenth = math.ceil(steps / 10)
        found = torch.zeros_like(self.c, dtype=torch.bool)
        for step in range(steps):
            x, slope = _box(self.w)
            logits, grad = self.model.gradient(x, self._objective, hinged=True)
            if first + step == 0:
                self._note_zero_gradient(logits, grad)
            if not self.last_only or step == steps - 1:
                found[self.rows] |= best.record(self.rows, x, self.attack.succeeded(logits, self.y), first + step)
            best.nonfinite[self.rows] |= ~logits.isfinite().all(1)
            ascent = expand(self.c, x) * grad.nan_to_num(0.0, posinf=0.0, neginf=0.0) - 2 * (x - self.x0)
            self.w = self.adam.move(self.w, ascent * slope, self.attack.lr)
            if abort_early and step % tenth == 0:
                recent = best.step[self.rows] > first + step - tenth
                if not self._go_on(x, logits, recent):
                    break
        return found

    def _objective(self, logits: Tensor) -> Tensor:
        return self.attack.gain(logits, self.y)

    def _note_zero_gradient(self, logits: Tensor, grad: Tensor) -> None:
        at = (self._objective(logits) < self.attack.kappa).nonzero()[:, 0]  # elsewhere the gradient is zero by intent
        self.model.select(at.cpu()).note_zero_gradient(grad[at])

    def _go_on(self, x: Tensor, logits: Tensor, recent: Tensor) -> bool:
        """Keep the rows whose loss has fallen since the last call, and those in `recent`; whether there are any."""
        hinge = self.attack.kappa - self._objective(logits)
        loss = (x - self.x0).flatten(1).square().sum(1) + self.c * hinge
        keep = ((loss <= PROGRESS * self.before) | recent).nonzero()[:, 0]
        self.rows, self.x0, self.y, self.c = picked(keep, self.rows, self.x0, self.y, self.c)
        self.w, self.before = picked(keep, self.w, loss)
        self.adam.select(keep)
        self.model = self.model.select(keep.cpu())
        return bool(len(keep))


class _Best:
    """The nearest adversarial example of every row so far, and the latest iterate of those that have none."""

    def __init__(self, batch: Batch) -> None:
        self.x0, self.x = batch.x, batch.x.clone()
        self.distance = self.x.new_full((len(batch),), torch.inf)
        self.step = torch.full_like(batch.y, -1)
        self.nonfinite = torch.zeros_like(batch.y, dtype=torch.bool)

    def record(self, rows: Tensor, x: Tensor, success: Tensor, step: int) -> Tensor:
        """Note the iterates x [R, C, H, W] of `rows` int64 [R]; returns `success` bool [R]."""
        distance, before = (x - self.x0[rows]).flatten(1).norm(dim=1), self.distance[rows]
        better = success & (distance < before)
        nearer = (better | before.isinf()).nonzero()[:, 0]
        self.x[rows[nearer]] = x[nearer]
        self.distance[rows] = torch.where(better, distance, before)
        self.step[rows] = torch.where(better, step, self.step[rows])
        return success


def _box(w: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (tanh(w) + 1) / 2 and their derivative by w."""
    tanh = torch.tanh(w)
    return (tanh + 1) / 2, (1 - tanh.square()) / 2

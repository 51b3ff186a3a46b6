"""The one loop of every iterative gradient attack, and the small functions attacks combine in it."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from robench.attack.base import Attack, Batch, Cost, Proposal, misclassified_margin
from robench.attack.classifier import BatchModel
from robench.errors import BadInput, require
from robench.threat import ThreatModel, expand

# A margin smaller than this share of the largest logit can change its sign with the batch size: keep on attacking.
FIRM = 1e-5


# Squares of larger entries overflow float32 moments, after which a row would never move again.
LARGEST_GRADIENT = 1e15


# --- objectives: [B, C] logits -> [B] values to maximise -------------------------------------------------------------


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


# --- schedules -------------------------------------------------------------------------------------------------------


def parse_schedule(text: str, steps: int) -> list[float]:
    """The step size of every step from text such as "0.1,0.01@100,0.001@150": a value and the step it starts at.

    Raises BadInput for text that does not follow that form.
    """
    sizes = [0.0] * steps
    previous = -1
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9.]+(?:e-?\d+)?)(?:@(\d+))?", part)
        at = int(match[2] or 0) if match else -1
        try:
            size = float(match[1]) if match else 0.0
        except ValueError:
            size = 0.0
        if not 0 < size < math.inf or at <= previous or (previous < 0 < at) or at >= steps:
            raise BadInput(
                f"schedule is {text!r} for {steps} steps, but must be positive step sizes with the step each starts "
                "at, in order, such as '0.1,0.01@100,0.001@150'."
            )
        sizes[at:] = [size] * len(sizes[at:])
        previous = at
    return sizes


# --- step rules ------------------------------------------------------------------------------------------------------


class StepRule(Protocol):
    """Turns gradients into steps; its state has one row per row of the batch."""

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x [B, ...] moved along its gradient [B, ...], not yet projected."""
        ...

    def select(self, keep: Tensor) -> None:
        """Keep the state of the rows at positions `keep`."""
        ...


class Steepest:
    """The steepest step of the given length in the threat model's norm: sign in linf, the unit gradient in L2."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        del x
        self.linf = threat.norm == "linf"

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * sign(g), or x + size * g / ||g||_2."""
        if self.linf:
            return torch.add(x, grad.sign(), alpha=size)
        grad = grad * expand(_unit(grad), grad)
        return torch.addcdiv(x, grad, expand(grad.flatten(1).norm(dim=1).clamp(min=1e-30), grad), value=size)

    def select(self, keep: Tensor) -> None:
        """Nothing to keep."""


class Adam:
    """Adam on the perturbation (Kingma & Ba, 2015), bias-corrected, moments untouched by the projection.

    Each row's gradients are divided by the largest entry of its first one, so that the scale of a model's logits
    neither overflows the moments nor vanishes beside the 1e-9. In L2 the second moment is one number per row, the
    square of its gradient's norm, so that a constant gradient keeps its direction, which is the optimum there; steps
    are then multiples of eps: size 0.1 moves by one radius.
    """

    beta1, beta2, tiny = 0.9, 0.999, 1e-9

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.linf, self.radius = threat.norm == "linf", threat.radius
        self.first = torch.zeros_like(x)
        self.second = torch.zeros_like(x) if self.linf else x.new_zeros(len(x), *(1,) * (x.dim() - 1))
        self.unit = x.new_ones(len(x), *(1,) * (x.dim() - 1))
        self.count = 0

    def move(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * m / (sqrt(v) + 1e-9), with bias correction of m and v."""
        self.count += 1
        if self.count == 1:
            self.unit = expand(_unit(grad), grad)
        grad = (grad * self.unit).clamp_(-LARGEST_GRADIENT, LARGEST_GRADIENT)
        self.first.lerp_(grad, 1 - self.beta1)
        if self.linf:
            self.second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
            length = size
        else:
            self.second.lerp_(expand(grad.flatten(1).square().sum(1), grad), 1 - self.beta2)
            length = size * 10 * self.radius
        correction1, correction2 = 1 - self.beta1**self.count, 1 - self.beta2**self.count
        scale = self.second.sqrt().mul_(correction2**-0.5).add_(self.tiny)
        return torch.addcdiv(x, self.first, scale, value=length / correction1)

    def select(self, keep: Tensor) -> None:
        """Keep the moments of the rows at positions `keep`."""
        self.first, self.second, self.unit = self.first[keep], self.second[keep], self.unit[keep]


def _unit(grad: Tensor) -> Tensor:
    """1 over the largest entry of each row, [B]; 1 for a row of zeros."""
    largest = grad.flatten(1).abs().amax(1)
    return torch.where(largest > 0, largest.clamp(min=1e-37), 1.0).reciprocal()


RULES: dict[str, type[Steepest] | type[Adam]] = {"steepest": Steepest, "adam": Adam}


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """How a gradient attack searches: `sizes` holds the step size of every step.

    rule: "steepest" or "adam". random_start: begin at a random point of the ball, else at the image.
    success: "any" counts an adversarial example at whatever step it is found; "last" only the last iterate.
    """

    sizes: list[float]
    rule: str = "steepest"
    random_start: bool = True
    success: str = "any"

    def __post_init__(self) -> None:
        require(len(self.sizes) >= 1, "steps", len(self.sizes), "at least 1")
        require(self.rule in RULES, "rule", self.rule, f"one of {', '.join(RULES)}")
        require(self.success in ("any", "last"), "success", self.success, "'any' or 'last'")


class GradientAttack(Attack):
    """An attack by projected gradient ascent. A subclass says how it searches and what it maximises.

    The loop computes one forward and one backward per row and step. A row leaves the batch when its example has been
    broken by a firm margin, together with the example's other rows. A find with a smaller margin is kept, in case no
    firmer one follows; a row without a find proposes its last iterate.
    """

    aims_at_goal: bool = False

    @abstractmethod
    def search(self, threat: ThreatModel) -> Search:
        """Steps, step sizes, rule and start under `threat`."""

    @abstractmethod
    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """The value to maximise per example: logits [B, C], labels [B], goals [B] -> [B]."""

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """Run the search on every row."""
        search = self.search(batch.threat)
        return _Loop(self, search, model, batch).run()

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """One of each kind per step, and a forward pass for the last image where any step counts."""
        del classes
        search = self.search(threat)
        return Cost(len(search.sizes), len(search.sizes) + (search.success == "any"))

    def succeeded(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """How far past success each row is, [B]; by the goal only if the attack must reach it."""
        return misclassified_margin(logits, y, goal if self.aims_at_goal else None)


class _Loop:
    """The state of one run of the loop. Tensors hold the live rows, but those named `out`, which hold every row.

    Nothing here reads a value back from the device except `_compact`, so a GPU is not stalled at every step.
    """

    def __init__(self, attack: GradientAttack, search: Search, model: BatchModel, batch: Batch) -> None:
        self.attack, self.search, self.model, self.threat = attack, search, model, batch.threat
        self.x0, self.y, self.goal = batch.x, batch.y, batch.goal
        device = self.x0.device
        self.group = batch.group.to(device)
        self.x = batch.start() if search.random_start else batch.x.clone()
        self.rule: StepRule = RULES[search.rule](self.x, batch.threat)
        self.live = torch.arange(len(batch), device=device)
        self.best, self.step = self.x, torch.full_like(self.live, -1)
        self.best_margin = torch.zeros(len(batch), device=device)
        self.out, self.out_step = self.x.clone(), self.step.clone()
        self.bounds = self._bounds()
        self.groups, self.found, self.nonfinite = self.group, torch.zeros_like(self.live), torch.zeros_like(self.live)
        self.interval = 1 if device.type == "cpu" else 8

    def run(self) -> Proposal:
        """Ascend for every step of the schedule, then propose."""
        # The last image counts where the best answer would be a random model's luckiest draw, and where the image is
        # for another model, to which one that barely fools this one hardly transfers.
        last = self.search.success == "last" or self.model.randomised or self.model.crafting
        whole, any_step = self.model, not last
        for step, size in enumerate(self.search.sizes):
            logits, grad = self.model.gradient(self.x, self._objective)
            if step == 0:
                self.model.note_zero_gradient(grad)
            if any_step:
                self._record(logits, step)
                keep = self._compact() if step % self.interval == 0 else None
                if keep is not None:
                    if not len(keep):
                        break
                    self._select(keep)
                    grad = grad[keep]
            if self.interval > 1 or not bool(grad.sum().isfinite()):
                grad = grad.nan_to_num_(0.0, posinf=0.0, neginf=0.0)
            self.x = self._project(self.rule.move(self.x, grad, size))
        else:
            if any_step:
                self._record(self.model(self.x), len(self.search.sizes))
        self._write()
        whole.note_nonfinite((self.nonfinite > 0)[self.groups])
        return Proposal(self.out, self.out_step.cpu())

    def _objective(self, logits: Tensor) -> Tensor:
        return self.attack.objective(logits, self.y, self.goal)

    def _bounds(self) -> tuple[Tensor, Tensor] | None:
        """In linf the projection is a clamp between two fixed images."""
        return self.threat.bounds(self.x0) if self.threat.norm == "linf" else None

    def _project(self, x: Tensor) -> Tensor:
        return self.threat.project(self.x0, x) if self.bounds is None else torch.clamp(x, *self.bounds)

    def _record(self, logits: Tensor, step: int) -> None:
        """Keep the finds with the largest margins so far, and count the finds of every example."""
        finite = logits.isfinite().all(1)
        # a model that answers with NaN has given no right answer: a find, for the judge to confirm, unless a goal is
        # to be reached
        invalid = -torch.inf if self.attack.aims_at_goal else torch.inf
        margins = torch.where(finite, self.attack.succeeded(logits, self.y, self.goal), invalid)
        better = margins > self.best_margin
        if self.interval == 1 and not bool(better.any()):
            return
        self.best = torch.where(expand(better, self.x), self.x, self.best)
        self.best_margin = torch.where(better, margins, self.best_margin)
        self.step = self.step.masked_fill(better, step)
        firm = margins > FIRM * logits.abs().amax(1).nan_to_num(0.0, posinf=0.0)
        self.found.index_add_(0, self.group, firm.to(self.found.dtype))
        self.nonfinite.index_add_(0, self.group, (~finite).to(self.found.dtype))

    def _compact(self) -> Tensor | None:
        """Positions of the live rows whose example still stands, or None where all do."""
        going = self.found[self.group] == 0
        return None if bool(going.all()) else going.nonzero()[:, 0]

    def _write(self) -> None:
        self.out[self.live] = torch.where(expand(self.best_margin > 0, self.x), self.best, self.x)
        self.out_step[self.live] = self.step

    def _select(self, keep: Tensor) -> None:
        self._write()
        self.x0, self.x, self.y, self.goal = self.x0[keep], self.x[keep], self.y[keep], self.goal[keep]
        self.best, self.best_margin, self.step = self.best[keep], self.best_margin[keep], self.step[keep]
        self.group, self.live = self.group[keep], self.live[keep]
        self.rule.select(keep)
        self.bounds = self._bounds()
        self.model = self.model.select(keep.cpu())

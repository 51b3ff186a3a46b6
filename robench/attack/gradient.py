"""The one loop of every iterative gradient attack, and the small functions attacks combine in it."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robench.attack.base import Attack, Batch, Cost, Proposal
from robench.attack.classifier import BatchModel
from robench.attack.inspection import firm_margin
from robench.attack.objectives import misclassified_margin, objective_named
from robench.attack.orbits import Orbits
from robench.attack.picking import either, picked
from robench.attack.step_rules import RULES, AutoStep, StepRule
from robench.errors import BadInput, require
from robench.norms import expand
from robench.threat import ThreatModel


def parse_schedule(text: str, steps: int) -> list[float]:
    """The step size of every step from text such as "0.1,0.01@100,0.001@150": a value and the step it starts at.

    Raises BadInput for text that does not follow that form.
    """
    sizes = [0.0] * steps
    previous = -1
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"([0-9.]{1,40}(?:e-?[0-9]{1,3})?)(?:@([0-9]{1,9}))?", part)
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


@dataclass(frozen=True)
class Search:
    """How a gradient attack searches: `sizes` holds the step size of every step.

    rule: "steepest", "adam", "momentum", or "apgd", which halves each row's size by itself. random_start: begin at a
    random point of the ball, else at the image.
    success: "any" counts an adversarial example at whatever step it is found; "last" only the last iterate.
    looks: whether the last image is asked about; without, a caller who asks anyway saves a pass.
    """

    sizes: list[float]
    rule: str = "steepest"
    random_start: bool = True
    success: str = "any"
    looks: bool = True

    def __post_init__(self) -> None:
        require(len(self.sizes) >= 1, "steps", len(self.sizes), "at least 1")
        require(self.rule in RULES, "rule", self.rule, f"one of {', '.join(RULES)}")
        require(self.success in ("any", "last"), "success", self.success, "'any' or 'last'")


class GradientAttack(Attack):
    """An attack by projected gradient ascent. A subclass says how it searches and what it maximises.

    The loop computes one forward and one backward per row and step. A row leaves the batch when its example has been
    broken by a firm margin, together with the example's other rows, or where it goes round in a circle, so that it
    would only ask again what it has asked (see `Orbits`). A find with a smaller margin is kept, in case no firmer one
    follows; a row without a find proposes its last iterate, or under the rule "apgd" its best one. Where
    gradients are in bfloat16, so are the logits beside them: an image that may be a find by those is asked about in
    float32, which decides.
    """

    aims_at_goal: bool = False
    rough = True
    guided = True

    @abstractmethod
    def search(self, threat: ThreatModel) -> Search:
        """Steps, step sizes, rule and start under `threat`."""

    @abstractmethod
    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """The value to maximise per example: logits [B, C], labels [B], goals [B] -> [B]."""

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """Run the search on every row."""
        search = self.search(batch.threat)
        return (_RoughLoop if model.rough else _Loop)(self, search, model, batch).run()

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """One of each kind per step, and a forward pass for the last image where any step counts."""
        del classes
        search = self.search(threat)
        return Cost(len(search.sizes), len(search.sizes) + (search.success == "any" and search.looks))

    def comes_round(self, threat: ThreatModel) -> bool:
        """Whether the next image of a search follows from the last one alone, so that one that comes round ends."""
        search = self.search(threat)
        return search.rule == "steepest" and search.success == "any"

    def level(self, logits: Tensor, y: Tensor) -> Tensor:
        """Rows whose objective is the same wherever the logits move a little, bool [B]: none."""
        del logits
        return torch.zeros_like(y, dtype=torch.bool)

    def succeeded(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """How far past success each row is, [B]; by the goal only if the attack must reach it."""
        return misclassified_margin(logits, y, goal if self.aims_at_goal else None)


class LossAttack(GradientAttack):
    """A gradient attack whose objective has a name, which users choose with an option `loss`.

    targeted: whether the objective asks for a goal. Raises BadInput for an unknown name or one of the other kind.
    """

    def __init__(self, loss: str, *, targeted: bool) -> None:
        self.loss, self._objective = loss, objective_named(loss, targeted)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """The objective of that name."""
        return self._objective.value(logits, y, goal)

    def level(self, logits: Tensor, y: Tensor) -> Tensor:
        """Rows where that is level, bool [B]."""
        return self._objective.level(logits, y)


def kind_of(attack: Attack, threat: ThreatModel, access: str) -> str:
    """How an attack searches, for the diagnostics: a `Kind`, or what its access is."""
    if access != "white-box":
        return access
    if isinstance(attack, GradientAttack):
        return "single-step" if len(attack.search(threat).sizes) == 1 else "iterative"
    return attack.kind


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
        self.rule: StepRule = RULES[search.rule](self.x, batch.threat, len(search.sizes))
        self.live = torch.arange(len(batch), device=device)
        self.best, self.step = self.x, torch.full_like(self.live, -1)
        self.best_margin = torch.zeros(len(batch), device=device)
        self.out, self.out_step = self.x.clone(), self.step.clone()
        self.project = self.threat.projection(self.x0)
        self.groups, self.found, self.nonfinite = self.group, torch.zeros_like(self.live), torch.zeros_like(self.live)
        self.interval = 1 if device.type == "cpu" else 8
        self.keeps_best = search.success == "any" and not model.randomised
        self.orbits = Orbits(search.sizes, self.interval) if attack.comes_round(batch.threat) else None

    def run(self) -> Proposal:
        """Ascend for every step of the schedule, then propose."""
        # The last image counts where the best answer would be a random model's luckiest draw, and where the image is
        # for another model, to which one that barely fools this one hardly transfers.
        last = self.search.success == "last" or self.model.randomised or self.model.crafting
        whole, any_step = self.model, not last
        for step, size in enumerate(self.search.sizes):
            logits, grad = self.model.gradient(self.x, self._objective, rough=True)
            if step == 0:
                self._note(logits, grad)
            if any_step:
                self._see(logits, step)
                looks = step == 0 or (len(self.search.sizes) - step) % self.interval == 0
                keep = self._compact(self._settled(step, logits)) if looks else None
                if keep is not None:
                    if not len(keep):
                        break
                    self._select(keep)
                    logits, grad = picked(keep, logits, grad)
            if self.interval > 1 or not bool(grad.sum().isfinite()):
                grad = grad.nan_to_num_(0.0, posinf=0.0, neginf=0.0)
            self._advance(logits, grad, size)
        else:
            if any_step:
                self._confirm()
            if any_step and self.search.looks:
                self._last()
        self._write(torch.arange(len(self.live), device=self.live.device))
        whole.note_nonfinite((self.nonfinite > 0)[self.groups])
        return Proposal(self.out, self.out_step.cpu())

    def _advance(self, logits: Tensor, grad: Tensor, size: float) -> None:
        """One step from x, whose logits and gradient these are."""
        if isinstance(self.rule, AutoStep):
            self.x, grad = self.rule.turn(self.x, grad, self._values(logits))
            moved = self.project(self.rule.move(self.x, grad, size))
            self.x = self.project(self.rule.carry(self.x, moved))
        else:
            self.x = self.project(self.rule.move(self.x, grad, size))

    def _note(self, logits: Tensor, grad: Tensor) -> None:
        """What the first gradients are, but where the objective has none to give."""
        at = (~self.attack.level(logits, self.y)).nonzero()[:, 0]
        self.model.select(at.cpu()).note_zero_gradient(grad[at])

    def _objective(self, logits: Tensor) -> Tensor:
        return self.attack.objective(logits, self.y, self.goal)

    def _values(self, logits: Tensor) -> Tensor:
        """The objective, [B], by float64: in float32 the cross-entropy of a sure answer is 0, whatever the image."""
        return self._objective(logits.double()).to(logits.dtype)

    def _see(self, logits: Tensor, step: int) -> None:
        """Look at the answers that came with the gradients of a step."""
        self._record(logits, step)

    def _confirm(self) -> None:
        """Ask about what was only taken for a find: nothing."""

    def _last(self) -> None:
        """Look at the last images."""
        logits = self.model(self.x)
        self._record(logits, len(self.search.sizes))
        if isinstance(self.rule, AutoStep):
            self.rule.turn(self.x, self.x, self._values(logits))

    def _margins(self, logits: Tensor, y: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """How far past success rows are, and whether their answers are finite."""
        finite = logits.isfinite().all(1)
        # a model that answers with NaN has given no right answer: a find, for the judge to confirm, unless a goal is
        # to be reached
        invalid = -torch.inf if self.attack.aims_at_goal else torch.inf
        return torch.where(finite, self.attack.succeeded(logits, y, goal), invalid), finite

    def _record(self, logits: Tensor, step: int) -> None:
        """Keep the finds with the largest margins so far, and count the finds of every example."""
        margins, finite = self._margins(logits, self.y, self.goal)
        better = margins > self.best_margin
        if self.interval == 1 and not bool(better.any()):
            return
        self.best = either(better, self.x, self.best)
        self.best_margin = torch.where(better, margins, self.best_margin)
        self.step = self.step.masked_fill(better, step)
        self.found.index_add_(0, self.group, firm_margin(margins, logits).to(self.found.dtype))
        self.nonfinite.index_add_(0, self.group, (~finite).to(self.found.dtype))

    def _settled(self, step: int, logits: Tensor) -> Tensor | None:
        """The positions of rows that go round in a circle, put where they are after the last step; None: no row."""
        ended = None if self.orbits is None else self.orbits.ended(step, self.live, self.x, logits)
        if ended is None:
            return None
        rows, last = ended
        self.x = self.x.index_copy(0, rows, last)
        return rows

    def _compact(self, settled: Tensor | None) -> Tensor | None:
        """Positions of the rows that go on, those whose example stands and that are not `settled`; None: all do."""
        going = self.found[self.group] == 0
        if settled is not None:
            going = going.index_fill(0, settled, value=False)
        return None if bool(going.all()) else going.nonzero()[:, 0]

    def _write(self, at: Tensor) -> None:
        """Put the rows at the positions `at` where the result is."""
        last = self.rule.best if isinstance(self.rule, AutoStep) and self.keeps_best else self.x
        places = self.live[at]
        self.out[places] = torch.where(expand(self.best_margin[at] > 0, last), self.best[at], last[at])
        self.out_step[places] = self.step[at]

    def _select(self, keep: Tensor) -> None:
        gone = torch.ones_like(self.live, dtype=torch.bool).index_fill_(0, keep, value=False)
        self._write(gone.nonzero()[:, 0])
        self.x0, self.x, self.best = picked(keep, self.x0, self.x, self.best)
        self.y, self.goal, self.group, self.live = picked(keep, self.y, self.goal, self.group, self.live)
        self.best_margin, self.step = picked(keep, self.best_margin, self.step)
        self.rule.select(keep)
        self.project = self.threat.projection(self.x0)
        self.model = self.model.select(keep.cpu())


# an image may be a find where its margin in bfloat16 is above minus this share of the largest logit
MAYBE = 2.0**-6


class _RoughLoop(_Loop):
    """The loop where the logits beside gradients are in bfloat16.

    Between two looks at who still stands it keeps of every row the image that is furthest past success by these logits,
    if it may be a find; then it asks about those in float32.
    """

    def __init__(self, attack: GradientAttack, search: Search, model: BatchModel, batch: Batch) -> None:
        super().__init__(attack, search, model, batch)
        self._forget()

    def _forget(self) -> None:
        self.maybe, self.maybe_step = self.x, torch.full_like(self.live, -1)
        self.maybe_margin = torch.full_like(self.best_margin, -torch.inf)

    def _see(self, logits: Tensor, step: int) -> None:
        margins, finite = self._margins(logits, self.y, self.goal)
        # bfloat16 overflows where float32 does, but for what is said of a model, float32 alone counts
        margins = torch.where(finite, margins, torch.inf)
        near = ~finite | (margins > -MAYBE * logits.abs().amax(1))
        better = near & (margins >= self.maybe_margin)
        self.maybe = either(better, self.x, self.maybe)
        self.maybe_margin = torch.where(better, margins, self.maybe_margin)
        self.maybe_step = self.maybe_step.masked_fill(better, step)

    def _compact(self, settled: Tensor | None) -> Tensor | None:
        self._confirm()
        return super()._compact(settled)

    def _confirm(self) -> None:
        """Ask in float32 about the images that may be finds, and keep those that are, as `_record` does."""
        at = (self.maybe_step >= 0).nonzero()[:, 0]
        if len(at):
            (images,) = picked(at, self.maybe)
            logits = self.model.select(at.cpu())(images)
            margins, finite = self._margins(logits, self.y[at], self.goal[at])
            better = margins > self.best_margin[at]
            self.best = self.best.index_copy(0, at[better], images[better])
            self.best_margin = self.best_margin.index_copy(0, at[better], margins[better])
            self.step = self.step.index_copy(0, at[better], self.maybe_step[at[better]])
            self.found.index_add_(0, self.group[at], firm_margin(margins, logits).to(self.found.dtype))
            self.nonfinite.index_add_(0, self.group[at], (~finite).to(self.found.dtype))
        self._forget()

    def _select(self, keep: Tensor) -> None:
        super()._select(keep)
        self._forget()  # it was asked about just before

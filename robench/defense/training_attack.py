"""Adversarial examples for training, by the same loop that evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robench.attack.base import Batch, Proposal, check_count
from robench.attack.classifier import BatchModel, Classifier
from robench.attack.gradient import GradientAttack, Search
from robench.attack.objectives import cross_entropy
from robench.errors import require
from robench.threat import ThreatModel


class TrainingPGD(GradientAttack):
    """Projected gradient ascent for training: no early stop, no verdict, the last iterate is the answer.

    size: the length of each of `steps` steps, in pixels. objective: logits [B, C], labels [B] -> values [B] to
    maximise; one that needs more, such as TRADES' clean logits, is a closure over it, one row per image in the order
    of the batch. random_start: begin anywhere in the ball, else at the image. noise: where positive, begin at the image
    plus Gaussian noise of that standard deviation in pixels. rule: "steepest" or "adam".
    """

    def __init__(
        self,
        *,
        steps: int,
        size: float,
        objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        random_start: bool = True,
        noise: float = 0.0,
        rule: str = "steepest",
    ) -> None:
        check_count("steps", steps)
        require(size >= 0, "size", size, "zero or more pixels of [0, 1]")
        require(noise >= 0, "noise", noise, "zero or more pixels of [0, 1]")
        self.maximise, self.noise = objective, noise
        self._search = Search([size] * steps, rule, random_start or noise > 0, success="last")

    def search(self, threat: ThreatModel) -> Search:
        """The same steps under every threat model."""
        del threat
        return self._search

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """Run the search on every row."""
        return super().perturb(model, _Near(**vars(batch), noise=self.noise) if self.noise else batch)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        """The objective it was built with."""
        del goal
        return self.maximise(logits, y)


@dataclass(frozen=True)
class _Near(Batch):
    """A batch whose searches begin near their image, not anywhere in the ball."""

    noise: float = 0.0

    def start(self) -> Tensor:
        """The image plus Gaussian noise of standard deviation `noise`, projected."""
        return self.threat.project(self.x, self.x + self.noise * self.gaussian("start"))


def perturbed(
    module: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, attack: GradientAttack, classes: int
) -> Tensor:
    """Images [B, C, H, W] that `attack` finds within `threat` of x, without a gradient of their own.

    x: float [B, C, H, W] in [0, 1], y: int64 [B]; module: x -> logits [B, classes]. For use inside a training step: the
    module answers in eval mode, so batch norm is fixed and its statistics stay as they are, and comes back with the
    modes of all its parts and with its parameters as trainable as they were. The starts are drawn from torch's random
    state on the CPU, so a training that restores that state is repeated exactly. Costs one forward and one backward
    pass to the pixels per step.
    """
    seed = int(torch.randint(2**62, ()))
    rows = torch.arange(len(x))
    goal, trial = torch.full_like(y, -1), torch.zeros_like(rows)
    batch = Batch(x.detach(), y, goal, rows, trial, rows, threat, seed)
    with frozen(module), torch.no_grad():
        return attack.perturb(Classifier(module, classes, len(x), x.device).rows(rows), batch).x


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """The module in eval mode and without trainable parameters; afterwards every part and parameter is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training

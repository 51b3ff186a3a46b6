"""What an attack author writes: an Attack proposes perturbed images; the harness projects and judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robench import randomness
from robench.attack.classifier import BatchModel
from robench.errors import BadInput
from robench.ranges import INT64, Range, whole
from robench.results.rows import passes
from robench.threat import ThreatModel

# what a row's figure is called and how success is decided
Metric = Literal["robust accuracy", "attack success rate"]
# how the attack gets at the model; "transfer", "guided" and "detector" are what the harness makes of the others
Access = Literal["white-box", "noise"]
# how it searches: along gradients in one or many steps, by asking for answers alone, in all of these ways, or elsewhere
Kind = Literal["single-step", "iterative", "query", "ensemble", "imported"]


@dataclass(frozen=True)
class Trials:
    """The trials planned for B examples, in the order they are run.

    key: int64 [B, T], the trial's identity in the noise, so that a start does not depend on the order of the trials.
    goal: int64 [B, T], the class aimed at, or -1 for none.
    """

    key: Tensor
    goal: Tensor

    @classmethod
    def untargeted(cls, examples: int, restarts: int) -> Trials:
        """The same `restarts` trials for every example, without a goal."""
        key = torch.arange(restarts).expand(examples, restarts)
        return cls(key, torch.tensor(-1).expand(examples, restarts))

    def __len__(self) -> int:
        return self.key.shape[1]


@dataclass(frozen=True)
class Cost:
    """Passes through a model that answers without noise, at most; None where nobody knows.

    A bound is met where an example is never broken, unless the attack says that it gives up earlier, and says nothing
    of the harness's own passes.
    """

    backwards: int | None = None
    forwards: int | None = None

    @property
    def spent(self) -> int:
        """All passes in forward passes, 0 where nobody knows; a backward pass takes about two."""
        return int(passes(self.forwards or 0, self.backwards or 0))

    def times(self, count: int) -> Cost:
        """The passes of `count` such pieces of work."""
        parts = (self.backwards, self.forwards)
        return Cost(*(None if part is None else count * part for part in parts))


@dataclass(frozen=True)
class Batch:
    """The rows of one call of an attack: one (example, trial) each.

    x: float32 [B, C, H, W] original images in [0, 1]; y: int64 [B] labels; goal: int64 [B], -1 for none;
    example_id, trial: int64 [B], which key the noise; group: int64 [B], equal for the trials of one example.
    Pixels, labels and goals live on the model's device, the rest on the CPU.
    """

    x: Tensor
    y: Tensor
    goal: Tensor
    example_id: Tensor
    trial: Tensor
    group: Tensor
    threat: ThreatModel
    seed: int

    def __len__(self) -> int:
        return len(self.x)

    def uniform(self, stream: str) -> Tensor:
        """Uniform noise in [0, 1) shaped like x, keyed by (seed, example id, trial, stream)."""
        return self._noise(randomness.uniform, stream)

    def gaussian(self, stream: str) -> Tensor:
        """Standard normal noise shaped like x, keyed by (seed, example id, trial, stream)."""
        return self._noise(randomness.gaussian, stream)

    def start(self) -> Tensor:
        """A random point of each row's ball, clipped to the box: uniform in the ball of the norm."""
        direction = self.gaussian("start-direction") if self.threat.geometry.directed else None
        return self.threat.sample(self.x, self.uniform("start"), direction)

    def _noise(self, draw: Any, stream: str) -> Tensor:
        shape = tuple(self.x.shape[1:])
        noise: Tensor = draw(self.seed, self.example_id.tolist(), self.trial.tolist(), stream, shape)
        return noise.to(self.x.device)


@dataclass(frozen=True)
class Proposal:
    """Images an attack proposes, float32 [B, C, H, W], and the step at which each was found (int64 [B], -1: last).

    stages: of an attack made of several, which of them were run on each row, int64 [B]: bit k for `Attack.stages[k]`.
    """

    x: Tensor
    step: Tensor
    stages: Tensor | None = None


class Attack(ABC):
    """An attack plugin. Constructor keywords are its options; `trials` plans, `perturb` proposes.

    Norms that `norms` does not name are refused. `version` enters every evaluation's identity: raise it when a change
    of code changes figures (of some options alone: see `edition`). An attack that stops where an image is broken, or
    returns one that it could not break as it was, says so by `transfers = False`; one whose outcome for an image
    depends on which others share its batch, by `batched = True`; one that walks along the decision boundary to the
    nearest image, as FAB does, by `boundary = True`: in some norms a figure that no such attack tried is an upper
    bound; one whose gradients may be in bfloat16, from `model.gradient(..., rough=True)`, by `rough = True`; one that
    may follow another model's gradients, since it has them from `model.gradient` alone and goes by the model's answers
    for the rest, by `guided = True`. `expected` is about how many forward passes a trial takes where `passes` knows no
    bound, or one that few trials come near; only the progress shown depends on it. An attack made of several ones names
    them in `stages`, at most 62, in their order, and tells in each `Proposal` which were run.
    """

    version: ClassVar[int] = 1
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    metric: ClassVar[Metric] = "robust accuracy"
    access: ClassVar[Access] = "white-box"
    kind: ClassVar[Kind] = "iterative"
    transfers: ClassVar[bool] = True
    batched: ClassVar[bool] = False
    boundary: ClassVar[bool] = False
    rough: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    expected: int | None = None
    stages: tuple[str, ...] = ()

    @property
    def edition(self) -> int:
        """The version that enters the identity with the options at hand: `version`, where no older one still holds.

        Where a change of code moves the figures of some options alone, those of the others keep the version they had.
        """
        return self.version

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """The trials for B examples, from their labels [B] and clean logits [B, classes]; one without goal by default.

        `example_id` [B] and `seed` are for goals drawn at random.
        """
        del logits, example_id, seed
        return Trials.untargeted(len(y), 1)

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """The most passes one trial of one example takes, for progress and planning; unknown unless an attack says."""
        del threat, classes
        return Cost()

    def cost(self, threat: ThreatModel, classes: int) -> Cost:
        """The most passes one example takes in all of its trials: `passes` times what `trials` plans."""
        none = torch.zeros(1, dtype=torch.int64)
        return self.passes(threat, classes).times(len(self.trials(none, torch.zeros(1, classes), none, 0)))

    @abstractmethod
    def perturb(self, model: BatchModel, batch: Batch) -> Tensor | Proposal:
        """Propose images [B, C, H, W] for the rows of `batch`. They are projected and judged by the harness."""


def check_norm(attack: Attack, title: str, norm: str) -> None:
    """Raise BadInput where an attack, of that title, does not support a norm."""
    if norm not in attack.norms:
        known = ", ".join(attack.norms)
        raise BadInput(f"The attack {title} does not support norm {norm}; it supports {known}: give one with --norm.")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise BadInput unless a count option is an integer of at least `least`, and fits 64 bits."""
    whole(name, value, Range(least, INT64.most))

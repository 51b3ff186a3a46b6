"""Random noise in the ball: the attack that knows nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robench import Access, Attack, Batch, BatchModel, Cost, Restarts, ThreatModel, Trials, check_count


class RandomNoise(Attack):
    """Uniform noise in the ball, in several draws; a model it breaks is not robust (Carlini et al., 2019)."""

    access: ClassVar[Access] = "noise"

    def __init__(self, *, restarts: Restarts = 10) -> None:
        check_count("restarts", restarts)
        self.restarts = restarts

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per draw."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """None at all."""
        del threat, classes
        return Cost(0, 0)

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """A random point of the ball; no query."""
        del model
        return batch.start()

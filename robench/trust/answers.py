"""Whether a model may have answered as rows say: verdicts too close to call, and those of a model that answers at
random."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, predictions, same, spread

# a verdict may change with the batch size only where the recorded class's logit is this close to the largest one,
# relative to the spread of the row's logits; or as close as float32 rounds logits of that size
CLOSE, ROUNDING = 1e-3, 2.0**-22
# of an evaluation's verdicts, about this share may be too close to call, and this many in any case
TIES, FEW = 0.01, 2
# how often a model that answers at random is asked; how many standard deviations of its noise an answer may be from the
# likely one; and how many of its own, over the draws, the number of right answers may be from the usual one
DRAWS, NOISE, DEVIATIONS = 16, 5.0, 6.0


def tied(logits: Tensor, recorded: Tensor) -> Tensor:
    """Where the recorded class [n] is as good as the predicted one by logits [n, classes], bool [n]."""
    known = (recorded >= 0) & (recorded < logits.shape[1])
    wide = logits.double()
    top = wide.amax(1)
    gap = top - wide.gather(1, recorded.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return known & (gap <= CLOSE * spread(logits) + ROUNDING * top.abs())


def too_many(close: int, verdicts: int) -> int:
    """How many of the verdicts that are too close to call are more than kernels of another batch size explain.

    At 1% the harness itself flags an evaluation whose verdicts change from batch to batch (borderline).
    """
    return max(0, close - FEW - math.ceil(TIES * verdicts))


@dataclass
class Chance:
    """What a model that answers at random may have answered, and whether all that it is said to have answered is what
    it answers."""

    stood: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    draws: dict[str, Tensor] = field(default_factory=dict)

    def excused(
        self, classifier: Classifier, column: str, x: Tensor, recorded: Tensor, labels: Tensor, batch_size: int
    ) -> Tensor:
        """Where the recorded answers [n] to images x [n, C, H, W] may be another draw than today's, bool [n].

        That is where the model gives this answer too when it is asked often, or comes near to it by its own noise; and
        nowhere for a model that repeats itself.
        """
        answers = [clean_logits(classifier, x, batch_size) for _ in range(DRAWS)]
        if all(same(answers[0], other) for other in answers[1:]):
            return torch.zeros(len(x), dtype=torch.bool)
        drawn = torch.stack(answers).double()
        found, likely = torch.stack([predictions(each) for each in answers]), drawn.mean(0).argmax(1)
        classes = recorded.clamp(0, drawn.shape[2] - 1)
        rows = torch.arange(len(x))
        lead = drawn[:, rows, likely] - drawn[:, rows, classes]
        known = (recorded >= 0) & (recorded < drawn.shape[2])
        near = known & (lead.std(0) > 0) & (lead.mean(0) <= NOISE * lead.std(0))
        self.stood[column] += int((recorded == labels).sum())
        self.draws[column] = self.draws.get(column, torch.zeros(DRAWS)) + (found == labels).float().sum(1)
        return (found == recorded).any(0) | near

    @property
    def unlikely(self) -> int:
        """How many images more, or fewer, are recorded as answered rightly than the model's own noise explains."""
        beyond = 0
        for column, draws in self.draws.items():
            allowed = DEVIATIONS * float(draws.std()) + FEW
            beyond += max(0, math.ceil(abs(self.stood[column] - float(draws.mean())) - allowed))
        return beyond

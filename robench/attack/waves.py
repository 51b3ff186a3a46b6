"""In which order trials are run, and how progress is told from inside a batch of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from robench.attack.base import Attack
from robench.attack.classifier import Classifier
from robench.threat import ThreatModel

# trials of one example that share a batch, after the first, which runs alone
WAVE = 8

# seconds between reports from inside a batch
PULSE = 1.0


def waves(trials: int) -> Iterator[range]:
    """The first trial alone, then the others in groups: most examples of a weak model fall to the first."""
    start, size = 0, 1
    while start < trials:
        yield range(start, min(start + size, trials))
        start, size = start + size, WAVE


@dataclass(frozen=True)
class Work:
    """A batch among the work on a shard.

    trials: how many of each example; part: the positions of the examples. todo, total: pairs of an example and a trial,
    still to do before this batch and in the whole shard.
    """

    trials: int
    part: Tensor
    todo: int
    total: int


def pulse(
    model: Classifier, attack: Attack, threat: ThreatModel, work: Work, progress: Callable[[float], None]
) -> Callable[[], None]:
    """What tells of the progress inside a batch, every second, as far as the attack knows how long it takes.

    The example that has been asked about most often is taken for one that stands to the end.
    """
    cost, query = attack.passes(threat, model.classes), attack.kind == "query"
    each = (attack.expected or 0) * (1 if query else 3) or cost.spent
    whole = work.trials * each * (model.draws if model.randomised else 1)
    before, told = model.spent[work.part], time.monotonic()

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told >= PULSE:
            told = time.monotonic()
            made = int((model.spent[work.part] - before).max())
            done = min(made / whole, 1.0) * len(work.part) * work.trials if whole else 0.0
            progress(1 - (work.todo - done) / work.total)

    return tell

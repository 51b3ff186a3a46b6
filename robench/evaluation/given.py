"""Images that were made elsewhere, proposed to the judge in place of an attack's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from robench.attack.base import Attack, Batch, Metric
from robench.attack.classifier import BatchModel
from robench.attack.judge import Examples, ShardOutcome
from robench.errors import BadInput
from robench.store.imported import ImportedSet
from robench.threat import ThreatModel

# the mark of an image that was judged as projected, since it lay outside eps or the box
OUTSIDE = "outside-eps"


@dataclass(frozen=True)
class Given:
    """What was imported, and the attack that stands for it."""

    images: ImportedSet
    attack: Attack

    def part(self, start: int, stop: int) -> Handed:
        """What proposes the images of the test examples [start, stop). Raises Damaged."""
        return Handed(self.images.images(start, stop), start, self.attack.metric)


class Handed(Attack):
    """Proposes given images, float32 [n, C, H, W], of the examples from `start` on, whatever the model."""

    def __init__(self, images: Tensor, start: int, metric: Metric) -> None:
        self.handed, self.start, self._metric = images, start, metric

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        """That of the attack that stands for the images."""
        return self._metric

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The images of the batch's examples."""
        del model
        return self.handed[batch.example_id - self.start].to(batch.x.device)

    def marked(self, shard: ShardOutcome, examples: Examples, threat: ThreatModel) -> ShardOutcome:
        """The outcome with a mark on each image that lay outside and was judged as projected."""
        outside = ~threat.contains(examples.x, self.handed) & (torch.tensor(shard.rows["trial"].to_numpy().copy()) >= 0)
        flags = [";".join(filter(None, [own, OUTSIDE if out else ""])) for own, out in zip(
            shard.rows["flags"], outside.tolist(), strict=True)]  # fmt: skip
        rows: pd.DataFrame = shard.rows.assign(flags=flags)
        return replace(shard, rows=rows)


def given(images: ImportedSet, attack: Attack, label: str, start: int, count: int) -> Given:
    """The images behind an evaluation. Raises BadInput where they are not in the store, or not of these examples."""
    if not images.there or images.range[0] > start or images.range[1] < start + count:
        raise BadInput(f"The images of {label} are not in {images.path}; import their file again.")
    return Given(images, attack)

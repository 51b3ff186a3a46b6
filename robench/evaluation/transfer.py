"""Transfer: adversarial images crafted once on a surrogate, kept, and judged on any number of targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor, nn

from robench.attack.base import Attack, Batch, Metric, Trials
from robench.attack.classifier import BatchModel
from robench.attack.judge import Examples, Progress, Settings, ShardOutcome, attack_shard
from robench.data.dataset import Split
from robench.results.rows import CUT, spent
from robench.store.about import About
from robench.store.claims import claim
from robench.store.runs import EvaluationFolder
from robench.store.specs import CraftSpec
from robench.threat import ThreatModel

# columns that are told of the crafting, not of what the target made of its images
CRAFTED = ("forwards", "backwards", "zero_pixels", "stages")


@dataclass(frozen=True)
class Craft:
    """What is crafted: an attack on a surrogate, for the images of a split, and the folder it is kept in."""

    spec: CraftSpec
    surrogate: nn.Module
    classes: int
    attack: Attack
    threat: ThreatModel
    split: Split
    folder: EvaluationFolder
    about: About
    sources: Mapping[str, str] = field(default_factory=dict)

    def images(self, start: int, stop: int, settings: Settings, progress: Progress) -> Replay:
        """The crafted images of the test examples [start, stop), from the store where they are there.

        Every image is attacked to the last step, whatever `settings` say.
        """
        if self.folder.missing(start, stop, stop - start):
            with claim(self.folder.root, f"{self.spec.job_id}-{start:06d}-{stop:06d}-making", wait=True):
                # one range, unless shards of another size are there; none, if another process made them meanwhile
                for begin, end in self.folder.missing(start, stop, stop - start):
                    self._make(begin, end, settings, progress)
        rows, shards = self.folder.rows(), zip(self.folder.ranges(), self.folder.notes(), strict=True)
        flags = [flag for (a, b), note in shards if a < stop and b > start for flag in note["flags"]]
        kept = (rows["example_id"] >= start) & (rows["example_id"] < stop)
        rows = rows[kept].reset_index(drop=True)
        return Replay(self.folder.span(start, stop), rows, self.attack.metric, tuple(dict.fromkeys(flags)))

    def _make(self, start: int, stop: int, settings: Settings, progress: Progress) -> None:
        part = slice(start, stop)
        examples = Examples(self.split.pixels(part), self.split.labels[part], self.split.ids[part])
        self.surrogate.to(settings.device)
        settings = replace(settings, channels_last=False, crafting=True)
        shard = attack_shard(self.surrogate, self.classes, self.attack, self.threat, examples, settings, progress)
        self.folder.begin(self.spec.to_json(), self.about)
        notes = {"flags": list(shard.flags), "batch_size": settings.batch_size, "sources": dict(self.sources)}
        self.folder.save_shard(start, stop, shard.rows, shard.images, notes)


class Replay(Attack):
    """Proposes images that were crafted before, whatever the model.

    images: [n, C, H, W]; rows: the crafting's, one per image, for their example ids, goals and passes; flags: what was
    seen of the surrogate.
    """

    def __init__(self, images: Tensor, rows: pd.DataFrame, metric: Metric, flags: tuple[str, ...] = ()) -> None:
        self.crafted, self.rows, self.flags = images, rows, flags
        self._metric = metric
        self.position = {int(example): i for i, example in enumerate(rows["example_id"])}

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        """The metric of the attack that crafted the images."""
        return self._metric

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial, with the goal the images were crafted for."""
        del logits, seed
        goals = torch.tensor(self.rows["goal"].to_numpy().copy())[self._at(example_id)]
        return Trials(torch.zeros(len(y), 1, dtype=torch.int64), goals[:, None])

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The crafted images of the batch's examples."""
        del model
        return self.crafted[self._at(batch.example_id)].to(batch.x.device)

    def charge(self, shard: ShardOutcome) -> ShardOutcome:
        """What a target made of the images, with the passes that crafting took and what it flagged on the surrogate."""
        rows, flags = shard.rows, tuple(f"surrogate {flag}" for flag in self.flags)
        kept = {name: self.rows[name].to_numpy() for name in CRAFTED if name in self.rows}
        charged = rows.assign(**kept, passes=spent(self.rows))
        pairs = zip(rows["flags"], self.rows["flags"], strict=True)
        found = [list(dict.fromkeys(filter(None, [*a.split(";"), *b.split(";")]))) for a, b in pairs]
        won = rows["success"] if "success" in rows else [False] * len(rows)
        marks = [";".join(m for m in own if not (m == CUT and done)) for own, done in zip(found, won, strict=True)]
        return replace(shard, rows=charged.assign(flags=marks), flags=(*shard.flags, *flags))

    def _at(self, example_id: Tensor) -> Tensor:
        return torch.tensor([self.position[int(i)] for i in example_id], dtype=torch.int64)

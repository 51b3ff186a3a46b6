"""Evaluations of a linear classifier of digits in a store of their own, and changes of what was noted with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import robench
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Evaluated
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import read_json, write_sealed
from robench.store.runs import Store
from robench.threat import ThreatModel


def linear() -> nn.Module:
    """The class whose mean image is nearest, on digits."""
    train = robench.open_dataset("digits").train
    x, y = train.pixels(slice(None)).flatten(1), train.labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    layer = nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(2 * means)
        layer.bias.copy_(-means.square().sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def run(store: Store, attack: str = "mine", model: Any = None, **settings: Any) -> Evaluated:
    chosen = {"dataset": "digits", "count": 40, "device": "cpu", **settings}
    return evaluate(Request([model or linear()], attack.split(","), ThreatModel.of("linf", "0.5"), **chosen), store)


def folder_of(store: Store, done: Evaluated) -> EvaluationFolder:
    return store.evaluation(done.results[-1].evaluation)


def renote(folder: EvaluationFolder, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what was noted with every shard, and its seal."""
    for path in folder.path.glob("shard-*.json"):
        notes = {k: v for k, v in read_json(path).items() if k not in ("seal", "format")}
        change(notes)
        write_sealed(path, notes)
    folder._memory.kept.clear()

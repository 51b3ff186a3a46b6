"""One evaluation in several batch sizes and in two shards: are starts equal, how many verdicts differ? Example:

python benchmarks/invariance.py paradise-pm-mnist --data ~/datasets -n 1000 --attack multi-targeted --eps 0.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pandas as pd
from torch import Tensor

from robench import Batch, Proposal, ThreatModel, open_dataset, registry
from robench.attack.base import Attack
from robench.attack.classifier import BatchModel
from robench.attack.judge import Examples, Settings, attack_shard
from robench.models import load_model
from robench.results.accuracy import attack_figure
from robench.store.runs import Store, runs_root


def spy(attack: Attack, seen: dict[tuple[int, int], str]) -> Attack:
    """The attack, remembering the hash of every start by (example id, trial)."""
    run = attack.perturb

    def perturb(model: BatchModel, batch: Batch) -> Tensor | Proposal:
        start = batch.start()
        for example, trial, x in zip(batch.example_id.tolist(), batch.trial.tolist(), start, strict=True):
            seen[example, trial] = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
        return run(model, batch)

    attack.perturb = perturb  # type: ignore[method-assign]
    return attack


def main() -> None:
    """Parse, evaluate in each way, compare with the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--attack", default="multi-targeted")
    parser.add_argument("--eps", default="0.1")
    o = parser.parse_args()
    module = load_model(o.model, Store(runs_root(o.runs))).module
    dataset = open_dataset(o.dataset, o.data)
    threat, first, first_starts = ThreatModel.of("linf", o.eps), None, {}
    for batch, shards in ((100, 1), (32, 1), (1000, 1), (100, 2)):
        starts: dict[tuple[int, int], str] = {}
        attack = spy(registry.load("attack", o.attack).build({}), starts)
        parts = []
        for k in range(shards):
            part = slice(k * o.n // shards, (k + 1) * o.n // shards)
            examples = Examples(dataset.test.pixels(part), dataset.test.labels[part], dataset.test.ids[part])
            parts.append(attack_shard(module, dataset.classes, attack, threat, examples, Settings(0, batch)).rows)
        rows = pd.concat(parts, ignore_index=True)
        if first is None:
            first, first_starts = rows, starts
        common = starts.keys() & first_starts.keys()
        print(
            json.dumps(
                {
                    "batch": batch,
                    "shards": shards,
                    "robust_accuracy": attack_figure(rows, "robust accuracy").value,
                    "verdicts_differing": int((rows["success"] != first["success"]).sum()),
                    "starts_compared": len(common),
                    "starts_differing": sum(starts[key] != first_starts[key] for key in common),
                    "gradients": int(rows["backwards"].sum()),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()

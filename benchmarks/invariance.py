"""One evaluation in several batch sizes, in two shards, in this process and on Ray: are starts equal, and how many
verdicts differ from those of the first way? Example:

python benchmarks/invariance.py paradise-pm-mnist --data ~/datasets -n 1000 --attack multi-targeted --eps 0.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import pandas as pd
from torch import Tensor

from robench import Attack, Batch, BatchModel, Proposal, ThreatModel, open_dataset, registry
from robench.attack.judge import Examples, Settings, attack_shard
from robench.data.dataset import Dataset
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.executors.workers import EXECUTORS, Workers
from robench.models import load_model
from robench.registry import parse_options
from robench.results.accuracy import attack_figure
from robench.store.runs import Store, runs_root

Starts = dict[tuple[int, int], str]


def spy(attack: Attack, seen: Starts) -> Attack:
    """The attack, remembering the hash of every start by (example id, trial)."""
    run = attack.perturb

    def perturb(model: BatchModel, batch: Batch) -> Tensor | Proposal:
        start = batch.start()
        for example, trial, x in zip(batch.example_id.tolist(), batch.trial.tolist(), start, strict=True):
            seen[example, trial] = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
        return run(model, batch)

    attack.perturb = perturb  # type: ignore[method-assign]
    return attack


def judged(o: argparse.Namespace, dataset: Dataset, batch: int, shards: int, starts: Starts) -> pd.DataFrame:
    """The rows of the judge alone."""
    module = load_model(o.model, Store(runs_root(o.runs))).module
    attack, parts = spy(registry.load("attack", o.attack).build(dict(o.options)), starts), []
    test = dataset.drawn(dataset.way(o.n))  # as an evaluation takes them
    for k in range(shards):
        part = slice(k * o.n // shards, (k + 1) * o.n // shards)
        examples = Examples(test.pixels(part), test.labels[part], test.ids[part])
        settings = Settings(0, batch)
        parts.append(attack_shard(module, dataset.classes, attack, threat_of(o), examples, settings).rows)
    return pd.concat(parts, ignore_index=True)


def executed(o: argparse.Namespace, executor: str) -> pd.DataFrame:
    """The rows of an evaluation in two shards, by this process or by two workers of Ray."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to((runs_root(o.runs) / "models").resolve())
        request = Request(
            [o.model], [o.attack], threat_of(o), dataset=o.dataset, count=o.n, shard_size=(o.n + 1) // 2, batch_size=40,
            options=dict(o.options), data_root=o.data,
        )  # fmt: skip
        store = Store(Path(folder))
        evaluate(request, store, Workers(executor, workers=2 if executor == "ray" else None))
        rows: pd.DataFrame = store.evaluation(store.evaluation_ids()[0]).rows()
        return rows


def threat_of(o: argparse.Namespace) -> ThreatModel:
    """What the command line asks for."""
    return ThreatModel.of(o.norm, o.eps)


def compared(o: argparse.Namespace, rows: pd.DataFrame, first: pd.DataFrame) -> dict[str, object]:
    """What differs between two ways; a verdict without a difference is one where both found or both did not."""
    differ = rows["success"].to_numpy() != first["success"].to_numpy()
    return {
        "attack": o.attack,
        "robust_accuracy": attack_figure(rows, "robust accuracy").value,
        "verdicts_differing": int(differ.sum()),
        "finds_further_apart_than_1e-5": int((abs(rows["l2"].to_numpy() - first["l2"].to_numpy()) > 1e-5).sum()),
        "gradients": int(rows["backwards"].sum()),
    }


def main() -> None:
    """Parse, evaluate in each way, compare with the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--attack", default="multi-targeted")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--batches", default="250,7,40", help="sizes of batches, the first to be compared with")
    o = parser.parse_args()
    o.options = parse_options(o.options)
    dataset, sizes = open_dataset(o.dataset, o.data), [int(size) for size in o.batches.split(",")]
    first, first_starts = pd.DataFrame(), Starts()
    for batch, shards in (*((size, 1) for size in sizes), (sizes[0], 2)):
        starts = Starts()
        rows = judged(o, dataset, batch, shards, starts)
        if first.empty:
            first, first_starts = rows, starts
        common = starts.keys() & first_starts.keys()
        same = {"starts_compared": len(common), "starts_differing": sum(starts[k] != first_starts[k] for k in common)}
        print(json.dumps({"batch": batch, "shards": shards} | compared(o, rows, first) | same), flush=True)
    for executor in EXECUTORS:
        print(json.dumps({"executor": executor} | compared(o, executed(o, executor), first)), flush=True)


if __name__ == "__main__":
    main()

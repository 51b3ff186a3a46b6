"""Our PGD beside foolbox's LinfPGD with the same settings, on one model and the same images. Example:

python benchmarks/parity.py standard-mnist --data ~/datasets -n 1000
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from robench import ThreatModel, open_dataset, registry
from robench.data import Split
from robench.evaluation import Examples, Settings, attack_shard
from robench.models import load_model
from robench.results import attack_figure
from robench.store import Store, runs_root


def ours(module: nn.Module, split: Split, n: int, eps: str, step: str, steps: int, seed: int) -> float:
    """Robust accuracy by the harness's pgd, one random start."""
    attack = registry.load("attack", "pgd").build({"steps": steps, "step": step})
    examples = Examples(split.pixels(slice(0, n)), split.labels[:n], split.ids[:n])
    classes = int(split.labels.max()) + 1
    shard = attack_shard(module, classes, attack, ThreatModel.of("linf", eps), examples, Settings(seed))
    return attack_figure(shard.rows, attack.metric).value


def foolbox(module: nn.Module, split: Split, n: int, eps: str, step: str, steps: int, seed: int) -> float:
    """Robust accuracy by foolbox's LinfPGD, one random start, correct and not broken, over all n images."""
    import foolbox as fb

    torch.manual_seed(seed)
    model = fb.PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack = fb.attacks.LinfPGD(abs_stepsize=float(step), steps=steps, random_start=True)
    robust = 0
    for start in range(0, n, 250):
        part = slice(start, min(start + 250, n))
        x, y = split.pixels(part), split.labels[part]
        _, _, broken = attack(model, x, y, epsilons=float(eps))
        with torch.no_grad():
            robust += int(((module(x).argmax(1) == y) & ~broken).sum())
    return robust / n


def main() -> None:
    """Parse, run both for several seeds, print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--step", default="0.01")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    o = parser.parse_args()
    loaded = load_model(o.model, Store(runs_root(o.runs)))
    split = open_dataset(o.dataset, o.data).test
    for seed in range(o.seeds):
        for name, run in (("robench", ours), ("foolbox", foolbox)):
            began = time.perf_counter()
            value = run(loaded.module, split, o.n, o.eps, o.step, o.steps, seed)
            seconds = round(time.perf_counter() - began, 2)
            print(json.dumps({"by": name, "seed": seed, "robust_accuracy": value, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()

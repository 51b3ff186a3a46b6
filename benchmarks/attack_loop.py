"""What the attack loop costs beside the gradients themselves.

Times the harness's untargeted attack against a bare loop of forward + input gradient on the same model, batch and
precision, in alternating runs, and prints the ratio of their times per gradient; on a CPU these are the processor's
own, which other work on the machine does not change. Freed memory is kept for both, as attacks do. Example:

    python benchmarks/attack_loop.py --models cnn resnet-20 --runs 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from robench import DataInfo, ThreatModel, build_backbone, registry
from robench.attack.base import Batch
from robench.attack.classifier import Classifier
from robench.device import keep_freed

DATA = {
    "cnn": DataInfo("mnist", 1, 28, 28, 10, (0.13,), (0.31,), "mnist"),
    "resnet-20": DataInfo("cifar10", 3, 32, 32, 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), "cifar10"),
}


def bare(module: nn.Module, x: torch.Tensor, steps: int) -> float:
    """Seconds per gradient of forward + input gradient alone."""
    clock = _clock(x)
    began = clock()
    for _ in range(steps):
        image = x.detach().requires_grad_(True)
        torch.autograd.grad(module(image).sum(), image)
    _wait(x)
    return (clock() - began) / (steps * len(x))


def loop(module: nn.Module, x: torch.Tensor, steps: int) -> float:
    """Seconds per gradient of the attack loop on examples that never break, so that the batch stays whole."""
    classifier = Classifier(module, 10, len(x), x.device)
    y = classifier.logits(x).argmax(1).to(x.device)
    ids = torch.arange(len(x))
    batch = Batch(x, y, torch.full_like(y, -1), ids, torch.zeros_like(ids), ids, ThreatModel.of("linf", "1e-7"), 0)
    attack = registry.load("attack", "untargeted").build({"steps": steps, "schedule": "0.1"})
    classifier.forwards.zero_()
    clock = _clock(x)
    began = clock()
    attack.perturb(classifier.rows(ids), batch)
    _wait(x)
    seconds = clock() - began
    classifier.release()
    if int(classifier.backwards.sum()) != steps * len(x):
        raise RuntimeError("an example broke, so the two loops did not compute the same number of gradients")
    return seconds / int(classifier.backwards.sum())


def _clock(x: torch.Tensor) -> Callable[[], float]:
    return time.perf_counter if x.is_cuda else time.process_time


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def measure(name: str, batch: int, steps: int, runs: int, device: str) -> dict[str, object]:
    """Alternate the two loops and compare them pair by pair."""
    keep_freed()
    data = DATA[name]
    torch.manual_seed(0)
    backbone = build_backbone(name, data)
    module = nn.Sequential(backbone, nn.Linear(backbone.width, data.classes)).eval().to(device)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.to(memory_format=torch.channels_last)
    x = torch.rand(batch, *data.shape, device=device).contiguous(memory_format=torch.channels_last)
    bare(module, x, 2), loop(module, x, 2)
    pairs = [(bare(module, x, steps), loop(module, x, steps)) for _ in range(runs)]
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return {
        "model": name,
        "batch": batch,
        "steps": steps,
        "bare_us_per_gradient": round(1e6 * statistics.median(p[0] for p in pairs), 1),
        "loop_us_per_gradient": round(1e6 * statistics.median(p[1] for p in pairs), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(ratios[0], 4),
        "ratio_max": round(ratios[-1], 4),
        "runs": runs,
    }


def main() -> None:
    """Parse, measure, print one JSON line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet-20"], choices=sorted(DATA))
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")
    for name in options.models:
        print(json.dumps(measure(name, options.batch, options.steps, options.runs, options.device)), flush=True)


if __name__ == "__main__":
    main()

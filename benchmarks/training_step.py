"""What a training step costs beside the plain CNN's, on random images of MNIST's shape. Example:

python benchmarks/training_step.py standard c-dv c-js c-dv-ie c-js-ie alemi-cnn
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from robench import Defense, registry
from robench.data.dataset import DataInfo

MNIST = DataInfo("mnist", 1, 28, 28, 10, (0.1307,), (0.3081,), "mnist")
WARM_UP = 2


def step(defense: Defense, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one loss, backward pass and update."""
    began = time.perf_counter()
    total = defense.loss(x, y)["total"]
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return time.perf_counter() - began


def main() -> None:
    """Interleave the defenses, so that other work on the machine hits all alike, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("defenses", nargs="+", help="the first one is what the others are compared with")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    x = torch.rand(arguments.batch_size, *MNIST.shape)
    y = torch.randint(MNIST.classes, (arguments.batch_size,))
    pairs = []
    for name in arguments.defenses:
        torch.manual_seed(0)
        plugin = registry.load("defense", name)
        defense = plugin.build(plugin.recipes["mnist"]["quick"].options, MNIST)
        defense.train().to(memory_format=torch.channels_last)
        pairs.append((defense, torch.optim.Adam(defense.parameters(), lr=1e-3)))
    seconds: list[list[float]] = [[] for _ in pairs]
    for _ in range(WARM_UP + arguments.runs):
        for found, (defense, optimizer) in zip(seconds, pairs, strict=True):
            found.append(step(defense, optimizer, x, y))
    medians = [statistics.median(found[WARM_UP:]) for found in seconds]
    for name, median in zip(arguments.defenses, medians, strict=True):
        print(f"{name:24s} {1000 * median:8.1f} ms  {median / medians[0]:.2f} x {arguments.defenses[0]}")


if __name__ == "__main__":
    main()

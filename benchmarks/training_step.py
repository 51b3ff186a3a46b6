"""What a training step costs beside the plain classifier's, on random images: CPU seconds, counted in turns. Example:

OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_step.py standard paradise-pm dvib-pm madry trades
OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_step.py standard trades --data cifar10 --backbone resnet-20

A step is the images from bytes to augmented pixels, the loss, its backward pass and the optimizer's update, with the
recipe's batch, optimizer and options. Lightning's own work, the same for all, is left out. "madry-bare" is madry with
the search written out in a few lines, to see what the harness's loop adds.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from robench import Defense, Recipe, frozen, registry
from robench.data.dataset import DataInfo
from robench.defense.augment import augment
from robench.defense.recipe import find_recipe, make_optimizer

DATA = {
    "mnist": DataInfo("mnist", 1, 28, 28, 10, (0.1307,), (0.3081,), "mnist"),
    "cifar10": DataInfo("cifar10", 3, 32, 32, 10, (0.491, 0.482, 0.447), (0.247, 0.244, 0.262), "cifar10"),
}
WARM_UP, BARE = 2, "madry-bare"


@dataclass
class Runner:
    """A defense with its optimizer, and the CPU seconds of its steps; `prepared` is their share before the loss."""

    name: str
    defense: Defense
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    prepared: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, data: DataInfo, recipe_name: str, options: dict[str, Any]) -> Runner:
        """The defense as its recipe has it, half-way through its training, where all ramps are well under way."""
        bare = name == BARE
        plugin = registry.load("defense", "madry" if bare else name)
        recipe = find_recipe(plugin.recipes, name, data, recipe_name)
        torch.manual_seed(0)
        defense = plugin.build({**recipe.options, **options}, data)
        defense.progress = 0.5
        if bare:
            defense.worst = functools.partial(written_out, defense)
        defense.train().to(memory_format=torch.channels_last)
        return cls(name, defense, recipe, make_optimizer(recipe, list(defense.parameters())))

    def step(self, images: torch.Tensor, y: torch.Tensor) -> None:
        """One step on uint8 images [B, C, H, W]."""
        began = time.process_time()
        x = augment(images.float() / 255, self.recipe.augment)
        ready = time.process_time()
        total = self.defense.loss(x, y)["total"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.seconds.append(time.process_time() - began)
        self.prepared.append(ready - began)


def written_out(defense: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Madry's search without the harness: signs of gradients from a uniform start, linf."""
    threat = defense.inner.threat(defense.progress)
    size, eps = defense.inner.attack(threat, functional.cross_entropy).search(threat).sizes[0], threat.radius
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    found = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    with frozen(defense):
        for _ in range(defense.inner.steps):
            found.requires_grad_(True)
            grad = torch.autograd.grad(functional.cross_entropy(defense(found), y, reduction="sum"), found)[0]
            found = torch.minimum(torch.maximum(found.detach() + size * grad.sign(), low), high)
    return found


def main() -> None:
    """Take turns, so that other work on the machine hits all alike; print CPU time, and its ratio turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("defenses", nargs="+", help="the first one is what the others are compared with")
    parser.add_argument("--data", choices=DATA, default="mnist")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--backbone", help="instead of the recipe's")
    parser.add_argument(
        "-o", dest="options", action="append", default=[], metavar="NAME=VALUE", help="not of the first"
    )
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    data = DATA[arguments.data]
    network = {"backbone": arguments.backbone} if arguments.backbone else {}
    extra = {name: _value(text) for name, _, text in (option.partition("=") for option in arguments.options)}
    runners = [
        Runner.of(name, data, arguments.recipe, network if at == 0 else {**network, **extra})
        for at, name in enumerate(arguments.defenses)
    ]
    batch = arguments.batch_size or runners[0].recipe.batch_size
    images = torch.randint(256, (batch, *data.shape), dtype=torch.uint8)
    y = torch.randint(data.classes, (batch,))
    for _ in range(WARM_UP + arguments.runs):
        for runner in runners:
            runner.step(images, y)
    shown = arguments.backbone or runners[0].recipe.options.get("backbone", "auto")
    print(f"{data.name}, {shown}, batches of {batch}, {torch.get_num_threads()} thread(s), {arguments.runs} runs")
    print("defense          least ms   median  largest  images/s  x least  x median (quartiles)   pixels")
    first = runners[0].seconds[WARM_UP:]
    for runner in runners:
        found = runner.seconds[WARM_UP:]
        median = statistics.median(found)
        low, middle, high = statistics.quantiles((b / a for a, b in zip(first, found, strict=True)), n=4)
        pixels = statistics.median(runner.prepared[WARM_UP:]) / median
        print(
            f"{runner.name:16s} {1000 * min(found):8.1f} {1000 * median:8.1f} {1000 * max(found):8.1f} "
            f"{batch / median:9.0f} {min(found) / min(first):8.2f} {middle:9.2f} ({low:.2f}-{high:.2f}) {pixels:10.1%}"
        )


def _value(text: str) -> Any:
    """An option's value: JSON where it is that, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    main()

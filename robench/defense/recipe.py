"""Recipes: training settings as data, and the optimizer and schedule that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from robench.data.dataset import DataInfo
from robench.errors import BadInput

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """Training settings as data.

    lr: the (peak) learning rate. schedule: "constant"; "steps", times `factor` at each epoch of `milestones`;
    "exponential", times `factor` every `every` epochs; "onecycle", up for 30% of the steps, then down to nearly 0.
    ema: decay of a running average of the weights that replaces them at the end, 0 for none. clip: largest gradient
    norm, 0 for none. precision: "bfloat16" computes the networks of training steps in it where torch's autocast does;
    weights, and everything after the training, are float32. options: the defense's options under this recipe. source:
    where the values come from.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: Literal["constant", "steps", "exponential", "onecycle"] = "constant"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    every: int = 1
    augment: str = "none"
    ema: float = 0.0
    clip: float = 0.0
    precision: Precision = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "ours"

    def to_json(self) -> dict[str, Any]:
        """The recipe without its options, which are recorded with the defense's; and without the usual precision, so
        that trainings keep their identities."""
        values = asdict(self)
        del values["options"]
        if self.precision == "float32":
            del values["precision"]
        return values

    def lasting(self, epochs: int) -> Recipe:
        """The same recipe for another number of epochs, with its milestones at the same shares of the training."""
        share = epochs / self.epochs
        milestones = tuple(round(share * epoch) for epoch in self.milestones)
        return replace(self, epochs=epochs, milestones=milestones, every=max(1, round(share * self.every)))

    def with_options(self, **options: Any) -> Recipe:
        """The same recipe with these options over its own."""
        return replace(self, options={**self.options, **options})


# family of data ("mnist", "cifar10", ... or "other") -> recipe name -> Recipe
Recipes = Mapping[str, Mapping[str, Recipe]]


def find_recipe(recipes: Recipes, defense: str, data: DataInfo, name: str) -> Recipe:
    """The recipe of that name for the data's family. Raises BadInput naming the recipes there are."""
    known = recipes.get(data.family, recipes.get("other", {}))
    if name not in known:
        choices = ", ".join(sorted(known)) or "none"
        raise BadInput(
            f"The defense {defense!r} has no recipe {name!r} for {data.name} (data like {data.family}); "
            f"choose one of: {choices}."
        )
    return known[name]


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> Optimizer:
    """Adam, or SGD with momentum and no dampening."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler | None:
    """The learning-rate schedule, or None for a constant one; `steps` is the number of optimizer steps in all."""
    schedulers = torch.optim.lr_scheduler
    if recipe.schedule == "steps":
        return schedulers.MultiStepLR(optimizer, list(recipe.milestones), recipe.factor)
    if recipe.schedule == "exponential":
        return schedulers.StepLR(optimizer, recipe.every, recipe.factor)
    if recipe.schedule == "onecycle":
        return schedulers.OneCycleLR(optimizer, recipe.lr, total_steps=max(1, steps), cycle_momentum=False)
    return None

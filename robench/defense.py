"""What a defense author writes: a Defense is a LightningModule from [0, 1] pixels to logits, trained by a Recipe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from robench.augment import augment
from robench.data import DataInfo
from robench.errors import BadInput, CheckFailed, require


@dataclass(frozen=True)
class Recipe:
    """Training settings as data.

    lr: the (peak) learning rate. schedule: "constant"; "steps", times `factor` at each epoch of `milestones`;
    "exponential", times `factor` every `every` epochs; "onecycle", up for 30% of the steps, then down to nearly 0.
    ema: decay of a running average of the weights that replaces them at the end, 0 for none. clip: largest gradient
    norm, 0 for none. options: the defense's options under this recipe. source: where the values come from.
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
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "ours"

    def to_json(self) -> dict[str, Any]:
        """The recipe without its options, which are recorded with the defense's."""
        values = asdict(self)
        del values["options"]
        return values

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


class Defense(pl.LightningModule):
    """A model that can be trained, saved and attacked.

    A subclass writes `__init__(self, data, *, options...)`, `forward` (float [B, C, H, W] in [0, 1] -> logits
    [B, classes], deterministic in eval mode) and `loss` (named terms; "total" is minimised).
    """

    recipes: ClassVar[Recipes] = {}

    def __init__(self, data: DataInfo) -> None:
        super().__init__()
        self.data = data
        self.recipe: Recipe | None = None
        self.progress = 1.0  # share of the training done, in [0, 1]; for terms that ramp up

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W] in [0, 1]."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scalar terms of the loss, each as it enters the sum, and "total"."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn uint8 images into pixels in [0, 1], augmented while training."""
        images, y = batch
        x = images.float() / 255
        kind = self.recipe.augment if self.training and self.recipe else "none"
        return augment(x, kind), y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step on the loss; raises CheckFailed when a term is not finite."""
        x, y = batch
        self.progress = min(1.0, self.global_step / max(1, int(self.trainer.estimated_stepping_batches)))
        terms = self.loss(x, y)
        if not bool(torch.isfinite(terms["total"])):
            name = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "total")
            raise CheckFailed(
                f"Training met a value that is not finite in the term {name!r} at step {self.global_step}"
            )
        self.log_dict({k: v.detach() for k, v in terms.items()}, logger=False)
        return terms["total"]

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Predictions and labels of a batch."""
        x, y = batch
        return {"predicted": self(x).argmax(1), "label": y}

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer and schedule."""
        require(self.recipe is not None, "recipe", None, "set before training")
        assert self.recipe is not None
        optimizer = make_optimizer(self.recipe, [p for p in self.parameters() if p.requires_grad])
        scheduler = make_schedule(self.recipe, optimizer, int(self.trainer.estimated_stepping_batches))
        if scheduler is None:
            return optimizer
        interval = "step" if self.recipe.schedule == "onecycle" else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def make_optimizer(recipe: Recipe, parameters: list[torch.nn.Parameter]) -> Optimizer:
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

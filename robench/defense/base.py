"""What a defense author writes: a Defense is a LightningModule from [0, 1] pixels to logits, trained by a Recipe."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from robench.data.dataset import DataInfo
from robench.defense.augment import augment
from robench.defense.recipe import Recipe, Recipes, make_optimizer, make_schedule
from robench.errors import CheckFailed, require


class Defense(pl.LightningModule):
    """A model that can be trained, saved and attacked.

    A subclass writes `__init__(self, data, *, options...)`, `forward` (float [B, C, H, W] in [0, 1] -> logits
    [B, classes], deterministic in eval mode) and `loss` (named terms; "total" is minimised). One whose parts are
    trained against each other also sets `automatic_optimization = False`, names its `learners`, and in `play` lets them
    `descend` one after another.
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

    def learners(self) -> Mapping[str, tuple[list[nn.Parameter], float]]:
        """One optimizer each: its parameters, and the share of the recipe's learning rate at which they learn."""
        return {"model": ([p for p in self.parameters() if p.requires_grad], 1.0)}

    def play(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """A training step without automatic optimization: calls of `descend`. Returns terms as `loss` does."""
        terms = self.loss(x, y)
        self.descend({name: term for name, term in terms.items() if name != "total"}, *self.learners())
        return terms

    def descend(self, terms: Mapping[str, Tensor], *names: str) -> None:
        """One step of the named learners, and of nobody else, on the sum of scalar terms.

        Raises CheckFailed, before any parameter moves, when a term is not finite.
        """
        total = torch.stack(list(terms.values())).sum()
        self._check_finite({**terms, "total": total})
        found = self.optimizers()
        optimizers = dict(zip(self.learners(), found if isinstance(found, list) else [found], strict=True))
        parameters = [p for name in names for p in self.learners()[name][0]]
        for name in names:
            optimizers[name].zero_grad()
        self.manual_backward(total, inputs=parameters)
        if self.recipe and self.recipe.clip:
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        for name in names:
            optimizers[name].step()

    @property
    def step_gradients(self) -> int:
        """Backward passes through the network per image of a training step; more than one where a step takes more."""
        return 1

    def monitors(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scalars of validation images that are no terms of the loss, recorded as means after every epoch."""
        del x, y
        return {}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn uint8 images into pixels in [0, 1], augmented while training."""
        images, y = batch
        x = images.float() / 255
        kind = self.recipe.augment if self.training and self.recipe else "none"
        return augment(x, kind), y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step on the loss; raises CheckFailed when a term is not finite."""
        x, y = batch
        # batches, not Lightning's global_step: that one counts the steps of every optimizer
        self.progress = min(1.0, self._batches() / max(1, int(self.trainer.estimated_stepping_batches)))
        if self.automatic_optimization:
            terms = self.loss(x, y)
            self._check_finite(terms)
        else:
            terms = self.play(x, y)
            self._advance_schedules()
        self.log_dict({k: v.detach() for k, v in terms.items()}, logger=False)
        return terms["total"]

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Predictions and labels of a batch, and what the defense monitors."""
        x, y = batch
        return {"predicted": self(x).argmax(1), "label": y, "monitors": self.monitors(x, y)}

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer and schedule, for each learner at its share of the learning rate."""
        require(self.recipe is not None, "recipe", None, "set before training")
        assert self.recipe is not None
        configured = []
        for parameters, share in self.learners().values():
            recipe = replace(self.recipe, lr=share * self.recipe.lr)
            optimizer = make_optimizer(recipe, parameters)
            scheduler = make_schedule(recipe, optimizer, int(self.trainer.estimated_stepping_batches))
            interval = "step" if recipe.schedule == "onecycle" else "epoch"
            schedule = {"scheduler": scheduler, "interval": interval}
            configured.append({"optimizer": optimizer, **({"lr_scheduler": schedule} if scheduler else {})})
        return configured if len(configured) > 1 else configured[0]

    def _batches(self) -> int:
        """Batches of training before this one, those before an interruption included."""
        return self.trainer.fit_loop.total_batch_idx

    def _check_finite(self, terms: Mapping[str, Tensor]) -> None:
        if not bool(torch.isfinite(terms["total"])):
            name = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "total")
            raise CheckFailed(f"Training met a value that is not finite in the term {name!r} at step {self._batches()}")

    def _advance_schedules(self) -> None:
        """What Lightning does by itself under automatic optimization, at the same moments."""
        last = (self._batches() + 1) % int(self.trainer.num_training_batches) == 0
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step" or last:
                self.lr_scheduler_step(config.scheduler, None)

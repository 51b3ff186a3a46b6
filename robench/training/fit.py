"""Fit a Defense with a Lightning Trainer: resumable, watched for collapse, and measured once at the end."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from robench.data.dataset import Dataset, Split
from robench.defense.base import Defense
from robench.defense.recipe import Recipe
from robench.device import full_precision, keep_freed
from robench.errors import BadInput, CheckFailed, disk_error, first_line
from robench.progress import Bar, bar
from robench.training.checkpoints import CHECKPOINT, WholeFiles
from robench.training.parts import Parts, parts_of
from robench.training.watching import IMAGES, stands

# a model that gives one class to this share of the validation set has collapsed
ONE_CLASS = 0.99


@dataclass(frozen=True)
class Fit:
    """One training: the data, its recipe, the seed, the device, and the folder that checkpoints go to.

    spec: the id of everything it depends on; a checkpoint of another is refused. watched: radii in linf at which its
    robustness is measured after every epoch, which changes nothing of the training.
    """

    dataset: Dataset
    recipe: Recipe
    seed: int
    device: str
    folder: Path
    title: str
    spec: str = ""
    watched: tuple[str, ...] = ()


@dataclass
class Trained:
    """What training measured: accuracies as fractions, the last epoch's mean loss terms, and the seconds it took.

    watched_images: on how many validation images robustness was watched, 0 where it was not. A training that was
    interrupted took the seconds until its checkpoint, too, but not what was lost.
    """

    val_accuracy: float
    test_accuracy: float
    test_count: int
    terms: dict[str, float]
    seconds: float
    resumed_from_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    watched_images: int = 0


def fit(defense: Defense, plan: Fit) -> Trained:
    """Train `defense` in place; afterwards it is in eval mode on the CPU, with the averaged weights if the recipe says.

    A checkpoint is kept after every epoch; if one is in the folder, training goes on from it. Raises CheckFailed,
    naming the step and the term of the loss, when a value is not finite, the loss diverges or the model collapses to
    one class; the last good checkpoint stays in the folder. Raises KeyboardInterrupt on Ctrl-C.
    """
    keep_freed()
    train, val = plan.dataset.train, plan.dataset.val
    parts = parts_of(train, plan.recipe, plan.seed)
    defense.recipe = plan.recipe if parts is None else replace(plan.recipe, augment="none")
    checkpoint = plan.folder / CHECKPOINT
    resume = checkpoint if checkpoint.is_file() else None
    loader = _Loader(train, plan.recipe.batch_size, plan.seed, training=True, parts=parts)
    if not len(loader):
        raise BadInput(
            f"{plan.dataset.info.name} has {len(train)} training images, fewer than one batch; use more data."
        )
    watch = _Watch(plan, defense.data.classes)
    callbacks: list[Callback] = [
        watch,
        ModelCheckpoint(plan.folder, CHECKPOINT[:-5], save_on_train_epoch_end=False, enable_version_counter=False),
    ]
    if plan.recipe.ema:
        callbacks.append(EMAWeightAveraging(decay=plan.recipe.ema))
    with _quiet(), bar(plan.title) as shown:
        watch.bar = shown
        trainer = pl.Trainer(
            accelerator="gpu" if plan.device.startswith("cuda") else "cpu",
            devices=[torch.device(plan.device).index or 0] if plan.device.startswith("cuda") else 1,
            max_epochs=plan.recipe.epochs,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=not plan.watched,
            precision="bf16-mixed" if plan.recipe.precision == "bfloat16" else "32-true",
            gradient_clip_val=(plan.recipe.clip or None) if defense.automatic_optimization else None,
            plugins=[WholeFiles(_Watch.__qualname__)],
        )
        _run(trainer, defense, plan, loader, _Loader(val, 1000, plan.seed, training=False), resume, watch)
    defense.eval().cpu()
    test = plan.dataset.test
    return Trained(
        val_accuracy=accuracy(defense, val, plan.device),
        test_accuracy=accuracy(defense, test, plan.device),
        test_count=len(test),
        terms=watch.last_terms,
        seconds=round(watch.seconds, 1),
        resumed_from_epoch=watch.first_epoch or 0,
        history=watch.history,
        watched_images=min(IMAGES, len(val)) if plan.watched else 0,
    )


def _run(
    trainer: pl.Trainer,
    defense: Defense,
    plan: Fit,
    train: DataLoader[Any],
    val: DataLoader[Any],
    resume: Path | None,
    watch: _Watch,
) -> None:
    defense.to(memory_format=torch.channels_last)
    try:
        trainer.fit(defense, train, val, ckpt_path=str(resume) if resume else None, weights_only=True)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stop
    except CheckFailed as stop:
        raise CheckFailed(f"{stop}; {_kept(plan.folder)}") from None
    except OSError as error:
        raise disk_error(error, plan.folder) from error
    except (RuntimeError, LookupError, EOFError, TypeError, ValueError, AttributeError) as error:
        if resume is None or watch.first_epoch is not None:
            raise
        raise BadInput(
            f"The checkpoint {resume} cannot be read ({first_line(error, 120)}); delete it and train again."
        ) from error


def _kept(folder: Path) -> str:
    if (folder / CHECKPOINT).exists():
        return f"the last good checkpoint is kept in {folder}."
    return "no epoch had finished, so there is no checkpoint."


def accuracy(module: nn.Module, split: Split, device: str = "cpu", batch_size: int = 500) -> float:
    """Clean accuracy as a fraction; the module is moved to the device and back to the CPU."""
    module.eval().to(device)
    right = 0
    with full_precision(), torch.no_grad():
        for start in range(0, len(split), batch_size):
            part = slice(start, min(start + batch_size, len(split)))
            right += int((module(split.pixels(part).to(device)).argmax(1).cpu() == split.labels[part]).sum())
    module.cpu()
    return right / max(len(split), 1)


class _Loader(DataLoader[Any]):
    """Shuffles by (seed, epoch), so that a resumed training sees the batches it would have seen."""

    def __init__(self, split: Split, batch_size: int, seed: int, *, training: bool, parts: Parts | None = None) -> None:
        size = min(batch_size, len(split)) if training else batch_size
        self.order = _Order(len(split), seed, shuffle=training, parts=parts)
        super().__init__(
            parts or split,  # type: ignore[arg-type]
            batch_size=size,
            sampler=self.order,
            drop_last=training,
            collate_fn=_whole,
        )


class _Order(torch.utils.data.Sampler[int]):
    def __init__(self, n: int, seed: int, *, shuffle: bool, parts: Parts | None) -> None:
        self.n, self.seed, self.shuffle, self.parts, self.epoch = n, seed, shuffle, parts, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch
        if self.parts is not None:
            self.parts.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.n))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.n, generator=generator).tolist())


def _whole(batch: Any) -> Any:
    """Splits answer with whole batches; a list of single items is stacked."""
    return batch if isinstance(batch, tuple) else default_collate(batch)


# the watch's state that a checkpoint keeps
REMEMBERED = ("first_loss", "peaks", "history", "best", "at_chance")


class _Watch(Callback):
    """Shows progress, seeds every epoch, and stops training that diverges or collapses."""

    def __init__(self, plan: Fit, classes: int) -> None:
        self.plan, self.classes = plan, classes
        self.bar: Bar | None = None
        self.first_epoch: int | None = None
        self.first_loss: float | None = None
        self.peaks: dict[str, float] = {}
        self.sums: Counter[str] = Counter()
        self.last_terms: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.predicted: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.monitors: Counter[str] = Counter()
        self.best, self.at_chance = 0.0, 0
        self.images, self.began = 0, time.monotonic()
        self.before, self.opened = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """What the training took up to now, in this process and in those that it goes on from."""
        return self.before + time.monotonic() - self.opened

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on from."""
        return {
            "spec": self.plan.spec,
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in REMEMBERED},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of the interrupted training; raises BadInput where it was another one."""
        if not {"seconds", *REMEMBERED} <= state_dict.keys():
            raise BadInput(f"The checkpoint in {self.plan.folder} is damaged; delete it and train again.")
        if state_dict.get("spec", "") not in ("", self.plan.spec):
            raise BadInput(
                f"The checkpoint in {self.plan.folder} is of a training with other settings; delete it and train again."
            )
        for name in REMEMBERED:
            setattr(self, name, state_dict[name])
        self.before = float(state_dict["seconds"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make an epoch's noise a function of the seed and the epoch; remember where training went on from."""
        if self.first_epoch is None:
            self.first_epoch, self.began = trainer.current_epoch, time.monotonic()
        torch.manual_seed(self.plan.seed * 1_000_003 + trainer.current_epoch)
        self.sums.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the terms' means and peaks; stop on divergence."""
        named = trainer.callback_metrics
        # one look at the device for all terms
        values = torch.stack([value.float() for value in named.values()]).tolist() if named else []
        terms = dict(zip(named, values, strict=True))
        total = terms.get("total", 0.0)
        self.sums.update(terms)
        self.sums["steps"] += 1
        for name, value in terms.items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), abs(value))
        self.first_loss = total if self.first_loss is None else self.first_loss
        if total > 100 * (abs(self.first_loss) + math.log(self.classes) + 1):
            raise CheckFailed(
                f"Training diverged at step {_steps(trainer)}: the loss rose from {self.first_loss:.4g} to "
                f"{total:.4g}, most of it the term {self._largest(terms)!r}; lower the learning rate or its weight"
            )
        self._show(trainer, len(batch[0]), total)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect predictions, and sums of what the defense monitors."""
        self.predicted.append(outputs["predicted"].cpu())
        self.labels.append(outputs["label"].cpu())
        self.monitors.update({k: float(v) * len(outputs["label"]) for k, v in outputs["monitors"].items()})

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop when the model has collapsed to one class, before its checkpoint overwrites the last good one."""
        predicted, labels = torch.cat(self.predicted), torch.cat(self.labels)
        self.predicted, self.labels = [], []
        right = float((predicted == labels).float().mean())
        steps = max(1, self.sums.pop("steps", 1))
        self.last_terms = {k: round(v / steps, 6) for k, v in self.sums.items()}
        monitors = {k: round(v / len(labels), 6) for k, v in self.monitors.items()}
        self.monitors.clear()
        robust = stands(pl_module, self.plan.dataset.val, self.plan.watched, self.classes)
        self.history.append(
            {"epoch": trainer.current_epoch, "val_accuracy": round(right, 5), **self.last_terms, **monitors, **robust}
        )
        top = float(predicted.bincount().max()) / len(predicted)
        collapsed = top >= ONE_CLASS and right <= 1.5 / self.classes + 0.02
        self.at_chance = self.at_chance + 1 if collapsed else 0
        last = trainer.current_epoch + 1 >= self.plan.recipe.epochs
        if collapsed and (self.at_chance >= 2 or last or self.best > 3 / self.classes):
            raise CheckFailed(
                f"Training collapsed at step {_steps(trainer)}: {top:.0%} of the validation images get one class "
                f"(accuracy {right:.1%}), after the term {self._largest(self.peaks)!r} had outweighed the others (peak "
                f"{self.peaks.get(self._largest(self.peaks), 0):.3g}); lower its weight, or let it ramp up"
            )
        self.best = max(self.best, right)

    def _largest(self, terms: dict[str, float]) -> str:
        parts = {k: abs(v) for k, v in terms.items() if k != "total"} or {"total": 0.0}
        return max(parts, key=lambda k: parts[k])

    def _show(self, trainer: pl.Trainer, images: int, total: float) -> None:
        self.images += images
        steps = max(1, int(trainer.estimated_stepping_batches))
        rate = self.images / max(time.monotonic() - self.began, 1e-9)
        note = f"epoch {trainer.current_epoch + 1}/{self.plan.recipe.epochs}  loss {total:.3f}  {rate:,.0f} images/s"
        if self.bar:
            self.bar.update(_steps(trainer) / steps, note)


def _steps(trainer: pl.Trainer) -> int:
    """Batches of training so far; Lightning's global_step counts the steps of every optimizer."""
    return trainer.fit_loop.total_batch_idx + 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice and banners stay off the user's terminal."""
    loggers = [
        logging.getLogger(name) for name in ("pytorch_lightning", "lightning", "pytorch_lightning.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
            warnings.filterwarnings("ignore", message=r".*(lr_scheduler|isinstance\(treespec|LeafSpec).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

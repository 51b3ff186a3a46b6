"""What figures ask models: answers, gradients of the loss and codes, of the first test images, behind the guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robench.attack.base import check_count
from robench.attack.classifier import Classifier
from robench.attack.guard import plain_tensor, staying
from robench.attack.inspection import first_answers, inspect
from robench.attack.modes import check_gradients
from robench.attack.objectives import cross_entropy
from robench.data.draw import images_told
from robench.device import choose_device, full_precision
from robench.errors import BadInput
from robench.evaluation.jobs import Target, open_target
from robench.store.runs import Store

BATCH = 250
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """The first `n` test images: x float32 [n, C, H, W] in [0, 1]; y, ids int64 [n]; the data's name, and that of every
    class, which is its number where it has none; way: of the draw that they are the first of, None of none."""

    x: Tensor
    y: Tensor
    ids: Tensor
    data: str
    classes: tuple[str, ...]
    way: str | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def told(self) -> str:
        """The data and the images in words."""
        drawn = f"{self.way} over classes" if self.way else ""
        return f"{self.data}, {images_told(int(self.ids.min()), int(self.ids.max()), len(self), self.way, drawn)}"

    def at(self, places: Tensor) -> Images:
        """Some of them, by their places."""
        return Images(self.x[places], self.y[places], self.ids[places], self.data, self.classes, self.way)


@dataclass(frozen=True)
class Wanted:
    """What figures of models are asked for: data (None: the first model's own), how many images (None: the `usual`
    number, or all if there are fewer), seed and device."""

    dataset: str | None = None
    count: int | None = None
    usual: int = 8
    data: Path | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Subjects:
    """Models with the images that all of them are asked about."""

    targets: tuple[Target, ...]
    images: Images
    seed: int
    device: str

    @property
    def names(self) -> list[str]:
        """What the models go by: their names, with the beginnings of their digests where two share one."""
        names = [target.name for target in self.targets]
        return [
            f"{name}#{target.digest[:6]}" if names.count(name) > 1 else name
            for name, target in zip(names, self.targets, strict=True)
        ]

    def each(self, ask: Callable[[str, Asked], T]) -> list[T]:
        """What `ask` makes of every model and its name, one after another."""
        found = []
        for name, target in zip(self.names, self.targets, strict=True):
            with asking(target, self.images, self.seed, self.device) as asked:
                found.append(ask(name, asked))
        return found


def open_subjects(store: Store, references: Sequence[str | nn.Module], wanted: Wanted) -> Subjects:
    """The models, by references or handed over, each once, and the images.

    Raises BadInput for what cannot be loaded, data that do not fit, and more images than there are.
    """
    if wanted.count is not None:
        check_count("-n", wanted.count)
    if not references:
        raise BadInput(f"No model is named; known: {', '.join(store.model_names()) or 'none'}.")
    device, names = choose_device(wanted.device), dict.fromkeys(references)
    targets: list[Target] = []
    for name in names:
        data = wanted.dataset or (targets[0].dataset.name if targets else None)
        targets.append(open_target(name, store, data, wanted.data))
    dataset = targets[0].dataset
    count = min(wanted.usual, len(dataset.test)) if wanted.count is None else wanted.count
    way = dataset.way(count)
    split = dataset.drawn(way)
    if count > len(split):
        raise BadInput(f"-n is {count}, but {dataset.name} has {len(split):,} test images; give at most that.")
    part = slice(0, count)
    classes = tuple(dataset.names or map(str, range(dataset.classes)))
    images = Images(split.pixels(part), split.labels[part], split.ids[part], dataset.name, classes, way)
    return Subjects(tuple(targets), images, wanted.seed, device)


@dataclass(frozen=True)
class Asked:
    """One model that is asked about images. clean: its logits [n, classes]; flags: what `inspect` says of them."""

    model: Classifier
    images: Images
    clean: Tensor
    flags: tuple[str, ...]

    def logits(self, x: Tensor) -> Tensor:
        """Logits float32 [n, classes] of any images [n, C, H, W], on the CPU."""
        return torch.cat([self.model.logits(part) for part in torch.split(x, BATCH)])

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy float64 [n] of images with labels, and the classes that they are taken for, int64 [n]."""
        logits = self.logits(x).double()
        return cross_entropy(logits, y), logits.argmax(1)

    def gradients(self) -> Tensor:
        """The gradient of each image's cross-entropy with respect to its pixels, [n, C, H, W] on the CPU."""
        found = []
        for places in torch.split(torch.arange(len(self.images)), BATCH):
            x = self.images.x[places].to(self.model.device)
            y = self.images.y[places].to(self.model.device)
            found.append(self.model.rows(places).gradient(x, partial(cross_entropy, y=y))[1].float().cpu())
        return torch.cat(found)

    def called(self, method: str, returns: str) -> list[Any]:
        """What a method of the model returns for the images, batch by batch.

        Raises BadInput for a model without it; returns: what it is for, in words.
        """
        bound = getattr(self.model.module, method, None)
        if not callable(bound):
            raise BadInput(
                f"{type(self.model.module).__name__} has no method {method}(x) that returns {returns}, which this "
                "figure draws; name a model that has a code, such as one of paradise, paradise-ae or er-classifier."
            )
        answers = []
        with torch.no_grad():
            for part in torch.split(self.images.x, BATCH):
                with self.model.guard:
                    answers.append(bound(part.to(self.model.device).clone()))
        return answers


def matrix(answers: Sequence[object], images: Images, method: str) -> Tensor:
    """Answers [B, D] of a method, batch by batch, as one float32 tensor [n, D] on the CPU. Raises BadInput for others,
    and for numbers that are not finite."""
    for answer in answers:
        if not isinstance(answer, Tensor) or answer.dim() != 2:
            shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise BadInput(f"{method} returned {shape}, not a code [batch, dimensions].")
    found = torch.cat([plain_tensor(each).detach().float().cpu() for each in answers if isinstance(each, Tensor)])
    if len(found) != len(images) or not bool(found.isfinite().all()):
        raise BadInput(
            f"{method} returned {len(found)} codes for {len(images)} images, or numbers that are not finite."
        )
    return found


@contextmanager
def asking(target: Target, images: Images, seed: int, device: str) -> Iterator[Asked]:
    """The model on the device, in eval mode, guarded, in float32. Raises BadInput where it cannot be judged."""
    module = target.module.to(device)
    check_gradients(module)
    with full_precision():
        model = Classifier(module, target.dataset.classes, len(images), device, images.y)
        try:
            model.check_mode()
            with model.guard.shard(seed), staying():
                clean = first_answers(model, images.x, BATCH)
                flags = tuple(inspect(model, images.x, clean, BATCH))
                model.randomised = "randomised" in flags
                yield Asked(model, images, clean, flags)
        finally:
            model.release()
            module.cpu()

"""Whether a model looks as if it wanted other pixels than it gets: a hundred clean images, seen in the usual ways."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robench.attack.classifier import Classifier
from robench.data.dataset import Dataset
from robench.models.adapted import Adaptation, Adapted
from robench.models.loading import LoadedModel

IMAGES, LEAST = 100, 20
# another way of seeing is told where so many more in a hundred are right, more than coins would give it, and where the
# model is so much better than chance with it
GAP, ODDS, LEARNT = 0.06, 0.005, 0.2
# the flag of an evaluation of such a model
OTHER_PIXELS = "other-pixels"

# mean and std per channel as training scripts have them
USUAL = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "stl10": ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Way:
    """A way of seeing pixels: what stands around the model then, and what to do to have it so, as the end of a
    sentence and in short."""

    adaptation: Adaptation
    advice: str
    short: str


@dataclass(frozen=True)
class Doubt:
    """That a model gets far more images right with other pixels: in a sentence, and as a flag of its evaluations."""

    told: str
    flag: str


@dataclass(frozen=True)
class Asking:
    """How models are asked: where, in batches of which size, and what they must leave as it is."""

    device: str
    batch_size: int
    kept: tuple[object, ...] = ()


def doubt(model: LoadedModel, dataset: Dataset, asking: Asking) -> Doubt | None:
    """What to say of a model that gets far more images right with other pixels; None for one that does not, and for one
    that cannot be asked, of which the judge speaks.

    Asked is a copy. A model that gets nine in ten right is asked once.
    """
    split = dataset.test
    count = min(IMAGES, len(split))
    try:
        module = copy.deepcopy(model.module)
        inner = module.model if type(module) is Adapted else module
    except Exception:  # whatever a user's model holds
        return None
    if count < LEAST or inner is getattr(model.module, "model", model.module):
        return None
    places = torch.linspace(0, len(split) - 1, count).round().long()
    x, y = split.pixels(places), split.labels[places]

    def right(way: Adaptation) -> Tensor | None:
        return _right(Adapted(inner, way), x, y, dataset.classes, asking)

    now = right(model.adaptation)
    if now is None or float(now.float().mean()) > 1 - GAP:
        return None
    best: tuple[int, Way] | None = None
    for way in _ways(model.adaptation, dataset.name, x):
        found = right(way.adaptation)
        if found is not None and _better(found, now, dataset.classes) and (best is None or int(found.sum()) > best[0]):
            best = int(found.sum()), way
    if best is None:
        return None
    told = (
        f"{model.name} gets {int(now.sum())} of {count} clean images right, but {best[0]} {best[1].advice}, before its "
        "figures are trusted."
    )
    return Doubt(told, f"{OTHER_PIXELS} ({best[1].short})")


def _ways(own: Adaptation, dataset: str, x: Tensor) -> Iterator[Way]:
    """The other ways in which pixels are usually seen."""
    plain = replace(own, pixels=None, mean=None, std=None)
    given = [f"--{name}" for name in ("pixels", "mean", "std") if getattr(own, name) is not None]
    if plain != own:
        out = " and ".join(given)
        yield Way(plain, f"without {out}; leave {'it' if len(given) == 1 else 'them'} out", f"without {out}")
    instead = f" instead of {' and '.join(given)}" if given else ""
    mean, std = _usual(dataset, x)
    told = f"--mean {','.join(f'{each:g}' for each in mean)} --std {','.join(f'{each:g}' for each in std)}"
    for more, options in (
        (replace(plain, mean=mean, std=std), told),
        (replace(plain, pixels=(-1.0, 1.0)), "--pixels -1..1"),
        (replace(plain, pixels=(0.0, 255.0)), "--pixels 0..255"),
    ):
        if more != own:
            yield Way(more, f"with {options}{instead}; it looks as if it wanted such pixels, so give that", options)


def _usual(dataset: str, x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The usual mean and std of data: their own where they are known, ImageNet's for colours, else those of images."""
    if dataset in USUAL:
        return USUAL[dataset]
    if x.shape[1] == 3:
        return IMAGENET
    mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp(min=1e-3).tolist()
    return tuple(round(each, 4) for each in mean), tuple(round(each, 4) for each in std)


def _right(module: nn.Module, x: Tensor, y: Tensor, classes: int, asking: Asking) -> Tensor | None:
    """Which images are answered rightly, bool [n]; None where the model cannot be asked."""
    try:
        model = Classifier(module.to(asking.device), classes, device=asking.device)
        model.guard.keep(*asking.kept)  # what it changes of them is put back, and the judge says so
        logits = torch.cat([model.logits(part) for part in torch.split(x, asking.batch_size)])
    except Exception:  # whatever a user's model does; the judge says it
        return None
    return logits.argmax(1) == y


def _better(found: Tensor, now: Tensor, classes: int) -> bool:
    """Whether a way of seeing is far better than another, image by image (a sign test), and than guessing."""
    won, lost = int((found & ~now).sum()), int((now & ~found).sum())
    odds = sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    learnt = float(found.float().mean()) - 1 / classes >= LEARNT
    return won - lost >= GAP * len(now) and odds < ODDS and learnt

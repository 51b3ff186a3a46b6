"""Gradients in bfloat16, which a search follows where that was asked for. Nothing here decides a verdict.

The model is copied, its convolutions are laid out and stored as the units of a GPU take them, and batch norms that
follow a convolution become a part of it. Where a copy cannot be made, or does not answer and point as the model does,
torch's autocast runs the model itself, and where that fails too, gradients stay float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from robench.attack.classifier import Classifier, Rough
from robench.attack.inspection import below_top, median_spread
from robench.errors import crash

# images on which a copy is compared with its model
LOOKED = 64
# how far an answer may be off, as a share of its row's spread; how much of a gradient's direction must be left; and the
# share of the images that must be so. bfloat16 has 8 bits: a network of 28 layers is off by about a hundredth
OFF, ALIKE, MOST = 0.1, 0.9, 0.9

# layers that autocast runs in bfloat16, whose weights are therefore stored so: else they are cast in every pass. Not
# their subclasses, which may do more with weights
CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

# how gradients are told to be taken from a copy, with more behind it
COPY = "bfloat16, on a copy"

T = TypeVar("T")


@dataclass(frozen=True)
class Taken:
    """How the gradients of a shard are taken: from what, or None for the model in float32; and that in words."""

    rough: Rough | None
    told: str


def rough_of(model: Classifier, x: Tensor, clean: Tensor, *, whole: bool = False) -> Taken:
    """What gives gradients in bfloat16 of a model, tried on images x [n, C, H, W] that it answered with clean [n, C].

    whole: the model itself, not a copy of it, as for layers that gradients pass unchanged.
    """
    x, clean = x[:LOOKED], clean[:LOOKED]
    pair = clean.topk(min(2, clean.shape[1]), dim=1).indices
    pointed = None if model.randomised else _ask(model, lambda: _gradient(model, None, x, pair))
    # what a model that draws noise answers differs by itself
    noise = _off(clean, model.logits(x)) if model.randomised else torch.zeros(len(x))
    failed = ""
    for told, make in _ways(model.module, whole=whole):
        try:
            rough = _ask(model, make)
            if rough is None:
                continue
            logits, grad = _gradient(model, rough, x, pair)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a user's model does in another precision
            failed = failed or crash(error)
            continue
        near = _off(clean, logits) <= OFF + 3 * noise
        aligned = _aligned(pointed[1], grad) if pointed is not None else grad.flatten(1).isfinite().all(1)
        if bool((near & aligned).double().mean() >= MOST):
            if rough.own:
                _kept[model.module] = Taken(rough, told)
            return Taken(rough, told)
        failed = failed or "its answers or gradients are others there"
    return Taken(None, f"float32, as bfloat16 does not fit the model ({failed})")


# copies, by the model that they are of, for its next shard; once it is another, they no longer answer as it does
_kept: WeakKeyDictionary[nn.Module, Taken] = WeakKeyDictionary()


def _ways(module: nn.Module, *, whole: bool) -> Iterator[tuple[str, Callable[[], Rough | None]]]:
    """From the fastest to the one that asks least of a model."""
    if not whole:
        kept = _kept.pop(module, Taken(None, ""))
        yield kept.told, lambda: kept.rough
        yield f"{COPY} with channels last and batch norms folded", lambda: copied(module, folded=True, last=True)
        yield f"{COPY} with channels last", lambda: copied(module, folded=False, last=True)
        yield COPY, lambda: copied(module, folded=False, last=False)
    yield "bfloat16, by autocast on the model", lambda: Rough(module, own=False)


def copied(module: nn.Module, *, folded: bool, last: bool) -> Rough | None:
    """A copy in bfloat16, with batch norms folded into convolutions, and with channels last; None where it would be no
    other than one without. Raises whatever a user's model does."""
    convolutional = any(isinstance(part, CONVOLUTIONS) for part in nn.Module.modules(module))
    if (folded or last) and not convolutional:
        return None
    made: nn.Module = fuse(module) if folded else copy.deepcopy(module)  # the former copies too
    if made is module:
        return None
    if folded and _norms(made) == _norms(module):
        return None
    nn.Module.requires_grad_(made, False)
    for part in nn.Module.modules(made):
        if type(part) in CAST:
            for name, kept in part._parameters.items():
                if kept is not None and kept.dtype is torch.float32:
                    part._parameters[name] = nn.Parameter(kept.detach().to(torch.bfloat16), requires_grad=False)
    if last:
        nn.Module.to(made, memory_format=torch.channels_last)
    return Rough(made, own=True, layout=torch.channels_last if last else torch.contiguous_format)


def _norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in nn.Module.modules(module))


def _ask(model: Classifier, make: Callable[[], T]) -> T:
    """What a user's code makes, guarded."""
    with model.guard:
        return make()


def _gradient(model: Classifier, rough: Rough | None, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Answers, and the gradient of the lead of the first of each row's `pair` of classes [n, 2], all on the CPU."""
    with torch.enable_grad(), model.substitutes():
        pixels = x.to(model.device).detach().requires_grad_(True)
        logits = (model.ask(pixels) if rough is None else model.ask_roughly(pixels, rough)).float()
        chosen = logits.gather(1, pair.to(logits.device))
        total = (chosen[:, 0] - chosen[:, -1]).sum()
        with model.guard:
            grad = torch.autograd.grad(total, pixels, allow_unused=True)[0] if total.requires_grad else None
    return logits.detach().cpu(), torch.zeros_like(x) if grad is None else grad.detach().float().cpu()


def _off(a: Tensor, b: Tensor) -> Tensor:
    """By how much answers differ, as shares of the spread of each row of a: [n]; infinite where one is not finite."""
    off = (below_top(a) - below_top(b)).abs().amax(1) / median_spread(a).clamp(min=1e-30)
    return torch.where(b.isfinite().all(1), off, torch.inf)


def _aligned(a: Tensor, b: Tensor) -> Tensor:
    """Whether gradients point alike, bool [n]; two that are zero do."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    none = (a == 0).all(1) & (b == 0).all(1)
    return none | (functional.cosine_similarity(a, b, dim=1, eps=1e-300) >= ALIKE)

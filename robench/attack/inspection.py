"""A model's answers to clean images: what a judge needs of them, and what keeps a model from being judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robench.attack.classifier import Classifier
from robench.errors import BadInput, crash

# two answers to one question differ by more than kernels do
TOLERANCE = 1e-3


def clean_logits(model: Classifier, x: Tensor, batch_size: int) -> Tensor:
    """Logits [n, classes] of images [n, C, H, W], in batches of a fixed layout; raises BadInput for a wrong shape."""
    return torch.cat([model.logits(part) for part in torch.split(x, batch_size)])


def check_values(module: nn.Module) -> None:
    """Raise BadInput for a module whose parameters or buffers have no values yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise BadInput(
                f"The model's {name!r} is lazy and has no shape yet; call the model once on an image, or load its "
                "weights, before it is handed over."
            )
        if tensor.is_meta:
            raise BadInput(
                f"The model's {name!r} is on the meta device and has no values; build the model on the CPU, or give it "
                "memory with to_empty(device='cpu') and load its weights, before it is handed over."
            )


def first_answers(model: Classifier, x: Tensor, batch_size: int) -> Tensor:
    """The first logits a model gives; a model that cannot take the images at all is bad input, not a failed shard."""
    try:
        return clean_logits(model, x, batch_size)
    except (BadInput, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's model does
        raise BadInput(
            f"The model failed on clean images of shape {tuple(x.shape[1:])}, with {crash(error)}; mend it, or choose "
            "other data."
        ) from error


def predictions(logits: Tensor) -> Tensor:
    """The predicted class [n], or -1 where a logit is NaN or infinite."""
    return torch.where(logits.isfinite().all(1), logits.nan_to_num(0.0).argmax(1), -1)


def spread(logits: Tensor) -> Tensor:
    """The scale of each row of logits [n, classes], whatever is added to all of them: float64 [n].

    It is how far the largest lies above the others on average. Of two classes a row by itself has no scale, so there it
    is the median over the rows. NaN or infinite for a row that is.
    """
    wide = logits.double()
    gaps = wide.amax(1, keepdim=True) - wide
    found = gaps.sum(1) / max(wide.shape[1] - 1, 1)
    return found.nanmedian().expand(len(found)) if wide.shape[1] == 2 and len(found) else found


def inspect(model: Classifier, x: Tensor, logits: Tensor, batch_size: int) -> list[str]:
    """Flags of a model that cannot be judged as it stands; raises BadInput for one that cannot be judged at all.

    x [n, C, H, W] are clean images and `logits` [n, classes] the model's answers to them in batches of `batch_size`.
    """
    bad = int((~logits.isfinite().all(1)).sum())
    if bad:
        raise BadInput(f"The model returned NaN or infinite logits for {bad} of {len(x)} clean images; mend it first.")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < TOLERANCE).all()):
        raise BadInput("The model returned probabilities (they sum to 1), but must return logits; remove its softmax.")
    flags = ["gradient-at-inference"] if _optimises(model, x[:4]) else []
    again = clean_logits(model, x, batch_size)
    if not same(logits, again):
        flags.append("randomised")
    else:
        few = x[: min(8, len(x))]
        if len(x) > 1 and not same(logits[: len(few)], clean_logits(model, few, 1)):
            flags.append("batch-dependent")
    return flags


def _optimises(model: Classifier, x: Tensor) -> bool:
    """Whether the model runs a backward pass of its own while it answers."""
    autograd: Any = torch.autograd
    engine = autograd._engine_run_backward  # what grad and backward both call, however they were imported
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return engine(*arguments, **options)

    autograd._engine_run_backward = counted
    try:
        model.logits(x)
    finally:
        autograd._engine_run_backward = engine
    return calls > 0


def same(a: Tensor, b: Tensor) -> bool:
    """Finite, and different by no more than kernels make them, relative to the largest logit."""
    scale = a.abs().amax().clamp(min=1e-12)
    return bool(b.isfinite().all()) and bool((a - b).abs().amax() <= TOLERANCE * scale)


# a verdict may change with the batch only where the two highest logits are this close, relative to the row's spread
CLOSE = 1e-3


def firm(logits: Tensor) -> Tensor:
    """Where an answer is no tie that rounding may decide, bool [n]; an answer that is not finite is none."""
    top = logits.nan_to_num(0.0).topk(2, dim=1).values
    return ~logits.isfinite().all(1) | (top[:, 0] - top[:, 1] > CLOSE * spread(logits))

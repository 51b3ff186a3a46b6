"""A model's answer, as far as it is one: logits, a row per image and a column per class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robench.errors import BadInput


def logits_of(answer: object, batch: int, classes: int, columns: int) -> Tensor:
    """The answer to `batch` images, if it is a float tensor [batch, columns]; raises BadInput if not, with the option
    that makes it one. columns: classes, and one more behind a detector."""
    if not isinstance(answer, Tensor):
        raise BadInput(
            f"The model returned {_parts(answer)}, but must return a tensor of logits [batch, classes]{_which(answer)}."
        )
    if answer.layout is not torch.strided or answer.is_meta or answer.is_quantized:
        kind = "meta" if answer.is_meta else "quantised" if answer.is_quantized else "sparse"
        mend = "dequantize()" if answer.is_quantized else "to_dense()"
        raise BadInput(
            f"The model returned a {kind} tensor, but logits must be dense numbers; "
            + ("keep it off the meta device." if answer.is_meta else f"call {mend} on them.")
        )
    if classes == 2 and columns == 2 and tuple(answer.shape) in ((batch,), (batch, 1)):
        raise BadInput(
            f"The model returned one number per image, shape {tuple(answer.shape)}, but must return two logits; where "
            "it is the logit of the second class, give --binary (and --log-probabilities where it is its probability)."
        )
    if answer.dim() == 1 and batch == 1:
        raise BadInput(
            f"The model returned shape {tuple(answer.shape)} for one image, but must return (1, {classes}), "
            "as for any other number of images; use flatten(1) where it calls squeeze()."
        )
    if answer.dim() != 2 or answer.shape[0] != batch or answer.shape[1] != columns:
        raise BadInput(
            f"The model returned shape {tuple(answer.shape)} for {batch} images, but the data has {classes} "
            f"classes, so it must return logits of shape ({batch}, {classes})."
        )
    if not answer.is_floating_point():
        raise BadInput(f"The model returned {answer.dtype} values, but logits must be floating point.")
    return answer


def _parts(answer: object) -> str:
    """An answer that is no tensor, with the names of what may be meant."""
    kind = f"a {type(answer).__name__}"
    names = _names(answer)
    return f"{kind} of {', '.join(names)}" if names else kind


def _which(answer: object) -> str:
    names = _names(answer)
    return f"; say with --output which part of it is that, such as --output {names[0]}" if names else ""


def _names(answer: object) -> list[str]:
    """The parts of an answer that are tensors, by index, key or attribute; what is named logits first."""
    if isinstance(answer, tuple | list):
        found = [str(i) for i, part in enumerate(answer) if isinstance(part, Tensor)]
    elif isinstance(answer, Mapping):
        found = [str(key) for key, part in answer.items() if isinstance(part, Tensor)]
    else:
        found = [name for name, part in getattr(answer, "__dict__", {}).items() if isinstance(part, Tensor)]
    return sorted((name[:60] for name in found[:8]), key=lambda name: "logits" not in name)

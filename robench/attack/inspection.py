"""A model's answers to clean images: what a judge needs of them, and what keeps a model from being judged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from robench.attack.classifier import Classifier
from robench.attack.edges import sudden
from robench.attack.objectives import FIRM
from robench.errors import BadInput, crash

# two answers to one question differ by more than kernels do, as a share of the spread of the logits
TOLERANCE = 1e-3
# float32 rounds a number by up to half of this share of it; a sum of some, by a few
ULP, ROUNDINGS = 2.0**-23, 4
# logits so many times larger than their spread have been shifted
OFFSET = 100
# answers whose classes lie so many times further apart than the first lies above the second in most, or so far from
# zero that this share of its lead is rounded away: a comparison may not see what decides; how many may be so
FAR, LOST, FEW = 1e3, 0.1, 0.01
# of squashed answers such shares lie within this one of their range from its lower end, and the largest of their rows
# from its upper end
END, EMPTY, FULL = 0.01, 0.1, 0.5
# a spread of logits at which a softmax calls all classes about equally likely, so that a cross-entropy follows them all
FLAT = 0.05
# images that are asked about alone, or again
ASKED = 8


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


def median_spread(logits: Tensor) -> Tensor:
    """How far the other logits lie below the largest of their row, [n]: the median, whatever is added to them all.

    At least a tenth of the usual one of the rows, since of two classes it is no more than the margin. 0 for a row that
    is not finite.
    """
    own = _median_gap(logits)
    return torch.maximum(own, 0.1 * own.median()) if len(own) else own


def rounding(logits: Tensor) -> Tensor:
    """By how much differences between the largest logit of a row and the others are rounded, at most: [n, classes]."""
    top = logits.amax(1, keepdim=True)
    return ROUNDINGS * ULP * torch.maximum(top.abs(), logits.abs()).nan_to_num(0.0, posinf=0.0)


def firm_margin(margin: Tensor, logits: Tensor) -> Tensor:
    """Whether margins [n] of answers [n, classes] are so large that another batch size does not change their sign."""
    return margin > firm_from(logits)


def firm_from(logits: Tensor) -> Tensor:
    """The margin [n] above which another batch size does not change the sign, for answers [n, classes].

    The scale is the largest logit, unless that is mostly an offset, which says nothing of the margin.
    """
    largest = logits.abs().amax(1).nan_to_num(0.0, posinf=0.0)
    gap = _median_gap(logits)
    if logits.shape[1] == 2 and len(gap):
        gap = gap.amax().expand_as(gap)
    scale = torch.where(largest > OFFSET * gap, gap, largest)
    return torch.maximum(FIRM * scale, ULP * largest)


def _median_gap(logits: Tensor) -> Tensor:
    """How far the median of the others lies below a row's largest logit, [n]; of three classes, the last."""
    place = min((logits.shape[1] + 1) // 2, logits.shape[1] - 1)
    nearer = below_top(logits).topk(place + 1, dim=1, largest=False, sorted=False).values
    return nearer.amax(1).nan_to_num(0.0, posinf=0.0)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether answers [n, classes] are finite, and differ by no more than kernels make them.

    Compared is how far each logit lies below the largest of its row, so that nothing can hide behind what is added to
    all of them: by the row's own spread, beyond what float32 rounds away at the size of the two logits.
    """
    if not bool(b.isfinite().all()):
        return False
    allowed = TOLERANCE * median_spread(a)[:, None] + torch.maximum(rounding(a), rounding(b))
    lost = below_top(a) - below_top(b)
    return bool((lost.abs() <= allowed).all())


def lead(logits: Tensor) -> float:
    """The usual distance between the two largest logits of a row of [n, classes]: the median."""
    return float(logits.topk(2, dim=1).values.diff(dim=1).abs().median()) if logits.shape[1] > 1 else math.inf


def extreme(logits: Tensor, usual: float) -> bool:
    """Whether more than a few answers are so large, or so far apart, beside the `usual` lead that comparisons are blind
    to what decides."""
    largest = logits.abs().amax(1)
    hidden = (median_spread(logits) > FAR * usual) | (ROUNDINGS * ULP * largest > LOST * usual)
    finite = logits.isfinite().all(1)
    return bool((hidden & finite).sum() > FEW * len(logits))


def below_top(logits: Tensor) -> Tensor:
    """How far each logit lies below the largest of its row, [n, classes]."""
    return logits.amax(1, keepdim=True) - logits


def _probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < TOLERANCE).all())


def squashed(logits: Tensor) -> bool:
    """Whether answers [n, classes] look as if a sigmoid, a softmax or their like had the last word: they fill [0, 1],
    or crowd at the two ends of their range, wherever that is."""
    low, high = logits.amin(), logits.amax()
    if bool((low >= 0) & (high <= 1) & (high > 0.5)):
        return True
    share = (logits - low) / (high - low).clamp(min=1e-30)
    empty, full = (share < END).float().mean(), (share.amax(1) > 1 - END).float().mean()
    return len(logits) >= ASKED and bool(high > low) and bool(empty > EMPTY) and bool(full > FULL)


def inspect(model: Classifier, x: Tensor, logits: Tensor, batch_size: int) -> list[str]:
    """Flags of a model that cannot be judged as it stands; raises BadInput for one that cannot be judged at all.

    x [n, C, H, W] are clean images and `logits` [n, classes] the model's answers to them in batches of `batch_size`.
    """
    bad = int((~logits.isfinite().all(1)).sum())
    if bad:
        raise BadInput(f"The model returned NaN or infinite logits for {bad} of {len(x)} clean images; mend it first.")
    if _probabilities(logits):
        raise BadInput(
            "The model returned probabilities (they sum to 1), but must return logits; remove its softmax, or give "
            "--log-probabilities to take their logarithm."
        )
    flags = ["gradient-at-inference"] if _optimises(model, x[:4]) else []
    own = logits[:, : model.classes]
    if squashed(own):
        flags.append("squashed-outputs")
        model.unsquash = bool((own >= 0).all() & (own <= 1).all())
    if extreme(own, lead(own)):
        flags.append("extreme-logits")
    if 0 < float(median_spread(own).median()) < FLAT:
        flags.append("flat-logits")
    again = clean_logits(model, x, batch_size)
    if not same(logits, again):
        flags.append("randomised")
    elif not _alone(model, x, logits, torch.arange(min(ASKED, len(x)))):
        flags.append("batch-dependent")
    if "randomised" not in flags and sudden(model, x, own):
        flags.append("sudden-answers")
    return flags


def inspect_found(model: Classifier, x: Tensor, logits: Tensor, usual: float) -> list[str]:
    """Flags of what the model answers to adversarial images x [n, C, H, W]; `logits` [n, classes] are those answers in
    batches, `usual` the lead on clean images.

    Asked are those nearest to another answer: twice, and without company.
    """
    finite = logits.isfinite().all(1)
    margin = logits.nan_to_num(0.0, posinf=0.0, neginf=0.0).topk(2, dim=1).values.diff(dim=1).abs()[:, 0]
    order = margin.masked_fill(~finite, torch.inf).argsort()
    asked = order[: min(ASKED, int(finite.sum()))]
    if not len(asked):
        return []
    flags = ["extreme-logits"] if extreme(logits[finite, : model.classes], usual) else []
    first, second = clean_logits(model, x[asked], len(asked)), clean_logits(model, x[asked], len(asked))
    if not same(first, second):
        return [*flags, "randomised"]
    return flags if _alone(model, x, logits, asked) else [*flags, "batch-dependent"]


def _alone(model: Classifier, x: Tensor, logits: Tensor, asked: Tensor) -> bool:
    """Whether the images x [n, C, H, W] at the places `asked` are answered without company as they were with it."""
    return len(x) < 2 or same(logits[asked], clean_logits(model, x[asked], 1))


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
    model.guard.renew()
    try:
        model.logits(x)
    finally:
        autograd._engine_run_backward = engine
        model.guard.renew()
    return calls > 0


# a verdict may change with the batch only where the two highest logits are this close, relative to the row's spread
CLOSE = 1e-3


def firm(logits: Tensor) -> Tensor:
    """Where an answer is no tie that rounding may decide, bool [n]; an answer that is not finite is none."""
    top = logits.nan_to_num(0.0).topk(2, dim=1).values
    return ~logits.isfinite().all(1) | (top[:, 0] - top[:, 1] > CLOSE * spread(logits))

"""A guide for the time of a shard: the model whose gradients attacks follow while another one answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from robench.attack.classifier import Classifier
from robench.attack.inspection import first_answers, inspect
from robench.attack.modes import check_gradients
from robench.attack.shard import Examples, Settings
from robench.errors import BadInput


@contextmanager
def following(
    model: Classifier, guide: nn.Module | None, examples: Examples, settings: Settings
) -> Iterator[list[str]]:
    """Let attacks on `model` follow the gradients of a guide, if there is one; the list has what is to be said of it
    once that is over. Raises BadInput for a guide that gives no logits for these images."""
    told: list[str] = []
    if guide is None:
        yield told
        return
    check_gradients(guide)
    source = Classifier(guide, model.classes, device=model.device)
    try:
        try:
            source.check_mode()
            clean = first_answers(source, examples.x, settings.batch_size)
            flags = inspect(source, examples.x, clean, settings.batch_size)
        except BadInput as error:
            raise BadInput(f"The guide cannot be followed: {error}") from error
        model.guide = source
        yield told
        flags += source.guard.flags(randomised="randomised" in flags)
        told += [f"guide {flag}" for flag in flags]
    finally:
        model.guide = None
        source.release()

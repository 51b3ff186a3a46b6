"""Failures of a model or an attack: those that come again each time are told from those that pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from robench.attack.guard import Quit
from robench.errors import Permanent, RobenchError, crash, place_of

T = TypeVar("T")

# what the machine does to a model, which it may not do next time, what robench says itself, and code that would have
# ended the process
PASSING: tuple[type[BaseException], ...] = (RobenchError, OSError, MemoryError, torch.OutOfMemoryError, Quit)
# a part of what torch says -> what to do
ADVICE = {
    "through the graph a second time": "the model keeps a tensor of an earlier call and computes with it; detach what "
    "it keeps, or make every answer depend on the image alone",
    "use_reentrant=True": "call torch.utils.checkpoint with use_reentrant=False",
    "inplace": "something in the model is changed in place where its gradient is needed; use inplace=False and hooks "
    "that return new tensors",
    "in-place": "something in the model is changed in place where its gradient is needed; use inplace=False and hooks "
    "that return new tensors",
    "Can't call numpy()": "the model leaves torch, so that it has no gradient; compute in torch, or detach() first",
}


def repeated(call: Callable[[], T]) -> T:
    """What a call returns; one that fails is made again, to see whether it fails again.

    Everything in it is determined by the model, the attack and the images, so what fails twice at the same place fails
    each time: Permanent is raised. What does not is raised as it was, for the command to be run again.
    """
    try:
        return call()
    except PASSING:
        raise
    except Exception as error:  # whatever a user's model or attack does
        if _of_the_machine(error) or not _fails_alike(call, error):
            raise
        raise lasting(error) from error


def lasting(error: Exception) -> Permanent:
    """The error in a sentence without its subject, with what to do."""
    said = str(error)
    advice = next((advice for part, advice in ADVICE.items() if part in said), "mend it, or leave it out")
    return Permanent(f"fails each time with {crash(error)}; {advice}.")


def _fails_alike(call: Callable[[], object], first: Exception) -> bool:
    try:
        call()
    except Exception as again:
        return type(again) is type(first) and place_of(again) == place_of(first)
    return False


def _of_the_machine(error: Exception) -> bool:
    """Whether a device failed: nothing works on it any more in this process."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)

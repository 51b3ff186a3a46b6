"""Where a figure is computed: the choice of a device, float32 that is float32, and random numbers left as they were."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import starmap
from typing import Any

import torch

from robench.errors import BadInput, shown

in_use: Callable[[], bool] = torch.cuda.is_initialized  # untyped there

# where torch keeps precisions: of everything, of a library, of an operation of it
_PLACES = [("generic", "all")] + [(kind, op) for kind in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")]

# what gradients of a search may be taken in; "auto" is bfloat16 on a GPU that has units for it
PRECISIONS = ("fp32", "bf16", "auto")

# one processor, however many cores; up to a hundred GPUs
KNOWN = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?")


# by mallopt's numbers, in bytes: how much freed memory at the end of the heap is kept, and from which size on a block
# has a mapping of its own, given back as soon as it is freed
_KEPT, _MAPPED = (-1, 256 * 2**20), (-3, 64 * 2**20)


@cache
def keep_freed() -> bool:
    """Let this process keep memory that one pass frees for the next one; returns whether that could be arranged.

    glibc gives the end of the heap back to the system where a pass frees more than some megabytes there, which depends
    on what lies behind them. A pass through a small network then spends up to half its time on being given the same
    pages again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(*option) == 1 for option in (_KEPT, _MAPPED))


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TensorFloat-32, whose rounding to about 1e-3 would make verdicts depend on the batch.

    A GPU's convolutions sum in one order, without which the same gradient differs from call to call. All else is as in
    a new process, whatever the program around has set: see `usual`.
    """
    before, order = precisions(), torch.backends.cudnn.deterministic
    set_precisions((False, "highest", *["ieee"] * len(before[2:])))
    torch.backends.cudnn.deterministic = True
    try:
        with usual():
            yield
    finally:
        torch.backends.cudnn.deterministic = order
        set_precisions(before)


def precisions() -> tuple[Any, ...]:
    """In what float32 may be multiplied: torch's older settings, None where its newer ones contradict them so that it
    does not say, and the newer ones."""
    older = [_said(torch._C._get_cudnn_allow_tf32), _said(torch._C._get_float32_matmul_precision)]
    return (*older, *starmap(torch._C._get_fp32_precision_getter, _PLACES))


def set_precisions(values: tuple[Any, ...]) -> None:
    """Set what `precisions` told. The older settings come first, as they change the newer ones along."""
    allowed, precision, *newer = values
    if allowed is not None:
        torch.backends.cudnn.allow_tf32 = allowed
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    for place, value in zip(_PLACES, newer, strict=True):
        torch._C._set_fp32_precision_setter(*place, value)


def _said(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def usual() -> Iterator[None]:
    """torch as it is in a new process: new tensors float32 and on the CPU, gradients on; inference mode, autocast and
    anomaly mode off. Afterwards it is as it was."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def numbers_apart() -> Iterator[None]:
    """torch's random numbers are afterwards as they were, on the CPU and on every GPU that this process uses.

    A GPU that it does not use is not started for that, which takes seconds and memory, and sets variables.
    """
    used = range(torch.cuda.device_count()) if in_use() else ()
    with torch.random.fork_rng(used):
        yield


def spare_memory(device: str) -> None:
    """Give back the memory of a GPU that torch keeps for later, so that another process can have it."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def check_device(name: object) -> str:
    """The name, if it is that of a device on some machine. Raises BadInput for anything else."""
    if not isinstance(name, str) or not KNOWN.fullmatch(name):
        raise BadInput(f"There is no device {shown(name)}; choose auto, cpu, cuda or cuda:N.")
    return name


def precision_on(name: str, device: str) -> str:
    """What one of PRECISIONS comes to on a device: "fp32" or "bf16". Raises BadInput for a device that there is not."""
    if name != "auto":
        return name
    gpu = torch.device(choose_device(device)).type == "cuda"
    return "bf16" if gpu and torch.cuda.get_device_capability(choose_device(device)) >= (8, 0) else "fp32"


def choose_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N". Raises BadInput for one that is not there."""
    if check_device(name) == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"The device {name!r} is not available on this machine; choose auto or cpu.")
    return name

"""Where a figure is computed: the choice of a device, float32 that is float32, and random numbers left as they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from robench.errors import BadInput, shown

in_use: Callable[[], bool] = torch.cuda.is_initialized  # untyped there

# one processor, however many cores; up to a hundred GPUs
KNOWN = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?")


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TensorFloat-32, whose rounding to about 1e-3 would make verdicts depend on the batch.

    All else is as in a new process, whatever the program around has set: see `usual`.
    """
    before, precision = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        with usual():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision(precision)


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


def choose_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N". Raises BadInput for one that is not there."""
    if check_device(name) == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"The device {name!r} is not available on this machine; choose auto or cpu.")
    return name

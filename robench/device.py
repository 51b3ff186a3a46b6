"""Where a figure is computed: the choice of a device, and float32 that is float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robench.errors import BadInput


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TensorFloat-32, whose rounding to about 1e-3 would make verdicts depend on the batch."""
    before, precision = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision(precision)


def choose_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N". Raises BadInput for one that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BadInput(f"There is no device {name!r}; choose auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"The device {name!r} is not available on this machine; choose auto or cpu.")
    return name

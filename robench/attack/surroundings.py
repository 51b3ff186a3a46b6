"""What code shares with everything else in its process: settings."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal takes twenty times as long
import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from robench.device import precisions, set_precisions

# variables that decide what the harness computes, or where
DECISIVE = ("ROBENCH_", "OMP_", "MKL_", "CUDA_")
# what an import may change for its own ends
LOOSE = ("warnings", "sys.path", "environment")


class Settings:
    """Settings of the process as they were."""

    def __init__(self) -> None:
        self.values = [read() for read in _READ]
        self.loaded = len(sys.modules)

    @classmethod
    def now(cls) -> Settings:
        """As they are."""
        return cls()

    def restore(self, *, importing: bool = False) -> list[str]:
        """Put back what was changed, and return its names.

        What an import does to the settings of `LOOSE` is left alone, where modules were loaded, but for variables that
        a call sets; `importing`: and what does not enter a figure is put back without a word.
        """
        found: list[str] = []
        if [read() for read in _READ] == self.values:
            return found
        for name, read, write, before in zip(_NAMES, _READ, _WRITE, self.values, strict=True):
            after = read()  # anew, as one that is put back may change another
            if after == before:
                continue
            loose = name in LOOSE and (importing or len(sys.modules) > self.loaded)
            if name == "environment" and not importing and (loose or not _decides(before, after)):
                write(before)  # where nobody asks what is kept for the next call
                continue
            if loose or (name == "environment" and not _decides(before, after)):
                continue
            with contextlib.suppress(ValueError, OSError):  # of signals in another thread; of a folder that is gone
                write(before)
            if not (importing and name in HOUSEHOLD):
                found.append(name)
        return found


def _decides(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> bool:
    """Whether variables that were there have changed, or the new ones may decide a figure."""
    fresh = [os.fsdecode(name) for name in after.keys() - before.keys()]
    kept = all(after.get(name) == value for name, value in before.items())
    return not kept or any(name.startswith(DECISIVE) for name in fresh)


def _environment() -> dict[bytes, bytes]:
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _set_environment(values: dict[bytes, bytes]) -> None:
    for name in os.environ.keys() - {os.fsdecode(key) for key in values}:
        del os.environ[name]
    os.environ.update({os.fsdecode(key): os.fsdecode(value) for key, value in values.items()})


def _set_deterministic(values: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(values[0], warn_only=values[1])


def _cudnn() -> tuple[bool, ...]:
    torch_c = torch._C  # through torch.backends it takes ten times as long
    return torch_c._get_cudnn_enabled(), torch_c._get_cudnn_benchmark(), torch_c._get_cudnn_deterministic()


def _set_cudnn(values: tuple[bool, ...]) -> None:
    backend: Any = torch.backends.cudnn
    backend.enabled, backend.benchmark, backend.deterministic = values


def _autocast() -> tuple[Any, ...]:
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    return (enabled("cpu"), dtype("cpu")), (enabled("cuda"), dtype("cuda"))


def _set_autocast(values: tuple[Any, ...]) -> None:
    for kind, (enabled, dtype) in zip(("cpu", "cuda"), values, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _modes() -> tuple[int, int]:
    """How many modes stand between a call of torch and what it does; a default device is one of them."""
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()


def _set_modes(values: tuple[int, int]) -> None:
    while torch._C._len_torch_function_stack() > values[0]:
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack() > values[1]:
        torch._C._pop_torch_dispatch_stack()


_HOOKS = [
    hooks for name, hooks in vars(nn.modules.module).items() if name.startswith("_global_") and isinstance(hooks, dict)
]


def _hooks() -> list[tuple[Any, ...]]:
    """Those of every kind; an empty list where there are none."""
    return [tuple(hooks.items()) for hooks in _HOOKS] if any(_HOOKS) else []


def _set_hooks(values: list[tuple[Any, ...]]) -> None:
    for hooks, before in zip(_HOOKS, values or [()] * len(_HOOKS), strict=True):
        hooks.clear()
        hooks.update(before)
    if not any(_HOOKS):
        setattr(nn.modules.module, "_has_any_global_hook", False)  # noqa: B010 - typed as something else


_entered: list[torch.inference_mode] = []


def _set_inference(enabled: bool) -> None:
    _entered.append(torch.inference_mode(enabled))  # there is no other way out of one that was entered and not left
    _entered[-1].__enter__()


def _set_filters(values: list[Any]) -> None:
    warnings.filters[:] = values  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_path(values: list[str]) -> None:
    sys.path[:] = values


def _set_tracing(values: tuple[Any, Any]) -> None:
    sys.settrace(values[0])
    sys.setprofile(values[1])


_SIGNALS = tuple(int(number) for number in signal.valid_signals())


def _handlers() -> tuple[Any, ...]:
    return tuple(map(_signal.getsignal, _SIGNALS))


def _set_handlers(values: tuple[Any, ...]) -> None:
    for number, handler in zip(_SIGNALS, values, strict=True):
        if _signal.getsignal(number) is not handler and handler is not None:
            signal.signal(number, handler)


def _set_collector(values: tuple[bool, tuple[int, int, int], list[Any]]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])
    gc.callbacks[:] = values[2]


# the lowest bit of torch's parts in a set of dispatch keys; those below say where tensors lie, and stay when one goes
_PARTS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).raw_repr()
_PARTS &= torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA).raw_repr()


def _keys() -> tuple[int, int]:
    """Which parts of torch an operation passes by, and which it goes through beside those of its tensors."""
    torch_c = torch._C
    passed, added = torch_c._dispatch_tls_local_exclude_set(), torch_c._dispatch_tls_local_include_set()
    return passed.raw_repr() // _PARTS, added.raw_repr() // _PARTS


def _set_keys(values: tuple[int, int]) -> None:
    known: Any = torch._C  # its stubs lack half of these
    setters = known._dispatch_tls_set_dispatch_key_excluded, known._dispatch_tls_set_dispatch_key_included
    for wanted, now, put in zip(values, _keys(), setters, strict=True):
        then, held = (known.DispatchKeySet.from_raw_repr(bits * _PARTS + _PARTS - 1) for bits in (wanted, now))
        for key in known.DispatchKey.__members__.values():
            if then.has(key) != held.has(key):
                put(key, then.has(key))


def _set_saved(value: object) -> None:
    while torch._C._autograd._top_saved_tensors_default_hooks(True) not in (None, value):
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _set_streams(values: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = values


# a name, what reads a setting and what writes it; those that enter no figure come last
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("inference mode", torch.is_inference_mode_enabled, _set_inference),
    ("gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("default device or modes", _modes, _set_modes),
    ("autocast", _autocast, _set_autocast),
    ("cudnn", _cudnn, _set_cudnn),
    ("matmul precision", precisions, set_precisions),
    ("deterministic algorithms",
     lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
     _set_deterministic),
    ("dispatch keys", _keys, _set_keys),
    ("saved tensors' hooks", lambda: torch._C._autograd._top_saved_tensors_default_hooks(True), _set_saved),
    ("anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    ("global hooks", _hooks, _set_hooks),
    ("numpy errors", np.geterr, lambda values: np.seterr(**values)),
    ("threads", torch.get_num_threads, torch.set_num_threads),
    ("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
    ("standard streams", lambda: (sys.stdout, sys.stderr), _set_streams),
    ("signal handlers", _handlers, _set_handlers),
    ("garbage collector", lambda: (gc.isenabled(), gc.get_threshold(), list(gc.callbacks)), _set_collector),
    ("working folder", os.getcwd, os.chdir),
    ("warnings", lambda: list(warnings.filters), _set_filters),
    ("sys.path", lambda: list(sys.path), _set_path),
    ("environment", _environment, _set_environment),
)  # fmt: skip
_NAMES, _READ, _WRITE = zip(*_SETTINGS, strict=True)
HOUSEHOLD = ("threads", "tracing", "standard streams", "signal handlers", "garbage collector", "working folder", *LOOSE)

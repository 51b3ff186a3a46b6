"""What code shares with everything else in its process: functions that can be replaced, and settings."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal takes twenty times as long
import builtins
import contextlib
import gc
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import is_
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from robench.attack.tags import tag_of
from robench.device import precisions, set_precisions

Owner = ModuleType | type

# packages whose modules and classes are the judge's and the attacks' own
OURS = ("robench", "robench_attacks", "robench_defenses", "pyautoattack", "foolbox", "eagerpy", "art")
# those of the judge
JUDGING = tuple(f"robench.{name}" for name in (
    "attack.base", "attack.classifier", "attack.generators", "attack.gradient", "attack.guard", "attack.inspection",
    "attack.judge", "attack.objectives", "attack.orbits", "attack.picking", "attack.rungs", "attack.shard",
    "attack.step_rules", "attack.strided", "attack.surroundings", "attack.tags", "norms", "results.rows", "threat",
))  # fmt: skip
# modules of others that these compute with
THEIRS = (
    "torch._C", "torch._C._nn", "torch._C._linalg", "torch._tensor", "torch.autograd", "torch.autograd.function",
    "torch.linalg", "torch.nn", "torch.random", "torch.special", "numpy", "numpy.random", "numpy.linalg", "random",
    "math", "copy", "hashlib", "time", "os", "sys", "warnings", "pandas",
)  # fmt: skip
# where torch has its layers, and how all those names begin, which of thousands of modules leaves few to look at
LAYERS = "torch.nn.modules."
BEGINNINGS = (*OURS, *THEIRS, LAYERS)
# variables that decide what the harness computes, or where
DECISIVE = ("ROBENCH_", "OMP_", "MKL_", "CUDA_")
# what an import may change for its own ends
LOOSE = ("warnings", "sys.path", "environment")


@dataclass(frozen=True, slots=True)
class _Space:
    """What a module or a class held, by name, and the code of its functions where that is looked after."""

    owner: Owner
    space: Mapping[str, Any]
    names: tuple[str, ...]
    values: tuple[object, ...]
    codes: tuple[tuple[FunctionType, CodeType], ...] = ()

    @classmethod
    def now(cls, owner: Owner, deep: bool) -> _Space:
        """What it holds; `deep`: with the code of its functions."""
        space = vars(owner)
        names, values = tuple(space), tuple(space.values())
        functions = [value for value in values if type(value) is FunctionType] if deep else []
        return cls(owner, space, names, values, tuple((function, function.__code__) for function in functions))

    def intact(self, deep: bool) -> bool:
        """Whether it holds the same objects; of a few, in C, those too that only say that they are equal."""
        if not deep:
            return tuple(self.space.values()) == self.values
        return tuple(self.space) == self.names and all(map(is_, self.space.values(), self.values))

    def current(self) -> bool:
        """Whether a look at it now would find the same."""
        return self.intact(deep=True) and all(function.__code__ is code for function, code in self.codes)


class Functions:
    """The functions of some modules and classes as they were.

    A name that nobody had used before is nobody's business, unless it hides an inherited or a built-in one.
    """

    def __init__(self, owners: list[Owner], deep: bool) -> None:
        self.kept = [_known(owner) if deep else _Space.now(owner, deep) for owner in owners]
        self.deep = deep
        # what was looked through at such a number needs no second look; all of it does, once per shard
        self.tags = [None if deep else tag_of(space.space) for space in self.kept]
        self.seen: list[int | None] = [None] * len(self.tags)
        self.codes = [pair for space in self.kept for pair in space.codes]
        self.modules = {owner.__name__: owner for owner in owners if isinstance(owner, ModuleType)} if deep else {}

    @classmethod
    def near(cls) -> Functions:
        """What every line of code uses, and the judge's own: looked at in each call, in a few microseconds."""
        judging = [module for name in JUDGING if (module := sys.modules.get(name)) is not None]
        return cls([torch, Tensor, functional, nn.Module, torch.autograd, builtins, *judging], deep=False)

    @classmethod
    def far(cls) -> Functions:
        """All that the harness and the libraries of attacks compute with, as far as it is loaded."""
        return cls([torch, Tensor, functional, nn.Module, builtins, *_loaded()], deep=True)

    def restore(self) -> list[str]:
        """Put back what was replaced, and return its names."""
        found = []
        numbers = [tag and tag() for tag in self.tags]
        if numbers != self.seen or None in numbers:
            for place, number in enumerate(numbers):
                if number is None or number != self.seen[place]:
                    found += [] if self.kept[place].intact(self.deep) else self._mend(place)
            self.seen = numbers
        for function, code in self.codes:
            if function.__code__ is not code:
                function.__code__ = code
                found.append(f"{function.__module__}.{function.__qualname__}")
        for name, module in self.modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
                found.append(f"sys.modules[{name}]")
        return found

    def _mend(self, place: int) -> list[str]:
        kept = self.kept[place]
        then, now, found = dict(zip(kept.names, kept.values, strict=True)), dict(kept.space), []
        for name, value in then.items():
            if now.get(name) is not value and _matters(name, value):
                setattr(kept.owner, name, value)
                found.append(f"{kept.owner.__name__}.{name}")
        for name in now.keys() - then.keys():
            if _hides(kept.owner, name, now[name]):
                delattr(kept.owner, name)
                found.append(f"{kept.owner.__name__}.{name}")
        self.kept[place] = replace(kept, names=tuple(kept.space), values=tuple(kept.space.values()))
        return found


# what was found at the last deep look, by the number of the module or class, which is held here; where nothing has
# changed since, comparing takes a fifth of the time of a new look
_looked: dict[int, _Space] = {}


def _known(owner: Owner) -> _Space:
    known = _looked.get(id(owner))
    if known is None or not known.current():
        known = _looked[id(owner)] = _Space.now(owner, deep=True)
    return known


def _loaded() -> list[Owner]:
    """The modules that the harness and the libraries of attacks compute with, and their classes; looked for where other
    modules of theirs are loaded than at the last time, as that takes longer than to look after them."""
    global _owners
    names = [name for name in list(sys.modules) if name.startswith(BEGINNINGS) and _concerns(name)]
    modules = [sys.modules[name] for name in names]
    if names == _owners[0] and all(map(is_, modules, _owners[1])):
        return _owners[2]
    found: list[Owner] = []
    for name, module in zip(names, modules, strict=True):
        if isinstance(module, ModuleType):
            found.append(module)
            if name not in THEIRS:
                found += [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name]
    _owners = names, modules, found
    return found


def _concerns(name: str) -> bool:
    """Whether the harness or the libraries of attacks compute with a module of this name."""
    return name.partition(".")[0] in OURS or name in THEIRS or name.startswith(LAYERS)


_owners: tuple[list[str], list[ModuleType], list[Owner]] = [], [], []


def _matters(name: str, value: object) -> bool:
    """Functions and classes, and constants of ours."""
    return not name.startswith("__") and (callable(value) or name.isupper())


def _hides(owner: Owner, name: str, value: object) -> bool:
    if name.startswith("__") or isinstance(value, ModuleType):
        return False
    if isinstance(owner, type):
        return any(name in vars(base) for base in owner.__mro__[1:])
    return hasattr(builtins, name) and owner is not builtins


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


_KEPT: list[torch.inference_mode] = []


def _set_inference(enabled: bool) -> None:
    _KEPT.append(torch.inference_mode(enabled))  # there is no other way out of one that was entered and not left
    _KEPT[-1].__enter__()


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


def _set_collector(values: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])


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
    ("anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    ("global hooks", _hooks, _set_hooks),
    ("numpy errors", np.geterr, lambda values: np.seterr(**values)),
    ("threads", torch.get_num_threads, torch.set_num_threads),
    ("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
    ("standard streams", lambda: (sys.stdout, sys.stderr), _set_streams),
    ("signal handlers", _handlers, _set_handlers),
    ("garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
    ("working folder", os.getcwd, os.chdir),
    ("warnings", lambda: list(warnings.filters), _set_filters),
    ("sys.path", lambda: list(sys.path), _set_path),
    ("environment", _environment, _set_environment),
)  # fmt: skip
_NAMES, _READ, _WRITE = zip(*_SETTINGS, strict=True)
HOUSEHOLD = ("threads", "tracing", "standard streams", "signal handlers", "garbage collector", "working folder", *LOOSE)

"""What a module computes with, as far as Python can see it: its classes' code and that of whatever they call of the
user's own, every tensor wherever it is kept, and plain settings; as a digest that is the same wherever it is loaded."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Set
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robench.store import code
from robench.store.held import held_by
from robench.store.reach import beside_digest

PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    torch.dtype,
    torch.Size,
    Fraction,
    np.generic,
)
# of every module, what is told by itself, changes while nothing is learnt, or has no bearing on answers
APART = ("training", "_parameters", "_buffers", "_modules", "_compiled_call_impl", "_non_persistent_buffers_set")
# modules of Python whose objects hold settings
HOLDERS = ("types", "argparse")
# the attributes of classes whose names begin with two underscores come with them, but for what an author writes
WRITTEN = (FunctionType, staticmethod, classmethod, property)
# where TorchScript says in which module of Python a class was, and how many of its name it has met
SCRIPTED = re.compile(rb"__torch__(\.\w+)*|___torch_mangle_\d+")
UNTOLD = (".debug_pkl", "serialization_id")
# what every stream of text or bytes can do
STREAMED = ("write", "flush", "isatty", "fileno")
# what may ask a module for anything
ASKING = {"getattr", "vars", "eval", "exec", "globals", "locals", "dir"}
# calls within calls
DEEP = 20_000


def contents_digest(module: nn.Module) -> str:
    """16 hex digits over all that a module computes with, whoever made it and from which file.

    A C++ object that does not say what it holds, the content of files and of variables of the environment that are
    read while it answers: none of them is seen.
    """
    contents, limit = _Contents(), sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEEP))  # of what is nested as deep as models are
    try:
        contents.add(module)
    finally:
        sys.setrecursionlimit(limit)
    return contents.sha.hexdigest()[:16]


class _Contents:
    """Feeds a hash with values, each object once."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # an object that is gone could give its id to another
        self._told: set[int] = set()

    def add(self, value: Any) -> None:
        """Any value of Python."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, PLAIN):
            self._say(type(value).__name__, repr(value))
            return
        if not isinstance(value, MethodType | Tensor) and not _simple(value):
            if id(value) in self._met:
                self._say("again", self._met[id(value)])
                return
            self._met[id(value)] = len(self._met)
            self._kept.append(value)
        self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, np.ndarray):
            self._say("array", value.dtype, value.shape)
            self.add(value.tolist() if value.dtype.hasobject else value.tobytes())
        elif isinstance(value, Enum | PurePath | torch.device):
            self._say(type(value).__name__, "" if isinstance(value, torch.device) else value)
        elif isinstance(value, Mapping):
            self._mapping(value)
        elif isinstance(value, list | tuple):
            self._all(type(value).__name__, value)
        elif isinstance(value, Set):
            self._all("set", sorted(value, key=repr) if all(isinstance(v, PLAIN) for v in value) else [len(value)])
        else:
            self._callable_or_other(value)

    def _callable_or_other(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self._all("method", [value.__self__, value.__func__])
        elif isinstance(value, functools.partial):
            self._all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, staticmethod | classmethod):
            self._all(type(value).__name__, [value.__func__])
        elif isinstance(value, property):
            self._all("property", [value.fget, value.fset])
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, torch.jit.ScriptFunction):
            self._scripted(value)
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            self._say(type(value).__name__, value.__name__)
        else:
            self._other(value)

    def _say(self, *words: Any) -> None:
        text = repr(tuple(map(str, words)))
        self.sha.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))

    def _all(self, kind: str, values: Any) -> None:
        values = list(values)
        self._say(kind, len(values))
        for value in values:
            self.add(value)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        items = list(value.items())
        if all(isinstance(key, PLAIN) for key, _ in items):
            items.sort(key=lambda item: repr(item[0]))
        self._say("mapping", len(items))
        for key, each in items:
            self.add(key)
            self.add(each)

    def _tensor(self, value: Tensor) -> None:
        try:
            tensor = value.detach().cpu()
            if tensor.is_quantized:
                self._quantised(tensor)
                return
            if tensor.layout is not torch.strided:
                tensor = tensor.to_dense()
            self._say("tensor", tuple(tensor.shape), tensor.dtype)
            if tensor.numel() and not tensor.is_meta:
                self.sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        except Exception:  # a kind of its own: what it is made of, or nothing but its name
            names = getattr(value, "__tensor_flatten__", lambda: ((), None))()[0]
            self._say("tensor", type(value).__name__, *names)
            for name in names:
                self.add(getattr(value, name))

    def _quantised(self, tensor: Tensor) -> None:
        self._say("quantised", tensor.dtype, tensor.qscheme())
        self.add(tensor.int_repr())
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            self._all("scale", [tensor.q_scale(), tensor.q_zero_point()])
        else:
            self._all("scale", [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()])

    def _module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            self._scripted(module)
            return
        self._say("module")
        self.add(type(module))
        traced = isinstance(module, torch.fx.GraphModule)
        if traced:
            self._say(module.code)
        for name, value in sorted(vars(module).items()):
            if "hook" in name and name.startswith("_"):
                if isinstance(value, Mapping) and not all(each is True for each in value.values()):
                    self._all(name, value.values())  # the keys count what the process has made
            elif (
                name not in APART
                and not _counts(name, value)
                and (not traced or isinstance(value, Tensor | int | float | str | bool))
            ):
                self._say(name)
                self.add(value)
        for name, tensor in sorted([*module._parameters.items(), *module._buffers.items()]):
            self._say(name)
            self.add(tensor)
        for name, part in module._modules.items():
            self._say(name)
            self.add(part)

    def _scripted(self, module: torch.jit.ScriptModule | torch.jit.ScriptFunction[Any, Any]) -> None:
        """What TorchScript would write to a file."""
        written = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(module, written)
        with zipfile.ZipFile(written) as archive:
            names = [name for name in archive.namelist() if not name.endswith(UNTOLD)]
            parts = sorted(SCRIPTED.sub(b"", archive.read(name)) for name in names)
        self._say("scripted", len(parts))
        for part in parts:
            self.add(hashlib.sha256(part).digest())

    def _function(self, function: FunctionType) -> None:
        if not code.own(function.__code__.co_filename):
            self._say("function", function.__module__, function.__qualname__)
            self._cells(function)
            return
        self._say("function", code.function_text(function))
        self._cells(function)
        self._all("defaults", [function.__defaults__, function.__kwdefaults__])
        self._mapping({name: value for name, value in vars(function).items() if name != "__wrapped__"})
        self._asked_for(function)

    def _cells(self, function: FunctionType) -> None:
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # not filled yet
                self._say("empty")

    def _asked_for(self, function: FunctionType) -> None:
        """The globals that a function names, and the modules that it imports where they lie beside it."""
        names, attributes, imported = code.global_names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            if name.startswith("__"):  # where the module is, and what it goes by
                continue
            self._say(name)
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                self._asked_of(value, {*vars(value)} if names & ASKING else attributes)
            else:
                self.add(value)
        folder = Path(function.__code__.co_filename).parent
        for name, taken in sorted(imported.items()):
            asked = () if names & ASKING else taken or attributes
            found = beside_digest(folder, name, sorted(asked))
            if found is not None:
                self._say(name, found)

    def _asked_of(self, module: ModuleType, attributes: set[str], depth: int = 0) -> None:
        """Of a module of the user's own, what code that names it may ask of it; of others the name."""
        place = getattr(module, "__file__", None)
        if place is None or not code.own(place) or depth > len(attributes):
            self._say("library", "" if place and code.own(place) else module.__name__)
            return
        for name in sorted(attributes & vars(module).keys()):
            if name.startswith("__"):  # where the module is, and what it goes by
                continue
            self._say(name)
            value = vars(module)[name]
            if isinstance(value, ModuleType):
                self._asked_of(value, attributes, depth + 1)
            else:
                self.add(value)

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            if each is object:
                continue
            if _library(each.__module__) or id(each) in self._told:
                self._say("class", each.__module__ if _library(each.__module__) else "", each.__qualname__)
                continue
            self._say("class", each.__name__)
            self._told.add(id(each))
            self._kept.append(each)
            for name, value in sorted(vars(each).items()):
                if not name.startswith(("__", "_abc_")) or isinstance(value, WRITTEN):
                    self._member(name, value)

    def _member(self, name: str, value: Any) -> None:
        """An attribute of a class; of an installed package's functions the code, and not what it asks for."""
        self._say(name)
        inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(inner, FunctionType) and not code.own(inner.__code__.co_filename):
            self._say(code.function_text(inner, known=True))
        else:
            self.add(value)

    def _other(self, value: Any) -> None:
        """An object of some class: of a user's, or of a package's, what it holds."""
        kind = type(value)
        if all(callable(getattr(value, name, None)) for name in STREAMED):
            self._say("stream")  # every process has its own
            return
        self._say("object", kind.__qualname__)
        held = held_by(value)
        if held is not None:
            self._all("held", held)
        elif isinstance(value, torch.ScriptObject):
            try:
                self.add(value.__getstate__())  # what is packed for a kernel
            except Exception:  # it does not say
                self._say("packed")
        elif isinstance(value, CodeType):
            self._say(code.instructions(value))
        elif not _library(kind.__module__) or kind.__module__ in HOLDERS:
            self.add(kind)
            kept = dict(getattr(value, "__dict__", {}))
            slots = (name for each in kind.__mro__ for name in _names(getattr(each, "__slots__", ())))
            kept |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
            self._mapping({name: each for name, each in kept.items() if not _counts(name, each)})


def _library(module: str) -> bool:
    """Whether classes of a module are known by their names: those of Python and torch."""
    top = module.partition(".")[0]
    return top in ("torch", "builtins") or (top != "__main__" and top in sys.stdlib_module_names)


def _counts(name: str, value: Any) -> bool:
    """Whether an attribute may be a counter, which is another number after every answer: a private whole number. Where
    it is a setting, answers tell."""
    return name.startswith("_") and type(value) is int


def _simple(value: Any) -> bool:
    """A list, tuple or mapping of plain values alone, which is the same whether it is kept once or twice."""
    values = value.values() if type(value) is dict else value if type(value) in (list, tuple) else [value]
    return all(isinstance(each, PLAIN) for each in values)


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)

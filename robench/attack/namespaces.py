"""What all code in a process shares by name, functions, classes and constants, as it was before anybody replaced it."""

from __future__ import annotations

import builtins
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter, is_
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench.attack.tags import number_at, tag_of

# a module, a class, or an object of one
Owner = Any

# packages of the harness
HARNESS = ("robench", "robench_attacks", "robench_defenses")
# those whose modules and classes are the judge's and the attacks' own
OURS = (*HARNESS, "pyautoattack", "foolbox", "eagerpy", "art")
# beginnings of the names of those that a judgement and a search compute with
JUDGING = ("robench.attack", "robench.device", "robench.errors", "robench.norms", "robench.randomness",
           "robench.results", "robench.threat", "robench_attacks")  # fmt: skip
# modules of others that these compute with
THEIRS = (
    "torch._C", "torch._C._nn", "torch._C._linalg", "torch._tensor", "torch.autograd", "torch.autograd.function",
    "torch.autograd.graph", "torch.linalg", "torch.nn", "torch.random", "torch.special", "torch.overrides",
    "torch.utils._python_dispatch", "numpy", "numpy.random", "numpy.linalg", "random", "math", "copy", "hashlib",
    "time", "os", "sys", "warnings", "pandas", "fractions", "operator", "itertools", "functools", "collections",
    "contextlib", "dataclasses",
)  # fmt: skip
# those of them whose classes are too many to look at, or change by themselves
LARGE = ("torch._C", "numpy", "pandas", "torch.nn", "os", "sys")
# those in which names are given new values all the time
STATEFUL = ("sys", "time", "warnings")
# where torch has its layers, and how all those names begin, which of thousands of modules leaves few to look at
LAYERS = "torch.nn.modules."
BEGINNINGS = (*OURS, *THEIRS, LAYERS)

# what a function computes with besides names
INSIDE = ("__code__", "__defaults__", "__kwdefaults__")
_read = [attrgetter(name) for name in INSIDE]


class _Inside:
    """What functions compute with besides names: their code, defaults and the functions that they have around them."""

    def __init__(self, functions: list[FunctionType]) -> None:
        self.functions = functions
        self.values = [list(map(read, functions)) for read in _read]
        self.cells = [(cell, held, function) for function in functions for cell, held in _around(function)]
        given = [(function, function.__kwdefaults__) for function in functions if function.__kwdefaults__]
        self.tables = [_Table(_title(function), table, dict(table)) for function, table in given]

    def intact(self) -> bool:
        """Whether they are what they were."""
        return (
            all(all(map(is_, map(read, self.functions), kept)) for read, kept in zip(_read, self.values, strict=True))
            and all(cell.cell_contents is held for cell, held, _ in self.cells)
            and all(table.intact() for table in self.tables)
        )

    def restore(self) -> list[str]:
        """Put back what was replaced, and return the names of the functions."""
        if self.intact():
            return []
        found = []
        for name, read, kept in zip(INSIDE, _read, self.values, strict=True):
            for function, value in zip(self.functions, kept, strict=True):
                if read(function) is not value:
                    setattr(function, name, value)
                    found.append(_title(function))
        for cell, held, function in self.cells:
            if cell.cell_contents is not held:
                cell.cell_contents = held
                found.append(_title(function))
        return found + [table.name for table in self.tables if table.mend()]


@dataclass(frozen=True, slots=True)
class _Table:
    """A dictionary that is a constant; what somebody adds to it is nobody's business."""

    name: str
    table: dict[Any, Any]
    kept: dict[Any, Any]

    def intact(self) -> bool:
        """Whether what was in it still is."""
        return all(map(is_, map(self.table.get, self.kept), self.kept.values()))

    def mend(self) -> bool:
        """Put back what was in it; whether that was necessary."""
        if self.intact():
            return False
        self.table.update(self.kept)
        return True


@dataclass(frozen=True, slots=True)
class _Space:
    """What a module or a class held, by name; the functions and constant dictionaries among that where they are looked
    after; and names that others have added since."""

    owner: Owner
    space: Mapping[str, Any]
    names: tuple[str, ...]
    values: tuple[object, ...]
    functions: tuple[FunctionType, ...] = ()
    tables: tuple[tuple[str, dict[Any, Any]], ...] = ()
    added: frozenset[str] = frozenset()

    @classmethod
    def now(cls, owner: Owner, deep: bool) -> _Space:
        """What it holds; `deep`: with what is inside."""
        space = vars(owner)
        names, values = tuple(space), tuple(space.values())
        if not deep:
            return cls(owner, space, names, values)
        functions = {id(each): each for value in values for each in _functions(value)}
        ours = _home(owner).partition(".")[0] in HARNESS
        tables = [(name, value) for name, value in space.items() if ours and type(value) is dict and name.isupper()]
        return cls(owner, space, names, values, tuple(functions.values()), tuple(tables))

    def intact(self) -> bool:
        """Whether it holds the same objects."""
        return tuple(self.space) == self.names and all(map(is_, self.space.values(), self.values))


class Functions:
    """The functions of some modules and classes as they were.

    A name that nobody had used before is nobody's business, unless it hides an inherited or a built-in one.
    """

    __slots__ = ("deep", "inside", "kept", "modules", "owners", "seen", "serious", "tables", "tags")

    def __init__(self, owners: list[Owner], deep: bool) -> None:
        spaces = [_known(owner, deep) for owner in owners]
        tags = [tag_of(space.space) for space in spaces]
        order = sorted(range(len(spaces)), key=lambda place: tags[place] is None)
        self.owners, self.deep = owners, deep
        self.kept = [spaces[place] for place in order]  # those with a number first
        # what was looked through at such a number needs no second look
        self.tags = [tag for tag in tags if tag is not None]
        self.seen = list(map(number_at, self.tags))
        self.inside = _Inside(list({id(each): each for space in spaces for each in space.functions}.values()))
        self.tables = [
            _Table(f"{_name(space.owner)}.{name}", table, dict(table))
            for space in spaces for name, table in space.tables
        ]  # fmt: skip
        self.modules = {owner.__name__: owner for owner in owners if isinstance(owner, ModuleType)} if deep else {}
        # what the last `restore` found in functions and tables, or in what judges
        self.serious: list[str] = []

    @classmethod
    def near(cls) -> Functions:
        """What every line of code uses, and the modules of the judge and of the attacks: looked at in each call, in a
        few microseconds."""
        return cls._of([torch, Tensor, functional, nn.Module, torch.autograd, builtins, *_loaded()[1]], deep=False)

    @classmethod
    def far(cls) -> Functions:
        """All that the harness and the libraries of attacks compute with, as far as it is loaded."""
        return cls._of([torch, Tensor, functional, nn.Module, builtins, *_loaded()[0]], deep=True)

    @classmethod
    def _of(cls, owners: list[Owner], *, deep: bool) -> Functions:
        """A look at them now; the last one, where a new one would find the same, which is told in less time."""
        last = _last.get(deep)
        same = last is not None and len(last.owners) == len(owners) and all(map(is_, last.owners, owners))
        if last is None or not same or not last.intact():
            last = _last[deep] = cls(owners, deep)
        return last

    def intact(self) -> bool:
        """Whether everything is as it was."""
        numbers, places = self._moved()
        if not all(self.kept[place].intact() for place in places):
            return False
        self.seen = numbers
        return (
            self.inside.intact()
            and all(len(each.table) == len(each.kept) and each.intact() for each in self.tables)
            and self._in_place()
        )

    def restore(self) -> list[str]:
        """Put back what was replaced, and return its names."""
        found, self.serious = [], []
        self.seen, places = self._moved()
        for place in places:
            if not self.kept[place].intact():
                names = self._mend(place)
                found += names
                self.serious += names if _home(self.kept[place].owner).startswith(JUDGING) else []
        if not self.deep:
            return found
        inside = self.inside.restore() + [table.name for table in self.tables if table.mend()]
        self.serious += inside
        found += inside
        for name, module in () if self._in_place() else self.modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
                found.append(f"sys.modules[{name}]")
                self.serious += found[-1:] if name.startswith(JUDGING) else []
        return found

    def _in_place(self) -> bool:
        """Whether the modules are where an import finds them."""
        return all(map(is_, map(sys.modules.get, self.modules), self.modules.values()))

    def _moved(self) -> tuple[list[int], list[int]]:
        """The numbers now, and the places of those that may have been written to since the last look."""
        numbers = list(map(number_at, self.tags))
        places = list(range(len(numbers), len(self.kept)))
        if len(self.seen) != len(numbers):  # where somebody has meddled with this
            places += range(len(numbers))
        elif numbers != self.seen:
            places += [place for place, number in enumerate(numbers) if number != self.seen[place]]
        return numbers, places

    def _mend(self, place: int) -> list[str]:
        kept = self.kept[place]
        then, now, found = dict(zip(kept.names, kept.values, strict=True)), dict(kept.space), []
        plain = object if not isinstance(kept.owner, ModuleType | type) else type(kept.owner)
        for name, value in then.items():
            if now.get(name) is not value and name not in kept.added and _matters(kept.owner, name, value):
                plain.__setattr__(kept.owner, name, value)
                found.append(f"{_name(kept.owner)}.{name}")
        for name in now.keys() - then.keys():
            if _hides(kept.owner, name, now[name]):
                plain.__delattr__(kept.owner, name)
                found.append(f"{_name(kept.owner)}.{name}")
        added = kept.added | (kept.space.keys() - then.keys())
        self.kept[place] = replace(kept, names=tuple(kept.space), values=tuple(kept.space.values()), added=added)
        _looked[id(kept.owner), self.deep] = self.kept[place]
        return found


# the last looks, deep and not
_last: dict[bool, Functions] = {}
# what was found in a module or class at the last look, by its number, while it is held here, and whether it was deep
_looked: dict[tuple[int, bool], _Space] = {}


def _known(owner: Owner, deep: bool) -> _Space:
    known = _looked.get((id(owner), deep))
    if known is None or not known.intact():
        added = known.added if known is not None else frozenset()
        known = _looked[id(owner), deep] = replace(_Space.now(owner, deep), added=added)
    return known


def _loaded() -> tuple[list[Owner], list[Owner]]:
    """The modules that the harness and the libraries of attacks compute with, their classes, and the objects that stand
    in those that judge; and the latter. Looked for where other modules are loaded than at the last time, as that takes
    longer than to look after them."""
    global _owners
    loaded = list(sys.modules)
    if loaded == _owners[0] and all(map(is_, map(sys.modules.get, _owners[1]), _owners[1].values())):
        return _owners[2]
    found: list[Owner] = []
    modules = {name: sys.modules[name] for name in loaded if name.startswith(BEGINNINGS) and _concerns(name)}
    for name, module in modules.items():
        if isinstance(module, ModuleType):
            found.append(module)
            if name not in LARGE:
                found += [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name]
    judging = [module for name, module in modules.items() if name.startswith(JUDGING)]
    shown = [value for module in judging for name, value in vars(module).items() if name.isupper() or name[:1] != "_"]
    objects = list({id(each): each for each in _objects(shown)}.values())
    _owners = loaded, modules, (found + objects, judging)
    return _owners[2]


def _name(owner: Owner) -> str:
    """What a module, a class or an object's class is called."""
    name: str = owner.__name__ if isinstance(owner, ModuleType | type) else type(owner).__name__
    return name


def _home(owner: Owner) -> str:
    """The name of a module, or of a class's or an object's."""
    name: str = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    return name


def _concerns(name: str) -> bool:
    """Whether the harness or the libraries of attacks compute with a module of this name."""
    return name.partition(".")[0] in OURS or name in THEIRS or name.startswith(LAYERS)


_owners: tuple[list[str], dict[str, ModuleType], tuple[list[Owner], list[Owner]]] = [], {}, ([], [])
# what a class has for an initialiser that has yet to be found, and replaces when it is first used
_UNFOUND = getattr(typing, "_no_init_or_replace_init", None)


def _acts(value: object) -> bool:
    """Whether something is computed where a name with this value is used."""
    return callable(value) or hasattr(type(value), "__get__")


def _matters(owner: Owner, name: str, value: object) -> bool:
    """Whether a name may not be given another value: what acts; constants; all that a module shows, or a class or an
    object of the harness has."""
    if isinstance(owner, type):
        ours = owner.__module__.partition(".")[0] in HARNESS and not name.startswith("__")
        return (_acts(value) or ours) and value is not _UNFOUND
    if not isinstance(owner, ModuleType):
        return True
    shown = not name.startswith("_") and owner.__name__ not in STATEFUL
    return callable(value) or isinstance(value, ModuleType) or name.isupper() or shown


def _hides(owner: Owner, name: str, value: object) -> bool:
    """Whether a name that is new to a module or class stands before another."""
    if isinstance(owner, type):
        return any(name in vars(base) for base in owner.__mro__[1:]) and (_acts(value) or not name.startswith("__"))
    if not isinstance(owner, ModuleType):
        return not isinstance(getattr(type(owner), name, None), cached_property | None)
    plain = not name.startswith("__") and not isinstance(value, ModuleType)
    return plain and hasattr(builtins, name) and owner is not builtins


def _objects(value: object) -> Iterator[object]:
    """The objects of the harness's own classes that a value is or holds."""
    ahead, seen = [value], set[int]()
    while ahead:
        each = ahead.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, list | tuple | set | frozenset):
            ahead += each
        elif isinstance(each, dict):
            ahead += each.values()
        elif isinstance(each, partial):
            ahead += [each.args, each.keywords]
        elif type(each).__module__.partition(".")[0] in HARNESS and hasattr(each, "__dict__"):
            yield each
            ahead += vars(each).values()


def _functions(value: object) -> Iterator[FunctionType]:
    """The functions that are inside a value in a module or class, those that they wrap too."""
    ahead, seen = [value], set[int]()
    while ahead:
        each = ahead.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, FunctionType):
            yield each
            ahead += [held for _, held in _around(each)]
        elif isinstance(each, (staticmethod, classmethod, types.MethodType)):
            ahead.append(each.__func__)
        elif isinstance(each, property):
            ahead += [each.fget, each.fset, each.fdel]
        elif isinstance(each, cached_property):
            ahead.append(each.func)


def _around(function: FunctionType) -> list[tuple[CellType, FunctionType]]:
    """The functions that a function has around it, and where."""
    found = []
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # none yet
            continue
        if isinstance(held, FunctionType):
            found.append((cell, held))
    return found


def _title(function: FunctionType) -> str:
    return f"{function.__module__}.{function.__qualname__}"

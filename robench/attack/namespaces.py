"""What all code in a process shares by name, functions, classes and constants, as it was before anybody replaced it."""

from __future__ import annotations

import builtins
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench.attack.insides import Inside, Lineage, Table, functions_in
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
# the same of those that are looked at by turns, with whose functions these compute most
USED = (*JUDGING, "torch.nn.functional", "torch._tensor")
# modules of others that these compute with
THEIRS = (
    "torch._C", "torch._C._nn", "torch._C._linalg", "torch._tensor", "torch.autograd", "torch.autograd.function",
    "torch.autograd.graph", "torch.autograd.grad_mode", "torch.autograd.variable", "torch.linalg", "torch.nn",
    "torch.random", "torch.special", "torch.overrides", "torch.utils._contextlib", "torch.utils._python_dispatch",
    "numpy", "numpy.random", "numpy.linalg", "random", "math", "copy", "hashlib", "time", "os", "sys", "warnings",
    "pandas", "fractions", "numbers", "operator", "itertools", "functools", "collections", "contextlib",
    "dataclasses",
)  # fmt: skip
# those of them whose classes are too many to look at, or change by themselves
LARGE = ("torch._C", "numpy", "pandas", "torch.nn", "os", "sys")
# those in which names are given new values all the time
STATEFUL = ("sys", "time", "warnings")
# where torch has its layers, and how all those names begin, which of thousands of modules leaves few to look at
LAYERS = "torch.nn.modules."
BEGINNINGS = (*OURS, *THEIRS, LAYERS)


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
        functions = {id(each): each for value in values for each in functions_in(value)}
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

    __slots__ = (
        "deep",
        "inside",
        "judging",
        "kept",
        "lineage",
        "modules",
        "owners",
        "seen",
        "serious",
        "tables",
        "tags",
    )

    def __init__(self, owners: list[Owner], deep: bool) -> None:
        spaces = [_known(owner, deep) for owner in owners]
        tags = [tag_of(space.space) for space in spaces]
        order = sorted(range(len(spaces)), key=lambda place: tags[place] is None)
        self.owners, self.deep = owners, deep
        self.kept = tuple(spaces[place] for place in order)  # those with a number first
        # what was looked through at such a number needs no second look
        self.tags = tuple(tag for tag in tags if tag is not None)
        self.seen = tuple(map(number_at, self.tags))
        self.inside = Inside(list({id(each): each for space in spaces for each in space.functions}.values()))
        judging = [each for each in self.inside.functions if str(each.__module__).startswith(USED)]
        self.judging = Inside(judging)
        self.tables = tuple(
            Table(f"{_name(space.owner)}.{name}", table, dict(table))
            for space in spaces for name, table in space.tables
        )  # fmt: skip
        self.modules = {owner.__name__: owner for owner in owners if isinstance(owner, ModuleType)} if deep else {}
        self.lineage = Lineage(owners)
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

    def held(self) -> list[tuple[str, object]]:
        """What this remembers, for `hold`."""
        return [(name, getattr(self, name)) for name in self.__slots__]

    def hold(self, held: list[tuple[str, object]]) -> None:
        """Remember that again, whatever somebody wrote to it since."""
        for name, value in held:
            setattr(self, name, value)

    def intact(self) -> bool:
        """Whether everything is as it was."""
        numbers, places = self._moved()
        if not all(self.kept[place].intact() for place in places):
            return False
        self.seen = numbers
        return (
            self.lineage.intact()
            and self.inside.intact()
            and all(len(each.table) == len(each.kept) and each.intact() for each in self.tables)
            and self._in_place()
        )

    def restore(self) -> list[str]:
        """Put back what was replaced, and return its names."""
        found, self.serious = [], []
        self.seen, places = self._moved()
        for place in places:
            owner = self.kept[place].owner
            judging = _home(owner).startswith(JUDGING)
            if not self.kept[place].intact():
                names = self._mend(place)
                found += names
                self.serious += names if judging else []
            elif judging and place < len(self.tags) and not isinstance(owner, ModuleType):
                self.serious.append(f"{_name(owner)}, and changed it back")  # nobody else writes to these
        lineage = [] if self.lineage.intact() else self.lineage.restore()
        found += lineage
        if not self.deep:
            return found
        self.serious += lineage
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

    def _moved(self) -> tuple[tuple[int, ...], list[int]]:
        """The numbers now, and the places of those that may have been written to since the last look."""
        numbers = tuple(map(number_at, self.tags))
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
            fresh = now.get(name)
            if fresh is value or name in kept.added or not _matters(kept.owner, name, value):
                continue
            if not _wrapped_by_torch(fresh, value):
                plain.__setattr__(kept.owner, name, value)
                found.append(f"{_name(kept.owner)}.{name}")
        for name in now.keys() - then.keys():
            if _hides(kept.owner, name, now[name]):
                plain.__delattr__(kept.owner, name)
                found.append(f"{_name(kept.owner)}.{name}")
        added = kept.added | (kept.space.keys() - then.keys())
        now_kept = replace(kept, names=tuple(kept.space), values=tuple(kept.space.values()), added=added)
        self.kept = (*self.kept[:place], now_kept, *self.kept[place + 1 :])
        _looked[id(kept.owner), self.deep] = now_kept
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
    if "pandas" in modules:  # of which rows are made
        found += [
            kind for kind in modules["pandas"].DataFrame.__mro__ + modules["pandas"].Series.__mro__ if kind not in found
        ]
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


# the code of what torch puts around a function of its own when it first loads its compiler, as optimisers do
_around_it = getattr(torch._compile, "_disable_dynamo", None)
_WRAPPER = _around_it(len).__code__ if _around_it else None


def _wrapped_by_torch(fresh: object, value: object) -> bool:
    """Whether a function is what torch put around another when it loaded its compiler."""
    own = isinstance(fresh, FunctionType) and fresh.__code__ is _WRAPPER
    return own and any(cell.cell_contents is value for cell in getattr(fresh, "__closure__", None) or ())


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

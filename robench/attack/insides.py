"""What stands behind names: the code of functions, tables, and what classes and objects inherit from."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, is_
from types import CellType, FunctionType
from typing import Any

# what a function computes with besides names
INSIDE = ("__code__", "__defaults__", "__kwdefaults__")
_read = [attrgetter(name) for name in INSIDE]
_bases: Callable[[type], tuple[type, ...]] = attrgetter("__bases__")


class Inside:
    """What functions compute with besides names: their code, defaults and the functions that they have around them."""

    __slots__ = ("cells", "functions", "tables", "values")

    def __init__(self, functions: list[FunctionType]) -> None:
        self.functions = tuple(functions)
        self.values = tuple(tuple(map(read, functions)) for read in _read)
        self.cells = tuple((cell, held, function) for function in functions for cell, held in _around(function))
        given = [(function, function.__kwdefaults__) for function in functions if function.__kwdefaults__]
        self.tables = tuple(Table(_title(function), table, dict(table)) for function, table in given)

    def intact(self) -> bool:
        """Whether they are what they were."""
        return (
            all(all(map(is_, map(read, self.functions), kept)) for read, kept in zip(_read, self.values, strict=True))
            and all(cell.cell_contents is held for cell, held, _ in self.cells)
            and all(table.intact() for table in self.tables)
        )

    def glance(self, first: int, count: int) -> list[str]:
        """The names of those of `count` functions, from the one at `first` on, whose code is not what it was."""
        place = slice(max(first, 0), max(first + count, 0))
        some, kept = self.functions[place], self.values[0][place]
        if all(map(is_, map(_read[0], some), kept)):
            return []
        return [_title(each) for each, code in zip(some, kept, strict=True) if each.__code__ is not code]

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
class Table:
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


class Lineage:
    """Of what modules, classes and objects are, from where they have what they do not hold themselves."""

    __slots__ = ("bases", "classes", "kinds", "owners")

    def __init__(self, owners: list[Any]) -> None:
        self.owners, self.kinds = tuple(owners), tuple(map(type, owners))
        self.classes = tuple(owner for owner in owners if isinstance(owner, type))
        self.bases = tuple(map(_bases, self.classes))

    def intact(self) -> bool:
        """Whether they are what they were."""
        same = all(map(is_, map(type, self.owners), self.kinds))
        return same and tuple(map(_bases, self.classes)) == self.bases

    def restore(self) -> list[str]:
        """Put back what was changed, and return its names."""
        found = []
        for owner, kind in zip(self.owners, self.kinds, strict=True):
            if type(owner) is not kind:
                object.__setattr__(owner, "__class__", kind)
                found.append(f"{getattr(owner, '__name__', kind.__name__)}.__class__")
        for owner, bases in zip(self.classes, self.bases, strict=True):
            if owner.__bases__ != bases:
                owner.__bases__ = bases
                found.append(f"{owner.__name__}.__bases__")
        return found


def functions_in(value: object) -> Iterator[FunctionType]:
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

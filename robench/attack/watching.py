"""Looks after what looks after everything else."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

# modules that notice what is replaced
WATCHING = ("contextlib", "operator", *(f"robench.attack.{name}" for name in (
    "generators", "guard", "insides", "namespaces", "reaching", "surroundings", "tags", "watching"
)))  # fmt: skip


def watched_over() -> Iterator[list[str]]:
    """Look at the functions and classes of `WATCHING`; asked again, put back what was replaced and give its names.

    The second time nothing is called that has a name by which it could be replaced: there are statements, what is in
    local names since the first time, and methods of dictionaries and lists.
    """
    put, drop, found = setattr, delattr, list[str]()
    owners: list[ModuleType | type] = [builtins]
    for name in WATCHING:
        module = sys.modules[name]
        owners += [
            module,
            *(kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == name),
        ]
    spaces = []
    for owner in owners:
        kept = {name: value for name, value in vars(owner).items() if callable(value) or hasattr(value, "__get__")}
        codes = {value: value.__code__ for value in kept.values() if isinstance(value, FunctionType)}
        hidden = set() if isinstance(owner, type) else vars(builtins).keys() - vars(owner).keys()
        spaces.append((owner, owner.__name__, vars(owner), kept, codes, hidden))
    yield found
    for owner, title, space, kept, codes, hidden in spaces:
        for function, code in codes.items():
            if function.__code__ is not code:
                function.__code__ = code
                found.append(f"{title}.{function.__name__}")
        for name in kept:
            if name not in space or space[name] is not kept[name]:
                put(owner, name, kept[name])
                found.append(f"{title}.{name}")
        for name in hidden:
            if name in space:
                drop(owner, name)
                found.append(f"{title}.{name}")
    yield found

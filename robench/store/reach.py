"""What classes reach: the definitions that they, their bases and what these name consist of, across the modules of
their own package; what cannot be followed by reading (`globals()`, `exec`, an import by a name made up) counts as
reaching everything that the module could."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path

from robench.store.code import own
from robench.store.modules import Chain, Imports, Module, Place, chain_of, origin_of, read

# where the file of a module is
Find = Callable[[str], Path | None]
# whether a module, imported by another one in some file, counts as that one's own
Own = Callable[[str, str, Path], bool]


class Reach:
    """Collects what is reached; own: which imports are followed."""

    def __init__(self, own: Own, find: Find = origin_of) -> None:
        self._own, self._find = own, find
        self._modules: dict[str, Module | None] = {}
        self._kept: dict[str, set[int]] = {}
        self._imports: dict[str, set[str]] = {}
        self._whole: set[str] = set()
        self._all: set[str] = set()
        self._seen: set[tuple[str, str, str, Chain]] = set()
        self._todo: list[tuple[Module, int]] = []

    def add(self, name: str, definition: str) -> None:
        """A definition at the top of a module; all of the module where there is none of that name."""
        module = self._module(name)
        if module is None:
            return
        if definition in module.binders:
            self._resolve(module, (definition,), {})
        else:
            self._everything(module)
        self._follow()

    def add_of(self, name: str, asked: Collection[str]) -> None:
        """What a module binds of the names that may be asked of it, all of it where it binds none."""
        module = self._module(name)
        if module is None:
            return
        found = [each for each in asked if each in module.binders or each in module.imports]
        for each in found:
            self._resolve(module, (each,), {})
        below = [self._module(f"{name}.{each}", module) for each in asked]
        for inner in below:
            self._everything(inner)
        if not found and not any(below):
            self._everything(module)
        self._follow()

    def said(self) -> list[tuple[str, tuple[str, ...], list[str]]]:
        """What was reached, by module: its statements in order, and its imports."""
        found = []
        for name, module in sorted(self._modules.items()):
            if module is not None and (module.raw or self._kept[name] or self._imports[name]):
                kept = tuple(module.statements[i].text for i in sorted(self._kept[name]))
                found.append((name, (module.raw, *kept) if module.raw else kept, sorted(self._imports[name])))
        return found

    def _follow(self) -> None:
        while self._todo:
            module, index = self._todo.pop()
            statement = module.statements[index]
            if statement.dynamic:
                self._everything(module)
                for name in statement.texts:
                    self._everything(self._module(name, module))
            for chain in statement.chains:
                self._resolve(module, chain, statement.imports)
            for places in statement.imports.values():  # of functions: they run, whatever is used of them
                for place in places:
                    self._enter(place, module)

    def _module(self, name: str, importer: Module | None = None) -> Module | None:
        """A module of the package's own, with what it does when it is imported; None for any other."""
        if name in self._modules:
            return self._modules[name]
        origin = self._find(name)
        if origin is None or (importer is not None and not self._own(name, importer.name, importer.origin)):
            return None  # not kept: another module's importer may lie elsewhere
        module = self._modules[name] = read(name, origin)
        self._kept[name], self._imports[name] = set(), set()
        package = name.rpartition(".")[0]
        if package:
            self._module(package, module)
        for index in module.effects(partial(self._acts, module)):
            self._include(module, index)
        for places in module.imports.values():
            for place in places:
                self._enter(place, module)
        for star in module.stars:
            self._everything(self._module(star, module))
        return module

    def _enter(self, place: Place, importer: Module) -> None:
        """Importing a module runs what its statements do."""
        self._module(place.module, importer)
        self._module(place.whole, importer)

    def _include(self, module: Module, index: int) -> None:
        kept = self._kept[module.name]
        if index not in kept:
            kept.add(index)
            self._todo.append((module, index))

    def _resolve(self, module: Module, chain: Chain, local: Imports) -> None:
        """Include what a name, or attributes of it one after another, may mean in a module."""
        root, rest = chain[0], chain[1:]
        for index in module.binders.get(root, ()):
            self._include(module, index)
        for place in module.imports.get(root, ()):
            self._imports[module.name].add(place.text)
        for place in (*local.get(root, ()), *module.imports.get(root, ())):
            self._attributes(place, rest, module)

    def _attributes(self, place: Place, rest: Chain, importer: Module) -> None:
        """Include what an imported name, or attributes of it, may mean."""
        key = (importer.name, place.module, place.name, rest)
        module = self._module(place.module, importer)
        if module is None or key in self._seen:
            return
        self._seen.add(key)
        rest = (place.name, *rest) if place.name else rest
        if not rest:  # the module as a value, of which anything may be asked
            self._all_of(module)
            return
        inner = self._module(f"{module.name}.{rest[0]}", importer)
        if inner is not None:
            self._attributes(Place("", inner.name), rest[1:], importer)
        if rest[0] in module.binders or rest[0] in module.imports:
            self._resolve(module, rest, {})
        elif inner is None and not (rest[0].startswith("__") and rest[0].endswith("__")):
            self._all_of(module)

    def _all_of(self, module: Module) -> None:
        if module.name not in self._whole:
            self._whole.add(module.name)
            for index in range(len(module.statements)):
                self._include(module, index)
            for places in module.imports.values():
                self._imports[module.name].update(place.text for place in places)

    def _everything(self, module: Module | None) -> None:
        """All of a module, and of what it imports of its own."""
        if module is None or module.name in self._all:
            return
        self._all.add(module.name)
        self._all_of(module)
        inner = [places for each in module.statements for places in each.imports.values()]
        for place in (each for places in [*module.imports.values(), *inner] for each in places):
            self._everything(self._module(place.module, module))
            self._everything(self._module(place.whole, module))

    def _acts(self, module: Module, chain: Chain, seen: frozenset[tuple[str, str]] = frozenset()) -> bool:
        """Whether to make a class of the class of that name does something: it, or a base of it, has a metaclass or
        says what is done with those made of it."""
        if not chain or (module.name, chain[0]) in seen:
            return False
        seen = seen | {(module.name, chain[0])}
        for index in module.binders.get(chain[0], ()):
            node = module.statements[index].node
            if isinstance(node, ast.ClassDef):
                hooks = any(isinstance(n, ast.FunctionDef) and n.name == "__init_subclass__" for n in node.body)
                if hooks or node.keywords or any(self._acts(module, chain_of(base), seen) for base in node.bases):
                    return True
        for place in module.imports.get(chain[0], ()):
            other = self._module(place.module, module)
            rest = (place.name, *chain[1:]) if place.name else chain[1:]
            if other is not None and self._acts(other, rest, seen):
                return True
        return False


def beside_digest(folder: Path, name: str, asked: Collection[str]) -> str | None:
    """16 hex digits over what the names `asked` reach in a module of that name in a folder and in those beside it, all
    of it where it has none of them; None where there is no such module of the user's own."""

    def find(module: str) -> Path | None:
        inner = folder / module.replace(".", "/")
        places = (inner.with_name(f"{inner.name}.py"), inner / "__init__.py")
        return next((place for place in places if place.is_file() and own(str(place))), None)

    if not name or find(name) is None:
        return None
    reach = Reach(lambda module, importer, origin: True, find)
    reach.add_of(name, asked)
    return _digest(reach)


def _digest(reach: Reach) -> str:
    return hashlib.sha256(repr(reach.said()).encode()).hexdigest()[:16]


def reached(beginnings: Collection[tuple[str, str]], within: Callable[[str], bool]) -> str:
    """16 hex digits over what definitions, each of a module, reach in the modules that `within` says; all of a module
    where no definition is named."""
    reach = Reach(lambda module, importer, origin: within(module))
    for module, definition in beginnings:
        reach.add(module, definition)
    return _digest(reach)


@cache
def plugin_digest(base: type) -> str:
    """16 hex digits over what a plugin's class reaches: its definition, those of its bases and what these name,
    transitively, in their own package or, where that is not installed, beside it; as its files were when this process
    first asked. robench's own modules do not count: `HARNESS` speaks for them. The same in every version of Python."""
    top, reach = base.__module__.partition(".")[0], Reach(_belongs)
    for each in base.__mro__:
        if each.__module__.partition(".")[0] == top or _theirs(each.__module__):
            reach.add(each.__module__, each.__qualname__.partition(".")[0])
    return _digest(reach)


def _theirs(name: str) -> bool:
    """Whether a module is somebody's own code that lies outside of the folders of installed packages."""
    origin = origin_of(name) if _counts(name) else None
    return origin is not None and own(str(origin))


def _counts(name: str) -> bool:
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in ("robench", "torch", "pytorch_lightning", "builtins")


def _belongs(name: str, importer: str, origin: Path) -> bool:
    """Whether an imported module is of its importer's own package, or lies beside it where that is not installed."""
    top = name.partition(".")[0]
    if top == importer.partition(".")[0]:
        return True
    if not _counts(name) or not own(str(origin)):
        return False
    root = origin.parents[importer.count(".") + (origin.name == "__init__.py")]
    return (root / f"{top}.py").is_file() or (root / top / "__init__.py").is_file()

"""A model's Python file in a namespace of its own: what it imports from beside it, no other file gets.

Two folders may each have a `net.py` beside their `model.py`, and one of them may be edited between two evaluations. So
each time a file is opened, it and its helpers become modules under a package that only they see. Its name says where
they are from, so that objects of their classes can be pickled, here and for another process. Needs nothing but the
standard library.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PREFIX = "robench_model_"
# a model shares these with the harness, whatever lies beside its file; as it does the standard library
SHARED = frozenset({"__main__", "numpy", "robench", "robench_attacks", "robench_defenses", "torch", "torchvision"})
# folders of what is installed for everyone
INSTALLED = ("site-packages", "dist-packages")

_numbers = itertools.count()
_spaces: dict[str, Space] = {}


class Space:
    """The modules of one model file, under the package `name`: itself, and what it imports from its folder, from the
    package that it is part of, or from places that it adds to `sys.path`."""

    def __init__(self, file: Path, name: str | None = None) -> None:
        self.file = Path(os.path.abspath(file))
        self.name = name or f"{PREFIX}{next(_numbers)}_{os.fsencode(self.file).hex()}"
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._packages, self._root = _packages(self.file)
        self.main = self._main()
        # where the file is a link, what lies beside the link comes first
        self._places = _private(list(dict.fromkeys([str(self.file.parent), str(self.file.resolve().parent)])))
        self._before: list[str] | None = None  # sys.path as it was, while the space is open
        self._owned: dict[str, bool] = {}
        self._importlib = _Importlib(self)
        self.package = ModuleType(self.name)
        self.package.__path__ = []
        self.package.__spec__ = ModuleSpec(self.name, None, is_package=True)
        _spaces[self.name] = self
        sys.modules[self.name] = self.package
        importlib.invalidate_caches()  # files may have appeared since a folder was last listed

    def _main(self) -> str:
        """The full name of the file's module, with the packages that it is in where it speaks of them."""
        stem = self.file.stem.replace(".", "_")
        if not self._packages or not (stem == "__init__" or _relative(self.file)):
            return f"{self.name}.{stem}"
        return ".".join([self.name, *self._packages, stem]).removesuffix(".__init__")

    @property
    def places(self) -> list[str]:
        """The folders whose modules are the file's own."""
        added = [] if self._before is None else [place for place in sys.path if place not in self._before]
        return list(dict.fromkeys([*self._places, *_private(added)]))

    def run(self) -> ModuleType:
        """The file as a module. Raises whatever its code does."""
        with self.opened(), self.plainly():
            return importlib.import_module(self.main)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """While this lasts, others than its modules (pickle, say) find these by their plain names too, and places that
        are added to `sys.path` become its own."""
        if self._before is not None:
            yield
            return
        own = set(filter(self.owns, {name.partition(".")[0] for name in list(sys.modules)}))
        aside = {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in own}
        for name in aside:
            del sys.modules[name]
        before = dict(sys.modules)
        finder, folder = _Aliases(self), str(self.file.parent)
        self._before = [*sys.path]
        sys.path.insert(0, folder)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            self._places = self.places
            added = [place for place in sys.path if place not in self._before and not _private([place])]
            sys.path[:], self._before = [*added, *self._before], None
            for name, module in list(sys.modules.items()):
                if before.get(name) is module or name.startswith(PREFIX):
                    continue
                if str(getattr(module, "__name__", "")).startswith(f"{self.name}."):
                    del sys.modules[name]
            sys.modules.update(aside)

    def owns(self, name: str) -> bool:
        """Whether a module of this name is the file's own, for its modules."""
        top = name.partition(".")[0]
        if not self._owned.get(top) and (self._before is not None or top not in self._owned):
            self._owned[top] = False  # what is asked meanwhile asks about others' modules
            self._owned[top] = self._looks_owned(top)
        return self._owned[top]

    def _looks_owned(self, top: str) -> bool:
        if not top or top in SHARED or top in sys.stdlib_module_names or top.startswith(PREFIX):
            return False
        if self._packages[:1] == [top]:
            return True
        spec = PathFinder.find_spec(top, self.places)
        # a folder without __init__.py comes after what is installed
        return spec is not None and (spec.origin is not None or not _installed(top))

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Where a module of this space is, by its full name."""
        inner = name.removeprefix(f"{self.name}.")
        if name == self.main:
            return importlib.util.spec_from_file_location(name, self.file, loader=_Source(self, name))
        if "." not in inner:
            path = [str(self._root)] if self._packages[:1] == [inner] else self.places
        spec = PathFinder.find_spec(name, path)
        if spec is None and "." not in inner and self.main not in sys.modules:  # in a process that only unpickles
            self.run()
            spec = PathFinder.find_spec(name, self.places)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Source(self, name, spec.loader.path)
        return spec

    def load(self, name: str) -> ModuleType:
        """The module that a plain name means in this space. Raises ModuleNotFoundError with that name."""
        try:
            return importlib.import_module(f"{self.name}.{name}")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(f"{self.name}."):
                raise
            raise ModuleNotFoundError(self.plain(str(error)), name=self.plain(str(error.name))) from None

    def plain(self, text: str) -> str:
        """A text with the names of modules as the file's author gave them."""
        return text.replace(f"{self.name}.", "").replace(self.name, self.file.parent.name)

    @contextlib.contextmanager
    def plainly(self) -> Iterator[None]:
        """Errors inside name modules as the file's author does."""
        try:
            yield
        except Exception as error:
            error.args = tuple(self.plain(each) if isinstance(each, str) else each for each in error.args)
            if isinstance(error, ImportError) and isinstance(error.msg, str):
                error.msg = self.plain(error.msg)
            raise

    def forget(self) -> None:
        """Take back every module of it."""
        _spaces.pop(self.name, None)
        for name in [name for name in sys.modules if name == self.name or name.startswith(f"{self.name}.")]:
            del sys.modules[name]

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` does in the modules of this space."""
        if level == 0 and self.owns(name):
            self.load(name)
            if fromlist:
                return builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist)
            return sys.modules[f"{self.name}.{name.partition('.')[0]}"]
        found = builtins.__import__(name, globals, locals, fromlist or (), level)
        return self._importlib if found is importlib else found


class _Importlib(ModuleType):
    """importlib as the modules of a space see it."""

    def __init__(self, space: Space) -> None:
        super().__init__("importlib")
        self._space = space

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module`, which knows the space's own modules by their plain names."""
        return self._space.load(name) if self._space.owns(name) else importlib.import_module(name, package)


class _Source(SourceFileLoader):
    """Runs a module's source for a space; never code compiled before, which may be of before an edit."""

    def __init__(self, space: Space, name: str, path: str | None = None) -> None:
        super().__init__(name, path or str(space.file))
        self._space = space

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run it, with an `import` of the space's own."""
        vars(module)["__builtins__"] = self._space.builtins
        super().exec_module(module)


class _Ready(Loader):
    """Gives a module that is there already, for a spec that asks for it by another name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def exec_module(self, module: ModuleType) -> None:
        """Put the module that is there in place of the new one."""
        assert module.__spec__ is not None
        sys.modules[module.__spec__.name] = self._module


class _Aliases(MetaPathFinder):
    """Finds the modules of an open space by their plain names."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module of the space, or None where it has none of that name."""
        if not self._space.owns(name):
            return None
        return ModuleSpec(name, _Ready(self._space.load(name)))


class _Spaces(MetaPathFinder):
    """Finds the modules of spaces by their full names, of which one that another process made is opened here."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Where the module is; None for those of no space."""
        if not name.startswith(PREFIX):
            return None
        top, dot, _ = name.partition(".")
        if top not in _spaces:
            try:
                file = Path(os.fsdecode(bytes.fromhex(top.removeprefix(PREFIX).partition("_")[2])))
            except ValueError:
                return None
            Space(file, top)
        return _spaces[top].find(name, path) if dot else ModuleSpec(name, _Ready(_spaces[top].package), is_package=True)


sys.meta_path.insert(0, _Spaces())


def _packages(file: Path) -> tuple[list[str], Path]:
    """The packages that a file is in, outermost first, and the folder that these lie in."""
    names, folder = list[str](), file.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return names, folder


def _relative(file: Path) -> bool:
    """Whether a file has relative imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(tree))


def _private(places: Sequence[str]) -> list[str]:
    """The folders whose modules are not there for everyone."""
    return [place for place in places if Path(place).name not in INSTALLED]


def _installed(top: str) -> bool:
    """Whether there is a module or a package with __init__.py of this name elsewhere."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None

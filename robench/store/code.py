"""Digests of code by what it says: comments, docstrings, layout and places in a file do not enter."""

from __future__ import annotations
import __future__

import ast
import dis
import hashlib
import importlib.util
import linecache
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import robench

# folders of installed packages
INSTALLED = ("site-packages", "dist-packages")
LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
HARNESS = Path(robench.__file__).resolve().parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# parts of a syntax tree that say nothing, or not the same in every version of Python
SILENT = ("type_comment", "kind", "type_ignores")
# a code object's marks that its first constant is a docstring, and that annotations are not looked at
UNHEARD = 0x4000000 | __future__.annotations.compiler_flag


def own(place: str) -> bool:
    """Whether a file of code is a user's: no installed package's, not Python's, not robench's. A cell of a notebook
    is."""
    if place.startswith("<"):
        return not place.startswith("<frozen")
    path = Path(place).resolve()
    return set(INSTALLED).isdisjoint(path.parts) and LIBRARY not in path.parents and HARNESS not in path.parents


def plain(node: ast.AST) -> str:
    """A syntax tree as text without places and docstrings, the same in every version of Python."""
    found = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        if name not in SILENT and value is not None and value != []:
            found.append(f"{name}={_plain(value)}")
    return f"{type(node).__name__}({','.join(found)})"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    return plain(value) if isinstance(value, ast.AST) else repr(value)


@cache
def plugin_digest(base: type) -> str:
    """16 hex digits over the modules behind a plugin's class: its own, those of the classes it is made from, and what
    they import from their own package or, where that is not installed, from beside it. As they were when this process
    first asked. robench's own modules do not count: `HARNESS` speaks for them."""
    top = base.__module__.partition(".")[0]
    first = {each.__module__ for each in base.__mro__}
    return modules_digest(sorted(name for name in first if name.partition(".")[0] == top or _theirs(name)))


def _theirs(name: str) -> bool:
    """Whether a module is somebody's own code that lies outside of the folders of installed packages."""
    origin = _origin(name) if _counts(name) else None
    return origin is not None and own(str(origin))


def _counts(name: str) -> bool:
    top = name.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in ("robench", "torch", "pytorch_lightning", "builtins")


def modules_digest(names: Iterable[str]) -> str:
    """16 hex digits over modules by name and what they import, transitively, of their own."""
    found: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        origin = _origin(name)
        found[name] = ""
        if origin is not None:
            found[name], wanted = _read(origin, name)
            todo += [each for each in wanted if each not in found and _belongs(each, name, origin)]
    kept = sorted((name, text) for name, text in found.items() if text)
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """16 hex digits over a file of Python by what it says; of any other, or one that cannot be read as such, by its
    bytes."""
    return hashlib.sha256(_read(path, "")[0].encode()).hexdigest()[:16]


def _read(path: Path, name: str) -> tuple[str, list[str]]:
    """What a module says, and the names of the modules that it may import."""
    try:
        content = path.read_bytes()
    except OSError:
        return "", []
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(content).hexdigest(), []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return plain(tree), list(_imported(tree, package))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _belongs(name: str, importer: str, origin: Path) -> bool:
    """Whether an imported module is of its importer's own package, or lies beside it where that is not installed."""
    top = name.partition(".")[0]
    if top == importer.partition(".")[0]:
        return True
    if not _counts(name) or not own(str(origin)):
        return False
    root = origin.parents[importer.count(".") + (origin.name == "__init__.py")]
    return (root / f"{top}.py").is_file() or (root / top / "__init__.py").is_file()


def _origin(name: str) -> Path | None:
    """The file of a module, loaded or not; None where there is none."""
    place = getattr(sys.modules.get(name), "__file__", None)
    if place is None and name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        place = spec.origin if spec and spec.has_location else None
    return Path(place) if place else None


def function_text(function: FunctionType, *, known: bool = False) -> str:
    """What a function says, as it runs: of its file where that still says the same, else of its instructions.

    known: the file says it; those of packages are not edited while they run, but pytest rewrites what it asserts.
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)
    nodes, compiled = _compiled(code.co_filename, "".join(linecache.getlines(code.co_filename)))
    key = code.co_name, code.co_firstlineno
    if len(nodes.get(key, [])) == 1 and (known or instructions(code) in compiled.get(key, [])):
        return nodes[key][0]
    return instructions(code)


Place = tuple[str, int]


@cache
def _compiled(filename: str, text: str) -> tuple[dict[Place, list[str]], dict[Place, list[str]]]:
    """A file's functions by name and first line: what they say, and the instructions they are compiled to."""
    nodes: dict[Place, list[str]] = {}
    found: dict[Place, list[str]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree, code = ast.parse(text), compile(text, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return nodes, found
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            nodes.setdefault((node.name, line), []).append(plain(node))
        elif isinstance(node, ast.Lambda):
            nodes.setdefault(("<lambda>", node.lineno), []).append(plain(node))
    for each in within(code):
        found.setdefault((each.co_name, each.co_firstlineno), []).append(instructions(each))
    return nodes, found


def within(code: CodeType) -> Iterator[CodeType]:
    """A code object and those of the functions inside it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from within(each)


@cache
def instructions(code: CodeType) -> str:
    """What a code object does, without places and docstrings; the same for one version of Python only."""
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    head = (named, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~UNHEARD)
    steps = [(each.opname, _constant(each.argval)) for each in dis.get_instructions(code)]
    return repr((head, steps, code.co_exceptiontable if hasattr(code, "co_exceptiontable") else b""))


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return instructions(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def global_names(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """The globals, the attributes, and the modules by name that a code object and those inside it ask for."""
    kinds: dict[str, set[str]] = {"GLOBAL": set(), "NAME": set(), "ATTR": set(), "METHOD": set(), "IMPORT": set()}
    for each in within(code):
        for step in dis.get_instructions(each):
            _, _, kind = step.opname.partition("_")
            if step.opname.startswith("IMPORT_NAME"):
                kinds["IMPORT"].add(str(step.argval))
            elif kind in kinds and isinstance(step.argval, str):
                kinds[kind].add(step.argval)
    return kinds["GLOBAL"] | kinds["NAME"], kinds["ATTR"] | kinds["METHOD"], kinds["IMPORT"]

"""Digests of code by what it says: comments, docstrings, layout and places in a file do not enter."""

from __future__ import annotations
import __future__

import ast
import dis
import linecache
import sysconfig
import warnings
from collections.abc import Iterator
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
        if isinstance(node, ast.JoinedStr) and name == "values":  # Python 3.12.0 and 3.12.1 end some with nothing
            value = [each for each in value if not (isinstance(each, ast.Constant) and each.value == "")]
        if name not in SILENT and value is not None and value != []:
            found.append(f"{name}={_plain(value)}")
    return f"{type(node).__name__}({','.join(found)})"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    return plain(value) if isinstance(value, ast.AST) else repr(value)


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


def global_names(code: CodeType) -> tuple[set[str], set[str], dict[str, set[str]]]:
    """The globals and the attributes that a code object and those inside it ask for, and the modules that they import,
    each with the names that are taken from it."""
    kinds: dict[str, set[str]] = {"GLOBAL": set(), "NAME": set(), "ATTR": set(), "METHOD": set()}
    imported: dict[str, set[str]] = {}
    for each in within(code):
        module = ""
        for step in dis.get_instructions(each):
            _, _, kind = step.opname.partition("_")
            if step.opname == "IMPORT_NAME":
                module = str(step.argval)
                imported.setdefault(module, set())
            elif step.opname == "IMPORT_FROM":
                imported[module].add(str(step.argval))
            elif kind in kinds and isinstance(step.argval, str):
                kinds[kind].add(step.argval)
    return kinds["GLOBAL"] | kinds["NAME"], kinds["ATTR"] | kinds["METHOD"], imported

"""A module of Python as its file says it: its statements, what binds which name, what each names, and which of them do
something when the module is imported."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from robench.store.code import plain

# packages whose functions, called for a value, change nothing but what is given to them ...
KNOWN = frozenset(
    {"robench", "torch", "torchvision", "pytorch_lightning", "numpy", "scipy", "sklearn", "pandas", "foolbox", "art"}
)
# ... unless their names say so
ACTING = re.compile(r"set_|seed|register|patch|install|define|impl|hook|library|manual|filterwarnings|simplefilter")
ATTRIBUTES = ("setter", "getter", "deleter")  # of a property
# names whose use may reach anything of a module
DYNAMIC = frozenset({"globals", "eval", "exec", "__import__", "import_module", "locals"})
DYNAMIC_ATTRIBUTES = frozenset({"import_module", "__subclasses__", "__globals__"})
# statements that may do nothing but bind names
SIMPLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# a name and attributes of it
Chain = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """What an import binds a name to: a module, or `name` of it; text: the import itself."""

    text: str
    module: str
    name: str = ""

    @property
    def whole(self) -> str:
        """The module that the name is where it is one."""
        return f"{self.module}.{self.name}" if self.name else self.module


# what imports bind names to; under "" what is run, too
Imports = dict[str, list[Place]]


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a module: what it says, what it names, the imports inside it, and whether it may reach
    more than that; texts: its words, which may be names of modules."""

    node: ast.stmt
    text: str
    chains: tuple[Chain, ...]
    imports: Imports
    dynamic: bool
    texts: tuple[str, ...]


@dataclass
class Module:
    """What a module's file says. raw: a digest of a file that cannot be read as Python, "" of one that can."""

    name: str
    origin: Path
    raw: str = ""
    statements: list[Statement] = field(default_factory=list)
    binders: dict[str, list[int]] = field(default_factory=dict)
    imports: Imports = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.origin.name == "__init__.py" else self.name.rpartition(".")[0]

    def effects(self, acting: Callable[[Chain], bool]) -> Iterator[int]:
        """The statements that do more at import than bind a name to a value; acting: whether to make a class of a base
        does something."""
        for index, statement in enumerate(self.statements):
            if not isinstance(statement.node, SIMPLE) or not self._inert(statement.node, acting):
                yield index

    def _inert(self, node: ast.stmt, acting: Callable[[Chain], bool]) -> bool:
        if isinstance(node, ast.ClassDef):
            bases = [chain_of(base) for base in node.bases]
            parts = [*node.decorator_list, *node.bases]
            return (
                not node.keywords
                and not any(base and acting(base) for base in bases)
                and all(self._pure(each) for each in node.decorator_list)
                and all(self._quiet(each) for each in parts)
                and all(self._inert(each, acting) for each in node.body)
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None]
            return all(self._pure(each) for each in node.decorator_list) and all(
                self._quiet(each) for each in (*node.decorator_list, *defaults)
            )
        if isinstance(node, ast.Assign):
            return all(_plain_target(each) for each in node.targets) and self._quiet(node.value)
        if isinstance(node, ast.AnnAssign):
            return isinstance(node.target, ast.Name) and (node.value is None or self._quiet(node.value))
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant)
        return isinstance(node, ast.Pass | ast.Import | ast.ImportFrom)

    def _quiet(self, value: ast.expr) -> bool:
        """Whether nothing is called for a value that might do something."""
        return all(self._pure(node.func) for node in _now(value) if isinstance(node, ast.Call)) and not any(
            isinstance(node, ast.NamedExpr) for node in _now(value)
        )

    def _pure(self, called: ast.expr) -> bool:
        """Whether what is called, or decorates, comes from where calls change nothing else."""
        if isinstance(called, ast.Call):
            return self._pure(called.func)
        chain = chain_of(called)
        if not chain:
            return isinstance(called, ast.Attribute) and isinstance(called.value, ast.Constant | ast.JoinedStr)
        if chain[-1] in ATTRIBUTES:
            return True
        root = chain[0]
        if root in self.binders:
            return False
        if root not in self.imports:
            return hasattr(builtins, root) and root not in ("exec", "eval", "setattr", "delattr", "__import__", "open")
        tops = {place.module.partition(".")[0] for place in self.imports[root]}
        known = all(top in KNOWN or top in sys.stdlib_module_names for top in tops)
        words = (*chain, *(part for place in self.imports[root] for part in place.whole.split(".")))
        return known and not any(ACTING.search(word) for word in words)


def read(name: str, origin: Path) -> Module:
    """A module as its file says it now."""
    module = Module(name, origin)
    try:
        content = origin.read_bytes()
    except OSError:
        return module
    try:
        tree = ast.parse(content)
        for node in tree.body:
            _take(module, node)
    except (SyntaxError, ValueError, RecursionError):
        return Module(name, origin, hashlib.sha256(content).hexdigest())
    return module


def origin_of(name: str) -> Path | None:
    """The file of a module, loaded or not; None where there is none."""
    place = getattr(sys.modules.get(name), "__file__", None)
    if place is None and name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        place = spec.origin if spec and spec.has_location else None
    return Path(place) if place else None


def _take(module: Module, node: ast.stmt) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        _bind(module.imports, node, module.package)
        module.stars += _stars(node, module.package)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.If) and _main(node.test):
        return  # what the file does as a program
    index, inner = len(module.statements), Imports()
    for each in ast.walk(node):
        if isinstance(each, ast.Import | ast.ImportFrom):
            _bind(inner, each, module.package)
            module.stars += _stars(each, module.package)
    chains = tuple(dict.fromkeys(_chains(node)))
    dynamic = any(
        chain[0] in DYNAMIC or chain[:2] == ("sys", "modules") or DYNAMIC_ATTRIBUTES & {*chain[1:]} for chain in chains
    ) or any(DYNAMIC_ATTRIBUTES & {each.attr} for each in ast.walk(node) if isinstance(each, ast.Attribute))
    words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    texts = tuple(word for word in words if re.fullmatch(r"\w+(\.\w+)*", word)) if dynamic else ()
    # other versions of Python take other letters for printable
    text = plain(node).encode("ascii", "backslashreplace").decode()
    module.statements.append(Statement(node, text, chains, inner, dynamic, texts))
    for name in dict.fromkeys(_bound(node)):
        module.binders.setdefault(name, []).append(index)
    if not isinstance(node, SIMPLE):  # of a `try` or an `if` at the top
        for name, places in inner.items():
            module.imports.setdefault(name, []).extend(places)


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names of the module that a statement may change: those that it binds, those that its functions call global,
    and those whose attributes or items anything in it assigns."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
    else:
        yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and _stored(each))
        yield from (
            each.name
            for each in ast.walk(node)
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        )
    for each in ast.walk(node):
        if isinstance(each, ast.Global):
            yield from each.names
        elif isinstance(each, ast.NamedExpr):
            yield each.target.id
        elif isinstance(each, ast.Attribute | ast.Subscript) and _stored(each):
            root: ast.AST = each
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root.id not in ("self", "cls"):
                yield root.id


def _stored(node: ast.Name | ast.Attribute | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)


def _plain_target(node: ast.expr) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    return all(isinstance(each.value if isinstance(each, ast.Starred) else each, ast.Name) for each in parts)


def _main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and chain_of(test.left) == ("__name__",)


def _bind(found: Imports, node: ast.Import | ast.ImportFrom, package: str) -> None:
    """Note the names that an import binds."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            text = f"import {alias.name} as {alias.asname}"
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            found.setdefault(alias.asname or whole, []).append(Place(text, whole))
            found.setdefault("", []).append(Place(text, alias.name))  # is run, whatever is used of it
        elif alias.name != "*":
            source = _source(node, package)
            text = f"from {source} import {alias.name} as {alias.asname}"
            found.setdefault(alias.asname or alias.name, []).append(Place(text, source, alias.name))


def _source(node: ast.ImportFrom, package: str) -> str:
    parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def _stars(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    starred = isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    return [_source(node, package)] if starred and isinstance(node, ast.ImportFrom) else []


def _chains(node: ast.AST) -> Iterator[Chain]:
    chain = chain_of(node)
    if chain:
        yield chain
        return
    for each in ast.iter_child_nodes(node):
        yield from _chains(each)


def _now(value: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated with a value, and not when a function in it is called."""
    yield value
    for each in ast.iter_child_nodes(value):
        if not isinstance(each, FUNCTIONS):
            yield from _now(each)


def chain_of(node: ast.AST) -> Chain:
    """A name and attributes of it, () for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()

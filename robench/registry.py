"""Plugins by entry point: listed without importing them, loaded on use, options checked by the constructor."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from robench.errors import BadInput, unknown

KINDS = ("defense", "attack")


@dataclass(frozen=True)
class Variant:
    """A plugin that is another one with other defaults: `options` replace the constructor's, `recipes` the class's."""

    base: type
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: the class, the options its name stands for, and where its recipes are."""

    name: str
    kind: str
    base: type
    preset: Mapping[str, Any]
    recipes: Mapping[str, Any]

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: the constructor's defaults, the preset, then `given`, validated by type hint.

        Raises BadInput for an unknown option or a value of the wrong type.
        """
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        hints = typing.get_type_hints(inspect.unwrap(self.base).__init__)
        parameters = {
            p.name: p
            for p in inspect.signature(self.base).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        values = {name: p.default for name, p in parameters.items() if p.default is not p.empty} | dict(self.preset)
        for name, value in given.items():
            if name not in parameters:
                raise unknown(f"option of {self.kind} {self.name!r}", name, parameters)
            hint = hints.get(name, Any)
            try:
                values[name] = TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
            except ValidationError:
                kind = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
                raise BadInput(
                    f"Option {name} of {self.kind} {self.name!r} is {value!r}, but must be of type {kind} "
                    f"(the default is {values.get(name)!r})."
                ) from None
        return values

    def build(self, options: Mapping[str, Any], *arguments: Any) -> Any:
        """An instance with the given options over the defaults. Raises BadInput as `options` does."""
        return self.base(*arguments, **self.options(options))


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"robench.{kind}s")}


def names(kind: str) -> list[str]:
    """Names of all installed plugins of a kind, sorted."""
    return sorted(_entries(kind))


def check_names(kind: str, wanted: Iterable[str]) -> None:
    """Raise BadInput for the first name that no plugin has; imports none of them."""
    for name in wanted:
        if name not in _entries(kind):
            raise unknown(kind, name, _entries(kind))


@cache
def load(kind: str, name: str) -> Plugin:
    """The plugin of that name. Raises BadInput for an unknown name or a plugin that cannot be imported."""
    check_names(kind, [name])
    entry = _entries(kind)[name]
    try:
        target = entry.load()
    except Exception as error:  # whatever a third party's module does when it is imported
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"The {kind} {name!r} ({entry.value}) cannot be loaded ({type(error).__name__}: {reason}); "
            "mend or reinstall its package."
        ) from error
    base = target.base if isinstance(target, Variant) else target
    if not inspect.isclass(base) or inspect.isabstract(base):
        missing = ", ".join(sorted(getattr(base, "__abstractmethods__", ()))) or "it is no class"
        raise BadInput(f"The {kind} {name!r} ({entry.value}) cannot be used (missing: {missing}); mend its package.")
    if isinstance(target, Variant):
        recipes = target.recipes if target.recipes is not None else getattr(target.base, "recipes", {})
        return Plugin(name, kind, target.base, target.options, recipes)
    return Plugin(name, kind, target, {}, getattr(target, "recipes", {}))


def summaries(kind: str) -> dict[str, str]:
    """One line per plugin, read from its source without importing it: a class's docstring or a Variant's summary."""
    return {name: _summary(entry) for name, entry in sorted(_entries(kind).items())}


def _summary(entry: EntryPoint) -> str:
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return ""
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    except (ImportError, SyntaxError, ValueError, OSError):
        return ""  # a broken plugin says so when it is used
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == entry.attr for t in node.targets):
            texts = [a for a in ast.walk(node.value) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            return str(texts[0].value) if texts else ""
    return ""


def parse_options(pairs: list[str]) -> dict[str, str]:
    """Options from "key=value" texts. Raises BadInput for text without "=" or a repeated key."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"Option {pair!r} is not of the form key=value, such as -o steps=100.")
        key = key.strip().replace("-", "_")
        if key in options:
            raise BadInput(f"Option {key!r} is given twice; give it once.")
        options[key] = value.strip()
    return options

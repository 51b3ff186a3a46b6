"""Plugins by entry point: listed without importing them, loaded on use, options checked by the constructor."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from robench import extras
from robench.errors import BadInput, first_line, shown, unknown
from robench.ranges import INT64, Range, is_float, plain, read_number, text_of

KINDS = ("defense", "attack", "detector", "set")
# in a type hint's notes: the option came after figures had been stored, and while it has its default it is left out of
# what is recorded, so that they are found as before
ADDED = "added later"
# a member of a family that takes any name
OPEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True)
class Variant:
    """A plugin that is another one with other defaults: `options` replace the constructor's, `recipes` the class's."""

    base: type
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class AttackSet:
    """Attacks that go by one name: each with the options it has in the set.

    norms: the members in a norm where they are others.
    """

    summary: str
    members: tuple[tuple[str, Mapping[str, Any]], ...]
    norms: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: the class, the options its name stands for, and where its recipes are.

    A class with `family = True` serves every name "NAME:MEMBER" of its entry point NAME. Its class methods `members()`
    and `member_options(member)` give the names and the options (`inspect.Parameter`s, type hints resolved) there are,
    and its constructor takes the member before the options. With `open_family = True` any member will do.
    """

    name: str
    kind: str
    base: Any
    preset: Mapping[str, Any]
    recipes: Mapping[str, Any]
    member: str | None = None

    def parameters(self) -> dict[str, inspect.Parameter]:
        """The constructor's options, their type hints resolved."""
        return dict(_parameters(self.base, self.member))

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: the constructor's defaults, the preset, then `given`, validated by type hint.

        One whose hint says `ADDED` is left out where it has the constructor's default.
        Raises BadInput for an unknown option, a value of the wrong type and a number out of the hint's range.
        """
        parameters = self.parameters()
        values = {name: p.default for name, p in parameters.items() if p.default is not p.empty} | dict(self.preset)
        for name, value in given.items():
            if name not in parameters:
                raise unknown(f"option of {self.kind} {self.name!r}", name, parameters)
            hint = parameters[name].annotation
            try:
                values[name] = read_option(hint, value)
            except ValueError:
                raise BadInput(
                    f"Option {name} of {self.kind} {self.name!r} is {shown(value)}, but must be {allowed_by(hint)} "
                    f"(the default is {values.get(name)!r})."
                ) from None
        return {name: value for name, value in values.items() if not _left_out(parameters.get(name), value)}

    def build(self, options: Mapping[str, Any], *arguments: Any) -> Any:
        """An instance with the given options over the defaults.

        Raises BadInput as `options` does, and for an option that has no default and is not given.
        """
        values = self.options(options)
        absent = next((k for k, p in self.parameters().items() if k not in values and p.default is p.empty), None)
        if absent is not None:
            raise BadInput(f"The {self.kind} {self.name!r} needs a value for {absent}; give one, -o {absent}=VALUE.")
        return self.base(*(() if self.member is None else (self.member,)), *arguments, **values)


def _left_out(parameter: inspect.Parameter | None, value: Any) -> bool:
    added = parameter is not None and ADDED in getattr(parameter.annotation, "__metadata__", ())
    return added and parameter is not None and bool(value == parameter.default)


@cache
def _parameters(base: Any, member: str | None) -> dict[str, inspect.Parameter]:
    if member is not None:
        return dict(base.member_options(member))
    hints = typing.get_type_hints(inspect.unwrap(base).__init__, include_extras=True)
    return {
        p.name: p.replace(annotation=hints.get(p.name, Any))
        for p in inspect.signature(base).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


@cache
def _adapter(hint: Any) -> Any:
    """What validates values of a type."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def read_option(hint: Any, value: Any) -> Any:
    """The value of an option, given as text or as it is; raises ValueError where its type hint does not allow it.

    Numbers are read as `robench.ranges` reads them, and one without a `Range` must fit 64 bits. Where text alone is
    allowed, a number is the text that it is written as: 0.01 is "0.01". The text "none" is None where that is allowed.
    """
    parts = dict(_parts(hint))
    kinds: list[Any] = [typing.Literal if typing.get_args(kind) else kind for kind in parts]
    value = plain(_natural(kinds, value))
    if isinstance(value, str) and not any(kind in kinds for kind in (str, typing.Literal, Any)):
        _check_plain(value)
    if isinstance(value, bool) and (int in kinds or float in kinds) and bool not in kinds:
        raise ValueError(value)
    found = _adapter(hint).validate_python(value)  # pydantic's error is a ValueError
    if isinstance(found, int | float) and not isinstance(found, bool):
        held = [allowed for kind, allowed in parts.items() if kind in (int, float) and allowed]
        if found not in (held[0] if held else INT64 if isinstance(found, int) else Range(-math.inf, math.inf)):
            raise ValueError(value)
    return found


def _natural(kinds: Sequence[Any], value: Any) -> Any:
    """A number as its text where text is allowed and no number is; None where its name is given for it."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and str in kinds and not any(kind in kinds for kind in (int, float, Any)):
        return text_of(value) if is_float(value) else str(value)
    named = isinstance(value, str) and value.lower() == "none"
    return None if named and type(None) in kinds and str not in kinds else value


def _check_plain(text: str) -> None:
    """Raise ValueError unless it is a word, as of true or false, or a number of ASCII digits and nothing else."""
    if not (text.isascii() and text.isalpha()):
        read_number(text)


def _parts(hint: Any) -> Iterator[tuple[Any, Range | None]]:
    """The types that a hint allows, each with its range if it states one."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        own = next((note for note in notes if isinstance(note, Range)), None)
        yield from ((kind, deeper or own) for kind, deeper in _parts(inner))
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for each in typing.get_args(hint):
            yield from _parts(each)
    else:
        yield hint, None


def allowed_by(hint: Any) -> str:
    """What a type hint allows in a user's words: "of type int", "a whole number from 1 to 100", "one of a, b"."""
    parts = dict(_parts(hint))
    ranged = {int: "a whole number {}", float: "a number {}"}
    words = [ranged[kind].format(allowed) for kind, allowed in parts.items() if allowed and kind in ranged]
    choices = [str(choice) for kind in parts for choice in typing.get_args(kind)]
    words += ["one of " + ", ".join(choices)] if choices else []
    rest = [kind for kind, allowed in parts.items() if not (allowed and kind in ranged) and not typing.get_args(kind)]
    named = {type(None): "None", int: "int (64 bits)"}
    names = [named.get(kind) or getattr(kind, "__name__", str(kind)) for kind in rest]
    if words and names == ["None"]:
        return f"{words[0]}, or none"
    words += ["of type " + " | ".join(names)] if names else []
    return " or ".join(words)


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"robench.{kind}s")}


def names(kind: str) -> list[str]:
    """Names of all installed plugins of a kind, sorted."""
    return sorted(_entries(kind))


def check_attacks(wanted: Iterable[str]) -> None:
    """Raise BadInput for the first name that is neither an attack's nor a set's, or needs what is not installed;
    imports none of them."""
    for name in wanted:
        if name not in _entries("set"):
            extras.check(_entry("attack", name, _entries("set"))[0], f"attack {name!r}")


def read_attacks(texts: Iterable[str]) -> list[str]:
    """The names in texts with commas between, none if all of them are empty. Raises BadInput as check_attacks does, and
    for an empty name beside others."""
    names = [name.strip() for text in texts for name in text.split(",")]
    names = names if any(names) else []
    check_attacks(names)
    return names


def expand(wanted: Iterable[str], norm: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Attacks with the options their set gives them in a norm, each once; a name that is no set's stands for itself."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name in wanted:
        chosen: Sequence[tuple[str, Mapping[str, Any]]] = ((name, {}),)
        if name in _entries("set"):
            group: AttackSet = _entries("set")[name].load()
            chosen = group.norms.get(norm, group.members)
        found += [member for member in chosen if member not in found]
    return found


def bundled(kind: str, name: str) -> bool:
    """Whether a plugin comes with robench."""
    distribution = _entry(kind, name)[0].dist
    return distribution is not None and _named(distribution) == "robench"


@cache
def _named(distribution: Distribution) -> str:
    """An installed package's name, which is looked for in its file of metadata."""
    return distribution.name


def classes(package: str) -> list[type]:
    """The classes of the plugins of an installed package, each once. Raises BadInput for a package without any."""
    entries = [entry for kind in KINDS if kind != "set" for entry in _entries(kind).values()]
    loaded = [entry.load() for entry in entries if entry.module.partition(".")[0] == package]
    if not loaded:
        tops = {entry.module.partition(".")[0] for entry in entries}
        raise unknown("package of plugins", package, sorted(tops))
    return list(dict.fromkeys(each.base if isinstance(each, Variant) else each for each in loaded))


def check_names(kind: str, wanted: Iterable[str]) -> None:
    """Raise BadInput for the first name that no plugin has, or whose plugin needs what is not installed; imports none,
    so it cannot know a family's members."""
    for name in wanted:
        extras.check(_entry(kind, name)[0], f"{kind} {name!r}")


def _entry(kind: str, name: str, others: Iterable[str] = ()) -> tuple[EntryPoint, str | None]:
    """The entry point of a name and the member it names after a colon, if any; raises BadInput for an unknown one."""
    entries = _entries(kind)
    prefix, colon, member = name.partition(":")
    if name not in entries and not (colon and prefix in entries):
        raise unknown(kind, name, [*entries, *others])
    return (entries[name], None) if name in entries else (entries[prefix], member)


def load(kind: str, name: str) -> Plugin:
    """The plugin of that name, an object of the caller's own.

    Raises BadInput for an unknown name, a plugin that needs what is not installed, and one that cannot be imported.
    """
    return plugin_of(kind, name, *_loaded(kind, name))


@cache
def _loaded(kind: str, name: str) -> tuple[Any, str, str | None]:
    """What a plugin's entry point names, its text and the member. Raises as `load`."""
    entry, member = _entry(kind, name)
    extras.check(entry, f"{kind} {name!r}")
    try:
        target = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a third party's module does when it is imported
        raise _unloadable(kind, name, entry, error) from error
    _check_member(plugin_of(kind, name, target, entry.value, member).base, kind, name, member, entry)
    return target, entry.value, member


def _unloadable(kind: str, name: str, entry: EntryPoint, error: BaseException) -> BadInput:
    return BadInput(
        f"The {kind} {name!r} ({entry.value}) cannot be loaded ({type(error).__name__}: {first_line(error)}); "
        "mend or reinstall its package."
    )


def plugin_of(kind: str, name: str, target: object, origin: str, member: str | None = None) -> Plugin:
    """The plugin that a class or a Variant is, under `name`; `origin` says where it lives.

    Raises BadInput for anything else, and for a class with abstract methods.
    """
    base = target.base if isinstance(target, Variant) else target
    if not inspect.isclass(base) or inspect.isabstract(base):
        missing = ", ".join(sorted(getattr(base, "__abstractmethods__", ()))) or "it is no class"
        raise BadInput(f"The {kind} {name!r} ({origin}) cannot be used (missing: {missing}); mend its package.")
    variant = target if isinstance(target, Variant) else Variant(base, "")
    recipes = variant.recipes if variant.recipes is not None else getattr(base, "recipes", {})
    return Plugin(name, kind, base, variant.options, recipes, member)


def _check_member(base: Any, kind: str, name: str, member: str | None, entry: EntryPoint) -> None:
    """Raise BadInput unless a family's name comes with one of its members, and any other name without."""
    if not getattr(base, "family", False):
        if member is not None:
            raise unknown(kind, name, _entries(kind))
        return
    if getattr(base, "open_family", False):
        if not member or not OPEN_NAME.fullmatch(member):
            raise BadInput(
                f"The {kind} {name!r} must be {entry.name}:NAME; NAME is of letters, digits, '.', '_' and '-'."
            )
        return
    try:
        known = {each.lower(): each for each in base.members()}
    except ImportError as error:  # a library that is there and cannot be imported
        raise _unloadable(kind, name, entry, error) from error
    if member is None:
        one = next(iter(known.values()))
        raise BadInput(f"The {kind} {name!r} stands for many; name one of them after a colon, such as {name}:{one}.")
    if member not in known.values():
        near = difflib.get_close_matches(member.lower(), known, n=8, cutoff=0.4)
        raise unknown(f"{kind} of {entry.name}", member, [known[each] for each in near] or known.values())


def summaries(kind: str) -> dict[str, str]:
    """One line per plugin, read from its source without importing it: a class's docstring or a Variant's summary."""
    return {name: _summary(entry) for name, entry in sorted(_entries(kind).items())}


def needs(kind: str) -> dict[str, list[extras.Need]]:
    """What each plugin of a kind needs beside its own package."""
    return {name: extras.needs(entry) for name, entry in sorted(_entries(kind).items())}


def _summary(entry: EntryPoint) -> str:
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None:
            raise ImportError(entry.module)
        if spec.origin is None or not spec.origin.endswith(".py"):
            return ""
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    except (ImportError, SyntaxError, ValueError, OSError):
        return f"cannot be read; 'robench test-plugin {entry.name}' says why"
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == entry.attr for t in node.targets):
            texts = [a for a in ast.walk(node.value) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            return str(texts[0].value) if texts else ""
    return ""


def parse_options(pairs: Sequence[str], example: str = "-o steps=100") -> dict[str, str]:
    """Options from "key=value" texts. Raises BadInput for text without "=" or a repeated key."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"Option {pair!r} is not of the form key=value, such as {example}.")
        key = key.strip().replace("-", "_")
        if key in options:
            raise BadInput(f"Option {key!r} is given twice; give it once.")
        options[key] = value.strip()
    return options

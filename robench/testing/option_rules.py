"""Rules about options: what is recorded of a plugin must be enough to build it again."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping
from typing import Any

from robench.testing.rules import Rule, Subject, expect


def options_by_keyword(subject: Subject) -> None:
    """Every option is a keyword-only argument of the constructor, since others are neither validated nor recorded."""
    if subject.plugin.member is not None:  # a family states its options itself
        return
    parameters = list(inspect.signature(subject.plugin.base).parameters.values())
    others = [p for p in parameters[len(subject.first) :] if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    expect(not others, f"the constructor takes {', '.join(map(str, others))}; put a * before that")


def options_as_json(subject: Subject) -> None:
    """Options can be written as JSON and read back the same."""
    options = subject.options
    for name, value in options.items():
        try:
            back = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            back = f"nothing, as JSON has no {type(value).__name__}"
        again = subject.plugin.options({**options, name: back})[name] if _same(back, value) else back
        expect(_same(again, value), f"{name} is {value!r} and comes back as {again!r}")


def options_as_text(subject: Subject) -> None:
    """An option given as text, as -o does, means the same, so every option needs a type hint."""
    for name, value in subject.options.items():
        if value is not None:
            again = subject.plugin.options({**subject.given, name: str(value)})[name]
            expect(_same(again, value), f"{name} is {value!r} and as text it becomes {again!r}")


def options_kept(subject: Subject) -> None:
    """What an instance keeps under an option's name is the option's value, and building changes no option."""
    options = subject.options
    before = json.dumps(options, default=repr)
    built = subject.build()
    _expect_kept(built, options)
    after = json.dumps(subject.options, default=repr)
    expect(after == before, f"the options were {before} before an instance was built and are {after} after")
    for name, value in options.items():
        if type(getattr(built, "__dict__", {}).get(name)) is not type(value):
            continue
        for other in _others(value, subject.plugin.parameters()[name].annotation):
            try:
                changed = subject.build(**{name: other})
            except Exception:  # out of this option's range
                continue
            _expect_kept(changed, {name: other})


def _expect_kept(built: object, options: Mapping[str, Any]) -> None:
    """Only where the types agree: a text such as "8/255" may well be kept as a number."""
    for name, value in options.items():
        kept = getattr(built, "__dict__", {}).get(name)
        if type(kept) is type(value):
            expect(_same(kept, value), f"the option {name} is {value!r}, but the instance keeps {name} = {kept!r}")


def _others(value: object, hint: object) -> list[Any]:
    """Values other than this one that an option may take, as far as its type tells."""
    if typing.get_origin(hint) is typing.Literal:
        return [each for each in typing.get_args(hint) if each != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    return [value / 2 if value else 0.5] if isinstance(value, float) else []


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


OPTION_RULES = tuple(map(Rule, (options_by_keyword, options_as_json, options_as_text, options_kept)))

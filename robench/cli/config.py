"""A command's options in a TOML file: read as its defaults, which the command line overrules, and written.

Keys are the options' names (`max-passes` or `max_passes`; `models` for what stands without one), values of their own
types; KEY=VALUE options are tables, and lists may stand for values with commas between. Paths are relative to the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robench.errors import BadInput, reason_of, shown, unknown

# never in a file: they are about the command at hand
APART = ("config", "save_config", "as_json", "help")
# parameters that go by another name in a file
NAMES = {
    "as_json": "json",
    "option": "options",
    "attack": "attacks",
    "range_": "range",
    "trained_option": "trained-options",
}
PATHS = ("data", "runs", "ids", "weights")
REFERENCES = ("models", "surrogate", "guide")
# where a command keeps the KEY=VALUE options of its file, by parameter
TABLES = "robench tables"


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Take a file's options for the command's defaults. Raises BadInput for a file that cannot be used."""
    if path is not None:
        known = {each.name: each for each in context.command.params if each.name and each.name not in APART}
        context.default_map, context.meta[TABLES] = _defaults(path, known)
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.toml", callback=_read, is_eager=True,
        help="Take options from this file; those of the command line win.",
    ),
]  # fmt: skip
SaveConfig = Annotated[
    Path | None,
    typer.Option("--save-config", metavar="FILE.toml", help="Write the options given here to this file, and go on."),
]


def _defaults(path: Path, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """What a file says by the names of parameters, and its tables of KEY=VALUE options likewise."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = reason_of(error)
        raise BadInput(f"The file {path} of --config cannot be read ({reason}); give a TOML file.") from error
    names = {alias: name for name, each in known.items() for alias in _aliases(name, each)}
    values: dict[str, Any] = {}
    tables: dict[str, dict[str, str]] = {}
    for key, value in found.items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            raise unknown(f"option of {path}", key, sorted({_key(each) for each in known}))
        if name in values or name in tables:
            raise BadInput(f"The option {key} stands in {path} twice, under two names; give it once.")
        if isinstance(value, dict):
            if not name.endswith("option"):
                raise BadInput(f"{key} in {path} is a table, but must be a value or a list.")
            tables[name] = {
                option.replace("-", "_"): _text(f"{key}.{option}", each, path) for option, each in value.items()
            }
        else:
            values[name] = _placed(name, _value(known[name], key, value, path), _mover(path.parent))
    return values, tables


def _aliases(name: str, parameter: Any) -> set[str]:
    flags = {flag.lstrip("-").replace("-", "_") for flag in parameter.opts}
    return {name, _key(name).replace("-", "_"), *flags}


def _key(name: str) -> str:
    """What a parameter goes by in a file."""
    return NAMES.get(name, name).replace("_", "-")


def _value(parameter: Any, key: str, value: Any, path: Path) -> Any:
    """A value as the command line would have it: texts, in a list where the option may be repeated."""
    if parameter.multiple or parameter.nargs == -1:
        return [_text(key, each, path) for each in (value if isinstance(value, list) else [value])]
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise BadInput(f"{key} in {path} is {shown(value)}, but must be true or false.")
        return value
    if isinstance(value, list):
        return ",".join(_text(key, each, path) for each in value)
    return _text(key, value, path)


def _text(key: str, value: Any, path: Path) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise BadInput(f"{key} in {path} is {shown(value)}, but must be text, a number, true or false.")
    return str(value)


def _mover(folder: Path) -> Callable[[str], str]:
    """What leads from here to where a relative path leads from a folder."""
    return lambda place: os.path.normpath(os.path.join(folder, place)) if folder != Path() else place


def _placed(name: str, value: Any, move: Callable[[str], str]) -> Any:
    """The value of a parameter with its relative paths moved."""
    from robench.data_names import parse
    from robench.references import Reference

    def reference(text: str) -> str:
        return str(Reference.parse(text).at(move))

    if name in PATHS:
        return value if os.path.isabs(value) or value.startswith("~") else move(value)
    if name in REFERENCES:
        return reference(value) if isinstance(value, str) else [reference(each) for each in value]
    return str(parse(value).at(move)) if name == "dataset" else value


def merged(context: typer.Context, name: str, given: Iterable[str] | None) -> list[str]:
    """The KEY=VALUE texts of an option: the file's, but for those that the command line gives."""
    given = list(given or [])
    keys = {text.partition("=")[0].strip().replace("-", "_") for text in given}
    table: dict[str, str] = context.meta.get(TABLES, {}).get(name, {})
    return [*(f"{key}={value}" for key, value in table.items() if key not in keys), *given]


def save(context: typer.Context, path: Path) -> None:
    """Write the options that a command was given, by its file or on its line, to a file. Raises BadInput, DiskError."""
    from robench.store.files import write_text

    if path.suffix != ".toml":
        raise BadInput(f"--save-config is {shown(str(path))}, but must be a file that ends in .toml.")
    folder = os.path.abspath(path.parent)
    move = (lambda place: place) if folder == os.getcwd() else (lambda place: os.path.relpath(place, folder))
    lines, tables = list[str](), list[str]()
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in APART or source is None:
            continue
        value = context.params.get(name)
        if name.endswith("option"):
            pairs = [text.partition("=") for text in merged(context, name, value)]
            rows = [f"{_quoted(key.strip())} = {_quoted(each.strip())}" for key, _, each in pairs]
            tables += ["", f"[{_key(name)}]", *rows] if rows else []
        elif source.name != "DEFAULT" and value is not None:
            lines.append(f"{_key(name)} = {_toml(_placed(name, _plain(value), move))}")
    write_text(path, "\n".join([*lines, *tables]) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """A TOML string; JSON's escapes are among TOML's. Raises BadInput for text that is no Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{shown(text)} cannot be written to a TOML file; leave out --save-config.") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

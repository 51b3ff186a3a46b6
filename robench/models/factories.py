"""Models that a user's code makes: `file.py:factory` and `package.module:factory`, with arguments."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from robench.errors import BadInput, RobenchError, crash, first_line, of_others, shown, unknown
from robench.model_files import Space
from robench.ranges import read_number
from robench.references import Reference
from robench.registry import allowed_by, read_option

# what a word stands for where a factory does not say of which type it takes
WORDS: Mapping[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def made_by_code(reference: Reference) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a factory, and the arguments it was called with. Raises BadInput for whatever goes wrong."""
    if not reference.place:
        raise BadInput(f"The model {str(reference)!r} is not of the form file.py:factory or package.module:factory.")
    if reference.kind == "module":
        if not reference.name:
            raise BadInput(
                f"The model {str(reference)!r} is not of the form file.py:factory or package.module:factory."
            )
        return _made(_imported(reference.place), reference)
    path = Path(reference.place)
    if not path.is_file():
        raise BadInput(f"There is no model file {path}; give the path of a Python file, then ':' and its factory.")
    space = Space(path)
    try:
        with space.opened():
            return _made(_run(space, path), reference, space.plainly)
    except RobenchError:
        space.forget()
        raise


def place_of_code(reference: Reference, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How another process comes by the same model."""
    if reference.kind == "file":
        found = {"kind": "file", "place": os.path.abspath(reference.place)}
    else:
        found = {"kind": "module", "place": reference.place}
        here = os.getcwd()
        if getattr(sys.modules.get(reference.place), "__file__", None) and here in sys.path and _here(reference.place):
            found["folder"] = here
    return {**found, "name": reference.name, **({"arguments": dict(arguments)} if arguments else {})}


def _made(
    imported: Any,
    reference: Reference,
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a factory, which is called inside `around`."""
    name = reference.name
    if not name:
        raise _listing(imported, reference)
    factory = getattr(imported, name, None)
    if factory is None:
        raise unknown(f"factory in {reference.place}", name, _makers(imported))
    arguments: dict[str, Any] = {}
    if isinstance(factory, nn.Module):
        if reference.arguments:
            raise BadInput(f"The model {reference.bare!r} is made already, so it takes no arguments; leave them out.")
        module: object = factory
    else:
        arguments = _arguments(factory, reference)
        try:
            with around():
                module = factory(**arguments)
        except RobenchError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's code does
            called = "with these arguments" if arguments else "without arguments, or with -m NAME=VALUE"
            said = crash(error) if of_others(error) else f"{type(error).__name__}: {first_line(error, 200, end='.:')}"
            raise BadInput(
                f"The factory {reference.loading!r} failed with {said}; it must return the model when called {called}."
            ) from error
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"The factory {reference.loading!r} returned a {type(module).__name__}, but must return a torch nn.Module."
        )
    return module, arguments


def _makers(imported: Any) -> list[str]:
    """The names of a module that a model may be had by: what can be called, and models; its own where it has some."""
    known = {name: value for name, value in vars(imported).items() if callable(value) and not name.startswith("_")}
    own = [name for name, value in known.items() if not _from_elsewhere(value, imported.__name__)]
    return own or list(known)


def _from_elsewhere(value: object, module: str) -> bool:
    """Whether a class or a function was made in another package than that of `module`; of other things nobody knows."""
    where = str(value.__module__) if isinstance(value, (type, FunctionType, BuiltinFunctionType)) else module
    return where.partition(".")[0] != module.partition(".")[0]


def _listing(imported: Any, reference: Reference) -> BadInput:
    """Why a file alone is no model: with the factories and models that are defined in it."""
    own = [name for name in _makers(imported) if not _from_elsewhere(getattr(imported, name), imported.__name__)]
    place = reference.place
    if not own:
        return BadInput(
            f"The model {place!r} names no factory, and the file defines none; give {place}:NAME, where NAME() returns "
            "the model."
        )
    several = f"{', '.join(own[:12])}{f' and {len(own) - 12} more' if len(own) > 12 else ''}"
    return BadInput(
        f"The model {place!r} names no factory; it has {several}: give {place}:{own[0]}, say, where it is a model or "
        "what it returns is one."
    )


def _arguments(factory: Any, reference: Reference) -> dict[str, Any]:
    """The arguments as the factory's type hints have them, or as they look. Raises BadInput."""
    if not reference.arguments:
        return {}
    taken: Mapping[str, inspect.Parameter] | None = None
    hints: Mapping[str, Any] = {}
    try:
        taken = inspect.signature(factory).parameters
        hints = typing.get_type_hints(vars(factory).get("__init__") if isinstance(factory, type) else factory)
    except Exception:  # whatever a user's code has as hints; builtins have no signature
        hints = {}
    anything = taken is None or any(p.kind is p.VAR_KEYWORD for p in taken.values())
    taken = taken or {}
    if not taken and not anything:
        given = ", ".join(reference.arguments)
        raise BadInput(f"The factory {reference.bare!r} takes no arguments; leave {given} out.")
    found: dict[str, Any] = {}
    for name, text in reference.arguments.items():
        key = name if name in taken else name.replace("-", "_")
        if key not in taken and not anything:
            known = [n for n, p in taken.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            raise unknown(f"argument of {reference.bare}", name, known)
        found[key] = _value(hints[key], key, text, reference) if key in hints else value_of(text)
    return found


def _value(hint: Any, name: str, text: str, reference: Reference) -> Any:
    if hint not in (int, float, bool, str) and type(None) not in typing.get_args(hint):
        return value_of(text)
    if type(None) in typing.get_args(hint) and text.lower() in ("none", "null"):
        return None
    try:
        return read_option(hint, text)
    except ValueError:
        allowed = allowed_by(hint)
        raise BadInput(f"Argument {name} of {reference.bare!r} is {shown(text)}, but must be {allowed}.") from None
    except Exception:  # a type of the user's own
        return value_of(text)


def value_of(text: str) -> Any:
    """A value from text that nobody says the type of: true, false, none, a whole number, a number, or the text."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        number = read_number(text)
    except ValueError:
        return text
    whole = text.lstrip("+-").isdigit()
    return int(text) if whole else float(number)


def _run(space: Space, path: Path) -> Any:
    try:
        return space.run()
    except RobenchError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's code does
        raise BadInput(f"The model file {path} cannot be run: {crash(error)}.") from error


@contextlib.contextmanager
def _from_here(name: str) -> Iterator[None]:
    """While this lasts, the current folder comes first for imports where it has the package; then it comes last."""
    here = os.getcwd()
    if not _here(name) or here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
        sys.path.append(here)


def _here(name: str) -> bool:
    """Whether the current folder has the package that a module is in."""
    top = name.partition(".")[0]
    return bool(top) and (Path(f"{top}.py").is_file() or Path(top).is_dir())


def _imported(name: str) -> Any:
    try:
        with _from_here(name):
            found = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's code does
        raise BadInput(
            f"The module {name!r} cannot be imported ({type(error).__name__}: {first_line(error, 160)}); give "
            "file.py:factory, package.module:factory, torchvision:NAME or a trained model's name."
        ) from error
    _check_unedited(name)
    return found


# by module of a model's package, the time and size of its file when it was first seen
_seen: dict[str, tuple[int, int]] = {}


def _check_unedited(name: str) -> None:
    """Raise BadInput where a module of the same package was edited since this process, which imports it but once, has
    seen it first: its figures would be those of the old code under the name of the new."""
    top = name.partition(".")[0]
    for each, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if each.partition(".")[0] != top or not file or not os.path.isfile(file):
            continue
        status = os.stat(file)
        stamp = status.st_mtime_ns, status.st_size
        if _seen.setdefault(each, stamp) != stamp:
            raise BadInput(
                f"The module {each!r} of {name} was edited after this process had imported it, and runs as it was; "
                "start the program anew, or give the model as file.py:factory."
            )

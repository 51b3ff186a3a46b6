"""Errors a user sees, each one sentence, with the exit code that goes with it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from robench.text.escaping import visible


class RobenchError(Exception):
    """An error whose text is one clear sentence for the user, on one line that can be printed whatever it names.

    `exit_code` is the process's.
    """

    exit_code = 2

    def __init__(self, text: str = "") -> None:
        super().__init__(visible(text))


class BadInput(RobenchError):
    """The user's input cannot be used: names the value, what is allowed and what to do."""


class DiskError(BadInput):
    """A file cannot be written; no further work can be kept."""


class Changed(BadInput):
    """A model answers other than when what is stored of it was made."""


class Permanent(RobenchError):
    """A model or a plugin failed in a way that comes again each time; its figure cannot be computed as things stand."""


class Hindered(Exception):
    """A model or a plugin met what the machine or the network did, such as a file that was not there; it may go well
    next time."""

    place = ""  # its text names one


class CheckFailed(RobenchError):
    """A check did not hold: verification failed, or training went wrong."""

    exit_code = 1


class Misbehaved(ValueError):
    """What somebody's plugin answered breaks its contract. No line of code raised it, so that none is told."""

    place = ""


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `BadInput` naming an option, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise BadInput(f"{name} is {shown(value)}, but must be {allowed}.")


def shown(value: object, limit: int = 80) -> str:
    """A value as code has it, for a sentence: in one line and cut after `limit` characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of thousands of digits has no text, and a stranger's object does what it likes
        text = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}..."


# a list of names may be so long in a sentence; of a longer one so many are told
MANY, NEAREST = 40, 8


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not among `known`, with the nearest one suggested; of many, only some are told."""
    names = sorted(set(known))
    folded = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    listing = ", ".join(names) if names else "none"
    if len(names) > MANY:
        alike = difflib.get_close_matches(name.lower(), folded, n=NEAREST, cutoff=0.3)
        few = [folded[each] for each in alike] or names[:NEAREST]
        listing = f"{', '.join(few)} and {len(names) - len(few)} more"
    if not name.strip():
        return BadInput(
            f"There is no {kind} without a name; write a list with commas and no spaces: a,b. Known: {listing}."
        )
    return BadInput(f"There is no {kind} named {name!r}; {hint}Known: {listing}.".replace("; Known", "; known"))


def first_line(error: BaseException, limit: int | None = None, end: str = "") -> str:
    """What an error of somebody else's code says, as part of a sentence, or its type's name where it says nothing.

    It is the first line, at most `limit` characters of it, without those of `end` where it ends in them: ".", say. One
    that ends in a colon announces the others, of which a few hundred characters go along; torch's advice to its own
    developers does not.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":") and len(lines) > 1:
        text = " ".join(_few_names(" ".join(line.split())) for line in lines)
        return (text if len(text) <= ANNOUNCED else f"{text[:ANNOUNCED]}...").rstrip(end)
    line = DISPATCHER.split(lines[0])[0]
    return (line if limit is None or len(line) <= limit else line[:limit]).rstrip(end)


# letters of what a first line announces, names of a list in it, and where torch begins to speak of its dispatcher
ANNOUNCED, NAMED = 400, 3
DISPATCHER = re.compile(r"(?<=backend)\. This could be because|\. ?(?=Hint: |This view was created inside)")


def _few_names(line: str) -> str:
    """The line, with the first few of the quoted names that it lists."""
    names = re.findall(r'"[^"]*"', line)
    if len(names) <= NAMED + 1:
        return line
    listed = re.search(r'"[^"]*"(, "[^"]*")+', line)
    few = f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return line[: listed.start()] + few + line[listed.end() :] if listed else line


# of these, nobody's own code: what calls it, and what it calls
LIBRARIES = {"robench", "torch", "torchvision", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "numpy",
             "typer", "click", "foolbox", "eagerpy", "art", "pyautoattack", "autoattack", "ray"}  # fmt: skip


def place_of(error: BaseException) -> str:
    """The file and the line of the model's or plugin's code that an error comes from, "model.py, line 12".

    Where a library raised it that robench called, no place says anything, and it is ""; robench's own lines are told.
    """
    known = getattr(error, "place", None)  # of an error that comes from another process
    if known is not None:
        return str(known)
    frames = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    theirs = [each for each in frames if _others(str(each[0]))]
    if not theirs and not (frames and str(frames[-1][0]).startswith("robench.")):
        return ""
    _, file, line = (theirs or frames)[-1]
    with contextlib.suppress(ValueError):
        file = str(Path(file).relative_to(Path.cwd()))
    return f"{file}, line {line}"


def _others(module: str) -> bool:
    """Whether a module is a user's, by its name."""
    return module.partition(".")[0] not in LIBRARIES | sys.stdlib_module_names


def of_others(error: BaseException) -> bool:
    """Whether an error of this process came up in a user's code, or in what that called."""
    return any(_others(str(frame.f_globals.get("__name__", ""))) for frame, _ in traceback.walk_tb(error.__traceback__))


def crash(error: BaseException) -> str:
    """What went wrong in somebody else's code, as part of a sentence: the error's type, what it says, and where."""
    place = place_of(error)
    said = first_line(error, 200, end=".:")
    text = type(error).__name__ + ("" if said == type(error).__name__ else f": {said}")
    return f"{text} ({place})" if place else text


def contained(error: BaseException) -> Exception:
    """An error that somebody else's code ended with, as one that does not end this process: sys.exit is none."""
    if isinstance(error, Exception):
        return error
    name = "sys.exit" if isinstance(error, SystemExit) else type(error).__name__
    return RuntimeError(f"it tried to end the process by {name}")


def disk_error(error: OSError, path: object) -> DiskError:
    """A failed write in one sentence: no space, no permission, or what the system said."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"No space left to write {path}; free some space and run the same command again.")
    reason = reason_of(error).lower()
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = "what should be its folder is a file"
    return DiskError(f"Cannot write {path} ({reason}); check the folder, or name another with --runs, --out or --data.")


def reason_of(error: BaseException, limit: int = 120) -> str:
    """Why a file cannot be had, as part of a sentence that names it: what the system says, or else the first line."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error, limit)

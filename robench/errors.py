"""Errors a user sees, each one sentence, with the exit code that goes with it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

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


class CheckFailed(RobenchError):
    """A check did not hold: verification failed, or training went wrong."""

    exit_code = 1


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `BadInput` naming an option, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise BadInput(f"{name} is {value!r}, but must be {allowed}.")


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    names = sorted(known)
    folded = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    listing = ", ".join(names) if names else "none"
    return BadInput(f"There is no {kind} named {name!r}; {hint}Known: {listing}.".replace("; Known", "; known"))


def first_line(error: BaseException, limit: int | None = None, end: str = "") -> str:
    """What an error of somebody else's code says, as part of a sentence, or its type's name where it says nothing.

    It is the first line, at most `limit` characters of it, without those of `end` where it ends in them: ".", say.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit].rstrip(end)


def disk_error(error: OSError, path: object) -> DiskError:
    """A failed write in one sentence: no space, no permission, or what the system said."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"No space left to write {path}; free some space and run the same command again.")
    reason = (error.strerror or str(error)).lower()
    return DiskError(f"Cannot write {path} ({reason}); check the folder, or choose another with --runs.")

"""What this user named himself, kept outside every runs folder: whose code may be run because a record says so.

A record is text that anybody can have written, and it may name any file or function. So what it names is run without
asking only where this user named it before; a trained model is data (safetensors and a card) and needs no trust.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from robench.errors import BadInput
from robench.references import Reference


def is_code(reference: str) -> bool:
    """Whether loading a model by this reference runs code of its author: file.py:factory, package.module:factory, or
    a file of an exported program."""
    return Reference.parse(reference).runs_code


def remember(reference: str) -> None:
    """Note that this user had the code behind a reference run. Where the system refuses, nothing is noted."""
    if not is_code(reference) or reference_known(reference):
        return
    place = _state("references")
    if place is not None:
        with contextlib.suppress(OSError, ValueError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "a", encoding="ascii") as stream:
                stream.write(f"{_place(reference)}\n")  # one short line: processes at once do not mix theirs


def reference_known(reference: str) -> bool:
    """Whether this user had the code behind a reference run before: the same file, or the same module's function."""
    place = _state("references")
    try:
        text = place.read_text(encoding="ascii", errors="replace") if place else ""
    except (OSError, ValueError):
        return False
    return _place(reference) in text.split("\n")


def allow(reference: str, whose: str, instead: str, trust: bool) -> None:
    """Raise BadInput where a record names code that this user has not named before, unless he trusts it.

    whose: what recorded it, as a sentence's beginning; instead: what else he can do about it.
    """
    if trust or not is_code(reference) or reference_known(reference):
        return
    raise BadInput(
        f"{whose} names the code {reference!r}, which you have not run here before, and anybody could have written "
        f"that; {instead}, or add --trust to run what it names."
    )


def secret() -> bytes:
    """A number that only this user has, made when it is first asked for; another each time where it cannot be kept."""
    place = _state("secret")
    if place is None:
        return secrets.token_bytes(32)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            made = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "wb") as stream:
                stream.write(secrets.token_bytes(32))
        found = place.read_bytes()
        if len(found) == 32:
            return found
    return secrets.token_bytes(32)


def _place(reference: str) -> str:
    """What a reference names from wherever it is named, on one line of ASCII: a file by its whole path."""
    return json.dumps(Reference.parse(reference).somewhere().loading)


def _state(name: str) -> Path | None:
    """A file in the user's state folder; None for a user without a home."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(base) / "robench" / name

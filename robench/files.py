"""Files that are either whole or absent: written aside, synced, then moved into place; and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from robench.errors import BadInput, disk_error

# keys a JSON file must have, with the types of their values
Required = Mapping[str, type | tuple[type, ...]]


def write_file(path: Path, write: Callable[[Path], None]) -> str:
    """Let `write` fill a file beside `path`, then move it there in one step; returns the checksum of what was written.

    Raises BadInput when the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb+") as handle:
            os.fsync(handle.fileno())
        written = checksum(aside)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise disk_error(error if isinstance(error, OSError) else _system_error(error), path) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return written


def _system_error(error: SafetensorError) -> OSError:
    """The system's error behind one of safetensors, which keeps its number in the text only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def write_text(path: Path, text: str) -> None:
    """Write text in one step; raises as `write_file`."""
    write_file(path, lambda aside: _fill(aside, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, in one step; raises as `write_file`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, required: Required | None = None) -> dict[str, Any]:
    """A JSON object with the required keys ("a.b" is b inside a) of the required types.

    Raises BadInput for a missing or damaged file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}; check the name, or make it first.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"The file {path} is damaged ({error}); delete it and run the command again.") from error
    if not isinstance(value, dict):
        raise BadInput(f"The file {path} is damaged (not a JSON object); delete it and run the command again.")
    for key, kind in (required or {}).items():
        found: Any = value
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            raise BadInput(f"The file {path} is damaged (no usable {key!r}); delete it and run the command again.")
    return value


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, in hex; raises OSError where it cannot be read."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)

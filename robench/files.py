"""Files that are either whole or absent: written aside, synced, then moved into place; and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robench.errors import BadInput, disk_error


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then move it there in one step.

    Raises BadInput when the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text in one step; raises as `write_file`."""
    write_file(path, lambda aside: _fill(aside, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, in one step; raises as `write_file`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput for a missing or damaged file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}; check the name, or make it first.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"The file {path} is damaged ({error}); delete it and run the command again.") from error
    if not isinstance(value, dict):
        raise BadInput(f"The file {path} is damaged (not a JSON object); delete it and run the command again.")
    return value


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, in hex; raises OSError where it cannot be read."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)

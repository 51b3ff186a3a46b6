"""Half-written files: named so that no two writers share one, wherever they run, and locked while the writer lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

# what is written, then who writes it: a number drawn for it, or, before there were such, that of a process
PART = re.compile(r"\.(?P<name>.+)\.(?P<writer>u[0-9a-f]{12}|[0-9]+)\.part")
# seconds: what was not touched for so long is nobody's, where no lock tells
LONG = 3600.0


def aside_of(path: Path) -> Path:
    """A name beside `path` that nobody else writes to."""
    return path.with_name(f".{path.name}.u{uuid.uuid4().hex[:12]}.part")


@contextlib.contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to be filled, known as its writer's until the end; raises OSError."""
    aside = aside_of(path)
    opened = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield aside
    finally:
        os.close(opened)


def written(path: Path) -> str:
    """The name of the file that a half-written one was to become, "" for a file that is none."""
    match = PART.fullmatch(path.name)
    return match["name"] if match else ""


def abandoned(path: Path) -> bool:
    """Whether the writer of a half-written file or folder is gone.

    One of an earlier robench is known by its process alone, which says nothing on another machine, so it must not have
    been touched for long either.
    """
    match = PART.fullmatch(path.name)
    if match is None:
        return False
    if not match["writer"].startswith("u"):
        return _untouched(path) and not _alive(int(match["writer"]))
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return _untouched(path)
    finally:
        os.close(opened)
    return True


def _untouched(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > LONG
    except OSError:
        return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True

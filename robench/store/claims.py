"""Who is working on what: one lock per piece of work, freed by the system when its holder dies, and a journal."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from robench.errors import disk_error

LOCKS, JOURNAL = "locks", "journal.jsonl"
# seconds between two looks at a lock that somebody else holds
POLL = 0.2


@contextmanager
def claim(root: Path, key: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of the work `key` under the runs folder `root`; yields False, at once, where somebody else does.

    With `wait`, waits for it instead. The system frees the lock of a process that dies, so none is ever stale. Raises
    DiskError where the folder cannot be written.
    """
    path = _path(root, key)
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0, poll_interval=POLL)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield True
    finally:
        _free(lock, path)


def held(root: Path, key: str) -> bool:
    """Whether some process works on `key` now."""
    path = _path(root, key)
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    _free(lock, path)
    return False


def note(root: Path, key: str, event: str) -> None:
    """Add a line to the journal: what happened to the work `key`, and in which process."""
    line = json.dumps({"work": key, "event": event, "process": os.getpid()}) + "\n"
    try:
        with (root / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(line)  # one small write to a file opened for appending: lines of two processes do not mix
    except OSError as error:
        raise disk_error(error, root / JOURNAL) from error


def journal(root: Path) -> list[dict[str, Any]]:
    """The journal's lines, oldest first; one that a kill or a full disk cut short is left out."""
    found: list[dict[str, Any]] = []
    path = root / JOURNAL
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found += [entry] if isinstance(entry, dict) and {"work", "event"} <= entry.keys() else []
    return found


def _free(lock: BaseFileLock, path: Path) -> None:
    """Release the lock and remove its file, in the other order: who opened the file meanwhile finds it without a name,
    and tries again."""
    with contextlib.suppress(OSError):
        path.unlink()
    lock.release()


def _path(root: Path, key: str) -> Path:
    return root / LOCKS / f"{key}.lock"

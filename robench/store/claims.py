"""Who is working on what: one lock per piece of work, freed by the system when its holder dies, and a journal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from robench.errors import disk_error
from robench.store.marker import mark

LOCKS, JOURNAL = "locks", "journal.jsonl"
# seconds between two looks at a lock that somebody else holds, and between two at whether anybody does
POLL, LOOK = 0.2, 5.0


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
        mark(root)
        taken = _take(lock, path)
        while wait and not taken:
            taken = _take(lock, path, LOOK)
    except OSError as error:
        raise disk_error(error, path) from error
    if not taken:
        yield False
        return
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
        taken = _take(lock, path)
    except OSError as error:
        raise disk_error(error, path) from error
    if taken:
        _free(lock, path)
    return not taken


def _take(lock: BaseFileLock, path: Path, seconds: float = 0.0) -> bool:
    """Take a lock, waiting at most so long; whether that was done.

    Raises OSError where nobody holds it, but the system refuses it: filelock takes a refusal for somebody else's hold.
    """
    try:
        lock.acquire(timeout=seconds, poll_interval=POLL)
    except Timeout:
        _refused(path)
        return False
    return True


def _refused(path: Path) -> None:
    """Raise PermissionError where the system does not let this process lock a file at all."""
    with contextlib.suppress(FileNotFoundError):
        opened = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(opened)


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

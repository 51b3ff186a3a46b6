"""How far a task has come, told by the worker that does it to the process that sent it: a file beside the lock."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robench.errors import BadInput
from robench.progress import heard
from robench.store.claims import LOCKS
from robench.store.files import write_text

# seconds between two words of a worker
EVERY = 2.0


@contextmanager
def sending(root: Path, key: str) -> Iterator[None]:
    """While this lasts, bars and reports of this process go to whoever listens for the task `key`."""
    path = _path(root, key)
    last = -EVERY

    def tell(share: float, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            with contextlib.suppress(BadInput):  # a disk that takes nothing is found when results are to be kept
                write_text(path, json.dumps([share, note]))

    try:
        with heard(tell):
            yield
    finally:
        forget(root, key)


def listen(root: Path, key: str) -> tuple[float, str] | None:
    """The last word of the worker that does a task, None where there is none."""
    try:
        share, note = json.loads(_path(root, key).read_text(encoding="utf-8"))
        return float(share), str(note)
    except (OSError, ValueError, TypeError):
        return None


def forget(root: Path, key: str) -> None:
    """Remove the word on a task, which a worker that was killed leaves behind."""
    with contextlib.suppress(OSError):
        _path(root, key).unlink()


def _path(root: Path, key: str) -> Path:
    return root / LOCKS / f"{key}.word"

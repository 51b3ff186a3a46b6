"""The ways to the terminal: lines, JSON, and tables. Nothing that others have written reaches it as it is."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from robench.text.escaping import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

STDOUT, STDERR = 1, 2
# more letters than any table has in a line
WIDEST = 10_000


def wait(text: str) -> None:
    """A word on stderr, if that is a terminal, that the first line of whatever comes takes the place of."""
    if sys.stderr is not None and sys.stderr.isatty():
        _waiting.append(text)
        print(f"robench: {text}", end="", file=sys.stderr, flush=True)


def start() -> None:
    """Take away what `wait` said."""
    if _waiting:
        _waiting.clear()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


_waiting: list[str] = []


def tell(text: str = "") -> None:
    """A line on stdout."""
    start()
    print(visible(text), flush=True)


def say(text: str) -> None:
    """A line on stderr, as robench's."""
    if _kept is not None:
        _kept.append(text)
        return
    _on_stderr(f"robench: {visible(text)}")


# what was said while somebody keeps it
_kept: list[str] | None = None


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """While this lasts, what is said is put into the list that this yields, for another process to say."""
    global _kept
    before, _kept = _kept, []
    try:
        yield _kept
    finally:
        _kept = before


def note(*lines: str) -> None:
    """Lines on stderr."""
    _on_stderr("\n".join(map(visible, lines)))


def _on_stderr(text: str) -> None:
    """Print on stderr. Work goes on where nobody reads it any more, or it was closed."""
    try:
        start()
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        number = _number(sys.stderr)
        if number is not None:
            with contextlib.suppress(OSError):
                _silence(number)


def show(*tables: RenderableType, whole: bool = False) -> None:
    """Tables on stdout, whose texts have been made visible; `whole`: wider than the terminal where they need it."""
    from rich.console import Console

    start()
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    for table in tables:
        console = Console(**plain)
        if whole and (needed := Console(width=WIDEST).measure(table)).minimum > console.width:
            console = Console(width=needed.maximum, **plain)  # the terminal may wrap lines, but no figure is cut off
        console.print(table)


def tell_json(value: dict[str, Any], sort: bool = False) -> None:
    """An object as one line of JSON on stdout, also while `reserved` holds that back for it."""
    start()
    text = json.dumps(value, sort_keys=sort).replace("\x7f", "\\u007f")  # the one control character it leaves as it is
    print(text, file=_reserved.stream or sys.stdout, flush=True)


@contextlib.contextmanager
def escaped() -> Iterator[None]:
    """While this lasts, what a stream cannot encode is written as an escape, and warnings are one visible line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before = warnings.formatwarning
    warnings.formatwarning = _warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{visible(f'{filename}:{lineno}: {category.__name__}: {message}')}\n"


def reserve() -> None:
    """From now on stdout is for `tell_json` alone: what anybody else prints there goes to stderr.

    That holds for Python, for C code and for processes that are started from now on, until `release`.
    """
    if _reserved.stream is None:
        _reserved.take()


def release() -> None:
    """Give stdout back to everybody."""
    _reserved.give()


def abandon() -> None:
    """Print no more on stdout, whose reader has left."""
    number = _number(_reserved.stream or sys.stdout)
    if number is not None:
        _silence(number)


class _Reserved:
    """The stream for JSON while stdout is reserved, else None; and what has to be put back afterwards."""

    stream: TextIO | None = None
    before: TextIO
    kept: int | None = None

    def take(self) -> None:
        if sys.stdout is None:  # closed, so that nobody can print there
            return
        self.before = sys.stdout
        _flush(self.before, sys.__stdout__)
        self.stream, sys.stdout = self.before, sys.stderr
        try:
            self.kept = os.dup(STDOUT)
        except OSError:  # closed, so nobody can print there
            return
        try:
            os.dup2(STDERR, STDOUT)
        except OSError:
            _silence(STDOUT)
        if _number(self.before) == STDOUT:
            self.stream = os.fdopen(os.dup(self.kept), "w", encoding="utf-8")

    def give(self) -> None:
        if self.stream is None:
            return
        if self.stream is not self.before:
            self.stream.close()
        if self.kept is not None:
            _flush(self.before, sys.__stdout__)  # what was printed through it meanwhile belongs on stderr
            os.dup2(self.kept, STDOUT)
            os.close(self.kept)
        sys.stdout, self.stream, self.kept = self.before, None, None


_reserved = _Reserved()


def _flush(*streams: TextIO | None) -> None:
    """Write what Python and C code have printed so far; a stream may be closed, or none at all."""
    import ctypes

    for stream in streams:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
    with contextlib.suppress(OSError, AttributeError):  # not every system finds C's library like this
        ctypes.CDLL(None).fflush(None)


def _silence(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None

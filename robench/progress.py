"""Progress of long work on stderr: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

from robench.text import terminal
from robench.text.escaping import visible
from robench.text.terminal import say as say

# seconds between lines where stderr is not a terminal
QUIET = 30.0


class Bar:
    """One piece of work of a known size. `update` takes the share done in [0, 1] and a note such as a rate."""

    def __init__(self, title: str) -> None:
        title = visible(title)
        self._title, self._progress = title, _display.shown
        progress = self._progress
        self._task = progress.add_task(title, total=1.0, note="") if progress else None
        self._started = self._said = time.monotonic()

    def update(self, share: float, note: str = "") -> None:
        """Show the share done and the note."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=share, note=visible(note))
            return
        now = time.monotonic()
        if now - self._said >= QUIET:
            self._said = now
            spent = now - self._started
            left = f", {clock(spent * (1 - share) / share)} left" if share > 0 else ""
            terminal.note(f"{self._title}: {share:.0%}{left}{', ' + note if note else ''}")

    def close(self) -> None:
        """Take the bar off the display."""
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)


def trace(error: BaseException) -> None:
    """The traceback of an error on stderr, where one was asked for by `debug`."""
    if _display.debug:
        told = getattr(error, "trace", None)  # of an error that comes from another process
        terminal.note(*(told or "".join(traceback.format_exception(error))).splitlines())


def debug(wanted: bool) -> None:
    """Say whether errors come with their tracebacks."""
    _display.debug = wanted


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def bar(title: str) -> Iterator[Bar]:
    """A bar that disappears when its work is done; on the display that is there, or one of its own."""
    with display():
        shown = Bar(title)
        try:
            yield shown
        finally:
            shown.close()


@contextmanager
def display() -> Iterator[None]:
    """Where bars appear while this lasts: a part of the terminal, or nowhere if stderr is not one."""
    if _display.shown is not None or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich import progress as bars  # `robench --help` does without
    from rich.console import Console

    columns = [
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    ]
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        _display.shown = progress
        try:
            yield
        finally:
            _display.shown = None


class _Display:
    """A terminal has one live part; this is what is shown there, if anything is."""

    shown: Progress | None = None
    debug = False


_display = _Display()

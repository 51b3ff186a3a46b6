"""Progress of long work on stderr: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

from robench.text import terminal
from robench.text.escaping import visible
from robench.text.terminal import say as say

# seconds between lines where stderr is not a terminal
QUIET = 30.0
# seconds that must have been measured before a rate means something
SOON = 0.5
# letters that a bar and its figures take beside the title, and the fewest that a title gets
FIGURES, LEAST = 58, 16


class Pace:
    """How fast work goes, from the first report on: what was done before that took nobody knows how long."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self.rate: float | None = None  # of `update`'s unit in a second; None until something can be said

    def update(self, done: float) -> None:
        """So much is done by now."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        began, before = self._first
        if now - began >= SOON and done > before:
            self.rate = (done - before) / (now - began)

    def left(self, rest: float) -> str:
        """The time that the rest takes, in words; nothing until something can be said."""
        return f"{clock(rest / self.rate)} left" if self.rate else ""


class Bar:
    """One piece of work of a known size. `update` takes the share done in [0, 1] and a note such as a rate."""

    def __init__(self, title: str) -> None:
        title = visible(title)
        self._title, self._progress, self._pace = title, _display.shown, Pace()
        progress = self._progress
        self._task = None
        if progress is not None:
            room = max(LEAST, progress.console.width - FIGURES)
            self._task = progress.add_task(shortened(title, room), total=1.0, note="", left="")
        self._said = time.monotonic()

    def update(self, share: float, note: str = "") -> None:
        """Show the share done and the note."""
        if _display.hearer is not None:
            _display.hearer(share, note)
            return
        self._pace.update(share)
        left = self._pace.left(1 - share)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=share, note=visible(note), left=left)
            return
        now = time.monotonic()
        if now - self._said >= QUIET:
            self._said = now
            terminal.note(", ".join(filter(None, [f"{self._title}: {share:.0%}", left, note])))

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


def shortened(title: str, room: int) -> str:
    """A title that fits: without its beginning, for the end of a path says more."""
    return title if len(title) <= room else f"…{title[len(title) - room + 1 :]}"


@contextmanager
def heard(by: Callable[[float, str], None]) -> Iterator[None]:
    """While this lasts, bars and `report` show nothing, but tell `by` the share done and a note: in a process that
    works for another one, which shows it."""
    before, _display.hearer = _display.hearer, by
    try:
        yield
    finally:
        _display.hearer = before


def report(share: float) -> None:
    """So much of the work is done that this process does for another one."""
    if _display.hearer is not None:
        _display.hearer(share, "")


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
    from rich.table import Column

    def text(of: str) -> bars.TextColumn:
        return bars.TextColumn(of, markup=False, table_column=Column(no_wrap=True))

    columns = [
        text("{task.description}"),
        bars.BarColumn(bar_width=8),
        text("{task.percentage:>3.0f}%"),
        text("{task.fields[note]}"),
        bars.TimeElapsedColumn(table_column=Column(no_wrap=True)),
        text("{task.fields[left]}"),
    ]
    terminal.start()
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        _display.shown = progress
        try:
            yield
        finally:
            _display.shown = None


class _Display:
    """A terminal has one live part; this is what is shown there, if anything is."""

    shown: Progress | None = None
    hearer: Callable[[float, str], None] | None = None
    debug = False


_display = _Display()

"""Rates are of what was measured, titles fit, and the word that something begins goes away."""

from __future__ import annotations

import io
import sys

import pytest

from robench import progress
from robench.text import terminal


def test_a_rate_is_of_what_was_done_since_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before the first one took nobody knows how long, and nothing is said of an instant."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = progress.Pace()
    pace.update(50.0)
    assert (pace.rate, pace.left(50)) == (None, "")
    now[0] += progress.SOON / 2
    pace.update(60.0)
    assert pace.rate is None
    now[0] = 102.0
    pace.update(90.0)
    assert pace.rate == 20.0
    assert pace.left(100) == "0:05 left"


def test_what_does_not_move_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = progress.Pace()
    for now[0] in (0.0, 10.0, 20.0):
        pace.update(0.0)
        assert pace.left(1.0) == ""


@pytest.mark.parametrize(
    ("title", "shown"), [("short", "short"), ("/a/long/path/model.py:load  pgd", "…/model.py:load  pgd")]
)
def test_titles_lose_their_beginning(title: str, shown: str) -> None:
    assert progress.shortened(title, 20) == shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_first_line_takes_the_place_of_the_word_that_something_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    terminal.wait("Starting ...")
    terminal.say("one")
    terminal.say("two")
    assert sys.stderr.getvalue() == "robench: Starting ...\r\x1b[Krobench: one\nrobench: two\n"


def test_where_nobody_waits_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.wait("Starting ...")
    terminal.say("one")
    assert sys.stderr.getvalue() == "robench: one\n"

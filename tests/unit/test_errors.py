"""Other people's errors inside our sentences: one line, short, and never without a word."""

from __future__ import annotations

import pytest

from robench.errors import first_line


@pytest.mark.parametrize(
    ("error", "limit", "end", "says"),
    [
        (ValueError("no such key"), None, "", "no such key"),
        (ValueError("\n  first.\nsecond\n"), None, "", "first."),
        (ValueError("first.\nsecond"), None, ".", "first"),
        (ValueError("first: \nsecond"), None, ".: ", "first"),
        (ValueError("a" * 200), 120, "", "a" * 120),
        (ValueError("a." * 100), 4, ".", "a.a"),
        (ValueError(""), None, "", "ValueError"),
        (KeyboardInterrupt(), 5, "", "Keybo"),
    ],
)
def test_the_first_line_of_an_error(error: BaseException, limit: int | None, end: str, says: str) -> None:
    assert first_line(error, limit, end) == says

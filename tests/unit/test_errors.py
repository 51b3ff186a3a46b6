"""Other people's errors inside our sentences: one line, short, and never without a word."""

from __future__ import annotations

import errno

import pytest

from robench.errors import disk_error, first_line, reason_of, unknown


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


def test_a_file_in_the_place_of_a_folder_is_called_so() -> None:
    for number in (errno.EEXIST, errno.ENOTDIR):
        told = str(disk_error(OSError(number, "File exists"), "net.py/index.html"))
        assert "net.py/index.html (what should be its folder is a file)" in told
    assert "(permission denied)" in str(disk_error(OSError(errno.EACCES, "Permission denied"), "a"))


def test_the_reason_of_an_error_of_the_system_has_no_number_and_no_name() -> None:
    assert (
        reason_of(FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv")) == "No such file or directory"
    )
    assert reason_of(ValueError("no such key\nelse")) == "no such key"


def test_an_empty_name_is_called_empty() -> None:
    told = str(unknown("attack", " ", ["fgsm", "pgd"]))
    assert told == "There is no attack without a name; write a list with commas and no spaces: a,b. Known: fgsm, pgd."

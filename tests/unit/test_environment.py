"""Which commit figures are of: that of the checkout, dirty only where what computes was changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from robench.environment import _commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with code, a table and a page of documentation."""
    for name in ("robench/a.py", "attacks/b.py", "leaderboards/page.html", "docs/start.md", "pyproject.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("as committed\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Begin"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("name", ["leaderboards/page.html", "docs/start.md", "leaderboards/new.csv", "notes.txt"])
def test_a_table_that_was_written_changes_no_code(checkout: Path, name: str) -> None:
    clean = _commit(checkout)
    assert clean
    assert not clean.endswith("-dirty")
    (checkout / name).write_text("another\n")
    assert _commit(checkout) == clean


@pytest.mark.parametrize("name", ["robench/a.py", "attacks/b.py", "pyproject.toml", "attacks/new.py"])
def test_code_that_was_changed_is_of_no_commit(checkout: Path, name: str) -> None:
    clean = _commit(checkout)
    (checkout / name).write_text("another\n")
    assert _commit(checkout) == f"{clean}-dirty"


def test_what_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert _commit(tmp_path) == ""

"""robench view and the page of robench leaderboard: what is written where, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from robench.page.claims import COLUMNS
from tests.integration.conftest import Run, assert_refused
from tests.pages import page_store


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return page_store(tmp_path / "runs").root


def test_view_writes_one_file_and_nothing_into_the_runs_folder(robench: Run, runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    found = robench("view", "--json").json
    assert found["files"] == ["page/index.html"]
    assert [path.name for path in Path("page").iterdir()] == ["index.html"]
    assert sorted(runs.rglob("*")) == before
    assert "Wrote page/index.html (0." in robench("view", str(runs)).out


def test_claims_are_found_beside_the_page_and_in_leaderboards(robench: Run, runs: Path) -> None:
    line = "a claim,s,1,2,0,3,untested,robench,abc,1\n"
    for folder in ("leaderboards", "page"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "claims.csv").write_text(",".join(COLUMNS) + f"\n{folder} {line}")
        assert robench("view").code == 0
        assert f'"claim":"{folder} a claim"' in Path("page/index.html").read_text()
    Path("mine.csv").write_text(",".join(COLUMNS) + f"\nmine {line}")
    assert robench("view", "--claims", "mine.csv").code == 0
    assert '"claim":"mine a claim"' in Path("page/index.html").read_text()


def test_a_leaderboard_has_the_page_beside_it_unless_told_otherwise(robench: Run, runs: Path) -> None:
    files = robench("leaderboard", "--out", "tables", "--json").json["files"]
    assert "tables/page.html" in files
    assert 'href="page.html"' in Path("tables/index.html").read_text()
    assert "(page.html)" in Path("tables/index.md").read_text()
    files = robench("leaderboard", "--no-page", "--out", "others", "--json").json["files"]
    assert not [name for name in files if "page" in name]
    assert "page.html" not in Path("others/index.html").read_text() + Path("others/index.md").read_text()
    assert "tables/page.html is of an earlier run" in robench("leaderboard", "--no-page", "--out", "tables").err


def test_what_view_refuses(robench: Run, runs: Path) -> None:
    assert_refused(robench("view", "nowhere"), ("nowhere", "robench evaluate"))
    assert_refused(robench("view", str(runs), "--runs", "runs"), ("RUNS", "give one"))
    assert_refused(robench("view", "--claims", "missing.csv"), ("missing.csv", "--claims"))
    Path("taken").mkdir()
    Path("taken/index.html").write_text("mine")
    assert_refused(robench("view", "--out", "taken"), ("taken/index.html", "--out"))
    assert Path("taken/index.html").read_text() == "mine"
    Path("a_file").write_text("")
    assert_refused(robench("view", "--out", "a_file"), ("a_file",))

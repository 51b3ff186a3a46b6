"""robench verify and robench check on the command line, where what is stored may be somebody else's or unfinished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Run, assert_refused

EVALUATE = ("evaluate", "my_model.py:load", "--dataset", "digits?draw=first", "-a", "fgsm", "--eps", "0.1", "-n", "40")


@pytest.fixture
def theirs(tmp_path: Path, model_file: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder and a baseline by another user, whose model file leaves a mark when it is run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    assert robench(*EVALUATE, "--shard-size", "20").code == 0
    assert robench("baseline", "my_model.py:load", "-o", "b.json").code == 0
    model_file.write_text(model_file.read_text() + "\nimport pathlib\npathlib.Path('mark').write_text('run')\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return next((tmp_path / "runs" / "evaluations").iterdir())


def test_a_stranger_s_folder_runs_nothing(theirs: Path, robench: Run) -> None:
    assert_refused(robench("verify"), ("my_model.py:load", "--model", "--trust", theirs.name))
    assert_refused(robench("verify", theirs.name, "--json"), ("--trust",))
    assert_refused(robench("check", "b.json"), ("b.json", "my_model.py:load", "--model", "--trust"))
    for command in (("leaderboard",), ("list", "evaluations"), ("show", theirs.name), ("runs", "size"), ("runs", "gc")):
        assert robench(*command).code == 0
    assert not Path("mark").exists()
    robench("check", "b.json", "--trust")
    assert Path("mark").exists()


def test_one_s_own_needs_no_trust_and_the_attack_is_run_again(model_file: Path, robench: Run) -> None:
    assert robench(*EVALUATE).code == 0
    assert "shows --again N alone" in " ".join(robench("verify").out.split())
    done = robench("verify", "--again", "10", "--json").json["evaluations"]
    assert [each["holds"] for each in done] == [True]
    assert 0 < done[0]["again"] <= 10
    assert "run again on" in " ".join(robench("verify", "--again", "5").out.split())
    assert_refused(robench("verify", "--again", "-1"), ("--again", "-1", "from 0 to"))
    assert_refused(robench("verify", "--again", "x"), ("--again", "'x'"))


def test_what_is_unfinished_is_said_in_a_sentence(model_file: Path, robench: Run) -> None:
    assert robench(*EVALUATE, "--shard-size", "20").code == 0
    (folder,) = Path("runs/evaluations").iterdir()
    for path in folder.glob("shard-*"):
        path.unlink()
    for options in ((), ("--json",)):
        outcome = robench("verify", *options)
        assert outcome.code == 3
        assert folder.name in outcome.err
        assert "not finished: run their commands again" in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_bad_evaluation_stops_no_other(store: Path, evaluation: Path, robench: Run) -> None:
    assert robench("evaluate", "plain", "-a", "pgd", "--steps", "3", "--eps", "0.1", "-n", "20").code == 0
    (evaluation / "about.json").write_text("{}")
    outcome = robench("verify", "--json")
    assert outcome.code == 2
    found = {each["evaluation"]: each for each in json.loads(outcome.out)["evaluations"]}
    assert len(found) == 2
    assert "about.json is damaged" in found.pop(evaluation.name)["reason"]
    assert next(iter(found.values()))["holds"]
    assert evaluation.name in outcome.err
    shown = robench("verify")
    assert shown.code == 2
    assert "not checked" in shown.out
    assert "1 of 2 evaluations could not be checked" in shown.err

"""robench advise: the command that it prints runs, and reaches the worst case of all that was run before."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Run

COUNT = 60
CASE = ("--eps", "0.1", "-n", str(COUNT))


def _advice(robench: Run, *arguments: str) -> dict[str, Any]:
    """What is advised on the images of this file's evaluations; the store has another on fewer."""
    found = robench("advise", "plain", *arguments, "--json").json["advice"]
    (one,) = [each for each in found if each["n"] == COUNT]
    return one


def _again(robench: Run, command: str, runs: Path) -> list[dict[str, Any]]:
    """The worst cases of a printed command, run in a folder where nothing else was."""
    words = shlex.split(command)
    assert words[0] == "robench"
    return robench(*words[1:], "--runs", str(runs), "--json").json["rows"]


@pytest.fixture
def fresh(store: Path, tmp_path: Path) -> Path:
    """A runs folder with the trained model alone."""
    runs = tmp_path / "fresh"
    runs.mkdir()
    (runs / "models").symlink_to(store / "models")
    return runs


def test_one_command_reaches_the_same_worst_case_cheaper(robench: Run, fresh: Path) -> None:
    asked = ("evaluate", "plain", "-a", "fgsm,pgd,multi-targeted,random-noise", *CASE)
    before = robench(*asked, "--json").json
    advice = _advice(robench, "--eps", "0.1")
    assert advice["robust_accuracy"] == before["worst_case"][0]["robust_accuracy"]
    (command,) = advice["commands"]
    names = [step["attack"] for step in advice["steps"]]
    assert len(names) < 4
    assert "random-noise" not in names
    assert [step["images"] for step in advice["steps"][1:]] == [step["standing"] for step in advice["steps"][:-1]]
    rows = _again(robench, command, fresh)
    assert rows[-1]["robust_accuracy"] == advice["robust_accuracy"]
    spent = sum(row["forwards"] + 2 * row["backwards"] for row in rows)
    right = advice["clean_accuracy"] * advice["n"]
    assert advice["expected_passes_per_image"] <= advice["spent_passes_per_image"]
    assert spent / right < 1.5 * advice["expected_passes_per_image"] + 10
    shown = robench("advise", "plain")
    assert shown.code == 0
    assert command in shown.out
    assert "newly broken" in shown.out


def test_options_that_one_command_cannot_tell_apart_take_several(robench: Run, fresh: Path) -> None:
    """PGD of one step, which is cheap, and of many, which break more: an option holds for all attacks of a command."""
    for options in (("--steps", "1", "-o", "step=eps", "-o", "random_start=false"), ("--steps", "40")):
        robench("evaluate", "plain", "-a", "pgd", *options, *CASE)
    advice = _advice(robench)
    assert len(advice["steps"]) == len(advice["commands"]) == 2
    assert any("One command cannot say" in note for note in advice["notes"])
    figures = [_again(robench, command, fresh)[0]["robust_accuracy"] for command in advice["commands"]]
    assert min(figures) >= advice["robust_accuracy"]
    assert (
        robench("advise", "plain", "--runs", str(fresh), "--json").json["advice"][0]["robust_accuracy"]
        == (advice["robust_accuracy"])
    )


@pytest.mark.usefixtures("store")
def test_what_was_cut_by_a_budget_teaches_nothing(robench: Run) -> None:
    """An attack that may not spend what it takes looks cheaper than it is."""
    robench("evaluate", "plain", "-a", "pgd", *CASE)
    before = _advice(robench)
    robench("evaluate", "plain", "-a", "pgd,fgsm", "--max-passes", "9", *CASE)
    assert _advice(robench) == before


def test_a_cascade_says_nothing_of_images_that_were_broken_before(robench: Run, fresh: Path) -> None:
    robench("evaluate", "plain", "--cascade", "-a", "pgd,multi-targeted", *CASE)
    advice = _advice(robench)
    first = advice["steps"][0]
    assert first["attack"] == "pgd"
    assert first["never_tried"] == 0
    (command,) = advice["commands"]
    assert _again(robench, command, fresh)[-1]["robust_accuracy"] == advice["robust_accuracy"]


def test_a_table_for_every_threat_model(robench: Run, store: Path) -> None:
    for more in (("--eps", "0.05"), ("--eps", "0.5", "--norm", "l2")):
        robench("evaluate", "plain", "-a", "fgsm", "-n", "60", *more)
    found = robench("advise", "plain", "--json").json["advice"]
    assert {(each["norm"], each["eps"]) for each in found} == {("linf", "0.1"), ("linf", "0.05"), ("l2", "0.5")}
    (one,) = robench("advise", "plain", "--norm", "l2", "--json").json["advice"]
    assert one["norm"] == "l2"
    assert "--norm l2" in one["commands"][0]
    (one,) = robench("advise", "plain", "--eps", "1/20", "--json").json["advice"]
    assert one["eps"] == "0.05"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plain", "--eps", "0.3"), "no complete white-box evaluation of 'plain' at eps 0.3"),
        (("plain", "--norm", "l2"), "run 'robench evaluate'"),
        (("nobody",), "nobody"),
        (("plain", "--norm", "l7"), "l7"),
        (("plain", "--eps", "much"), "much"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_cannot_be_advised_on_is_said_in_a_sentence(robench: Run, arguments: tuple[str, ...], said: str) -> None:
    outcome = robench("advise", *arguments)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert said in outcome.err


@pytest.mark.usefixtures("store")
def test_images_that_stood_within_a_larger_eps_were_tried(robench: Run, fresh: Path) -> None:
    robench("evaluate", "plain", "-a", "pgd", "--eps", "0.05,0.15", "-n", str(COUNT))
    advice = _advice(robench, "--eps", "0.05")
    (step,) = advice["steps"]
    assert step["never_tried"] == 0
    (note,) = advice["notes"]
    assert "Finds that were made within a larger eps count" in note
    robench("evaluate", "plain", "-a", "pgd", "--eps", "0.05", "-n", str(COUNT))
    assert _advice(robench, "--eps", "0.05")["notes"] == []
    (row,) = _again(robench, advice["commands"][0], fresh)
    passes = (row["forwards"] + 2 * row["backwards"]) / step["images"]
    assert step["passes_per_image"] == pytest.approx(passes, rel=0.15)


@pytest.mark.usefixtures("store")
def test_where_nothing_was_broken_there_is_nothing_to_advise(robench: Run) -> None:
    robench("evaluate", "plain", "-a", "pgd", "--eps", "0.0001", "-n", str(COUNT))
    advice = _advice(robench, "--eps", "0.0001")
    assert advice["commands"] == advice["steps"] == []
    assert advice["notes"] == [
        "No stored evaluation broke any of these images, so there is no order of attacks to advise."
    ]
    shown = robench("advise", "plain", "--eps", "0.0001").out
    assert "No stored evaluation broke any of these images" in shown
    assert "in this order" not in shown


def test_what_is_damaged_is_left_out_and_said(robench: Run, store: Path) -> None:
    """So is it where the curves of a model are drawn."""
    robench("evaluate", "plain", "-a", "pgd,fgsm", "--shard-size", "20", *CASE)
    listed = robench("list", "evaluations", "--attack", "pgd", "--json").json["evaluations"]
    (pgd,) = [each["name"] for each in listed]
    next((store / "evaluations" / pgd).glob("shard-000020*.safetensors")).unlink()
    for command in (("advise", "plain"), ("figure", "curve", "--model", "plain")):
        outcome = robench(*command)
        assert outcome.code == 0
        assert (
            f"Left out: The evaluation {pgd}, plain under pgd, is incomplete (40 of 60, 1 damaged shard)" in outcome.err
        )

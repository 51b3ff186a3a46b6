"""robench list and robench show: what is there, in words, whatever state it is in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

PGD = ("evaluate", "plain", "-a", "pgd", "--steps", "3", "--eps", "0.2", "-n", "20", "--shard-size", "10", "--eot", "2")


@pytest.fixture
def two(store: Path, evaluation: Path, robench: Run) -> tuple[str, str]:
    """The ids of the store's evaluation and of one in two shards."""
    assert robench(*PGD).code == 0
    (other,) = set(Store(store).evaluation_ids()) - {evaluation.name}
    return evaluation.name, other


def test_evaluations_are_listed_a_line_each(two: tuple[str, str], robench: Run) -> None:
    lines = {
        line.partition(" ")[0]: re.split(r"\s{2,}", line)[1:]
        for line in robench("list", "evaluations").out.splitlines()
    }
    assert set(lines) == set(two)
    *what, figure, status = lines[two[1]]
    assert what == ["plain", "pgd (steps=3) [eot 2]", "linf 0.2", "n 20, balanced"]
    assert re.fullmatch(r"\d+\.\d% \[\d+\.\d, \d+\.\d\]", figure)
    assert status == "complete"
    items = {item["name"]: item for item in robench("list", "evaluations", "--json").json["evaluations"]}
    shown = json.loads(robench("show", two[1], "--json").out)["result"]
    assert (items[two[1]]["value"], items[two[1]]["interval"]) == (shown["robust_accuracy"], shown["interval"])


def test_the_list_is_of_a_model_or_an_attack_if_asked(two: tuple[str, str], robench: Run) -> None:
    first, second = two

    def listed(*options: str) -> set[str]:
        return {item["name"] for item in robench("list", "evaluations", "--json", *options).json["evaluations"]}

    assert listed("--model", "plain") == {first, second}
    assert listed("--model", "plain", "--attack", "pgd") == {second}
    assert listed("--attack", "fgsm") == {first}
    assert listed("--model", "other") == set()
    assert (
        "no evaluations of 'other' under 'pgd'"
        in robench("list", "evaluations", "--model", "other", "--attack", "pgd").err
    )
    assert_refused(robench("list", "attacks", "--model", "plain"), ("--model", "robench list evaluations"))


def test_what_is_unfinished_says_so(two: tuple[str, str], store: Path, robench: Run) -> None:
    first, second = (store / "evaluations" / name for name in two)
    (first / "result.json").unlink()
    shard = second / "shard-000010-000020.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    items = {item["name"]: item for item in robench("list", "evaluations", "--json").json["evaluations"]}
    assert items[two[0]]["status"] == "not summarised"
    assert items[two[1]]["status"] == "incomplete (10 of 20, 1 damaged shard)"
    assert "value" not in items[two[1]]
    shown = robench("show", two[1]).out
    assert "status: incomplete (10 of 20)" in shown
    assert "examples 0-10  status whole" in shown
    assert "examples 10-20  status damaged" in shown
    shard.with_suffix(".json").unlink()
    assert "examples 10-20  status missing" in robench("show", two[1]).out
    assert robench("show", two[0], "--json").json["status"] == "not summarised"


def test_an_evaluation_is_shown(two: tuple[str, str], store: Path, robench: Run) -> None:
    text, found = robench("show", two[1]).out, robench("show", two[1], "--json").json
    rows = Store(store).evaluation(two[1]).rows()
    broken = rows[rows["success"]]
    assert found["rows"]["broken"] == len(broken)
    assert found["rows"]["broken_at"]["step"][1] == broken["step"].median()
    assert found["rows"]["broken_at"]["linf"][3] == pytest.approx(broken["linf"].max(), rel=1e-5)
    assert sum(found["rows"]["broken_by_trial"].values()) == len(broken)
    assert found["rows"]["passes_per_image"]["backwards"] == pytest.approx(rows["backwards"].mean(), abs=0.01)
    command = "robench evaluate plain --dataset digits -a pgd -o steps=3 --eps 0.2 -n 20 --eot 2"
    assert found["command"] == command
    for line in (
        "attack: pgd (steps=3) [eot 2]",
        "threat model: linf eps 0.2",
        "status: complete",
        f"made by: {command}",
    ):
        assert line in text.splitlines()
    assert "None" not in text
    assert "lost" not in text


def test_a_record_that_was_made_anew_says_so(two: tuple[str, str], store: Path, robench: Run) -> None:
    folder = Store(store).evaluation(two[1])
    spec, about = folder.spec, folder.about
    (folder.path / "about.json").write_text("{")
    folder.begin(spec, about)
    assert "lost: the first record was lost" in robench("show", two[1]).out


def test_a_model_is_shown_with_the_command_that_makes_it(store: Path, robench: Run) -> None:
    assert robench("train", "er-classifier", "--epochs", "1", "--name", "er", "--runs", store).code == 0
    text, card = robench("show", "er").out, robench("show", "er", "--json").json
    assert any(value is None for value in card["options"].values())
    assert "None" not in text
    assert "made by: robench train er-classifier --dataset digits --epochs 1 --name er" in text.splitlines()


def test_suites_are_listed(robench: Run) -> None:
    assert {"digits", "mnist"} <= {item["name"] for item in robench("list", "suites", "--json").json["suites"]}


def test_where_an_attack_has_goals_a_wrong_answer_is_broken_whatever_the_goal(store: Path, robench: Run) -> None:
    words = ("-a", "random-targeted", "--eps", "0.12", "-n", "40", "-o", "steps=10")
    name = robench("evaluate", "plain", *words, "--json").json["rows"][0]["evaluation"]
    rows = Store(store).evaluation(name).rows()
    wrong = rows["adv_pred"] != rows["label"]
    broken, reached = int((rows["clean_correct"] & wrong).sum()), int(rows["success"].sum())
    assert 0 < reached < broken < 40
    found = robench("show", name, "--json").json["rows"]
    assert (found["broken"], found["goals_reached"]) == (broken, reached)
    assert sum(found["reached_by_trial"].values()) == reached
    assert "goals reached: least, median" in robench("show", name).out
    for which, count in (("broken", broken), ("standing", int((rows["clean_correct"] & ~wrong).sum()))):
        robench("figure", "examples", name, "--which", which, "-n", "64", "--out", f"{which}.csv")
        table = pd.read_csv(f"{which}.csv")
        assert len(table) == count > 0
        assert ((table["label"] == table["adv_pred"]) == (which == "standing")).all()

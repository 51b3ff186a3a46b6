"""Files that somebody else wrote, on the command line: refused in a sentence, never at the cost of what is whole."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robench.store.files import digest
from tests.integration.conftest import Run, assert_refused


@pytest.fixture
def two(store: Path, robench: Run) -> list[Path]:
    """The store's evaluation, and one by another attack, which breaks as many images."""
    assert robench("evaluate", "plain", "-a", "pgd", "-o", "steps=3", "-n", "20", "--eps", "0.1").code == 0
    return sorted(
        (store / "evaluations").iterdir(), key=lambda path: json.loads((path / "spec.json").read_text())["attack"]
    )


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A sealed file with something changed, and a seal that fits."""
    value = json.loads(path.read_text())
    change(value)
    value.pop("seal", None)
    path.write_text(json.dumps({**value, "seal": digest(value)}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "record of another kind": lambda folder: resealed(folder / "about.json", lambda v: v.update(environment=[])),
    "unknown metric": lambda folder: resealed(folder / "about.json", lambda v: v.update(metric="elegance")),
    "no norm": lambda folder: _respec(folder, "norm"),
    "spec cut short": lambda folder: (folder / "spec.json").write_text("{"),
}


def _respec(folder: Path, key: str) -> None:
    spec = json.loads((folder / "spec.json").read_text())
    del spec[key]
    (folder / "spec.json").write_text(json.dumps(spec))


@pytest.mark.parametrize("kind", DAMAGE, ids=lambda name: name.replace(" ", "-"))
def test_one_damaged_evaluation_takes_nothing_down_with_it(kind: str, two: list[Path], robench: Run) -> None:
    """And no line looks better for it: who it may be of is marked, and ranked below those that are whole."""
    whole, damaged = two
    before = robench("leaderboard", "--json").json["boards"][0]["rows"][0]["worst case"]
    DAMAGE[kind](damaged)
    listed = robench("list", "evaluations", "--json").json["evaluations"]
    assert {each["name"]: "damaged" in each for each in listed} == {whole.name: False, damaged.name: True}
    (board,) = robench("leaderboard", "--json").json["boards"]
    (row,) = board["rows"]
    assert "(1 damaged left out)" in row["worst case"]["note"]
    assert not before["note"]
    outcome = robench("leaderboard")
    assert outcome.code == 0
    assert f"Left out: The file runs/evaluations/{damaged.name}" in outcome.err
    assert "1 damaged left out" in Path("leaderboards/digits-linf-0.1-n20.md").read_text()
    checks = robench("verify", "--json", "--device", "cpu")
    assert checks.code == 2
    assert [c["holds"] for c in json.loads(checks.out)["evaluations"] if c["evaluation"] == whole.name] == [True]
    (curve,) = robench("figure", "curve", "--model", "plain", "--json").json["curves"]
    assert curve["evaluation"] == whole.name
    assert robench("baseline", "plain", "-o", "b.json").code == 0
    assert_refused(robench("show", damaged.name), (damaged.name, "is damaged"))
    assert robench("runs", "gc").code == 0


def test_a_damaged_card_takes_nothing_down_with_it(two: list[Path], robench: Run) -> None:
    shutil.copytree("runs/models/plain", "runs/models/worn")
    (Path("runs/models/worn") / "model.json").write_text("{}")
    assert robench("leaderboard").code == 0
    assert len(robench("list", "models", "--json").json["models"]) == 2
    outcome = robench("evaluate", "--dataset", "digits", "-a", "fgsm", "-n", "20", "--eps", "0.1", "--json")
    assert outcome.code == 2, "one model was refused"
    found = json.loads(outcome.out)
    assert [row["model"] for row in found["rows"]] == ["plain"]
    assert "worn" in found["refused"][0]


def test_rows_that_are_none_are_computed_again(evaluation: Path, robench: Run) -> None:
    """A success denied in rows, under sums and seals that fit, is no figure."""
    import pandas as pd

    from tests.mutations import vouch

    command = ("evaluate", "plain", "-a", "fgsm", "-n", "20", "--eps", "0.1")
    (before,) = robench(*command, "--json").json["rows"]
    (path,) = evaluation.glob("shard-*.parquet")
    for change in ({"success": False}, {"linf": math.nan}, {"label": [[1]] * 20}):
        pd.read_parquet(path).assign(**change).to_parquet(path, index=False)
        vouch(path)
        assert robench("figure", "curve", evaluation.name).code == 2
        outcome = robench(*command, "--json")
        assert "its examples are computed again" in outcome.err
        (after,) = outcome.json["rows"]
        assert {**after, "seconds": 0} == {**before, "seconds": 0}


def _evaluation(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["evaluations"][0]
    return found


BASELINES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no number": lambda c: _evaluation(c).update(figure=math.nan),
    "an infinite accuracy": lambda c: _evaluation(c).update(clean_accuracy=math.inf),
    "an accuracy above 1": lambda c: _evaluation(c).update(clean_accuracy=1.5),
    "another figure than the outcomes'": lambda c: _evaluation(c).update(figure=1.0, interval=[0.8, 1.0]),
    "an accuracy as text": lambda c: _evaluation(c).update(clean_accuracy="0.9"),
    "an empty interval": lambda c: _evaluation(c).update(interval=[]),
    "an unknown metric": lambda c: _evaluation(c).update(metric="elegance"),
    "a negative n": lambda c: _evaluation(c)["spec"].update(count=-20),
    "an endless n": lambda c: _evaluation(c)["spec"].update(count=10**30),
    "eps as words": lambda c: _evaluation(c)["spec"].update(eps="a tenth"),
    "an unknown norm": lambda c: _evaluation(c)["spec"].update(norm="l7"),
    "nested options": lambda c: _evaluation(c).update(given_options={"steps": {"a": [1]}}),
    "no batch": lambda c: _evaluation(c).update(batch_size=0),
    "evaluations that are none": lambda c: c.update(evaluations=[1, 2]),
}


@pytest.mark.parametrize("kind", BASELINES, ids=lambda name: name.replace(" ", "-"))
def test_a_baseline_of_absurd_numbers_is_refused(kind: str, evaluation: Path, robench: Run) -> None:
    assert robench("baseline", evaluation.name, "-o", "b.json").code == 0
    content = json.loads(Path("b.json").read_text())
    del content["checksum"]
    BASELINES[kind](content)
    Path("b.json").write_text(json.dumps({**content, "checksum": digest(content)}))
    assert_refused(robench("check", "b.json"), ("b.json", "restore it from git"))


def test_a_named_pipe_is_refused_at_once(store: Path, robench: Run) -> None:
    os.mkfifo("pipe")
    assert_refused(robench("check", "pipe"), ("pipe", "it is not a plain file"))
    os.mkfifo("pipe.toml")
    assert_refused(robench("reproduce", "pipe.toml", "--scale", "smoke"), ("pipe.toml", "it is not a plain file"))
    (path,) = store.glob("evaluations/*/result.json")
    path.unlink()
    os.mkfifo(path)
    assert robench("list", "evaluations").code == 0


def test_two_reports_in_one_file_are_refused(evaluation: Path, robench: Run) -> None:
    assert robench("baseline", evaluation.name, "-o", "b.json").code == 0
    outcome = robench("check", "b.json", "--junit", "report", "--markdown", "./report")
    assert_refused(outcome, ("--junit", "--markdown", "report"))
    assert not Path("report").exists()


@pytest.mark.parametrize(
    "labels",
    [np.array([0, 1, 10**15]), np.array([0, 1, 2**63 + 5], dtype=np.uint64), np.array([0, 1, 2**31], dtype=np.uint32)],
    ids=["1e15", "unsigned", "many"],
)
def test_labels_that_no_class_has_are_refused(labels: Any, model_file: Path, robench: Run) -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez("x.npz", x_train=images, y_train=labels, x_test=images, y_test=np.array([0, 1, 0]))
    for command in (
        ("train", "standard", "--dataset", "npz:x.npz", "--epochs", "1"),
        ("evaluate", f"{model_file}:load", "--dataset", "npz:x.npz", "-a", "fgsm", "--eps", "0.1"),
    ):
        assert_refused(robench(*command), ("x.npz", str(labels.max()), "at most 100,000"))

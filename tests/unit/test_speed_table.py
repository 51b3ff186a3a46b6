"""The parts of benchmarks/versus.py that compute no attack: how passes are counted, and what its table says."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["versus.py"])
    import versus

    return versus


@pytest.fixture
def table(bench: ModuleType) -> Any:
    return sys.modules["speed_table"]


def _line(table: Any, who: str, seconds: list[float], robust: float) -> dict[str, Any]:
    runs = [{"seconds": s, "forwards": 200, "backwards": 100, "n": 50, "clean": 0.9, "robust": robust} for s in seconds]
    return {"who": who, "package": who, "command": f"run {who}"} | table.summarise(runs)


def test_times_are_in_order_and_passes_are_per_image(table: Any) -> None:
    line = _line(table, "a", [3.0, 1.0, 2.0], 0.5)
    assert (line["seconds"], line["forwards"], line["backwards"]) == ([1.0, 2.0, 3.0], 4.0, 2.0)
    assert table.summarise([{"failed": "no"}, {"seconds": 1.0}]) == {"failed": "no"}


def test_the_goal_is_held_against_the_fastest_peer_by_both_measures(table: Any) -> None:
    mine = _line(table, "robench", [1.0, 1.0, 9.0], 0.5)
    slow, fast = _line(table, "slow", [5.0, 5.0, 5.0], 0.5), _line(table, "fast", [1.4, 1.4, 1.4], 0.5)
    gone = {"who": "gone", "failed": "not installed"}
    told = table.goal_told("robench", 1.3, mine, [slow, fast, gone])
    assert "By the least, fast takes 1.40 times as long, by the median fast 1.40: met." in told
    lucky = _line(table, "lucky", [1.0, 9.0, 9.0], 0.5)
    told = table.goal_told("robench", 1.3, mine, [slow, lucky, fast])
    assert "By the least, lucky takes 1.00 times as long, by the median fast 1.40: missed." in told
    assert table.goal_told("robench", 1.3, mine, [gone]) == ""


def test_a_goal_about_one_peer_is_not_told_as_one_about_the_fastest(table: Any) -> None:
    rows = [_line(table, who, [t, t], 0.5) for who, t in (("robench", 1.0), ("slow", 5.0), ("fast", 1.4))]
    rows += [_line(table, "bare-loop", [0.9, 0.9], 0.5), {"who": "gone", "failed": "not installed"}]
    (told,) = table.goals({"rows": rows, "goal": {"times": 3.0, "against": ["slow"]}})
    assert told.startswith("Goal: slow takes at least 3 times as long as robench.")
    assert "met." in told
    assert told.endswith("The goal is not about fast, which takes 1.40 and 1.40 times as long.")
    assert "bare-loop" not in told
    (told,) = table.goals({"rows": rows, "goal": {"times": 3.0, "against": ["slow", "fast"]}})
    assert told.startswith("Goal: the fastest peer takes")
    assert told.endswith("missed.")
    rows[0] = _line(table, "robench-search", [1.0, 1.0], 0.5)
    (told,) = table.goals({"rows": rows, "goal": {"times": 1.3, "against": ["slow", "fast"]}})
    assert told.startswith("Goal: the fastest peer takes at least 1.3 times as long as robench-search.")


def test_a_speed_at_unequal_strength_and_a_missing_peer_are_said(table: Any) -> None:
    rows = [_line(table, "robench", [1.0], 0.5), _line(table, "weak", [0.5], 0.52)]
    rows.append({"who": "gone", "package": "gone", "command": "run gone", "failed": "not installed"})
    result = {"group": "pgd", "model": "m", "norm": "linf", "eps": "0.1", "rows": rows, "goal": None, "about": "PGD",
              "machine": {"processor": "p"}}  # fmt: skip
    lines = table.render([result]).splitlines()
    (weak,), (gone,) = ([line for line in lines if line.startswith(f"| {who} ")] for who in ("weak", "gone"))
    assert "weaker: 2.0 points more stand" in weak
    assert "0.50 / 0.50" in weak
    assert "`run weak`" in weak
    assert "not installed" in gone
    assert {line.count("|") for line in lines if line.startswith("| ")} == {8}


def test_distances_are_compared_where_nearest_images_were_sought(table: Any) -> None:
    distances = {"near": 1.0, "far": 1.5, "within": float("inf")}
    rows = [_line(table, who, [1.0], 0.5) | {"distance": distance} for who, distance in distances.items()]
    result = {"group": "near", "model": "m", "norm": "l2", "eps": "0.5", "rows": rows, "machine": {"processor": "p"}}
    lines = table.render([result]).splitlines()
    near, far, within = (next(line for line in lines if line.startswith(f"| {who} ")) for who in distances)
    assert "1.0000" in near
    assert "further by 50%" in far
    assert "not sought" in within
    assert "further" not in near + within


def test_results_replace_those_of_their_group_and_model_alone(bench: ModuleType, tmp_path: Path) -> None:
    def result(group: str, model: str, said: str) -> dict[str, Any]:
        return {"group": group, "model": model, "about": said, "heads": ["a"], "lines": [[1]], "command": "c",
                "machine": {}}  # fmt: skip

    out = tmp_path / "speed.md"
    bench.keep(out, [result("memory", "m", "old"), result("overhead", "m", "kept")])
    bench.keep(out, [result("memory", "m", "new"), result("memory", "other", "added")])
    text = out.read_text()
    assert [word for word in ("old", "new", "kept", "added") if word in text] == ["new", "kept", "added"]


def test_passes_are_counted_in_images_whoever_asks(bench: ModuleType) -> None:
    counted = bench.Counted(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    logits = counted(x)
    for k in range(3):
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
    copy.deepcopy(counted)(x.detach())
    assert (counted.tally.forwards, counted.tally.backwards) == (10, 15)
    counted.tally.forget()
    assert (counted.tally.forwards, counted.tally.backwards) == (0, 0)


def test_a_contender_that_fails_says_why_and_stops_nobody(bench: ModuleType) -> None:
    core = min(bench.os.sched_getaffinity(0))
    assert bench.apart(lambda: {"seconds": 1.0}, core) == {"seconds": 1.0}
    assert bench.apart(lambda: 1 // 0, core)["failed"].startswith("ZeroDivisionError")


def _bounds(who: str, beside: str) -> list[dict[str, Any]]:
    return [{"who": who, "beside": beside, "points": 0.2, "passes": 0.1, "seconds": 0.2}]


@pytest.mark.parametrize(("robust", "share", "seconds", "met"), [
    (0.502, 0.1, 2.0, True), (0.50200004, 0.1, 2.0, True), (0.504, 0.1, 2.0, False),
    (0.4, 0.101, 2.0, False), (0.4, 0.1, 2.1, False),
])  # fmt: skip
def test_a_bound_asks_for_strength_passes_and_time_at_once(
    table: Any, robust: float, share: float, seconds: float, met: bool
) -> None:
    theirs, mine = _line(table, "theirs", [10.0], 0.5), _line(table, "mine", [seconds], robust)
    mine["forwards"], mine["backwards"] = share * theirs["forwards"], share * theirs["backwards"]
    result = {"rows": [mine, theirs], "bounds": _bounds("mine", "theirs")}
    (told,) = table.goals(result)
    assert told.endswith("met." if met else "missed.")
    assert f"{100 * (robust - 0.5):+.1f} points" in told
    assert table.goals(result | {"rows": [mine]}) == []


def test_one_contender_alone_takes_the_place_of_its_own_row(bench: ModuleType, tmp_path: Path, table: Any) -> None:
    def result(eps: str, *rows: dict[str, Any]) -> dict[str, Any]:
        return {"group": "g", "model": "m", "norm": "linf", "eps": eps, "rows": list(rows), "machine": {"core": "1"}}

    a, b = _line(table, "a", [1.0], 0.5), _line(table, "b", [2.0], 0.5)
    again = _line(table, "b", [7.0], 0.5)
    bench.keep(tmp_path / "speed.md", [result("1", a, b), result("2", a, b)])
    bench.keep(tmp_path / "speed.md", [result("1", again)])
    bench.keep(tmp_path / "speed.md", [result("2", again) | {"machine": {"core": "2"}}])
    first, second = json.loads((tmp_path / "speed.json").read_text())
    assert [row["seconds"] for row in first["rows"]] == [[1.0], [7.0]]
    assert [row["seconds"] for row in second["rows"]] == [[7.0]]

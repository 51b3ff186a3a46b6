"""`--max-passes`: which evaluation it is, what is recorded and shown, and that a cascade has one budget in all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robench import BadInput, ThreatModel, evaluate
from robench.cli.app import main
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.wanted import want
from robench.store.chains import chain_of, spent_on
from robench.store.files import Damaged
from robench.store.runs import Store
from robench.tables.leaderboard import build
from robench.training.jobs import TrainRequest, train
from robench.trust.diagnosis import collect

THREAT = ThreatModel.of("linf", "0.1")
N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small model."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("plain", "other")):
        train(TrainRequest("standard", "digits", epochs=2, name=name, seed=seed, device="cpu"), Store(root))
    return Store(root)


def ids(store: Store, attacks: list[str], **more: Any) -> list[str]:
    request = Request(["plain"], attacks, THREAT, count=20, device="cpu", **more)
    return [planned.job.spec.job_id for planned in want("plain", resolve(request), [], Bench(store)).evaluations]


def run(store: Store, attacks: list[str], most: int | None, **more: Any) -> list[dict[str, Any]]:
    return evaluate("plain", None, attacks, "0.1", count=N, device="cpu", runs=store.root, max_passes=most,
                    **more).rows  # fmt: skip


def test_a_budget_makes_another_evaluation_but_of_noise(store: Store) -> None:
    free, held = ids(store, ["pgd", "random-noise"]), ids(store, ["pgd", "random-noise"], max_passes=30)
    assert free[0] != held[0] != ids(store, ["pgd"], max_passes=31)[0]
    assert free[1] == held[1]
    assert free == ids(store, ["pgd", "random-noise"], max_passes=None)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many", True])
def test_what_is_no_budget_is_bad_input(wrong: Any) -> None:
    with pytest.raises(BadInput, match=r"--max-passes is .*must be a whole number"):
        Request(["plain"], ["pgd"], THREAT, max_passes=wrong)


def test_it_is_recorded_shown_verified_and_ranked(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (row,), (free,) = run(store, ["pgd"], 6), run(store, ["pgd"], None)
    folder = store.evaluation(row["evaluation"])
    assert folder.spec["max_passes"] == 6
    assert "max_passes" not in store.evaluation(free["evaluation"]).spec
    assert folder.about.against == " [max 6 passes]"
    assert folder.rows()["passes"].max() == 6
    assert row["robust_accuracy"] > free["robust_accuracy"]
    assert any(flag.startswith("out-of-budget ") for flag in row["flags"])
    assert not any(flag.startswith("out-of-budget") for flag in free["flags"])
    capsys.readouterr()
    assert main(["show", row["evaluation"], "--runs", str(store.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"].endswith("--max-passes 6")
    assert main(["verify", row["evaluation"], "--again", "20", "--runs", str(store.root), "--device", "cpu"]) == 0
    headers = [name for board in build(store) for name in board.headers]
    assert "pgd [max 6 passes]" in headers
    assert "pgd" in headers


def test_what_was_cut_short_is_no_evidence_of_masking(store: Store) -> None:
    (row,) = run(store, ["fgsm"], 3)
    (other,) = run(store, ["fgsm"], None)
    spec = store.evaluation(row["evaluation"]).spec
    runs = collect(store, spec["model_digest"], spec["data_digest"], "linf", N)
    assert runs
    assert not any("max" in each.name for each in runs)
    assert any(each.attack == "fgsm" for each in runs)
    assert other["evaluation"] != row["evaluation"]


def test_a_cascade_has_one_budget_in_all(store: Store) -> None:
    rows = run(store, ["pgd", "apgd-ce", "square"], 20, cascade=True, options={"steps": 4, "queries": 100})
    chain = chain_of(store.evaluation(rows[-1]["evaluation"]))
    assert [link.spec["attack"] for link in chain] == ["pgd", "apgd-ce", "square"]
    together = spent_on(chain, range(N))
    assert together.max() == 20  # 13 of pgd, and what is left
    assert spent_on(chain[:1], range(N)).max() == 13
    last = chain[-1].rows()
    assert (last["passes"] > 0).any()
    assert [row["robust_accuracy"] for row in rows] == sorted((r["robust_accuracy"] for r in rows), reverse=True)
    marked = last["flags"].str.contains("out-of-budget")
    assert (marked == (last["clean_correct"] & ~last["success"])).all()
    with pytest.raises(Damaged, match="not complete"):
        spent_on(chain, [N])


def test_on_a_surrogate_it_is_the_crafting_that_costs(store: Store) -> None:
    (row,) = run(store, ["pgd"], 9, surrogates=["other"])
    rows = store.evaluation(row["evaluation"]).rows()
    assert rows["passes"].max() <= 9
    marked = rows["flags"].str.contains("out-of-budget")
    assert marked.any()
    assert not (marked & rows["success"]).any()


def test_a_baseline_carries_it(store: Store, tmp_path: Path) -> None:
    (row,) = run(store, ["pgd"], 6)
    place, where = tmp_path / "baseline.json", ["--runs", str(store.root)]
    assert main(["baseline", row["evaluation"], "--out", str(place), *where]) == 0
    assert main(["check", str(place), "--device", "cpu", *where]) == 0


def test_the_command_line_takes_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    request = ["evaluate", "plain", "-a", "fgsm", "--eps", "0.1", "-n", "20", "--device", "cpu"]
    assert main([*request, "--max-passes", "0", "--runs", str(store.root)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "--max-passes" in said[0]


def test_a_record_that_says_otherwise_is_found(store: Store) -> None:
    from robench.trust.opened import How, open_evaluation
    from robench.trust.records import misrecorded

    (row,) = run(store, ["pgd"], 6)
    opened = open_evaluation(store, store.evaluation(row["evaluation"]), How())
    assert misrecorded(opened) == []
    assert misrecorded(replace(opened, about=replace(opened.about, against=""))) == ["against"]

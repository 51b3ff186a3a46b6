"""What must never get into a table: rows of a model that has changed, of other data, of another model, too few rows."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from robench import environment, open_dataset
from robench.errors import BadInput
from robench.evaluation import scheduler, tasks
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import conclude
from robench.evaluation.tasks import perform
from robench.evaluation.wanted import nodes, want
from robench.results.accuracy import attack_figure
from robench.store import leftovers
from robench.store.runs import Store
from robench.suites import plan, reproduce
from robench.suites.suite import load
from robench.threat import ThreatModel
from robench.training.jobs import TrainRequest, train
from tests.integration.conftest import Run, assert_refused

COUNT = 120
MODEL = """
import torch
from torch import nn
import helper_of_a_model as helper


class Helped(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 10, generator=generator))

    def forward(self, x):
        return helper.prepared(x).flatten(1) @ self.weight


def load(): return Helped().eval()
"""
SUITE = """
title = "A table"
source = "Nobody, 2026"
[scales.smoke]
dataset = "digits"
count = 120
epochs = 3
[[rows]]
name = "Plain"
defense = "standard"
[[columns]]
name = "Clean"
[[columns]]
name = "FGSM"
attack = "fgsm"
eps = 0.1
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    Path("table.toml").write_text(SUITE)
    found = Store(tmp_path / "runs")
    train(TrainRequest("standard", "digits", epochs=3), found)
    return found


def _request(*models: str, **more: Any) -> Request:
    settings = {"attacks": ["fgsm"], "count": COUNT, **more}
    return Request(list(models) or ["standard-digits-e3"], threat=ThreatModel.of("linf", "0.1"), **settings)


def _reproduce(robench: Run, suite: str = "table.toml") -> tuple[int, dict[str, Any], str]:
    outcome = robench("reproduce", suite, "--scale", "smoke", "--runs", "runs", "--out", "tables", "--json")
    return outcome.code, json.loads(outcome.out), outcome.err


def _figures(table: dict[str, Any]) -> dict[str, Any]:
    return {cell["column"]: cell["value"] for cell in table["rows"]}


# --- a model that answers other than it did --------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_of_a_model_that_changed_are_not_mixed_with_new_ones(
    shards: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether one shard of three was finished before a helper that no digest sees was changed, or all."""
    Path("model.py").write_text(MODEL)
    helper = ModuleType("helper_of_a_model")
    helper.prepared = lambda x: x
    monkeypatch.setitem(sys.modules, helper.__name__, helper)
    request = _request("model.py:load", dataset="digits", shard_size=COUNT // 3)
    wanted = want("model.py:load", resolve(request), [], Bench(store))
    for node in list(nodes(wanted.evaluations, "0"))[:shards]:
        assert perform(node.task, Bench(store), lambda share: None) == "done"
    helper.prepared = lambda x: 1 - x
    with pytest.raises(BadInput, match=r"'model.py:load' answers \d+ of \d+ stored images differently"):
        evaluate(request, store)
    assert len(store.evaluation(wanted.evaluations[0].job.spec.job_id).shards()) == shards


def test_a_table_does_not_show_what_a_changed_defense_had(
    store: Store, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, table, _ = _reproduce(robench)
    assert code == 0
    assert set(_figures(table)) == {"Clean", "FGSM"}
    assert None not in _figures(table).values()
    from robench_defenses.standard import Standard

    forward = Standard.forward
    monkeypatch.setattr(Standard, "forward", lambda self, x: forward(self, 1 - x))
    code, table, err = _reproduce(robench)
    assert code == 2
    assert set(_figures(table).values()) == {None}
    assert "stored images differently than when" in err


def test_a_model_trained_again_meanwhile_is_not_evaluated_under_its_old_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scheduler.run

    def later(*arguments: Any) -> Any:
        shutil.rmtree(store.models / "standard-digits-e3")
        train(TrainRequest("standard", "digits", epochs=1, name="standard-digits-e3"), store)
        return run(*arguments)

    monkeypatch.setattr(scheduler, "run", later)
    with pytest.raises(BadInput, match="trained again meanwhile; run the command again"):
        evaluate(_request(), store)
    assert not store.evaluation_ids()


# --- other data, and other models ------------------------------------------------------------------------------------


def test_clean_accuracy_is_that_on_todays_test_images(
    store: Store, robench: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = open_dataset("digits")
    parts = {"train": digits.train, "test": digits.test}
    arrays = {f"x_{k}": v.images(slice(None)).permute(0, 2, 3, 1).numpy() for k, v in parts.items()}
    arrays |= {f"y_{k}": v.labels.numpy() for k, v in parts.items()}
    np.savez("mine.npz", **arrays)
    Path("mine.toml").write_text(SUITE.replace('"digits"', '"npz:mine.npz"'))
    before = _figures(_reproduce(robench, "mine.toml")[1])["Clean"]
    np.savez("mine.npz", **{**arrays, "x_test": 255 - arrays["x_test"]})
    code, table, _ = _reproduce(robench, "mine.toml")
    assert code == 0
    assert before > 0.8 > 0.5 > _figures(table)["Clean"]


def test_seeds_of_a_model_with_a_long_name_are_models_of_their_own(store: Store) -> None:
    options = "{" + ", ".join(f'{k} = {v}' for k, v in {
        "beta": "0.000123456789", "gamma": "0.0123456789", "noise": "0.0123456789", "draws": "5", "mc_samples": "3",
    }.items()) + "}"  # fmt: skip
    text = SUITE.replace('"standard"', f'"dvib-pm"\nseeds = [0, 1, 2]\noptions = {options}')
    Path("table.toml").write_text(text)
    found = plan.plan(load("table.toml").at("smoke"), plan.Setup(), store)
    names = [training.name for training in found.trainings]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 100
    assert [store.model_folder(name).name for name in names] == names


def test_two_trainings_of_one_name_are_refused(store: Store, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("table.toml").write_text(SUITE.replace('"standard"', '"standard"\nseeds = [0, 1]'))
    monkeypatch.setattr("robench.training.jobs._default_name", lambda request, job_id: "one-for-all")
    outcome = robench("reproduce", "table.toml", "--scale", "smoke", "--runs", "runs")
    assert_refused(outcome, ("'one-for-all'", "'Plain'", "change an option"))


# --- too few rows, and rows of two kinds -----------------------------------------------------------------------------


def test_a_shard_that_is_lost_on_the_way_leaves_the_figure_out(
    store: Store, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(_request(shard_size=40), store)
    run = reproduce.run

    def damaging(*arguments: Any) -> Any:
        ended = run(*arguments)
        path = next(store.evaluations.glob("*/shard-000040-000080.parquet"))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return ended

    monkeypatch.setattr(reproduce, "run", damaging)
    code, table, _ = _reproduce(robench)
    assert code == 3
    assert _figures(table)["FGSM"] is None


def test_two_shard_sizes_at_once_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller shard is written last, beside a larger one that holds its images too."""
    small, large = _request(shard_size=40), _request(shard_size=COUNT)
    wanted = want("standard-digits-e3", resolve(small), [], Bench(store))
    task = next(iter(nodes(wanted.evaluations, "0"))).task
    attack = tasks.attack_shard
    found = []

    def overtaken(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(tasks, "attack_shard", attack)
        found.extend(evaluate(large, store).rows)
        return attack(*arguments, **more)

    monkeypatch.setattr(tasks, "attack_shard", overtaken)
    perform(task, Bench(store), lambda share: None)
    folder = wanted.evaluations[0].job.folder
    assert len(folder.named()) == 2
    assert folder.ranges() == [(0, COUNT)]
    summary = conclude(wanted.evaluations[0]).summary
    assert (summary.n, summary.status, summary.value) == (COUNT, "complete", found[0]["robust_accuracy"])


def test_shards_made_with_different_versions_are_marked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request(shard_size=60)
    wanted = want("standard-digits-e3", resolve(request), [], Bench(store))
    perform(next(iter(nodes(wanted.evaluations, "0"))).task, Bench(store), lambda share: None)
    known = environment._environment()
    other = {**known, "packages": {**known["packages"], "torch": "1.0"}}
    monkeypatch.setattr(environment, "_environment", lambda: other)
    (row,) = evaluate(request, store).rows
    assert "mixed-environments" in row["flags"]


def test_what_was_finished_after_the_list_was_made_is_not_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(shard_size=COUNT)
    (row,) = evaluate(request, store).rows
    (manifest,) = store.evaluations.glob("*/shard-*.json")
    manifest.unlink()
    found = leftovers.leftovers(store)
    assert "without a single whole shard" in " ".join(each.reason for each in found)
    assert evaluate(request, store).rows[0]["robust_accuracy"] == row["robust_accuracy"]
    assert leftovers.remove(store, found) == []
    assert store.evaluation(row["evaluation"]).complete


# --- attacks that are taken together ---------------------------------------------------------------------------------


def test_a_targeted_attack_does_not_enter_a_cascade(store: Store, robench: Run) -> None:
    command = ("evaluate", "standard-digits-e3", "-a", "pgd,random-targeted", "--eps", "0.1", "-n", "20", "--cascade")
    assert_refused(robench(*command, "--runs", "runs"), ("--cascade", "random-targeted"))
    both = SUITE.replace('attack = "fgsm"', 'attack = ["fgsm", "random-targeted"]\noptions = {steps = 5}')
    Path("table.toml").write_text(both)
    code, table, _ = _reproduce(robench)
    assert code == 0
    apart = evaluate(_request(attacks=["fgsm", "random-targeted"], options={"steps": 5}), store).rows
    assert 0 < _figures(table)["FGSM"] <= apart[0]["robust_accuracy"]
    assert apart[1]["metric"] == "attack success rate"


def test_behind_a_detector_a_rejected_image_is_not_broken(store: Store, robench: Run) -> None:
    """Of several attacks taken together, one that hardly breaks more changes hardly anything."""
    columns = '\ndetector = "lid"\nfpr = 0.3\n'
    two = columns + '[[columns]]\nname = "Two"\nattack = ["fgsm", "r-fgsm"]\neps = 0.1' + columns
    Path("table.toml").write_text(SUITE + two)
    code, table, _ = _reproduce(robench)
    assert code == 0
    figures = _figures(table)
    folders = [store.evaluation(i) for i in store.evaluation_ids()]
    behind = [folder for folder in folders if folder.spec.get("detector")]
    assert len(behind) == 2
    alone = {folder.spec["attack"]: attack_figure(folder.rows(), "robust accuracy").value for folder in behind}
    assert figures["FGSM"] == pytest.approx(alone["fgsm"])
    rejected = [(folder.rows()["adv_pred"] == 10).sum() for folder in behind]
    assert max(rejected) > 0
    assert min(alone.values()) - 0.05 <= figures["Two"] <= min(alone.values())


# --- plans ------------------------------------------------------------------------------------------------------------


def _plan(robench: Run, suite: str) -> dict[str, dict[str, Any]]:
    outcome = robench("reproduce", suite, "--scale", "smoke", "--runs", "runs", "--dry-run", "--json")
    return {step["what"]: step for step in outcome.json["steps"]}


def test_the_plan_counts_what_a_detector_costs(store: Store, robench: Run) -> None:
    Path("table.toml").write_text(SUITE + 'detector = "lid"\ntrained_options = {steps = 10}\n')
    before = _plan(robench, "table.toml")
    fit, alone, behind = list(before.values())[1:]
    assert (fit["what"], fit["gradients"]) == ("fit lid on standard-digits-e3 (pgd)", 10 * int(fit["size"].split()[0]))
    assert alone["gradients"] == behind["gradients"] == COUNT
    assert behind["what"] == "fgsm on standard-digits-e3 behind lid"
    assert _reproduce(robench)[0] == 0
    spent = [store.evaluation(i).result.backwards for i in store.evaluation_ids()]
    assert len(spent) == 2
    assert 0 < sum(spent) <= alone["gradients"] + behind["gradients"]
    after = _plan(robench, "table.toml")
    assert after.keys() == before.keys()
    assert {(step["state"], step["gradients"]) for step in after.values()} == {("done", 0)}


def test_the_plan_tells_judging_from_crafting(store: Store, robench: Run) -> None:
    one = SUITE + 'surrogate = "Plain"\n'
    Path("table.toml").write_text(one)
    assert _reproduce(robench)[0] == 0
    new = '[[rows]]\nname = "New"\ndefense = "standard"\nseeds = [1]\n[[columns]]'
    Path("table.toml").write_text(one.replace("[[columns]]", new, 1))
    train(TrainRequest("standard", "digits", epochs=3, seed=1), store)
    states = {what: (step["state"], step["gradients"]) for what, step in _plan(robench, "table.toml").items()}
    assert states["fgsm on standard-digits-e3, crafted for others"] == ("done", 0)
    assert states["fgsm from standard-digits-e3 on standard-digits-e3, judged"] == ("done", 0)
    assert states["fgsm from standard-digits-e3 on standard-digits-e3-s1, judged"] == ("to do", 0)

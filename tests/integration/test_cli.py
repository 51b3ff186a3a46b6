"""The command line end to end on digits: train, evaluate, verify, tables; starting fast; going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import robench as harness
from robench import registry
from robench.cli import quickstart
from robench.evaluation import tasks
from robench.store.runs import EvaluationFolder
from robench.training.fit import _Watch
from tests.integration.conftest import Process, Run, finished, run_forked, start_forked, start_module, wait_for
from tests.same import assert_same_rows, assert_same_shards, assert_same_weights

ROW_KEYS = {
    "model", "dataset", "attack", "norm", "eps", "n", "clean_accuracy", "interval", "forwards", "backwards", "seconds",
    "flags", "status", "evaluation",
}  # fmt: skip
ATTACK = ("evaluate", "plain", "-a", "multi-targeted", "--eps", "0.1", "--json")


# What a start is compared with, that a slow machine be slow at both: Python and a good part of its own library.
YARDSTICK = (
    "import argparse, asyncio, concurrent.futures, doctest, email.message, http.server, json, logging.config, "
    "multiprocessing.managers, pdb, sqlite3, statistics, tarfile, unittest.mock, xml.dom.minidom, zipfile"
)


def _spent(*command: str) -> tuple[float, str]:
    """Processor seconds of a Python process, which other work on the machine changes little, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.parametrize(
    ("arguments", "times", "lines"),
    [(["--help"], 4.0, 3), (["--version"], 4.0, 1), (["list", "attacks"], 5.5, 3), (["train", "--help"], 4.0, 3)],
)
def test_starting_is_instant(arguments: list[str], times: float, lines: int) -> None:
    """Of torch, Lightning, numpy and pandas none is imported, and starting takes little of a processor's time.

    Little is ``times`` what a part of Python's own library takes (0.13 s where that is fast), the least of each in ten
    tries at most, as a busy machine takes more for the same now and then.
    """
    heavy = "{'torch', 'pytorch_lightning', 'numpy', 'pandas'}"
    code = f"import sys; from robench.cli.app import main; main(sys.argv[1:]); assert not {heavy} & set(sys.modules)"
    best = yardstick = float("inf")
    for _ in range(10):
        yardstick = min(yardstick, _spent(YARDSTICK)[0])
        seconds, printed = _spent(code, *arguments)
        best = min(best, seconds)
        assert len(printed.splitlines()) >= lines
        if best < times * yardstick:
            break
    assert best < times * yardstick


def test_the_version_is_the_package_s(robench: Run) -> None:
    outcome = robench("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"robench {version('robench')}\n", "")
    assert harness.__version__ == version("robench")


def test_from_training_to_the_leaderboard(tmp_path: Path, robench: Run) -> None:
    card = robench("train", "standard", "--dataset", "digits", "--epochs", "3", "--json").json
    assert card["name"] == "standard-digits-e3"
    assert card["accuracy"]["test"] > 0.8
    rows = robench(
        "evaluate", "--attack", "fgsm,random-targeted", "-a", "random-noise", "--eps", "0.1", "-n", "40", "--json"
    ).json
    assert set(rows) == {"rows", "worst_case", "diagnostics"}
    assert [row["attack"] for row in rows["rows"]] == ["fgsm", "random-targeted", "random-noise"]
    for row in rows["rows"]:
        figure = "attack_success_rate" if row["attack"] == "random-targeted" else "robust_accuracy"
        assert set(row) >= ROW_KEYS | {figure}
        low, high = row["interval"]
        assert 0 <= low <= row[figure] <= high <= 1
        assert (row["n"], row["status"], row["model"]) == (40, "complete", card["name"])
    (worst,) = rows["worst_case"]
    assert worst["attacks"] == ["fgsm", "random-targeted"]
    assert worst["robust_accuracy"] <= rows["rows"][0]["robust_accuracy"]

    checks = robench("verify", "--json").json["evaluations"]
    assert len(checks) == 3
    assert all(check["holds"] and check["examples"] == 40 for check in checks)
    boards = robench("leaderboard", "--out", "tables", "--json").json
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".csv", ".html", ".md", ".tex"}
    assert boards["boards"][0]["rows"][0]["model"] == card["name"]
    for kind, count in (("models", 1), ("evaluations", 3), ("defenses", 5), ("attacks", 6), ("datasets", 9)):
        assert len(robench("list", kind, "--json").json[kind]) >= count
        assert len(robench("list", kind).out.splitlines()) >= count
    assert robench("show", card["name"], "--json").json == {k: v for k, v in card.items() if k != "fresh"}
    one = rows["rows"][0]["evaluation"]
    assert robench("show", one[:6], "--json").json["result"]["robust_accuracy"] == rows["rows"][0]["robust_accuracy"]
    assert card["name"] in robench("show", card["name"]).out


def test_the_same_again_computes_nothing(store: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = robench(*ATTACK, "-n", "30").json
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    calls: list[object] = []
    monkeypatch.setattr(tasks, "attack_shard", lambda *given: calls.append(given))
    assert robench(*ATTACK, "-n", "30", "--batch-size", "7").json == first
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == times


def test_a_damaged_shard_is_computed_again(store: Path, robench: Run) -> None:
    first = robench(*ATTACK, "-n", "30", "--shard-size", "10").json
    folder = EvaluationFolder(store / "evaluations" / first["rows"][0]["evaluation"])
    before = folder.rows()
    shard = sorted(folder.path.glob("*.parquet"))[1]
    shard.write_bytes(shard.read_bytes()[:-5])
    assert len(folder.rows()) == 20
    robench(*ATTACK, "-n", "30", "--shard-size", "10")
    assert_same_rows(folder.rows(), before)


@pytest.mark.parametrize("fault", ["pixels", "label", "verdict"])
def test_verify_finds_what_was_tampered_with(fault: str, evaluation: Path, robench: Run) -> None:

    folder = EvaluationFolder(evaluation)
    (start, stop), rows = folder.ranges()[0], folder.rows()
    images, notes = folder.images(start, stop).clone(), folder.notes()[0]
    if fault == "pixels":
        images[3] = (images[3] + 0.2).clamp(0, 1)
    if fault == "label":
        rows.loc[2, "label"] = (rows.loc[2, "label"] + 1) % 10
    if fault == "verdict":
        rows.loc[1, "success"] = not rows.loc[1, "success"]
    folder.save_shard(start, stop, rows, images, {k: v for k, v in notes.items() if k != "sha256"})
    outcome = robench("verify", "--json")
    assert outcome.code == 1
    (check,) = json.loads(outcome.out)["evaluations"]
    assert not check["holds"]
    assert sum(check["faults"].values()) >= 1
    assert "Traceback" not in outcome.err


def test_a_users_model_file(model_file: Path, robench: Run) -> None:
    found = robench(
        "evaluate", "my_model.py:load", "--dataset", "digits", "-a", "fgsm", "-n", "20", "--eps", "0.1", "--json"
    ).json
    assert found["rows"][0]["model"] == "my_model.py:load"
    again = robench("evaluate", f"{model_file}:load", "--dataset", "digits", "-a", "fgsm", "-n", "20", "--eps", "0.1")
    assert again.code == 0
    assert len(robench("list", "evaluations", "--json").json["evaluations"]) == 1
    assert robench("verify").code == 0


class Flat(nn.Module):
    """An untrained linear model on digits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def test_in_a_program(tmp_path: Path) -> None:
    report = harness.evaluate(Flat().eval(), dataset="digits", attacks=["fgsm", "pgd"], eps="0.1", count=20)
    assert report.complete
    assert [row["attack"] for row in report.rows] == ["fgsm", "pgd"]
    assert report.table().row_count == 3
    text = str(report)
    assert all(word in text for word in ("Flat", "fgsm", "pgd", "worst case", "digits, linf eps 0.1, n = 20"))
    assert set(report.to_json()) == {"rows", "worst_case", "diagnostics"}
    with pytest.raises(harness.BadInput, match="train mode"):
        harness.evaluate(Flat().train(), dataset="digits", attacks="fgsm", eps="0.1", count=20)


# --- training that stops and goes on ---------------------------------------------------------------------------------

RECIPES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("standard", {}, ()),
    ("paradise-pm", {}, ("-o", "ramp=0.5")),
    ("standard", {"ema": 0.9}, ()),
    ("standard", {"schedule": "steps", "milestones": (1, 3), "optimizer": "sgd", "lr": 0.05}, ("--backbone", "cnn")),
]


def set_recipe(monkeypatch: pytest.MonkeyPatch, defense: str, **changes: Any) -> None:
    """Change the quick recipe for digits."""
    recipes: Any = registry.load("defense", defense).recipes["digits"]
    monkeypatch.setitem(recipes, "quick", dataclasses.replace(recipes["quick"], **changes))


@pytest.mark.parametrize(("defense", "changes", "options"), RECIPES, ids=["plain", "pm-ramp", "ema", "steps-cnn"])
def test_interrupted_training_ends_in_the_same_weights(
    defense: str, changes: dict[str, Any], options: tuple[str, ...], robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_recipe(monkeypatch, defense, **changes)
    command = ("train", defense, "--epochs", "4", "--name", "m", *options)
    assert robench(*command, "--runs", "whole").code == 0
    end = _Watch.on_train_batch_end
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: Any, trainer: Any, *rest: Any) -> None:
            end(self, trainer, *rest)
            if trainer.current_epoch == 2 and rest[-1] == 5:
                raise KeyboardInterrupt

        patch.setattr(_Watch, "on_train_batch_end", stop)
        stopped = robench(*command, "--runs", "parts")
    assert stopped.code == 130
    assert len(stopped.err.splitlines()) == 1
    assert finished(Path("parts")) == set()
    resumed = robench(*command, "--runs", "parts")
    whole, parts = (load_file(Path(runs, "models", "m", "model.safetensors")) for runs in ("whole", "parts"))
    assert_same_weights(parts, whole)
    card = json.loads(Path("parts/models/m/model.json").read_text())
    assert [line["epoch"] for line in card["history"]] == [0, 1, 2, 3], "an epoch is missing or twice"
    assert "resumed from epoch 2" in resumed.out


def test_the_quickstart_writes_where_git_does_not_look(
    tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for defense in quickstart.DEFENSES:
        set_recipe(monkeypatch, defense, epochs=1)
    monkeypatch.setattr(quickstart, "ATTACKS", ("fgsm",))
    assert robench("quickstart").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert sorted(path.suffix for path in Path("runs/tables").iterdir()) == [".csv", ".html", ".md", ".tex"]
    assert robench("quickstart", "--out", "mine").code == 0
    assert len(list(Path("mine").iterdir())) == 4


def test_a_finished_model_is_not_trained_again(store: Path, robench: Run) -> None:
    weights = store / "models" / "plain" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = robench("train", "standard", "--epochs", "3", "--name", "plain")
    assert again.code == 0
    assert "trained already" in again.out
    assert weights.stat().st_mtime_ns == before


def test_collapse_is_a_sentence_and_keeps_the_checkpoint(tmp_path: Path, robench: Run) -> None:
    outcome = robench("train", "paradise-pm", "-o", "gamma=1e4", "--epochs", "4", "--name", "m")
    assert outcome.code == 1
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert all(word in line for word in ("collapsed at step", "'matching'", "last good checkpoint", "m/training"))
    assert (tmp_path / "runs/models/m/training/last.ckpt").is_file()
    assert finished(tmp_path) == set()


@pytest.mark.parametrize(("lr", "says"), [(1e30, "not finite in the term 'total' at step"), (1e3, "at step")])
def test_an_absurd_learning_rate_is_a_sentence(
    lr: float, says: str, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_recipe(monkeypatch, "standard", lr=lr, schedule="constant")
    outcome = robench("train", "standard", "--epochs", "3", "--name", "m")
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert says in line
    assert "'total'" in line
    assert "no epoch had finished" in line or "checkpoint is kept" in line


# --- killed and interrupted processes --------------------------------------------------------------------------------

LONG = (*ATTACK, "-n", "60", "--shard-size", "3", "-o", "restarts=2", "-o", "steps=30")


@pytest.fixture(params=[signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def stopped(request: pytest.FixtureRequest, store: Path) -> Iterator[tuple[int, Process, Path]]:
    """An evaluation stopped by a signal after its first shards, and its folder."""
    for folder in (store / "evaluations").iterdir():
        folder.rename(store.parent / folder.name)
    process = (start_module if request.param == signal.SIGINT else start_forked)(*LONG)
    try:
        wait_for(lambda: list(store.glob("evaluations/*/shard-*.json")), process)
        process.send_signal(request.param)
        process.wait(30)
        yield request.param, process, next((store / "evaluations").iterdir())
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(_store: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolder:
    """The same evaluation, of a process that nobody stopped."""
    runs = tmp_path_factory.mktemp("undisturbed")
    (runs / "models").mkdir()
    (runs / "models" / "plain").symlink_to(_store / "models" / "plain")
    done = run_forked(*LONG, "--runs", runs)
    assert done.code == 0, done.err
    return EvaluationFolder(runs / "evaluations" / done.json["rows"][0]["evaluation"])


def test_a_stopped_evaluation_goes_on(
    stopped: tuple[int, Process, Path], undisturbed: EvaluationFolder, robench: Run
) -> None:
    """Nothing finished is lost, and rows and tensors equal those of a run that nobody disturbed."""
    sent, process, path = stopped
    out, err = process.communicate()
    assert out == ""
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert len(err.splitlines()) == 1
        assert err.startswith("robench: Interrupted")
        assert not list(path.glob(".*.part"))
    kept = {file: file.stat().st_mtime_ns for file in path.glob("shard-*.json")}
    assert 1 <= len(kept) < 20
    assert not (path / "result.json").exists()

    assert robench(*LONG).json["rows"][0]["status"] == "complete"
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    again = EvaluationFolder(path)
    assert undisturbed.job_id == again.job_id
    assert len(undisturbed.ranges()) == 20
    assert_same_shards(again, undisturbed)


def test_ctrl_c_while_training(tmp_path: Path, robench: Run) -> None:
    command = ("train", "standard", "--epochs", "400", "--name", "m")
    process = start_module(*command)
    wait_for(lambda: (tmp_path / "runs/models/m/training/last.ckpt").exists(), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "Interrupted" in err
    assert finished(tmp_path) == set()
    assert (tmp_path / "runs/models/m/training/last.ckpt").is_file()


def test_a_model_that_cannot_be_used_does_not_hide_the_others(store: Path, robench: Run) -> None:
    damaged = store / "models" / "damaged"
    shutil.copytree(store / "models" / "plain", damaged)
    (damaged / "model.safetensors").write_bytes(b"")
    outcome = robench("evaluate", "-a", "fgsm", "-n", "20", "--eps", "0.1", "--runs", store)
    assert outcome.code == 2
    assert "plain" in outcome.out
    assert "'damaged'" in outcome.err
    found = json.loads(robench("evaluate", "-a", "fgsm", "-n", "20", "--eps", "0.1", "--runs", store, "--json").out)
    assert [row["model"] for row in found["rows"]] == ["plain"]
    assert len(found["refused"]) == 1

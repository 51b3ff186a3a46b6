"""What every executor must do, in this process and on Ray's workers: the same rows, the same errors, the same going on
after a stop."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robench.errors import BadInput, DiskError
from robench.evaluation import bench
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.scheduler import evaluate
from robench.evaluation.tasks import TrainTask, executor_of
from robench.evaluation.wanted import nodes, want
from robench.executors import ray_cluster as cluster
from robench.executors.workers import EXECUTORS, Workers
from robench.store.claims import claim, held, journal
from robench.training.jobs import TrainRequest, claim_of, train
from tests.contract.executing import (
    COUNT,
    MODELS,
    SHARD,
    assert_same,
    first_task,
    held_up,
    meanwhile,
    outcomes_of,
    processes_begun,
    request_for,
    rows_without_time,
    said_on,
    store_of,
    wait_until,
)
from tests.same import assert_same_weights


@pytest.fixture(scope="module")
def ray_here(ray_cluster: Any) -> Iterator[None]:
    """This process as a driver of the tests' cluster, so that executors need not connect each time."""
    import ray

    ray.init(ray_cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(params=sorted(EXECUTORS))
def workers(request: pytest.FixtureRequest) -> Workers:
    """Every executor."""
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return Workers(request.param, workers=2 if request.param == "ray" else None)


@pytest.fixture
def ray(ray_here: None) -> Workers:
    """Ray's workers alone."""
    return Workers("ray", workers=2)


@pytest.fixture(autouse=True)
def _undoubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the models, some of which wait, how they would answer to other pixels before the work begins."""
    monkeypatch.setattr(bench, "doubt", lambda *given: None)


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path / "data"))
    Path("models.py").write_text(MODELS)
    Path("driver").write_text(str(os.getpid()))


# --- results ---------------------------------------------------------------------------------------------------------


def test_all_is_done_and_the_rows_are_those_of_this_process(workers: Workers) -> None:
    request = request_for("load", "other")
    here, there = store_of("here"), store_of("there")
    expected = evaluate(request, here)
    found = evaluate(request, there, workers)
    assert [row["status"] for row in found.rows] == ["complete"] * 4
    assert rows_without_time(found) == rows_without_time(expected)
    assert_same(here, there)
    lines = journal(there.root)
    assert sum(line["event"] == "end" for line in lines) == 4 * COUNT // SHARD
    assert (os.getpid() in {line["process"] for line in lines}) == (workers.kind == "inline")
    assert not list((there.root / "locks").glob("driver-*"))
    assert rows_without_time(evaluate(request, there, workers)) == rows_without_time(expected)
    assert journal(there.root) == lines, "what is in the store is not computed again"


def test_a_process_opens_a_model_once_and_has_the_drivers_surroundings(workers: Workers) -> None:
    store = store_of("runs")
    evaluate(request_for("load"), store, workers)
    seen = [json.loads(line) for line in Path("opened.jsonl").read_text().splitlines()]
    processes = [entry["process"] for entry in seen]
    assert len(processes) == len(set(processes))
    mine = {os.getpid(), *(line["process"] for line in journal(store.root))}
    assert mine < set(processes)
    assert len(set(processes) - mine) == 1  # the one that is asked once more at the end
    assert {(entry["threads"], entry["omp"], entry["data"]) for entry in seen} == {(1, "1", os.environ["ROBENCH_DATA"])}


def test_a_model_trained_elsewhere_is_the_same(workers: Workers) -> None:
    here, there = store_of("here"), store_of("there")
    request = TrainRequest("standard", "digits", epochs=1, name="m")
    card = train(request, here)
    task = TrainTask(claim_of("m"), there.root, request)
    assert [outcomes_of(workers, there, task)[0].state for _ in range(2)] == ["done", "there"]
    weights = (load_file(store.model_folder("m") / "model.safetensors") for store in (there, here))
    assert_same_weights(*weights)
    assert there.card("m")["accuracy"] == card["accuracy"]
    assert there.card("m")["command"] == card["command"]


def test_how_far_a_task_has_come_is_shown_while_it_runs(workers: Workers) -> None:
    store, shares = store_of("runs"), list[float]()
    task = first_task(store, request_for("slow", attacks=["untargeted"], options={"steps": 150, "restarts": 1}))
    executor = executor_of(workers, Bench(store), lambda of, share, note: shares.append(share))
    try:
        executor.submit(task)
        assert executor.next().state == "done"
    finally:
        executor.close()
    assert any(0 < share < 1 for share in shares)
    assert shares == sorted(shares)
    assert not list((store.root / "locks").glob("*.word"))


def test_a_task_that_is_done_is_there_and_one_that_is_claimed_is_busy(workers: Workers) -> None:
    store = store_of("runs")
    task = first_task(store, request_for("load", attacks=["fgsm"], options={}))
    assert [outcome.state for outcome in outcomes_of(workers, store, task)] == ["done"]
    assert [outcome.state for outcome in outcomes_of(workers, store, task)] == ["there"]
    with claim(store.root, task.key) as mine:
        assert mine
        assert [outcome.state for outcome in outcomes_of(workers, store, task)] == ["busy"]


def test_work_that_another_process_gives_up_is_taken_over(workers: Workers) -> None:
    store, request = store_of("runs"), request_for("load", attacks=["fgsm"], options={})
    task = first_task(store, request)
    others = {f"{task.job}-{start:06d}-{start + SHARD:06d}" for start in range(SHARD, COUNT, SHARD)}
    claimed = threading.Event()

    def ended() -> set[str]:
        return {line["work"] for line in journal(store.root) if line["event"] == "end"}

    def hold() -> None:
        with claim(store.root, task.key) as mine:
            assert mine
            claimed.set()
            wait_until(lambda: others <= ended())  # workers may end them in any order

    with meanwhile(hold):
        assert claimed.wait(10)
        found = evaluate(request, store, workers)
    assert [row["status"] for row in found.rows] == ["complete"]
    assert journal(store.root)[-1]["work"] == task.key


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_failing_model_is_incomplete_and_the_others_are_done(
    workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(request_for("fragile", "other", attacks=["fgsm"], options={}), store_of("runs"), workers)
    assert [(row["model"], row["status"]) for row in found.rows] == [
        ("models.py:fragile", "incomplete"),
        ("models.py:other", "complete"),
    ]
    assert not [line for line in said_on(capfd) if "fragile" in line]  # it is said once, at the end
    (sentence,) = found.refused
    assert sentence.startswith(
        "models.py:fragile  fgsm fails each time with TypeError: cannot take a perturbed image ("
    )
    assert "models.py, line" in sentence


def test_bad_input_refuses_that_model_only(workers: Workers) -> None:
    found = evaluate(request_for("probabilities", "other"), store_of("runs"), workers)
    assert [(row["model"], row["status"]) for row in found.rows] == [("models.py:other", "complete")] * 2
    (sentence,) = found.refused
    assert "probabilities" in sentence


def test_where_results_cannot_be_kept_it_stops(workers: Workers) -> None:
    store = store_of("runs")
    store.root.mkdir()
    store.evaluations.write_text("a file where the folder should be")
    with pytest.raises(DiskError, match=r"^Cannot write .*/evaluations.*check the folder"):
        evaluate(request_for("load"), store, workers)
    assert len({line["work"] for line in journal(store.root)}) <= 4 < 2 * COUNT // SHARD, "the rest is not tried"


@pytest.mark.parametrize("workers", ["inline"], indirect=True)
def test_a_module_that_was_handed_over_stays_in_this_process(workers: Workers) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    found = evaluate(request_for(module), store_of("runs"), workers)
    assert [row["status"] for row in found.rows] == ["complete"] * 2


def test_a_module_that_was_handed_over_cannot_be_sent(ray: Workers) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    found = evaluate(request_for("other", module), store_of("runs"), ray)
    assert [row["status"] for row in found.rows] == ["complete"] * 2
    (sentence,) = found.refused
    assert "Sequential was handed over in a program" in sentence
    with pytest.raises(BadInput, match="handed over in a program"):
        evaluate(request_for(module), store_of("runs"), ray)


# --- workers that die, and stops -------------------------------------------------------------------------------------


def test_what_a_killed_worker_did_is_done_again(ray: Workers) -> None:
    request = request_for("load")
    here, there = store_of("here"), store_of("there")
    evaluate(request, here)
    killed = []

    def kill() -> None:
        killed.append(wait_until(lambda: processes_begun(there))[0])
        os.kill(killed[0], signal.SIGKILL)

    with held_up(kill):
        found = evaluate(request, there, ray)
    assert [row["status"] for row in found.rows] == ["complete"] * 2
    assert_same(here, there)
    lines = journal(there.root)
    twice = [line["work"] for line in lines if line["event"] == "begin" and line["process"] == killed[0]]
    for work in twice:
        ends = [line["process"] for line in lines if line["work"] == work and line["event"] == "end"]
        assert len(ends) == 1
    assert any(sum(line["work"] == work and line["event"] == "begin" for line in lines) == 2 for work in twice)


def test_a_task_that_kills_its_workers_is_given_up(
    ray: Workers, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 1)  # each takes the seconds that a worker needs to start
    store = store_of("runs")
    request = request_for("deadly", "other", attacks=["fgsm"], options={}, shard_size=COUNT)
    found = evaluate(request, store, ray)
    assert [(row["model"], row["status"]) for row in found.rows] == [
        ("models.py:deadly", "incomplete"),
        ("models.py:other", "complete"),
    ]
    (line,) = [line for line in said_on(capfd) if "in a process of its own" not in line]
    assert "failed: WorkerDied: its process died 2 times" in line
    lines = journal(store.root)
    ended = {entry["work"] for entry in lines if entry["event"] == "end"}
    deaths = [entry["process"] for entry in lines if entry["event"] == "begin" and entry["work"] not in ended]
    assert len(set(deaths)) == 2


def test_ctrl_c_comes_through_at_once_and_leaves_nothing_claimed(workers: Workers) -> None:
    store, request = store_of("runs"), request_for("load")
    sent: list[float] = []

    def interrupt() -> None:
        wait_until(lambda: processes_begun(store))
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with held_up(interrupt), pytest.raises(KeyboardInterrupt):
            evaluate(request, store, workers)
        took = time.monotonic() - sent[0]
    finally:
        signal.signal(signal.SIGINT, before)
    assert took < 5
    keys = {line["work"] for line in journal(store.root)}
    wait_until(lambda: not any(held(store.root, key) for key in keys), 10)
    assert [row["status"] for row in evaluate(request, store).rows] == ["complete"] * 2, "another executor goes on"


def test_only_what_a_worker_has_begun_is_cancelled(ray: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray aborts this process if it cancels a task that was just sent."""
    store, cancelled = store_of("runs"), []
    request = request_for("load", attacks=["fgsm"], options={}, shard_size=COUNT // 6)
    wanted = want(request.models[0], resolve(request), [], Bench(store))
    tasks = [node.task for node in nodes(wanted.evaluations, "0") if node.task is not None]
    Path("hold").touch()
    executor = executor_of(ray, Bench(store), lambda task, share, note: None)
    try:
        for task in tasks:
            executor.submit(task)
        wait_until(lambda: len(processes_begun(store)) == 2)
        cancel = executor.cluster.ray.cancel
        monkeypatch.setattr(executor.cluster.ray, "cancel", lambda *a, **k: (cancelled.append(a), cancel(*a, **k)))
    finally:
        executor.close()
        Path("hold").unlink()
    assert (len(tasks), len(cancelled)) == (6, 2)
    wait_until(lambda: not any(held(store.root, task.key) for task in tasks), 30)
    time.sleep(3)
    assert len({line["work"] for line in journal(store.root)}) == 2, "no worker begins what was not begun"

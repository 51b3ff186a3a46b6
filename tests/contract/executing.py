"""What the tests of executors share: models that behave badly, requests for them, and looking on while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from robench import ThreatModel
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.summaries import Evaluated
from robench.evaluation.tasks import Task, TrainTask, executor_of
from robench.evaluation.wanted import nodes, want
from robench.executors.base import Outcome
from robench.executors.workers import Workers
from robench.store.about import About
from robench.store.claims import journal
from robench.store.runs import EvaluationFolder, Store
from tests.same import assert_same_shards

COUNT, SHARD = 60, 20
MODELS = """
import json, os, sys, time
from pathlib import Path

import torch
from torch import nn


class Flat(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        while Path("hold").exists():
            time.sleep(0.02)
        return self.head(x.flatten(1))


class Slow(Flat):
    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x / 1000)  # so that some images stand


class Fragile(Flat):
    def forward(self, x):
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            raise TypeError("cannot take a perturbed image")
        return super().forward(x)


class Deadly(Flat):
    def forward(self, x):
        if Path("driver").read_text() != str(os.getpid()):
            os.kill(os.getpid(), 9)
        return super().forward(x)


def load():
    seen = {"process": os.getpid(), "threads": torch.get_num_threads(), "omp": os.environ["OMP_NUM_THREADS"],
            "data": os.environ.get("ROBENCH_DATA")}
    with open("opened.jsonl", "a") as file:
        file.write(json.dumps(seen) + "\\n")
    return Flat().eval()


def other(): return Flat(1).eval()
def slow(): return Slow().eval()
def fragile(): return Fragile().eval()
def deadly(): return Deadly().eval()
def probabilities(): return nn.Sequential(Flat(), nn.Softmax(1)).eval()
"""


def request_for(*models: str | nn.Module, **more: Any) -> Request:
    settings = {"attacks": ["fgsm", "multi-targeted"], "options": {"steps": 5}, "count": COUNT, "shard_size": SHARD}
    names = [f"models.py:{model}" if isinstance(model, str) else model for model in models]
    return Request(names, threat=ThreatModel.of("linf", "0.1"), dataset="digits", **{**settings, **more})


def store_of(name: str) -> Store:
    return Store(Path(name).resolve())


def rows_without_time(found: Evaluated) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]


def about_without_commit(folder: EvaluationFolder) -> About:
    """The record but for the commit, which may be a new one by now."""
    return replace(folder.about, environment={**folder.about.environment, "commit": ""})


def assert_same(one: Store, two: Store) -> None:
    """The same evaluations with the same rows and images, and the same records but for the time they took."""
    ids = one.evaluation_ids()
    assert ids == two.evaluation_ids() != []
    for a, b in ((one.evaluation(i), two.evaluation(i)) for i in ids):
        assert a.spec == b.spec
        assert about_without_commit(a) == about_without_commit(b)
        assert a.result is not None
        assert b.result is not None
        assert replace(a.result, seconds=0) == replace(b.result, seconds=0)
        assert_same_shards(a, b)


def said_on(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr, without those of progress."""
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("robench: ")]


def wait_until(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Runs `act` in a thread."""
    faults: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not faults, faults


@contextmanager
def held_up(act: Callable[[], None]) -> Iterator[None]:
    """Models do not answer until `act`, run in a thread, has ended."""

    def release() -> None:
        try:
            act()
        finally:
            Path("hold").unlink()

    Path("hold").touch()
    with meanwhile(release):
        yield


def processes_begun(store: Store) -> list[int]:
    """The processes at work: those that noted a beginning and no end."""
    open_: dict[str, int] = {}
    for line in journal(store.root):
        open_.pop(line["work"], None)
        if line["event"] == "begin":
            open_[line["work"]] = line["process"]
    return list(open_.values())


def first_task(store: Store, request: Request) -> Task:
    """The task of the first shard of a request for one model and one attack."""
    wanted = want(request.models[0], resolve(request), [], Bench(store))
    task = next(iter(nodes(wanted.evaluations, "0"))).task
    assert isinstance(task, Task)
    return task


def outcomes_of(workers: Workers, store: Store, *tasks: Task | TrainTask) -> list[Outcome]:
    executor = executor_of(workers, Bench(store), lambda task, share, note: None)
    try:
        for task in tasks:
            executor.submit(task)
        return [executor.next() for _ in tasks]
    finally:
        executor.close()

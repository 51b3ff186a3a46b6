"""One Ctrl-C during a long attack: it stops at once, what was finished is kept, and the same command goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from robench.store.runs import Store
from tests.integration.conftest import Run
from tests.same import assert_same_rows

SIZE = 30
ATTACKS = {
    "cw": ("--norm", "l2", "--eps", "0.5", "-o", "abort_early=no", "-o", "steps=150", "-o", "search_steps=3"),
    "autoattack": ("--eps", "0.02", "-o", "steps=15", "-o", "queries=700"),
    "foolbox:LinfPGD": ("--eps", "0.02", "-o", "steps=600"),
    "art:ProjectedGradientDescent": ("--eps", "0.02", "-o", "max_iter=450"),
}


def command(store: Path, name: str) -> list[str]:
    """Two shards of some seconds each."""
    sizes = ("-n", str(2 * SIZE), "--shard-size", str(SIZE), "--device", "cpu")
    return ["evaluate", "plain", "-a", name, *ATTACKS[name], *sizes, "--runs", str(store)]


@contextmanager
def stopped_after(pattern: str, root: Path) -> Iterator[list[float]]:
    """Ctrl-C for the process's main thread a moment after a file like `pattern` is there; yields when it was sent."""
    sent: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if list(root.glob(pattern)):
                if not over.wait(0.1):  # into the attack on the next shard
                    sent.append(time.monotonic())
                    os.kill(os.getpid(), signal.SIGINT)
                return

    # a shell gives its background jobs, and so the tests in them, a SIGINT that is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sent
    except KeyboardInterrupt:
        pytest.fail("the interrupt came through")
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)


def shards(store: Path, name: str) -> dict[str, int]:
    """The finished shards of an attack with the time they were written at."""
    return {path.name: path.stat().st_mtime_ns for path in folder(store, name).glob("shard-*")}


def folder(store: Path, name: str) -> Path:
    for job_id in Store(store).evaluation_ids():
        if Store(store).evaluation(job_id).spec["attack"] == name:
            return store / "evaluations" / job_id
    return store / "evaluations" / "none"


def rows_of(store: Path, name: str) -> Any:
    return Store(store).evaluation(folder(store, name).name).rows()


@pytest.mark.parametrize("name", ATTACKS)
def test_ctrl_c_in_the_middle_of_a_shard(name: str, store: Path, tmp_path: Path, robench: Run) -> None:
    with stopped_after(f"*/shard-000000-{SIZE:06d}.json", store / "evaluations") as sent:
        outcome = robench(*command(store, name))
    assert outcome.code == 130, outcome.err
    assert time.monotonic() - sent[0] < 5
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("robench: Interrupted; what was finished is kept")
    kept = shards(store, name)
    assert sorted(kept) == [f"shard-000000-{SIZE:06d}.{kind}" for kind in ("json", "parquet", "safetensors")]

    resumed = robench(*command(store, name))
    assert resumed.code == 0
    assert f" goes on from {SIZE} of {2 * SIZE} images in the store." in resumed.err
    after = shards(store, name)
    assert len(after) == 6
    assert {path: after[path] for path in kept} == kept  # not computed again

    other = tmp_path / "undisturbed"
    other.mkdir()
    (other / "models").symlink_to(store / "models")
    undisturbed = robench(*command(other, name))
    assert undisturbed.code == 0
    assert "goes on from" not in undisturbed.err
    assert_same_rows(rows_of(store, name), rows_of(other, name))

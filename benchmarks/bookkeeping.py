"""What planning and looking up finished evaluations costs, on a store of random rows made for the purpose. Example:

python benchmarks/bookkeeping.py --models 40 --settings 50 --runs /tmp/bookkeeping
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from robench.cli.app import main as command_line
from robench.data.dataset import Split, open_dataset
from robench.evaluation.attacks import resolve
from robench.evaluation.jobs import Job, make_job, open_target
from robench.evaluation.request import Request
from robench.models import build_defense
from robench.results.rows import passes
from robench.results.summary import summarise
from robench.store.files import checksum
from robench.store.runs import Store
from robench.tables import leaderboard
from robench.threat import ThreatModel

OPTIONS = {"backbone": "auto"}
SHARD = 250


def request(models: list[str], steps: int) -> Request:
    """PGD with so many steps, on all test images of digits."""
    return Request(models, ["pgd"], ThreatModel.of("linf", "0.1"), options={"steps": steps}, shard_size=SHARD)


def plan(store: Store, models: list[str], settings: int) -> Iterator[Job]:
    """A job per model and setting."""
    wanted = [resolve(request(models, steps + 1)) for steps in range(settings)]
    for name in models:
        target = open_target(name, store)
        for each in wanted:
            (named,) = each.attacks
            yield make_job(each.address(name, named), store, target, named)


def add_model(store: Store, name: str) -> None:
    """A finished model whose weights are random."""
    info = open_dataset("digits").info
    module = build_defense("standard", OPTIONS, info)
    path = store.model_folder(name) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    store.finish_model(name, {
        "name": name, "spec_id": "0" * 12, "defense": "standard", "options": OPTIONS, "data": info.to_json(),
        "digest": checksum(path), "seconds": 1.0,
        "accuracy": {"test": 0.9, "test_count": 500, "test_interval": [0.87, 0.92]},
    })  # fmt: skip


def random_rows(split: Split, start: int, stop: int, noise: np.random.Generator) -> pd.DataFrame:
    """Rows with the judge's columns: nine in ten images classified correctly, half of those broken."""
    n = stop - start
    label = split.labels[start:stop].numpy()
    correct = noise.random(n) < 0.9
    success = correct & (noise.random(n) < 0.5)
    wrong = (label + 1) % 10
    forwards, backwards = noise.integers(1, 40, n), noise.integers(1, 40, n)
    return pd.DataFrame({
        "example_id": np.arange(start, stop), "label": label, "goal": np.full(n, -1),
        "clean_pred": np.where(correct, label, wrong), "adv_pred": np.where(correct & ~success, label, wrong),
        "clean_correct": correct, "success": success, "trial": np.where(correct, 0, -1),
        "step": np.where(correct, noise.integers(1, 40, n), -1), "linf": noise.random(n) * 0.1, "l2": noise.random(n),
        "forwards": forwards, "backwards": backwards, "passes": passes(forwards, backwards),
        "zero_pixels": noise.random(n), "stages": np.full(n, ""), "flags": np.full(n, ""),
    })  # fmt: skip


def fill(store: Store, models: list[str], settings: int) -> None:
    """Finish every job with random rows, through the store's own functions."""
    noise = np.random.default_rng(0)
    for job in plan(store, models, settings):
        if job.folder.missing(0, job.spec.count, SHARD):
            job.folder.begin(job.spec.to_json(), job.about)
            for start in range(0, job.spec.count, SHARD):
                stop = min(start + SHARD, job.spec.count)
                images = torch.from_numpy(noise.random((stop - start, 1, 8, 8), dtype=np.float32))
                notes = {"flags": [], "seconds": 0.1, "batch_size": 250}
                job.folder.save_shard(start, stop, random_rows(job.split, start, stop, noise), images, notes)
            job.folder.finish(summarise(job.folder.rows(), job.attack.metric, job.folder.notes()))


@contextmanager
def unsynced() -> Iterator[None]:
    """Without waiting for the disk: what is made here may well be lost with the machine."""
    kept, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = kept


def look_up(store: Store) -> int:
    """What a scheduler asks about every evaluation; returns how many are finished and intact."""
    finished = 0
    for job_id in store.evaluation_ids():
        folder = store.evaluation(job_id)
        spec = folder.spec
        missing = folder.missing(spec["start"], spec["start"] + spec["count"], SHARD)
        result, notes = folder.result, folder.notes()
        finished += not missing and result is not None and len(notes) > 0
        folder.about  # noqa: B018
    return finished


def timed(name: str, work: Callable[[], Any], profile: bool) -> None:
    """Print how long `work` takes, how much of it on the processor, and where, if asked."""
    profiler = cProfile.Profile()
    began, busy = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    found = work()
    profiler.disable()
    print(f"{name:44s} {time.perf_counter() - began:7.2f} s {time.process_time() - busy:7.2f} s busy   {found}")
    if profile:
        out = io.StringIO()
        pstats.Stats(profiler, stream=out).sort_stats("cumulative").print_stats(25)
        print(out.getvalue())


def listing(store: Store) -> str:
    """`robench list evaluations`, without starting Python."""
    out = io.StringIO()
    with redirect_stdout(out):
        command_line(["list", "evaluations", "--runs", str(store.root)])
    return f"{len(out.getvalue().splitlines())} lines"


def main() -> None:
    """Make the store where it is not there, then time what is asked of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--settings", type=int, default=50)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/bookkeeping"))
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    store, models = Store(arguments.runs), [f"model-{i}" for i in range(arguments.models)]
    with unsynced():
        for name in set(models) - set(store.model_names()):
            add_model(store, name)
        if len(store.evaluation_ids()) < arguments.models * arguments.settings:
            fill(store, models, arguments.settings)
            time.sleep(3)  # what was written this moment is looked at more closely
    timed("plan all jobs", lambda: f"{sum(1 for _ in plan(store, models, arguments.settings))} jobs", arguments.profile)
    for turn in ("first", "second"):
        timed(f"finished, intact, with results: {turn} look", lambda: f"{look_up(store)} finished", arguments.profile)
    timed("robench list evaluations", lambda: listing(store), arguments.profile)
    timed("tables", lambda: f"{len(leaderboard.build(store)[0].rows)} rows", arguments.profile)


if __name__ == "__main__":
    main()

"""How much faster two workers are than one, each with one thread. Example:

    python benchmarks/workers.py --models standard-mnist paradise-pm-mnist madry-mnist --from runs --data ~/datasets

Attacks copies of trained models with fgsm, pgd and multi-targeted on Ray clusters of one and of two workers, in turn,
in fresh runs folders, and prints what each took, the ratio, and how busy other processes kept the machine. "start" is
what passes before every worker is at work: Ray, the processes, their imports and a small evaluation. Ends with 1 where
the evaluations differ in a single row.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from robench import ThreatModel
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.executors.ray_cluster import PLASMA, package
from robench.executors.workers import Workers
from robench.store.claims import journal
from robench.store.runs import Store


def spent(processes: Iterable[int]) -> tuple[float, float]:
    """Processor seconds of the whole machine since it started, and of these processes."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    stats = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    everything = sum(ticks) - ticks[3] - ticks[4]  # without idling
    ours = sum(int(stat[11]) + int(stat[12]) for stat in stats)
    return everything / os.sysconf("SC_CLK_TCK"), ours / os.sysconf("SC_CLK_TCK")


def request(arguments: argparse.Namespace, count: int, shard: int) -> Request:
    """What is evaluated."""
    return Request(
        arguments.models,
        ["fgsm", "pgd", "multi-targeted"],
        ThreatModel.of("linf", arguments.eps),
        count=count,
        shard_size=shard,
        options={"steps": arguments.steps},
        device="cpu",
        data_root=arguments.data,
    )


def fresh(arguments: argparse.Namespace, folder: Path) -> Store:
    """A runs folder with the models and nothing else."""
    for name in arguments.models:
        shutil.copytree(arguments.source / "models" / name, folder / "models" / name)
    return Store(folder)


def measure(workers: int, arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Store]:
    """Seconds until every worker is at work, and seconds of the evaluation after that."""
    ray = package()
    began = time.perf_counter()
    ray.init(
        "local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=PLASMA,
        _system_config={"worker_niceness": 0},
    )
    who = Workers("ray", workers)
    try:
        warm = 0
        while True:  # until each process has imported what it needs
            store = fresh(arguments, folder / f"warm-{warm}")
            evaluate(request(arguments, 40, 5), store, who)
            processes = {line["process"] for line in journal(store.root)}
            if len(processes) == workers:
                break
            warm += 1
        start = time.perf_counter() - began
        store = fresh(arguments, folder / "runs")
        before = spent(processes)
        began = time.perf_counter()
        evaluate(request(arguments, arguments.n, arguments.shard_size), store, who)
        seconds = time.perf_counter() - began
        machine, ours = (after - first for after, first in zip(spent(processes), before, strict=True))
    finally:
        ray.shutdown()
    if {line["process"] for line in journal(store.root)} != processes:
        raise RuntimeError("other processes than those that were warm did the work")
    return {
        "workers": workers,
        "seconds": round(seconds, 1),
        "start": round(start, 1),
        "processor_seconds": round(ours, 1),
        "of_other_processes": round(machine - ours, 1),
    }, store


def same(one: Store, two: Store) -> bool:
    """Whether two folders hold the same evaluations, row by row and pixel by pixel."""
    if one.evaluation_ids() != two.evaluation_ids():
        return False
    for a, b in ((one.evaluation(i), two.evaluation(i)) for i in one.evaluation_ids()):
        try:
            pd.testing.assert_frame_equal(a.rows(), b.rows(), check_exact=True)
        except AssertionError:
            return False
        if any(not torch.equal(a.images(*part), b.images(*part)) for part in a.ranges()):
            return False
    return True


def main() -> int:
    """Run the benchmark and print one JSON object per measurement, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--from", dest="source", type=Path, default=Path("runs"), help="the runs folder they are in")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--eps", default="0.3")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=125)
    parser.add_argument("--times", type=int, default=1, help="how often to measure; the medians are compared")
    arguments = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        stores = []
        for turn in range(arguments.times):
            for workers in (1, 2):
                row, store = measure(workers, arguments, Path(scratch) / f"{turn}-{workers}")
                print(json.dumps(row), flush=True)
                found[workers].append(row)
                stores.append(store)
        equal = all(same(stores[0], store) for store in stores[1:])
    alone, both = ([statistics.median(row[k] for row in found[w]) for k in ("seconds", "start")] for w in (1, 2))
    print(
        json.dumps(
            {
                "ratio": round(alone[0] / both[0], 2),
                "ratio_with_start": round(sum(alone) / sum(both), 2),
                "same_rows": equal,
                "load": [round(value, 1) for value in os.getloadavg()],
            }
        )
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())

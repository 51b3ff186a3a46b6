"""A suite, killed with SIGKILL at random moments until it was killed often enough: is its table that of a quiet run?
Example:

python benchmarks/chaos.py digits --scale smoke --kills 100 --executor ray

The same command is started again after every kill. When it comes to its end its rows, images and tables are compared
with those of a quiet run, and the journal with what may be begun twice; then it starts from nothing again. Drivers are
forked from a process that has imported everything, so that kills hit work and not imports. With Ray, on a cluster of
two nodes, half of the kills hit the driver, the others one of the workers.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

import robench.suites.reproduce  # noqa: F401 - everything is imported before the first fork
from robench.cli.app import main as main_command
from robench.store.claims import journal


@dataclass
class Tally:
    """What was counted over all rounds."""

    kills: int = 0
    idle: int = 0
    rounds: int = 0
    again: int = 0
    repeated: int = 0
    unnoted: int = 0
    differing: int = 0
    wrong_ends: list[str] = field(default_factory=list)


def command(options: argparse.Namespace, root: Path, address: str | None) -> list[str]:
    """The command under test, with its runs and tables in `root`."""
    words = ["reproduce", options.suite, "--scale", options.scale, "--shard-size", str(options.shard_size)]
    words += ["--runs", str(root / "runs"), "--out", str(root / "tables")]
    words += ["--data", str(options.data)] if options.data else []
    return words + (["--executor", "ray", "--workers", "2", "--address", address] if address else [])


class Driver:
    """A process of its own that runs the command."""

    def __init__(self, words: list[str], said: Path) -> None:
        said.parent.mkdir(parents=True, exist_ok=True)
        self.said, self.code = said, None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            with said.open("w") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.argv = ["robench", *words]
            os._exit(main_command(words))

    def wait(self, seconds: float = 3600.0) -> bool:
        """Whether it ended within so many seconds; `code` is then its exit code, negative for a signal."""
        end = time.monotonic() + seconds
        while self.code is None and time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.01)
        return self.code is not None


def differences(root: Path, quiet: Path) -> int:
    """How many shards and tables differ between two runs, missing ones included."""
    found = 0
    names = {p.relative_to(r) for r in (root, quiet) for p in r.glob("runs/*/*/shard-*.parquet")}
    for name in names:
        pair = [folder / name for folder in (root, quiet)]
        if not all(path.exists() for path in pair):
            found += 1
            continue
        rows = [pd.read_parquet(path) for path in pair]
        images = [load_file(path.with_suffix(".safetensors"))["adversarial"] for path in pair]
        found += not (rows[0].equals(rows[1]) and images[0].equal(images[1]))
    tables = {p.relative_to(r) for r in (root, quiet) for p in r.glob("tables/*")}
    texts = [[(r / name).read_text() if (r / name).exists() else None for r in (root, quiet)] for name in tables]
    return found + sum(a != b for a, b in texts)


def strike(driver: Driver, runs: Path, address: str | None, dice: random.Random) -> bool:
    """Kill the driver, or a worker of Ray's that has begun something; whether it was still running."""
    lines = journal(runs)
    ended = {entry["work"] for entry in lines if entry["event"] == "end"}
    at_work = [e["process"] for e in lines if e["work"] not in ended and e["process"] != driver.pid]
    victim = dice.choice(at_work) if address and at_work and dice.random() < 0.5 else driver.pid
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _moment(driver: Driver, runs: Path, address: str | None, options: argparse.Namespace, dice: random.Random) -> bool:
    """Wait for a random moment; whether the driver ended before. Ray's workers take their time to import, so there most
    moments are counted from the next thing that is begun or ended."""
    if address and dice.random() < 0.9:
        before, end = len(journal(runs)), time.monotonic() + 120
        while len(journal(runs)) == before and time.monotonic() < end:
            if driver.wait(0.05):
                return True
    return driver.wait(dice.uniform(options.earliest, options.latest))


def disturbed(options: argparse.Namespace, root: Path, address: str | None, dice: random.Random, tally: Tally) -> None:
    """One round: from nothing to the table, killed at random moments on the way."""
    while len(tally.wrong_ends) <= 5:
        before = len(journal(root / "runs"))
        driver = Driver(command(options, root, address), root.parent / "said.txt")
        while tally.kills < options.kills and not _moment(driver, root / "runs", address, options, dice):
            if strike(driver, root / "runs", address, dice):
                tally.kills += 1
                tally.idle += len(journal(root / "runs")) == before
            driver.wait(0.2)  # one that lost a worker goes on
        driver.wait()
        if driver.code == 0:
            break
        if driver.code != -signal.SIGKILL:
            tally.wrong_ends.append(f"{driver.code}: {driver.said.read_text().strip()[-300:]}")
    lines = journal(root / "runs")
    ends = Counter(entry["work"] for entry in lines if entry["event"] == "end")
    begins = Counter(entry["work"] for entry in lines if entry["event"] == "begin")
    tally.rounds += 1
    tally.again += sum(begins.values()) - len(begins)
    tally.repeated += sum(count - 1 for count in ends.values())
    tally.unnoted += len(begins.keys() - ends.keys())  # saved, and killed before the journal was told


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
found.add_node(num_cpus=1)
print(found.address, flush=True)
sys.stdin.read()
found.shutdown()
"""


@contextmanager
def cluster(wanted: bool) -> Iterator[str | None]:
    """The address of a Ray cluster of two nodes with a core each, or None."""
    if not wanted:
        yield None
        return
    with subprocess.Popen([sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def main() -> int:
    """Parse, run quietly, then with kills; print what was counted. Exit code 1 if anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="?", default="digits")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--executor", choices=["inline", "ray"], default="inline")
    parser.add_argument("--shard-size", type=int, default=25)
    parser.add_argument("--earliest", type=float, default=0.2, help="seconds")
    parser.add_argument("--latest", type=float, default=5.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    o = parser.parse_args()
    dice, tally = random.Random(o.seed), Tally()
    with tempfile.TemporaryDirectory() as folder, cluster(o.executor == "ray") as address:
        quiet, root = Path(folder) / "quiet", Path(folder) / "disturbed"
        began = time.monotonic()
        first = Driver(command(o, quiet, address), Path(folder) / "said.txt")
        if not first.wait() or first.code:
            sys.exit(first.said.read_text())
        pieces = sum(entry["event"] == "end" for entry in journal(quiet / "runs"))
        print(f"quiet: {time.monotonic() - began:.0f} s, {pieces} pieces of work", flush=True)
        while tally.kills < o.kills and len(tally.wrong_ends) <= 5:
            disturbed(o, root, address, dice, tally)
            tally.differing += differences(root, quiet)
            print(f"round {tally.rounds}: {tally}", flush=True)
            shutil.rmtree(root)
    print(
        f"{o.executor}: {tally.kills} kills in {tally.rounds} rounds ({tally.idle} before any work was begun), "
        f"{tally.again} pieces begun again, {tally.repeated} finished twice, {tally.unnoted} killed between saving and "
        f"noting it, {tally.differing} shards or tables lost or different, {len(tally.wrong_ends)} other exits"
        f" {tally.wrong_ends}"
    )
    return int(bool(tally.repeated or tally.differing or tally.wrong_ends))


if __name__ == "__main__":
    sys.exit(main())

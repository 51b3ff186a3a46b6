"""Ray from the command line: a machine that is lost, Ctrl-C, clusters that cannot be used."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robench.errors import BadInput
from robench.executors import ray_cluster as cluster
from robench.store.claims import journal
from robench.store.runs import Store
from tests.integration.conftest import Outcome, Run, assert_refused, wait_for
from tests.same import assert_same_shards

MODEL = """
import time
from pathlib import Path

import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        while Path("hold").exists() and len(x) < 100:  # so many at once ask for the pixels it wants, before any shard
            time.sleep(0.02)
        return self.head(x.flatten(1))


def load(): return Slow().eval()
"""
EVALUATE = ("evaluate", "slow.py:load", "plain", "-a", "fgsm,multi-targeted", "--dataset", "digits", "--eps", "0.1",
            "-n", "60", "--shard-size", "15", "--steps", "5", "--json")  # fmt: skip
SHORT = ("evaluate", "plain", "-a", "fgsm", "-n", "20", "--eps", "0.2")  # nothing of which is in the store


def _parent(process: int) -> int | None:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _session(leader: int) -> list[str]:
    """The command lines of the processes that are alive in the session of the process `leader`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return found


NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed({seed})
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        from helper import SIGN
        return {sign} * SIGN * self.head(x.flatten(1))
"""


def test_workers_load_each_file_by_itself_and_anew(robench: Run, tmp_path: Path, ray_cluster: Any) -> None:
    """Each folder has a net.py and a helper.py of its own; the workers stay from one command to the next."""

    def write(name: str, seed: int, sign: int, helper: int = 1) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "model.py").write_text("from net import Net\ndef load(): return Net().eval()\n")
        (tmp_path / name / "net.py").write_text(NET.format(seed=seed, sign=sign))
        (tmp_path / name / "helper.py").write_text(f"SIGN = {helper}\n")
        return f"{name}/model.py:load"

    data = ("--dataset", "digits?draw=first", "-n", "60", "--shard-size", "30")
    options = ("-a", "fgsm", *data, "--eps", "0.05", "--json")
    place = ("--executor", "ray", "--address", ray_cluster.address, "--runs", "there")
    seen = []
    for sign in (1, -1):
        models = write("A", 4, sign), write("B", 3, 1, helper=-1)
        found = _figures(robench("evaluate", *models, *options, *place).json)
        assert found == _figures(robench("evaluate", *models, *options, "--runs", "here").json)
        seen.append([round(60 * row["clean_accuracy"]) for row in found])
    assert seen == [[4, 5], [8, 5]]


# --- machines and processes that go ----------------------------------------------------------------------------------


def test_an_evaluation_survives_the_loss_of_a_machine(store: Path, robench: Run, ray_cluster: Any) -> None:
    """Of two machines one is lost with a shard on it; the figures, rows and images are those of one process."""
    Path("slow.py").write_text(MODEL)
    shutil.copytree(store, "here")
    expected = robench(*EVALUATE, "--runs", "here").json
    machine = ray_cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    (raylet,) = (info.process.pid for info in machine.all_processes["raylet"])
    lost: list[tuple[str, int]] = []

    def lose() -> None:
        end = time.monotonic() + 240
        while not lost and time.monotonic() < end:
            for line in journal(store):
                if line["event"] == "begin" and _parent(line["process"]) == raylet:
                    lost.append((line["work"], line["process"]))
            time.sleep(0.02)
        ray_cluster.remove_node(machine, allow_graceful=False)
        for _, process in lost:  # it goes with its machine
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        Path("hold").unlink()

    Path("hold").touch()
    thread = threading.Thread(target=lose)
    thread.start()
    try:
        place = ("--executor", "ray", "--address", ray_cluster.address, "--cpus-per-task", "2")  # one task per machine
        found = robench(*EVALUATE, *place).json
    finally:
        thread.join()
    assert lost, "the second machine got no task"
    assert _figures(found) == _figures(expected)
    one, two = Store(Path("here")), Store(store)
    assert one.evaluation_ids() == two.evaluation_ids()
    for a, b in ((one.evaluation(i), two.evaluation(i)) for i in one.evaluation_ids()):
        assert_same_shards(a, b)
    events = [line["event"] for line in journal(store) if line["work"] == lost[0][0]]
    assert events == ["begin", "begin", "end"], "what it was at is begun again elsewhere"


def _figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes started meanwhile get Ctrl-C, also where the tests run in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_twice_stops_workers_and_a_cluster_of_its_own(store: Path, robench: Run) -> None:
    Path("slow.py").write_text(MODEL)
    Path("hold").touch()
    command = [sys.executable, "-m", "robench", *EVALUATE, "--executor", "ray", "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        before = len(journal(store))
        wait_for(lambda: len(journal(store)) > before, process, 240)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of its processes get it
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 30
        assert process.returncode == 130
        assert out == ""
        assert [line for line in err.splitlines() if "images" not in line] == [
            "robench: Interrupted; what was finished is kept, and the same command goes on from there."
        ]
        end = time.monotonic() + 20
        while _session(process.pid):
            assert time.monotonic() < end, _session(process.pid)
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert not list((store / "locks").glob("driver-*"))
    Path("hold").unlink()
    assert [row["status"] for row in robench(*EVALUATE).json["rows"]] == ["complete"] * 4


# --- what cannot be used ---------------------------------------------------------------------------------------------

RAY = ("--executor", "ray")
NAMES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--executor", "rai"), ("'rai'", "did you mean 'ray'?", "inline")),
    (("--workers", "2"), ("--workers is 2", "--executor ray")),
    (("--workers", "two", *RAY), ("--workers", "'two' is not a whole number")),
    (("--workers", "0", *RAY), ("--workers is 0", "from 1 to")),
    (("--cpus-per-task", "0", *RAY), ("--cpus-per-task is 0.0", "0.01")),
    (("--cpus-per-task", "1.5", *RAY), ("--cpus-per-task is 1.5", "a whole number")),
    (("--cpus-per-task", "nan", *RAY), ("--cpus-per-task", "'nan' is not a number")),
    (("--cpus-per-task", "inf", *RAY), ("--cpus-per-task", "'inf' is not a number")),
    (("--cpus-per-task", "2"), ("--cpus-per-task is 2.0", "--executor ray")),
    (("--gpus-per-task", "-1", *RAY), ("--gpus-per-task is -1.0", "from 0 to 1")),
    (("--gpus-per-task", "2", *RAY), ("--gpus-per-task is 2.0", "from 0 to 1")),
    (("--gpus-per-task", "0.5"), ("--gpus-per-task is 0.5", "--executor ray")),
    (("--address", "auto"), ("--address is auto", "--executor ray")),
    (("--address", "head", *RAY), ("--address is 'head'", "HOST:PORT")),
    (("--address", "ray://head:10001", *RAY), ("--address is 'ray://head:10001'", "HOST:PORT")),
    (("--address", "127.0.0.1:99999999", *RAY), ("--address is '127.0.0.1:99999999'", "ray start --head")),
]


@pytest.mark.parametrize(("arguments", "names"), NAMES, ids=[" ".join(case[0]) for case in NAMES])
def test_a_setting_that_cannot_be_is_one_sentence(
    arguments: tuple[str, ...], names: tuple[str, ...], store: Path, robench: Run
) -> None:
    assert_refused(robench(*SHORT, *arguments), names)


def _refuses(robench: Run, *arguments: str) -> tuple[Outcome, float]:
    began = time.monotonic()
    outcome = robench(*SHORT, *RAY, *arguments)
    return outcome, time.monotonic() - began


def test_a_cluster_that_is_not_there_is_one_sentence(
    store: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome, seconds = _refuses(robench, "--address", f"127.0.0.1:{port}")
    assert_refused(outcome, (f"127.0.0.1:{port}", "refused", "ray start --head"))
    assert seconds < 15
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    outcome, _ = _refuses(robench)
    assert_refused(outcome, (f"127.0.0.1:{port}", "RAY_ADDRESS"))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH", b""])
def test_a_server_that_is_not_rays_is_one_sentence(answer: bytes, store: Path, robench: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def serve() -> None:
            there, _ = server.accept()
            there.recv(100)
            there.sendall(answer)
            there.close()

        thread = threading.Thread(target=serve)
        thread.start()
        outcome, seconds = _refuses(robench, "--address", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert_refused(outcome, ("is not Ray", "ray start --head"))
    assert seconds < 15


class Pretended:
    """Ray as far as it is needed to connect; `faults` are raised by one `init` after the other, which prints too."""

    exceptions = SimpleNamespace(AuthenticationError=PermissionError)

    def __init__(self, *faults: Exception, prints: str = "gcs_client.cc: Failed to connect") -> None:
        self.faults, self.prints, self.inits, self.open = list(faults), prints, 0, False

    def is_initialized(self) -> bool:
        return self.open

    def init(self, *_: object, **__: object) -> None:
        assert not self.open
        self.inits, self.open = self.inits + 1, True
        os.write(2, self.prints.encode())
        if self.faults:
            raise self.faults.pop(0)

    def shutdown(self) -> None:
        self.open = False

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 3.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]

    def remote(self, **_: object) -> Any:
        return lambda function: function


SLOW = RuntimeError("The current node timed out during startup.\nMore of it.")


def test_a_start_that_takes_too_long_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = Pretended(SLOW)
    monkeypatch.setattr(cluster, "package", lambda: ray)
    there = cluster.Cluster(None, None, 0.3, 0.0, tmp_path)
    assert ray.inits == 2
    assert there.places() == 10 + cluster.QUEUED, "ten times 0.3 of three cores"
    there.close(())
    assert not ray.open
    ray = Pretended(SLOW, SLOW)
    with pytest.raises(BadInput, match=r"^Ray cannot be started here \(The current node timed out during startup\);"):
        cluster.Cluster(None, None, 1.0, 0.0, tmp_path)
    assert (ray.inits, ray.open) == (2, False)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.rglob("driver-*")) == []


@pytest.mark.parametrize(
    ("ray", "reason"),
    [
        (Pretended(ConnectionError("Failed."), prints="RPC error: InvalidAuthToken"), ".* RAY_AUTH_MODE=token.*"),
        (Pretended(PermissionError("No token found.")), ".* RAY_AUTH_MODE=token.*"),
        (Pretended(RuntimeError("Version mismatch: 2.9\nagainst 2.60")), "Version mismatch: 2.9"),
    ],
)
def test_a_cluster_that_does_not_let_us_in_is_one_sentence(
    ray: Pretended,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "package", lambda: ray)
    with pytest.raises(BadInput, match=rf"^The Ray cluster 'auto' cannot be used \({reason}\); start one"):
        cluster.Cluster("auto", 2, 1.0, 0.0, tmp_path)
    assert (ray.inits, ray.open) == (1, False)
    assert capfd.readouterr().err == ""


def test_as_many_tasks_are_sent_as_keep_the_workers_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "package", Pretended)
    for workers, places in ((None, 3 + cluster.QUEUED), (3, 3 + cluster.QUEUED), (8, 3 + cluster.QUEUED), (2, 2)):
        there = cluster.Cluster("auto", workers, 1.0, 0.0, tmp_path)
        assert there.places() == places, "where Ray would run more than asked for at once, none waits there"
        there.close(())


def test_a_task_that_fits_nowhere_and_a_gpu_that_is_not_reserved_are_one_sentence(
    store: Path, robench: Run, ray_cluster: Any
) -> None:
    outcome, _ = _refuses(robench, "--address", ray_cluster.address, "--cpus-per-task", "64")
    assert_refused(outcome, ("--cpus-per-task 64", "the largest has 2 CPUs and 0 GPUs"))
    outcome, _ = _refuses(robench, "--address", ray_cluster.address, "--gpus-per-task", "0.5")
    assert_refused(outcome, ("--gpus-per-task 0.5", "the largest has 2 CPUs and 0 GPUs"))


def test_without_ray_it_says_how_to_install_it(store: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome, _ = _refuses(robench)
    assert_refused(outcome, ("pip install 'robench[ray]'",))
    assert not list((store / "locks").glob("driver-*"))

"""A Ray cluster: reaching one or starting one, and sending tasks to its workers."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from robench.errors import BadInput, RobenchError, first_line, shown
from robench.executors.base import There
from robench.executors.ray_worker import Driver, run
from robench.progress import say
from robench.store.claims import LOCKS
from robench.store.files import write_text

# how often a task is tried again after its worker or its machine died; it may have been done by then, which is harmless
RETRIES = 3
# seconds: to reach a cluster; between two looks at its size
REACH, REFRESH = 10.0, 10.0
# tasks that wait in the cluster, so that no worker waits for this process
QUEUED = 2
# bytes of shared memory for a cluster of our own: what passes through it are a few words per task
PLASMA = 80 * 2**20
# what Ray reads when it is imported: report nothing; under `uv run`, send the workers no copy of the working folder;
# and when a machine is lost, print nothing on our stdout, where the JSON goes
MANNERS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# seconds that Ray may take to reach a server that is there
PATIENCE = ("RAY_gcs_server_port_wait_time_s", "10")
SECRET = "it asks for its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless it is in ~/.ray/auth_token"
# the first bytes of HTTP/2, which Ray's servers speak, and the kind of frame they answer with
HELLO, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4


class WorkerDied(RobenchError):
    """A task was given up because its worker or its machine died."""


class Cluster:
    """Workers reached through Ray. Tasks go in and answers come out; the results travel through the runs folder.

    address: HOST:PORT of a running cluster's head, "auto" for the one on this machine, "local" for one of our own; if
    None, RAY_ADDRESS or our own. workers: tasks at once, as many as there is room for if None. cpus, gpus: what each
    reserves. root: the runs folder. Raises BadInput where Ray is missing or the cluster cannot be used.
    """

    def __init__(self, address: str | None, workers: int | None, cpus: float, gpus: float, root: Path) -> None:
        self.ray = package()
        self.workers, self.cpus, self.gpus = workers, cpus, gpus
        self.token = root.resolve() / LOCKS / f"driver-{uuid.uuid4().hex[:12]}"
        self.ours = not self.ray.is_initialized()  # a program may have started Ray itself
        self._room, self._looked, self._waiting = 0, -math.inf, False
        self._terminated = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        write_text(self.token, "the process that sends tasks for this folder is running\n")
        try:
            if self.ours:
                self._connect(address or os.environ.get("RAY_ADDRESS") or "local")
                if _main():  # a batch system's signal; under Ray's own handler the process would abort in Ray's code
                    signal.signal(signal.SIGTERM, signal.default_int_handler)
            self._check_room()
            self.driver = asdict(Driver.here(self.token, cpus, gpus))
            self.function = self.ray.remote(
                num_cpus=cpus,
                num_gpus=gpus,
                max_retries=RETRIES,
                max_calls=0,  # 1 is Ray's default with a GPU: a process, and its models, anew for every task
                runtime_env={"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}} if gpus else None,
            )(run)
        except BaseException:
            self.close(())
            raise

    def places(self) -> int:
        """How many tasks are worth sending altogether, as of a few seconds ago."""
        room = self._capacity()
        if self.workers is None or room <= self.workers:
            return max(room, 1) + QUEUED
        return self.workers  # Ray would run more of them at once

    def send(self, function: There, task: Mapping[str, Any]) -> Any:
        """Send a task for `function`; returns what stands for its answer."""
        return self.function.remote(function, task, self.driver)

    def first(self, running: Iterable[Any], seconds: float = REFRESH) -> Any | None:
        """Wait so long for the first answer among those that are running; returns what stands for it, None for none."""
        ready, _ = self.ray.wait(list(running), num_returns=1, timeout=seconds)
        if ready:
            self._waiting = False
            return ready[0]
        if self._capacity() == 0 and not self._waiting:
            self._waiting = True
            say("No machine of the cluster has room for a task now; waiting for one (Ctrl-C stops).")
        return None

    def answer(self, reference: Any) -> dict[str, Any]:
        """What `run` returned. Raises WorkerDied, and BadInput where the workers cannot run robench."""
        errors = self.ray.exceptions
        try:
            found: dict[str, Any] = self.ray.get(reference)
            return found
        except errors.RayTaskError as error:  # `run` catches its own, so it could not be loaded
            reason = first_line(error.cause or error, end=".: ")
            raise BadInput(
                f"A worker cannot run robench ({reason}); install the same version of it on every machine."
            ) from None
        except errors.OutOfMemoryError:
            raise WorkerDied(
                "the machine's memory ran out and Ray ended the worker; give fewer --workers or more --cpus-per-task"
            ) from None
        except errors.NodeDiedError:
            raise WorkerDied(f"its machine was lost, and so were {RETRIES} after it; see 'ray status'") from None
        except errors.WorkerCrashedError:
            raise WorkerDied(
                f"its process died {RETRIES + 1} times; the logs of Ray on its machine, /tmp/ray/session_latest/logs, "
                "may say why"
            ) from None
        except errors.RayError as error:
            raise WorkerDied(first_line(error, end=".: ")) from None

    def close(self, running: Iterable[Any]) -> None:
        """Give up what a worker has begun, and stop what was started. Another Ctrl-C meanwhile changes nothing."""
        with _uninterrupted():
            with contextlib.suppress(OSError):
                self.token.unlink()
            with contextlib.suppress(OSError):  # of a runs folder that is lost
                for reference in running:
                    with contextlib.suppress(Exception):  # it may just have ended
                        self.ray.cancel(reference, force=True)
            if self.ours:
                self.ray.shutdown()
                if _main():
                    signal.signal(signal.SIGTERM, self._terminated)

    def _connect(self, address: str) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address != "local":
            check_address(address)
        try:
            with _muted() as said:
                if address == "local":
                    self._start(quiet)
                else:
                    os.environ.setdefault(*PATIENCE)
                    self.ray.init(address, **quiet)
        except Exception as error:  # Ray raises nearly anything here
            if address == "local":
                raise BadInput(
                    f"Ray cannot be started here ({first_line(error, end='.: ')}); its logs are in "
                    "/tmp/ray/session_latest/logs, and --executor inline does without it."
                ) from error
            secret = "AuthToken" in said() or isinstance(error, self.ray.exceptions.AuthenticationError)
            raise _unreachable(address, SECRET if secret else first_line(error, end=".: ")) from error

    def _start(self, quiet: Mapping[str, Any]) -> None:
        """Start a cluster of our own; once more if it takes longer than Ray allows, as on a busy machine."""
        if not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray's own would stay behind in the user's home
        cores = math.ceil((self.workers or _cores() // self.cpus or 1) * self.cpus)
        # Ray would repeat what ran out of memory without end, and let everything else on the machine go first
        system = {"task_oom_retries": RETRIES, "worker_niceness": 0}
        for last in (False, True):
            try:
                self.ray.init(
                    "local",
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=PLASMA,
                    _system_config=system,
                    **quiet,
                )
                return
            except Exception:
                self.ray.shutdown()
                if last:
                    raise

    def _check_room(self) -> None:
        if self._capacity() == 0:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            most = max(((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes), default=(0.0, 0.0))
            raise BadInput(
                f"No machine of the cluster has room for a task with --cpus-per-task {self.cpus:g} and --gpus-per-task "
                f"{self.gpus:g}; the largest has {most[0]:g} CPUs and {most[1]:g} GPUs."
            )

    def _capacity(self) -> int:
        """How many tasks all living machines have room for."""
        if time.monotonic() - self._looked >= REFRESH:
            found = [self._fit(node["Resources"]) for node in self.ray.nodes() if node["Alive"]]
            self._room, self._looked = sum(found), time.monotonic()
        return self._room

    def _fit(self, has: Mapping[str, float]) -> int:
        shares = [has.get("CPU", 0.0) / self.cpus] + ([has.get("GPU", 0.0) / self.gpus] if self.gpus else [])
        return math.floor(min(shares) + 1e-9)  # 1 / 0.1 is ten


def package() -> ModuleType:
    """Ray, imported when it is used. Raises BadInput where it is missing."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise BadInput(
            f"The executor ray needs Ray ({error}); install it with: pip install 'robench[ray]', or give "
            "--executor inline."
        ) from None
    return ray


def check_form(address: object) -> None:
    """Raises BadInput for an address that can be no cluster's."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16 or "/" in host:
        raise BadInput(
            f"--address is {shown(address)}, but must be HOST:PORT of a cluster's head as 'ray start --head' prints "
            "it, auto for the cluster on this machine, or local for one of its own."
        )


def check_address(address: str) -> None:
    """Raises BadInput unless a server of Ray's may be there: Ray itself would try for minutes."""
    check_form(address)
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH) as there:
            there.sendall(HELLO)
            answer = there.recv(9)
    except (OSError, OverflowError) as error:
        raise _unreachable(address, first_line(error, end=".: ")) from None
    encrypted = os.environ.get("RAY_USE_TLS", "0") != "0"
    if not encrypted and (len(answer) < 4 or answer[3] != SETTINGS):
        raise _unreachable(address, "what is there is not Ray")


def _unreachable(address: str, reason: str) -> BadInput:
    return BadInput(
        f"The Ray cluster {address!r} cannot be used ({reason}); start one with 'ray start --head', give its HOST:PORT "
        "as --address, or leave --address and RAY_ADDRESS out to use this machine alone."
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _muted() -> Iterator[Callable[[], str]]:
    """What Ray's C++ prints on stderr goes nowhere; yields what tells it afterwards."""
    with tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        said = b""
        try:
            yield lambda: said.decode(errors="replace")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            said = aside.read()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored for the seconds that this lasts; only the main thread is asked about it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if _main() else None
    try:
        yield
    finally:
        if _main():
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _main() -> bool:
    """Whether this thread may say what signals do."""
    return threading.current_thread() is threading.main_thread()

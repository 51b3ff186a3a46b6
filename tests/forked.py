"""Commands in new processes that need not import the libraries first, which takes longer than what they do.

They are forked from one that has loaded libraries and nothing of robench, which each imports for itself, from its own
path and as its code is then. What they start to answer for a model (robench/trust/runner.py) is forked likewise, from a
process that has not loaded robench either. For tests of how a process starts and ends there is `run_module` of
conftest: these have neither closed streams nor what Python does last.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

# seconds after which a command is taken to hang: machines are slow, and busy, by several times
PATIENCE = 600
LIBRARIES = (
    "torch", "torchvision", "pytorch_lightning", "numpy", "pandas", "pyarrow.parquet", "pydantic", "cloudpickle",
    "typer", "rich.progress", "rich.table", "sklearn.datasets", "sklearn.linear_model", "sklearn.metrics",
    "scipy.stats", "PIL.Image",
)  # fmt: skip
RUNNER = ("trust", "runner.py")


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


class Forked:
    """A running `python -m robench ...`, or `python -c` with the text of a program, that is asked as a Popen is.

    In the working folder, unless another is given.
    """

    def __init__(
        self,
        *arguments: str | Path,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        self.args = [str(each) for each in arguments]
        # files, so that nobody has to read for it to go on
        self.stdout, self.stderr = (tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        where = folder or Path.cwd(), dict(environment or os.environ), self.stdout.name, self.stderr.name
        self._process = _context().Process(target=_command, args=(program, self.args, *where))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, a signal's number below 0, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, sent: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, sent)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All of its stdout and stderr, once it has ended. Raises subprocess.TimeoutExpired."""
        self.wait(timeout)
        said = Path(self.stdout.name).read_text(), Path(self.stderr.name).read_text()
        for stream in (self.stdout, self.stderr):
            stream.close()
        return said


def run(*arguments: str | Path, **settings: Any) -> tuple[int, str, str]:
    """The same until it has ended: exit code, stdout and stderr."""
    process = Forked(*arguments, **settings)
    try:
        out, err = process.communicate(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.wait(), out, err


def _command(
    program: str | None, arguments: list[str], folder: Path, environment: dict[str, str], out: str, err: str
) -> None:
    loaded = [name for name in sys.modules if name.partition(".")[0].startswith("robench")]
    assert not loaded, loaded
    os.fsync = lambda fd: None  # as tests/conftest.py has it
    subprocess.Popen = _with_runners(_spare())  # type: ignore[assignment,misc]
    for place, stream in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(place, os.O_RDWR | os.O_TRUNC if stream else os.O_RDONLY), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    own = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [str(folder), *own, *(each for each in sys.path if each not in ("", os.getcwd()))]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    importlib.invalidate_caches()
    sys.argv[:] = ["robench", *arguments]
    if program is None:
        runpy.run_module("robench", run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


def _spare() -> socket.socket:
    """A socket to a process that becomes the runner of the words it is sent, with the socket that they need."""
    mine, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return mine
    mine.close()
    os.setsid()
    message, handles, *_ = socket.recv_fds(theirs, 2**16, 1)
    if message:
        for stream in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        script, _, *libraries = json.loads(message)
        sys.argv[:] = [script, str(handles[0]), *libraries]
        with contextlib.suppress(SystemExit):
            runpy.run_path(script, run_name="__main__")
    os._exit(0)


def _with_runners(spare: socket.socket) -> type[subprocess.Popen[Any]]:
    """Popen for whose first process of a runner the spare one is taken."""

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, words: Any, *rest: Any, pass_fds: Any = (), **settings: Any) -> None:
            runner = isinstance(words, list) and len(words) > 2 and Path(words[2]).parts[-2:] == RUNNER
            if not runner or spare.fileno() < 0:
                super().__init__(words, *rest, pass_fds=pass_fds, **settings)
                return
            with spare:
                socket.send_fds(spare, [json.dumps(words[2:]).encode()], list(pass_fds))

    return Popen

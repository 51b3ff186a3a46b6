"""Commands in new processes that need not import the libraries first, which takes longer than what they do.

They are forked from one that has loaded libraries and nothing of robench, which each imports for itself, from its own
path and as its code is then. For tests of how a process starts there is `run_module` of conftest.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

LIBRARIES = (
    "torch", "torchvision", "pytorch_lightning", "numpy", "pandas", "pyarrow.parquet", "pydantic", "cloudpickle",
    "typer", "rich.progress", "sklearn.datasets", "PIL.Image",
)  # fmt: skip


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


def run(
    *arguments: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """`python -m robench ...` in a folder, the working folder by default: exit code, stdout and stderr."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        given = [str(each) for each in arguments], folder or Path.cwd(), dict(environment or os.environ), out, err
        process = _context().Process(target=_command, args=given)
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"robench {' '.join(given[0])}")
        return process.exitcode, out.read_text(), err.read_text()


def _command(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    loaded = [name for name in sys.modules if name.partition(".")[0].startswith("robench")]
    assert not loaded, loaded
    for place, stream in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    own = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = [str(folder), *own, *(each for each in sys.path if each not in ("", os.getcwd()))]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    importlib.invalidate_caches()
    sys.argv[:] = ["robench", *arguments]
    runpy.run_module("robench", run_name="__main__", alter_sys=True)

"""What a worker on a cluster does with a task, and how it tells of an error."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robench.errors import BadInput, CheckFailed, DiskError, Permanent, RobenchError, contained, place_of
from robench.executors.base import There
from robench.executors.word import sending
from robench.text.terminal import kept

# seconds until a file of the driver's shows up on another machine
APPEAR = 15.0
# errors that arrive with their type; of any other one the name and the text are told
KNOWN: tuple[type[Exception], ...] = (DiskError, BadInput, CheckFailed, Permanent, RobenchError, OSError)


@dataclass(frozen=True)
class Driver:
    """What a worker takes over from the process that sends tasks, so that names mean the same there.

    folder, path: where references such as file.py:factory are looked up. argv: the command that is recorded. data:
    ROBENCH_DATA. kernels: MKL_CBWR, see `robench`. token: a file in the runs folder, which a worker must see. cpus,
    gpus: what is reserved for a task.
    """

    folder: str
    path: tuple[str, ...]
    argv: tuple[str, ...]
    data: str | None
    kernels: str | None
    token: str
    cpus: float
    gpus: float

    @classmethod
    def here(cls, token: Path, cpus: float, gpus: float) -> Driver:
        """This process."""
        data, kernels = os.environ.get("ROBENCH_DATA"), os.environ.get("MKL_CBWR")
        return cls(os.getcwd(), tuple(sys.path), tuple(sys.argv), data, kernels, str(token), cpus, gpus)


def run(function: There, task: Mapping[str, Any], driver: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker does with a task; returns {"state": what `function` does}, or what `told` makes of an error, and as
    "said" the lines that were said."""
    with kept() as said:
        try:
            sender = Driver(**driver)
            _settle(sender)
            with sending(Path(task["root"]), task["key"]):
                return {"state": function(task, partial(_device, gpus=sender.gpus)), "said": said}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's model does, and were it to end the process
            return {**told(contained(error)), "said": said}


def told(error: Exception) -> dict[str, Any]:
    """An error as JSON; a pickled one might need a user's module where it is read."""
    kind = next((kind.__name__ for kind in type(error).__mro__ if kind in KNOWN), None)
    system = None
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        system = [error.errno, error.strerror, os.fsdecode(name) if isinstance(name, bytes | os.PathLike) else name]
    return {
        "error": type(error).__name__,
        "kind": kind,
        "text": str(error),
        "system": system,
        "place": place_of(error),
        "trace": "".join(traceback.format_exception(error)),
    }


def retold(answer: Mapping[str, Any]) -> Exception:
    """The error of `told`: of the nearest known type, else of an unknown one with its name; the same text."""
    if answer["kind"] == "OSError" and answer["system"]:
        return OSError(*answer["system"])
    kinds = {kind.__name__: kind for kind in KNOWN}
    kind: type[Exception] = kinds.get(answer["kind"]) or type(answer["error"], (Exception,), {})
    error = kind(answer["text"])
    vars(error).update({name: answer[name] for name in ("place", "trace") if name in answer})
    return error


# tokens that this process has seen
_seen: set[str] = set()


def _settle(driver: Driver) -> None:
    """Take over what is the driver's. Raises what `_check_driver` does."""
    with contextlib.suppress(OSError):  # a machine may lack the folder, and the references may not need it
        os.chdir(driver.folder)
    sys.path += [place for place in driver.path if place not in sys.path]
    sys.argv = list(driver.argv)
    for name, value in (("ROBENCH_DATA", driver.data), ("MKL_CBWR", driver.kernels)):
        if value is not None:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    threads = max(1, math.floor(driver.cpus))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    _check_driver(Path(driver.token))


def _check_driver(token: Path) -> None:
    """Raises RobenchError where the driver has stopped, and DiskError, which ends the run, where its runs folder is not
    here: results written to a folder that only has the same name would be lost."""
    end = time.monotonic() + APPEAR
    while not token.exists():
        if str(token) in _seen:
            raise RobenchError("The process that sent this task has stopped.")
        if time.monotonic() > end:
            raise DiskError(
                f"The runs folder {token.parent.parent} is not on worker {platform.node()}; put it on a file system "
                "that all machines share."
            )
        time.sleep(0.5)
    _seen.add(str(token))


def _device(asked: str, gpus: float) -> str:
    """The device of a task: for "auto" the GPU that Ray reserved, and the CPU where it reserved none.

    A process keeps the GPUs that it saw first, but Ray may reserve it another one for the next task; so it sees all of
    its machine's, and the reserved one goes by its number. Raises BadInput where torch cannot use it.
    """
    if not gpus or not asked.startswith(("auto", "cuda")):
        return "cpu" if asked == "auto" else asked
    import ray

    given = ray.get_gpu_ids()[0]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    index = visible.split(",").index(str(given)) if visible else int(given)
    if index >= torch.cuda.device_count():
        raise BadInput(
            f"Ray reserved GPU {given} on worker {platform.node()}, but torch there cannot use it; give "
            "--gpus-per-task 0, or check the machine's driver and its torch."
        )
    return f"cuda:{index}"

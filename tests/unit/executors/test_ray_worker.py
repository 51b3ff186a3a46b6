"""What a worker takes over from the driver, where it computes, and how it tells of an error."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robench.errors import BadInput, CheckFailed, DiskError
from robench.evaluation.tasks import perform_json
from robench.executors import ray_worker
from robench.executors.base import State
from robench.executors.ray_worker import retold, told
from robench.executors.word import listen
from robench.progress import bar, say
from robench.store.files import Damaged


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (3.0, 3)])
@pytest.mark.parametrize("data", [None, "elsewhere"])
def test_a_worker_takes_over_what_names_mean_to_the_driver(
    cpus: float, threads: int, data: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROBENCH_DATA", "the worker's"), ("OMP_NUM_THREADS", "7"), ("MKL_CBWR", "COMPATIBLE")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", ["first"])
    monkeypatch.setattr(sys, "argv", ["default_worker.py"])
    monkeypatch.chdir("/")
    token = tmp_path / "driver-1"
    token.touch()
    before = torch.get_num_threads()
    try:
        ray_worker._settle(
            ray_worker.Driver(
                str(tmp_path), ("mine", "first"), ("robench", "check"), data, "AUTO,STRICT", str(token), cpus, 0.0
            )
        )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    assert os.environ.get("ROBENCH_DATA") == data
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    assert (Path.cwd(), sys.path, sys.argv) == (tmp_path, ["first", "mine"], ["robench", "check"])


def test_a_runs_folder_that_a_worker_does_not_have_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name on the worker's own disk would take in results that nobody reads."""
    monkeypatch.setattr(ray_worker, "APPEAR", 0.0)
    sender = ray_worker.Driver.here(tmp_path / "runs" / "locks" / "driver-1", 1.0, 0.0)
    monkeypatch.setattr(sys, "path", [*sys.path])
    answer = ray_worker.run(perform_json, {}, json.loads(json.dumps(vars(sender))))
    error = ray_worker.retold(answer)
    assert isinstance(error, DiskError)
    assert str(error).startswith(f"The runs folder {tmp_path / 'runs'} is not on worker ")


def test_a_worker_leaves_the_tasks_of_a_driver_that_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "driver-1"
    sender = json.loads(json.dumps(vars(ray_worker.Driver.here(token, 1.0, 0.0))))
    monkeypatch.setattr(sys, "path", [*sys.path])
    token.touch()
    assert ray_worker.run(perform_json, {}, sender)["error"] == "KeyError", "the task is looked at"
    token.unlink()
    assert ray_worker.run(perform_json, {}, sender)["text"] == "The process that sent this task has stopped."


def test_a_worker_tells_what_it_would_say_and_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token, heard = tmp_path / "driver-1", []
    sender = json.loads(json.dumps(vars(ray_worker.Driver.here(token, 1.0, 0.0))))
    monkeypatch.setattr(sys, "path", [*sys.path])
    token.touch()

    def work(task: Mapping[str, Any], device: object) -> State:
        say("a sentence for the user")
        with bar("a training") as shown:
            shown.update(0.25, "epoch 1/4")
        heard.append(listen(tmp_path, "key"))
        if task["fails"]:
            raise BadInput("No.")
        return "done"

    task = {"root": str(tmp_path), "key": "key", "fails": False}
    assert ray_worker.run(work, task, sender) == {"state": "done", "said": ["a sentence for the user"]}
    assert ray_worker.run(work, {**task, "fails": True}, sender)["said"] == ["a sentence for the user"]
    assert heard == [(0.25, "epoch 1/4")] * 2
    assert listen(tmp_path, "key") is None
    assert capsys.readouterr() == ("", "")
    say("by this process")
    assert capsys.readouterr().err == "robench: by this process\n"


def test_a_word_that_is_none_is_not_heard(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    for text in ("", "[0.5", "[1]", "{}", '["a", "b"]', "3"):
        (tmp_path / "locks" / "key.word").write_text(text)
        assert listen(tmp_path, "key") is None


@pytest.mark.parametrize(
    ("asked", "gpus", "given", "visible", "means"),
    [
        ("auto", 0.0, None, None, "cpu"),
        ("cpu", 0.0, None, None, "cpu"),
        ("cpu", 1.0, 0, None, "cpu"),
        ("auto", 0.25, 1, None, "cuda:1"),
        ("cuda", 1.0, 3, None, "cuda:3"),
        ("auto", 1.0, "5", "2,5,7", "cuda:1"),
        ("auto", 1.0, "GPU-b", "GPU-a,GPU-b", "cuda:1"),
    ],
)
def test_a_task_computes_where_ray_reserved_a_place(
    asked: str, gpus: float, given: Any, visible: str | None, means: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU that Ray reserved by its number among those the process sees, and the CPU where it reserved none."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_gpu_ids=lambda: [given]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ray_worker._device(asked, gpus) == means
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    if means != "cpu":
        with pytest.raises(BadInput, match=f"^Ray reserved GPU {given} on worker .* --gpus-per-task 0"):
            ray_worker._device(asked, gpus)


class Odd(Exception):
    """An exception that cannot be made from its text."""

    def __init__(self, code: int, more: object) -> None:
        super().__init__(f"code {code}")
        self.more = more


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadInput("Give another."), BadInput),
        (DiskError("No space."), DiskError),
        (CheckFailed("It does not hold."), CheckFailed),
        (Damaged("The file is damaged."), BadInput),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), OSError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", b"x"), FileNotFoundError),
        (TimeoutError("too slow"), OSError),
        (KeyError("pixels"), None),
        (Odd(7, threading.Lock()), None),
    ],
)
def test_an_error_arrives_with_its_type_and_text(error: Exception, kind: type[Exception] | None) -> None:
    again = retold(json.loads(json.dumps(told(error))))
    assert type(again).__name__ == (kind or type(error)).__name__
    assert str(again) == str(error).replace("b'x'", "'x'")
    assert isinstance(again, OSError) == isinstance(error, OSError)
    assert getattr(again, "errno", None) == getattr(error, "errno", None)

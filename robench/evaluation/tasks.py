"""The pieces of work an executor runs: each can be done anywhere, any number of times, and leaves its result in the
store."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from robench.attack.judge import Examples, Progress, Settings, attack_shard
from robench.data.dataset import Dataset, open_dataset
from robench.environment import made_with
from robench.errors import BadInput, RobenchError
from robench.evaluation.jobs import Job, Target, attacks_of, make_job, open_target, watched
from robench.evaluation.request import Request
from robench.executors.base import Executor, Show, State
from robench.executors.workers import Workers
from robench.store.claims import claim, note
from robench.store.files import digest
from robench.store.runs import Store
from robench.training.jobs import TrainRequest, train

# models that a process keeps open
KEPT = 4


@dataclass(frozen=True)
class Task:
    """One piece of work, as a worker on another machine can be told of it.

    "train": a model. "craft": a surrogate's images for the examples [start, stop). "shard": the rows of those examples.
    request: for the latter two about one model, one attack and at most one surrogate. behind: whether the detector
    that it names is attacked too. job: the evaluation's id, which the worker must come to as well.
    """

    kind: Literal["train", "craft", "shard"]
    key: str
    root: Path
    request: Request | TrainRequest
    start: int = 0
    stop: int = 0
    job: str = ""
    behind: bool = False

    @property
    def device(self) -> str:
        """What it was asked to be computed on."""
        return self.request.device

    @property
    def size(self) -> int:
        """How many images it computes; 0 for a training, whose epochs have a bar of their own."""
        return self.stop - self.start

    @property
    def title(self) -> str:
        """Model and attack, or the model that is trained."""
        request = self.request
        if not isinstance(request, Request):
            return self.key.removeprefix("train-")
        name, attack = request.models[0], request.attacks[0]
        name = name if isinstance(name, str) else type(name).__name__
        source = request.surrogates[0] if request.surrogates else ""
        source = source if isinstance(source, str) else type(source).__name__
        if self.kind == "craft":
            return f"{source}  {attack}"
        detector = f" + {request.guard.detector}" if self.behind and request.guard else ""
        return f"{name}  {attack}{detector}{f' from {source}' if source else ''}"

    @property
    def piece(self) -> str:
        """Which examples of that, or that it is a training."""
        return f"Examples {self.start}-{self.stop} of {self.title}" if self.size else f"Training {self.title}"

    def to_json(self) -> dict[str, Any]:
        """The task as JSON types; raises BadInput where it holds a module, which cannot be sent."""
        plain = {name: getattr(self, name) for name in ("kind", "key", "start", "stop", "job", "behind")}
        return {**plain, "root": str(self.root.resolve()), "request": self.request.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        """The task of `to_json`."""
        kind: Any = TrainRequest if value["kind"] == "train" else Request
        return cls(**{**value, "root": Path(value["root"]), "request": kind.from_json(value["request"])})


@dataclass
class Bench:
    """What a process has open: models with their data, and the jobs made of them. `keep` models at most."""

    store: Store
    keep: int = KEPT
    _targets: OrderedDict[Any, Target] = field(default_factory=OrderedDict)
    _jobs: dict[Any, Job] = field(default_factory=dict)
    _datasets: dict[Any, Dataset] = field(default_factory=dict)

    def target(self, reference: str | nn.Module, request: Request) -> Target:
        """The model and its data, opened once. Raises BadInput where they cannot be loaded."""
        key = (reference, request.dataset, request.data_root)
        if key not in self._targets:
            while len(self._targets) >= self.keep:
                self._forget(next(iter(self._targets)))
            self._targets[key] = open_target(reference, request, self.store, self._dataset)
        self._targets.move_to_end(key)
        return self._targets[key]

    def job(self, task: Task) -> Job:
        """The job a task belongs to. Raises BadInput where this process comes to another id than the task's."""
        if task.job not in self._jobs:
            found = self._job(task)
            if found.spec.job_id != task.job:  # what is open here may be from before a change
                self.clear()
                found = self._job(task)
            if found.spec.job_id != task.job:
                raise BadInput(
                    f"The evaluation {task.job} of {found.title} is {found.spec.job_id} where it is computed: the "
                    "model, the data or robench changed meanwhile; run the command again."
                )
            self._jobs[task.job] = found
        return self._jobs[task.job]

    def clear(self) -> None:
        """Close everything."""
        self._targets.clear()
        self._jobs.clear()
        self._datasets.clear()

    def _dataset(self, name: str, root: Path | None) -> Dataset:
        if (name, root) not in self._datasets:
            self._datasets[name, root] = open_dataset(name, root)
        return self._datasets[name, root]

    def _job(self, task: Task) -> Job:
        request = task.request
        assert isinstance(request, Request)
        source = self.target(request.surrogates[0], request) if request.surrogates else None
        target = self.target(request.models[0], request)
        if task.behind:
            behind = watched(target, request, self.store)
            assert behind is not None
            target = behind
        return make_job(request, self.store, target, attacks_of(request)[0], source)

    def _forget(self, key: Any) -> None:
        self._targets.pop(key).model.release()
        self._jobs.clear()  # they hold models too


def perform(task: Task, bench: Bench, show: Progress) -> State:
    """Do a task unless it is done, or being done elsewhere; what it makes is in the store before this returns.

    Raises BadInput for what cannot be used and DiskError where nothing can be written; any other exception is a model's
    or an attack's.
    """
    with claim(task.root, task.key) as mine:
        if not mine:
            return "busy"
        return WAYS[task.kind](task, bench, show)


# the bench of this process where it is a worker, under the runs folder and the working folder that it is for
_kept: dict[tuple[Path, str], Bench] = {}


def perform_json(task: Mapping[str, Any], device: Callable[[str], str]) -> State:
    """What a worker of an executor does with a task of `to_json`: `perform`, on the device that `device` makes of the
    one asked for. Models and data stay open from task to task. Raises what `perform` does."""
    known = Task.from_json(task)
    known = replace(known, request=replace(known.request, device=device(known.device)))
    place = known.root, os.getcwd()
    if place not in _kept:
        _kept.clear()
        _kept[place] = Bench(Store(known.root))
    return perform(known, _kept[place], lambda share: None)


def executor_of(workers: Workers, bench: Bench, show: Show) -> Executor:
    """An executor that performs these tasks, on `bench` where that is in this process. Raises BadInput as `start`."""
    return workers.start(bench.store.root, lambda task, told: perform(task, bench, told), perform_json, show)


def _train(task: Task, bench: Bench, show: Progress) -> State:
    assert isinstance(task.request, TrainRequest)
    return "done" if train(task.request, bench.store, claimed=True)["fresh"] else "there"


def _craft(task: Task, bench: Bench, show: Progress) -> State:
    job = bench.job(task)
    assert job.craft is not None
    if not job.craft.folder.missing(task.start, task.stop, task.stop - task.start):
        return "there"
    note(task.root, task.key, "begin")
    job.craft.images(task.start, task.stop, _settings(job, task), show)
    note(task.root, task.key, "end")
    return "done"


def _shard(task: Task, bench: Bench, show: Progress) -> State:
    job = bench.job(task)
    if not job.folder.missing(task.start, task.stop, task.stop - task.start):
        return "there"
    note(task.root, task.key, "begin")
    try:
        _attack(job, task, show)
    except torch.OutOfMemoryError:
        assert isinstance(task.request, Request)
        raise BadInput(
            f"The device ran out of memory with --batch-size {task.request.batch_size}; give a smaller one."
        ) from None
    except RobenchError:
        raise
    except OSError:
        raise
    except Exception:
        begin(job)  # so that what failed can be looked up
        raise
    note(task.root, task.key, "end")
    return "done"


def _attack(job: Job, task: Task, show: Progress) -> None:
    assert isinstance(task.request, Request)
    part, settings = slice(task.start, task.stop), _settings(job, task)
    examples = Examples(job.split.pixels(part), job.split.labels[part], job.split.ids[part])
    module = job.model.module.to(settings.device)
    if settings.channels_last:  # faster convolutions; a stranger's model may not bear it
        module.to(memory_format=torch.channels_last)
    began = time.monotonic()
    crafted = None
    if job.craft:
        crafted = job.craft.images(task.start, task.stop, settings, show)
        settings = replace(settings, bpda=(), draws=1)  # they were the crafting's
    attack = crafted or job.attack
    prior = job.prior(task.start, task.stop)
    shard = attack_shard(
        module, job.classes, attack, job.threat, replace(examples, prior=prior), settings, None if crafted else show
    )
    shard = crafted.charge(shard) if crafted else shard
    notes = {
        "flags": list(shard.flags),
        "seconds": round(time.monotonic() - began, 3),
        "batch_size": task.request.batch_size,
        "answers": digest(shard.rows["clean_pred"].tolist()),
        "made_with": made_with(settings.device),
    }
    begin(job)
    job.folder.save_shard(task.start, task.stop, shard.rows, shard.images, notes)


def _settings(job: Job, task: Task) -> Settings:
    assert isinstance(task.request, Request)
    return replace(task.request.settings, channels_last=job.model.data is not None)


def begin(job: Job) -> None:
    """Record the job, once there is something of it to keep; a model that is refused leaves no trace."""
    job.folder.begin(job.spec.to_json(), job.about)


WAYS: dict[str, Callable[[Task, Bench, Progress], State]] = {"train": _train, "craft": _craft, "shard": _shard}

"""The pieces of work an executor runs: each can be done anywhere, any number of times, and leaves its result in the
store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from robench.attack.judge import Examples, Progress, Settings, attack_shard
from robench.attack.repeating import PASSING, lasting
from robench.attack.rough import COPY
from robench.environment import made_with
from robench.errors import BadInput, Hindered, Permanent, RobenchError, crash, of_others
from robench.evaluation.address import Address
from robench.evaluation.bench import Bench
from robench.evaluation.jobs import Job
from robench.executors.base import Executor, Show, State
from robench.executors.workers import Workers
from robench.progress import report, say
from robench.store.claims import claim, note
from robench.store.files import digest
from robench.store.runs import Store
from robench.store.specs import GUIDED_BY
from robench.training.jobs import TrainRequest, train
from robench.trust.origins import sources_of


@dataclass(frozen=True)
class TrainTask:
    """A training, as a worker on another machine can be told of it."""

    key: str
    root: Path
    request: TrainRequest

    @property
    def device(self) -> str:
        """What it was asked to be computed on."""
        return self.request.device

    @property
    def size(self) -> int:
        """0: a training is counted in epochs."""
        return 0

    @property
    def title(self) -> str:
        """The model that is trained."""
        return self.key.removeprefix("train-")

    @property
    def piece(self) -> str:
        """That it is a training."""
        return f"Training {self.title}"

    def on(self, device: str) -> TrainTask:
        """The same training on another device."""
        return replace(self, request=replace(self.request, device=device))

    def to_json(self) -> dict[str, Any]:
        """The task as JSON types."""
        return {"kind": "train", "key": self.key, "root": str(self.root.resolve()), "request": self.request.to_json()}


@dataclass(frozen=True)
class Task:
    """A piece of an evaluation, as a worker on another machine can be told of it.

    "craft": a surrogate's images for the examples [start, stop). "shard": the rows of those examples. job: the
    evaluation's id, which whoever makes the job from the address must come to as well.
    """

    kind: Literal["craft", "shard"]
    key: str
    root: Path
    address: Address
    start: int
    stop: int
    job: str

    @property
    def device(self) -> str:
        """What it was asked to be computed on."""
        return self.address.how.device

    @property
    def size(self) -> int:
        """How many images it computes."""
        return self.stop - self.start

    @property
    def title(self) -> str:
        """Model and attack."""
        address = self.address
        name, *other = (model if isinstance(model, str) else type(model).__name__ for model in address.models)
        if self.kind == "craft":
            return f"{other[0]}  {address.attack}"
        beside = "".join(f"{GUIDED_BY if address.guide is not None else ' from '}{each}" for each in other)
        detector = f" + {address.guard.detector}" if address.guard else ""
        return f"{name}  {address.attack}{detector}{beside}"

    @property
    def piece(self) -> str:
        """Which examples of that."""
        return f"Examples {self.start}-{self.stop} of {self.title}"

    def on(self, device: str) -> Task:
        """The same task on another device."""
        return replace(self, address=self.address.on(device))

    def to_json(self) -> dict[str, Any]:
        """The task as JSON types; raises BadInput where it holds a module, which cannot be sent."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "root": str(self.root.resolve()), "address": self.address.to_json()}


def task_of(value: Mapping[str, Any]) -> Task | TrainTask:
    """The task of `to_json`."""
    root = Path(value["root"])
    if value["kind"] == "train":
        return TrainTask(value["key"], root, TrainRequest.from_json(value["request"]))
    return Task(**{**value, "root": root, "address": Address.from_json(value["address"])})


def perform(task: Task | TrainTask, bench: Bench, show: Progress) -> State:
    """Do a task unless it is done, or being done elsewhere; what it makes is in the store before this returns.

    Raises BadInput for what cannot be used and DiskError where nothing can be written; any other exception is a model's
    or an attack's.
    """
    with claim(task.root, task.key) as mine:
        if not mine:
            return "busy"
        if isinstance(task, TrainTask):
            return "done" if _train(task, bench) else "there"
        return _craft(task, bench, show) if task.kind == "craft" else _shard(task, bench, show)


def _train(task: TrainTask, bench: Bench) -> bool:
    """Train unless that is done; returns whether it was trained now. A training is seeded and fails each time alike."""
    try:
        return bool(train(task.request, bench.store, claimed=True)["fresh"])
    except PASSING:
        raise
    except Exception as error:  # whatever a defense does
        raise Permanent(f"{task.piece} {lasting(error)}") from error


# the bench of this process where it is a worker, under the runs folder and the working folder that it is for
_kept: dict[tuple[Path, str], Bench] = {}


def perform_json(task: Mapping[str, Any], device: Callable[[str], str]) -> State:
    """What a worker of an executor does with a task of `to_json`: `perform`, on the device that `device` makes of the
    one asked for. Models and data stay open from task to task. Raises what `perform` does."""
    known = task_of(task)
    known = known.on(device(known.device))
    place = known.root, os.getcwd()
    if place not in _kept:
        _kept.clear()
        _kept[place] = Bench(Store(known.root))
    return perform(known, _kept[place], report)


def executor_of(workers: Workers, bench: Bench, show: Show) -> Executor:
    """An executor that performs these tasks, on `bench` where that is in this process. Raises BadInput as `start`."""
    return workers.start(bench.store.root, lambda task, told: perform(task, bench, told), perform_json, show)


def _craft(task: Task, bench: Bench, show: Progress) -> State:
    job = bench.job(task.address, task.job)
    assert job.craft is not None
    if not job.craft.folder.missing(task.start, task.stop, task.stop - task.start):
        return "there"
    note(task.root, task.key, "begin")
    try:
        job.craft.images(task.start, task.stop, _settings(job, task), show)
    except Permanent as error:
        raise Permanent(f"{task.title} {error}") from error
    note(task.root, task.key, "end")
    return "done"


def _shard(task: Task, bench: Bench, show: Progress) -> State:
    job = bench.job(task.address, task.job)
    if not job.folder.missing(task.start, task.stop, task.stop - task.start):
        return "there"
    note(task.root, task.key, "begin")
    try:
        first = task.start == job.spec.start
        _attack(job, task, show, bench.found_of(task.address, job) if first else [])
    except torch.OutOfMemoryError:
        size = task.address.how.batch_size
        raise BadInput(f"The device ran out of memory with --batch-size {size}; give a smaller one.") from None
    except Permanent as error:
        begin(job)
        raise Permanent(f"{job.title} {error}") from error
    except RobenchError:
        raise
    except OSError as error:
        if not of_others(error):
            raise
        begin(job)
        raise Hindered(crash(error)) from error
    except Exception:
        begin(job)  # so that what failed can be looked up
        raise
    note(task.root, task.key, "end")
    return "done"


def _attack(job: Job, task: Task, show: Progress, flags: Sequence[str]) -> None:
    """Attack a shard's images and store what came of it, with flags of the whole evaluation beside its own."""
    part, settings = slice(task.start, task.stop), _settings(job, task)
    examples = Examples(job.split.pixels(part), job.split.labels[part], job.split.ids[part])
    module = job.model.module.to(settings.device)
    if settings.channels_last:  # faster convolutions; a stranger's model may not bear it
        module.to(memory_format=torch.channels_last)
    guide = job.guide.module.to(settings.device) if job.guide else None
    began = time.monotonic()
    crafted = None
    if job.craft:
        crafted = job.craft.images(task.start, task.stop, settings, show)
        settings = replace(settings, bpda=(), draws=1, precision="fp32", max_passes=None)  # they were the crafting's
    handed = job.given.part(task.start, task.stop) if job.given else None
    attack = crafted or handed or job.attack
    place = task.start, task.stop
    examples = replace(examples, prior=job.prior(*place), spent=job.spent(*place), stood=job.stood(*place))
    shard = attack_shard(module, job.classes, attack, job.threat, examples, settings, None if crafted else show, guide)
    shard = crafted.charge(shard) if crafted else handed.marked(shard, examples, job.threat) if handed else shard
    if shard.search and not shard.search.startswith(COPY) and task.start == job.spec.start:
        say(f"{job.title}: gradients are in {shard.search}.")
    notes = {
        "flags": [*shard.flags, *flags],
        "seconds": round(time.monotonic() - began, 3),
        "batch_size": task.address.how.batch_size,
        "sources": sources_of(job.plugins),
        "answers": digest(shard.rows["clean_pred"].tolist()),
        "made_with": made_with(settings.device),
        **({"search": shard.search} if shard.search else {}),
    }
    begin(job)
    job.folder.save_shard(task.start, task.stop, shard.rows, shard.images, notes, shard.logits)


def _settings(job: Job, task: Task) -> Settings:
    precision = job.spec.search_precision or "fp32"
    return replace(
        task.address.settings,
        channels_last=job.model.data is not None,
        precision=precision,
        max_passes=job.spec.max_passes,
    )


def begin(job: Job) -> None:
    """Record the job, once there is something of it to keep; a model that is refused leaves no trace."""
    job.folder.begin(job.spec.to_json(), job.about)

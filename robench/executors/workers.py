"""Where tasks run: in this process, or on the workers of a Ray cluster; both behind one interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from robench.errors import BadInput, require, unknown
from robench.evaluation.tasks import Bench, State, Task, perform
from robench.executors.ray_cluster import Cluster, WorkerDied
from robench.executors.ray_worker import retold
from robench.store.claims import held
from robench.store.runs import Store

# called with the share of a running task that is done
Show = Callable[[Task, float], None]


@dataclass(frozen=True)
class Workers:
    """Who does the work. kind: "inline" or "ray". workers: tasks at once, as many as the cluster has room for if None.

    cpus, gpus: what one task reserves of its machine; it computes with as many threads, at least one, and on one GPU.
    address: a running cluster's, "auto" for the one on this machine, "local" for one of its own; if None, RAY_ADDRESS
    or a cluster of its own.
    """

    kind: str = "inline"
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in EXECUTORS:
            raise unknown("executor", self.kind, EXECUTORS)
        require(self.workers is None or self.workers >= 1, "--workers", self.workers, "at least 1")
        whole = self.cpus >= 1 and self.cpus % 1 == 0  # Ray divides one core, but no two
        require(whole or 0.01 <= self.cpus < 1, "--cpus-per-task", self.cpus, "a whole number or one of 0.01 to 1")
        require(self.gpus == 0 or 0.01 <= self.gpus <= 1, "--gpus-per-task", self.gpus, "0, or from 0.01 to 1")
        if self.kind == "inline" and (self.workers or 1) > 1:
            raise BadInput(
                f"--workers is {self.workers}, but the inline executor does one task at a time, with all threads; "
                "give --executor ray for several."
            )
        for name, value, default in (("--cpus-per-task", self.cpus, 1.0), ("--gpus-per-task", self.gpus, 0.0),
                                     ("--address", self.address, None)):  # fmt: skip
            if self.kind == "inline" and value != default:
                raise BadInput(f"{name} is {value}, which the inline executor has no use for; give --executor ray.")

    def start(self, store: Store, bench: Bench, show: Show) -> Executor:
        """The executor, ready for tasks. Raises BadInput where it cannot be started."""
        executor: Executor = EXECUTORS[self.kind](self, store, bench, show)
        return executor


@dataclass(frozen=True)
class Outcome:
    """How a task ended: in a state, or with an error."""

    task: Task
    state: State | None = None
    error: Exception | None = None


class Executor(Protocol):
    """Takes tasks and tells how they ended, in whatever order. The results themselves travel through the store."""

    def room(self) -> int:
        """How many more tasks are worth submitting now."""

    def submit(self, task: Task) -> None:
        """Take a task. Raises BadInput where no task like it can be done."""

    def next(self) -> Outcome:
        """Wait until one of the submitted tasks has ended; there must be one."""

    def close(self) -> None:
        """Stop, giving up what is running."""


class Inline:
    """One task after another in this process."""

    def __init__(self, workers: Workers, store: Store, bench: Bench, show: Show) -> None:
        del workers, store
        self.bench, self.show = bench, show
        self.tasks: deque[Task] = deque()

    def room(self) -> int:
        """One task at a time, so that the order can still change."""
        return 0 if self.tasks else 1

    def submit(self, task: Task) -> None:
        """Keep the task until `next`."""
        self.tasks.append(task)

    def next(self) -> Outcome:
        """Do the task."""
        task = self.tasks.popleft()
        try:
            return Outcome(task, perform(task, self.bench, lambda share: self.show(task, share)))
        except Exception as error:  # whatever a user's model does
            return Outcome(task, error=error)

    def close(self) -> None:
        """Nothing is running."""
        self.tasks.clear()


class Ray:
    """Tasks on the workers of a Ray cluster, which is started and stopped with this unless there is one.

    A task whose worker or machine dies is tried again. Of progress only ended tasks are known.
    """

    def __init__(self, workers: Workers, store: Store, bench: Bench, show: Show) -> None:
        del bench, show
        self.gpus = workers.gpus
        self.cluster = Cluster(workers.address, workers.workers, workers.cpus, workers.gpus, store.root)
        self.running: dict[Any, Task] = {}
        self.unsent: deque[Outcome] = deque()

    def room(self) -> int:
        """Enough that every worker is busy, and a few more tasks."""
        return self.cluster.places() - len(self.running) - len(self.unsent)

    def submit(self, task: Task) -> None:
        """Send the task; one that holds a module ends with BadInput instead."""
        device = task.request.device
        if device.startswith("cuda") and not self.gpus:
            raise BadInput(
                f"--device is {device!r}, but tasks reserve no GPU; give --gpus-per-task 1, or a fraction of one."
            )
        try:
            sent = task.to_json()
        except BadInput as error:
            self.unsent.append(Outcome(task, error=error))
            return
        self.running[self.cluster.send(sent)] = task

    def next(self) -> Outcome:
        """Wait for the first task that ends."""
        if self.unsent:
            return self.unsent.popleft()
        ended = self.cluster.first(self.running)
        task = self.running.pop(ended)
        try:
            answer = self.cluster.answer(ended)
        except (BadInput, WorkerDied) as error:
            return Outcome(task, error=error)
        return Outcome(task, error=retold(answer)) if "error" in answer else Outcome(task, answer["state"])

    def close(self) -> None:
        """Stop the workers that are busy, and the cluster if it is this one's.

        A task that has just been sent cannot be cancelled: Ray 2.60 takes it from its books, gives it to a worker all
        the same and aborts the driver when the answer arrives. Those find the driver's token gone.
        """
        self.cluster.close(sent for sent, task in self.running.items() if held(task.root, task.key))
        self.running.clear()


EXECUTORS: dict[str, Any] = {"inline": Inline, "ray": Ray}

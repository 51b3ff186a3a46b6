"""What an executor takes and what it tells: tasks that it knows nothing of, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

# "done": computed now; "there": it was in the store already; "busy": another process is at it
State = Literal["done", "there", "busy"]


class Task(Protocol):
    """A piece of work that can be done anywhere, any number of times, and leaves its result under `root`."""

    @property
    def key(self) -> str:
        """The name of its lock: one per piece of work."""

    @property
    def root(self) -> Path:
        """The runs folder."""

    @property
    def device(self) -> str:
        """What it was asked to be computed on: auto, cpu, cuda or cuda:N."""

    @property
    def size(self) -> int:
        """How many images it computes; 0 where it is not counted in images."""

    @property
    def title(self) -> str:
        """What it works on, in words."""

    @property
    def piece(self) -> str:
        """Which piece of that it is, in words, to begin a sentence with."""

    def to_json(self) -> dict[str, Any]:
        """The task as JSON types. Raises BadInput where it holds what cannot be sent."""


# called with the share of a running task that is done, and a note such as a rate
Show = Callable[[Task, float, str], None]
# performs a task in this process, and tells the share that is done
Here = Callable[[Any, Callable[[float], None]], State]
# what a worker calls: a module-level function of a task as JSON and of what turns the device that it asks for into the
# one that it gets there
There = Callable[[Mapping[str, Any], Callable[[str], str]], State]


@dataclass(frozen=True)
class Outcome:
    """How a task ended: in a state, or with an error."""

    task: Task
    state: State | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Orders:
    """What an executor is started with: the runs folder, who performs tasks here and there, whom to tell of progress,
    and what `Workers` says of workers, cpus, gpus and address."""

    root: Path
    here: Here
    there: There
    show: Show
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None


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

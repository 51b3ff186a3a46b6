"""The executor of a Ray cluster's workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from robench.errors import BadInput
from robench.executors.base import Orders, Outcome, Task
from robench.executors.ray_cluster import Cluster, WorkerDied
from robench.executors.ray_worker import retold
from robench.executors.word import forget, listen
from robench.progress import say
from robench.store.claims import held

# seconds between two looks at how far tasks have come, and how many looks one second has time for
LOOK, LOOKS = 1.0, 50


class Ray:
    """Tasks on the workers of a Ray cluster, which is started and stopped with this unless there is one.

    A task whose worker or machine dies is tried again. How far it has come its worker writes beside its lock.
    """

    def __init__(self, orders: Orders) -> None:
        self.gpus, self.there, self.show = orders.gpus, orders.there, orders.show
        self.said: set[str] = set()
        self.cluster = Cluster(orders.address, orders.workers, orders.cpus, orders.gpus, orders.root)
        self.running: dict[Any, Task] = {}
        self.unsent: deque[Outcome] = deque()

    def room(self) -> int:
        """Enough that every worker is busy, and a few more tasks."""
        return self.cluster.places() - len(self.running) - len(self.unsent)

    def submit(self, task: Task) -> None:
        """Send the task; one that holds a module ends with BadInput instead."""
        if task.device.startswith("cuda") and not self.gpus:
            raise BadInput(
                f"--device is {task.device!r}, but tasks reserve no GPU; give --gpus-per-task 1, or a fraction of one."
            )
        try:
            sent = task.to_json()
        except BadInput as error:
            self.unsent.append(Outcome(task, error=error))
            return
        forget(task.root, task.key)  # a word from before a machine was lost
        self.running[self.cluster.send(self.there, sent)] = task

    def next(self) -> Outcome:
        """Wait for the first task that ends, and show meanwhile how far the others have come."""
        if self.unsent:
            return self.unsent.popleft()
        while (ended := self.cluster.first(self.running, max(LOOK, len(self.running) / LOOKS))) is None:
            self._look()
        task = self.running.pop(ended)
        try:
            answer = self.cluster.answer(ended)
        except (BadInput, WorkerDied) as error:
            forget(task.root, task.key)
            return Outcome(task, error=error)
        self._say(answer["said"])
        return Outcome(task, error=retold(answer)) if "error" in answer else Outcome(task, answer["state"])

    def _look(self) -> None:
        for task in self.running.values():
            if word := listen(task.root, task.key):
                self.show(task, *word)

    def _say(self, lines: Iterable[str]) -> None:
        """Say what a worker would have said, each line once: many workers come upon the same."""
        for line in lines:
            if line not in self.said:
                self.said.add(line)
                say(line)

    def close(self) -> None:
        """Stop the workers that are busy, and the cluster if it is this one's.

        A task that has just been sent cannot be cancelled: Ray 2.60 takes it from its books, gives it to a worker all
        the same and aborts the driver when the answer arrives. Those find the driver's token gone.
        """
        self.cluster.close(sent for sent, task in self.running.items() if held(task.root, task.key))
        self.running.clear()

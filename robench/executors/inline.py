"""The executor of this process: one task after another."""

from __future__ import annotations

from collections import deque

from robench.errors import contained
from robench.executors.base import Orders, Outcome, Task


class Inline:
    """One task after another in this process."""

    def __init__(self, orders: Orders) -> None:
        self.here, self.show = orders.here, orders.show
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
            return Outcome(task, self.here(task, lambda share: self.show(task, share, "")))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's model does, and were it to end the process
            return Outcome(task, error=contained(error))

    def close(self) -> None:
        """Nothing is running."""
        self.tasks.clear()

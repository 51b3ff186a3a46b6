"""Progress of a graph of tasks: a bar per evaluation under way, and one for everything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from robench.errors import BadInput, Permanent, RobenchError, crash
from robench.executors.base import Outcome, Task
from robench.executors.graph import Node
from robench.progress import Bar, Pace, say, trace


class View:
    """Progress: a bar per evaluation under way, in images, one per training elsewhere, and where there are several one
    for all evaluations and one for all trainings."""

    def __init__(self) -> None:
        self.cells: dict[str, str] = {}  # by task: the evaluation or training that it is a piece of
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.under_way: defaultdict[str, dict[str, float]] = defaultdict(dict)  # images of tasks that run, by cell
        self.bars: dict[str, Bar] = {}
        self.paces: dict[str, Pace] = {}
        self.overall: Bar | None = None
        self.models = self.trained = 0
        self.trainings: Bar | None = None

    def expect(self, wanted: Iterable[Node]) -> None:
        """Count what there will be to do."""
        for node in wanted:
            if node.task is not None:
                self.cells[node.task.key] = node.cell
                self.total[node.cell] += node.task.size
                self.models += not node.task.size
        if self.models > 1 and self.trainings is None:
            self.trainings = Bar("trainings")
            self.trainings.update(0.0)  # time is counted from here
        if sum(map(bool, self.total.values())) > 1 and self.overall is None:
            self.overall = Bar("all")

    def share(self, task: Task, share: float, note: str = "") -> None:
        """A running task has come so far, with a note where it is not counted in images."""
        cell = self.cells[task.key]
        bar = self._bar(cell, task)
        if not task.size:
            bar.update(share, note)
            return
        self.under_way[cell][task.key] = share * task.size
        images = self.done[cell] + sum(self.under_way[cell].values())
        pace = self.paces[cell]
        pace.update(images)
        rate = f"  {pace.rate:,.1f}/s" if pace.rate else ""
        bar.update(images / max(self.total[cell], 1), f"{images:,.0f} images{rate}")

    def told(self, node: Node, outcome: Outcome) -> None:
        """A task has ended."""
        task = outcome.task
        if outcome.error is not None:
            trace(outcome.error)
            if isinstance(outcome.error, RobenchError) and not isinstance(outcome.error, BadInput | Permanent):
                say(f"{task.piece} failed: {type(outcome.error).__name__}: {outcome.error}")
            elif not isinstance(outcome.error, RobenchError):  # the others are told at the end
                say(f"{task.piece} failed: {crash(outcome.error)}; run the same command again.")
        if not task.size:
            self._trained(node.cell)
            return
        self.share(task, 1.0)
        del self.under_way[node.cell][task.key]
        self.done[node.cell] += task.size
        if self.done[node.cell] >= self.total[node.cell] and node.cell in self.bars:
            self.bars.pop(node.cell).close()
        if self.overall:
            done, total = sum(self.done.values()), sum(self.total.values())
            self.overall.update(done / max(total, 1), f"{done:,} of {total:,} images")

    def close(self) -> None:
        """Take everything off the display."""
        for bar in [*self.bars.values(), *filter(None, [self.overall, self.trainings])]:
            bar.close()

    def _trained(self, cell: str) -> None:
        self.trained += 1
        if cell in self.bars:
            self.bars.pop(cell).close()
        if self.trainings:
            self.trainings.update(self.trained / self.models, f"{self.trained:,} of {self.models:,} models")

    def _bar(self, cell: str, task: Task) -> Bar:
        if cell not in self.bars:
            self.bars[cell], self.paces[cell] = Bar(task.title), Pace()
        return self.bars[cell]

"""Work in the order of its needs: nodes are given to an executor as soon as what they need is done."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from robench.errors import BadInput, DiskError, Permanent
from robench.executors.base import Executor, Outcome, Task

# seconds between two looks at work that another process is doing
POLL = 0.5


@dataclass(frozen=True)
class Node:
    """A piece of work among others. One without a task only calls `then`, which may bring more nodes.

    needs: keys of nodes that must be done before. rank: lower ones first among those that are ready. subject: whom a
    refusal concerns, if anybody; its other nodes are then not tried. cell: the evaluation or training it is a part of.
    """

    key: str
    task: Task | None = None
    needs: frozenset[str] = frozenset()
    rank: float = 0.0
    subject: str = ""
    cell: str = ""
    then: Callable[[], Iterable[Node]] | None = None


@dataclass
class Ended:
    """What became of the nodes: those done; errors of those that failed; those that were not tried because of one; why
    a subject was refused; and why a cell fails each time."""

    done: set[str] = field(default_factory=set)
    failed: dict[str, Exception] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    refused: dict[str, BadInput] = field(default_factory=dict)
    hopeless: dict[str, Permanent] = field(default_factory=dict)


class Watcher(Protocol):
    """Who is told what is to be done, and how every task ended."""

    def expect(self, nodes: Iterable[Node]) -> None:
        """Nodes that the graph did not have before."""

    def told(self, node: Node, outcome: Outcome) -> None:
        """A task has ended."""


class GraphRun:
    """One run of a graph."""

    def __init__(self, executor: Executor, watcher: Watcher) -> None:
        self.executor, self.watcher = executor, watcher
        self.ended = Ended()
        self.nodes: dict[str, Node] = {}
        self.lacks: dict[str, int] = {}  # of each node that waits, how many of its needs are not done
        self.heirs: dict[str, list[str]] = {}  # of each node that is not done, those that need it
        self.ready: list[tuple[float, int, str]] = []
        self.running: set[str] = set()
        self.elsewhere: list[str] = []
        self.turn = 0

    def add(self, nodes: Iterable[Node]) -> None:
        """Take nodes; one whose key is known already is the same work."""
        fresh = {node.key: node for node in nodes if node.key not in self.nodes}
        self.nodes |= fresh
        self.watcher.expect(fresh.values())
        for key, node in fresh.items():
            missing = node.needs - self.ended.done
            for need in missing:
                self.heirs.setdefault(need, []).append(key)
            if any(need in self.ended.dropped or need in self.ended.failed for need in missing):
                self._drop(key)
            elif missing:
                self.lacks[key] = len(missing)
            else:
                self._queue(key)

    def finish(self) -> Ended:
        """Run until nothing is left. Raises DiskError where results cannot be kept, and OSError as it comes."""
        while True:
            self._hand_over()
            if self.running:
                self._take(self.executor.next())
            elif self.elsewhere:
                time.sleep(POLL)
                self._again()
            else:
                self.ended.dropped |= self.lacks.keys()  # they need each other, or what nobody added
                return self.ended

    def _hand_over(self) -> None:
        """Call what only has to be called, and submit while the executor has room."""
        while self.ready and (self.nodes[self.ready[0][2]].task is None or self.executor.room() > 0):
            node = self.nodes[heapq.heappop(self.ready)[2]]
            if node.subject in self.ended.refused or node.cell in self.ended.hopeless:
                self._drop(node.key)
            elif node.task is None:
                self._call(node)
            else:
                self.executor.submit(node.task)
                self.running.add(node.key)

    def _queue(self, key: str) -> None:
        self.turn += 1  # first come, first served among equal ranks
        heapq.heappush(self.ready, (self.nodes[key].rank, self.turn, key))

    def _drop(self, key: str) -> None:
        self.ended.dropped.add(key)
        self._bereave(key)

    def _bereave(self, key: str) -> None:
        """Drop all that needs a node that will not be done."""
        gone = [key]
        while gone:
            for heir in self.heirs.pop(gone.pop(), ()):
                if self.lacks.pop(heir, None) is not None:
                    self.ended.dropped.add(heir)
                    gone.append(heir)

    def _complete(self, key: str) -> None:
        """Queue all that needed nothing else."""
        self.ended.done.add(key)
        for heir in self.heirs.pop(key, ()):
            if heir in self.lacks:
                self.lacks[heir] -= 1
                if not self.lacks[heir]:
                    del self.lacks[heir]
                    self._queue(heir)

    def _fail(self, node: Node, error: Exception) -> None:
        self.ended.failed[node.key] = error
        if isinstance(error, BadInput) and node.subject:
            self.ended.refused.setdefault(node.subject, error)
        if isinstance(error, Permanent) and node.cell:
            self.ended.hopeless.setdefault(node.cell, error)
        self._bereave(node.key)

    def _call(self, node: Node) -> None:
        try:
            self.add(node.then() if node.then else ())
        except DiskError:
            raise
        except BadInput as error:
            self._fail(node, error)
            return
        self._complete(node.key)

    def _take(self, outcome: Outcome) -> None:
        node = self.nodes[outcome.task.key]
        self.running.discard(node.key)
        if outcome.state == "busy":
            self.elsewhere.append(node.key)
            return
        if isinstance(outcome.error, DiskError | OSError):
            raise outcome.error
        if outcome.error is None:
            self._call(node)
        else:
            self._fail(node, outcome.error)
        self.watcher.told(node, outcome)
        self._again()

    def _again(self) -> None:
        """Look once more at what other processes were doing."""
        for key in self.elsewhere:
            self._queue(key)
        self.elsewhere.clear()

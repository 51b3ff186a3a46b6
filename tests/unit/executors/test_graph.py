"""The graph: what runs when, what is given up because of what, and what waits for other processes; with an executor
that only pretends."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from robench.errors import BadInput, DiskError
from robench.evaluation.tasks import TrainTask
from robench.executors import graph
from robench.executors.base import Outcome, Task
from robench.executors.graph import Ended, GraphRun, Node
from robench.training.jobs import TrainRequest

REQUEST = TrainRequest("standard", "digits")


def _task(key: str) -> Task:
    return TrainTask(key, Path("runs"), REQUEST)


def _node(key: str, *needs: str, **more: Any) -> Node:
    """A node with a task, its own subject unless told otherwise."""
    return Node(key, _task(key), frozenset(needs), **{"subject": key, **more})


class Pretender:
    """An executor with `places` places that ends tasks in the order they came, or a random one; `ends` says how."""

    def __init__(self, places: int = 1, ends: Callable[[str], Any] = lambda key: "done", shuffle: int | None = None):
        self.places, self.ends = places, ends
        self.tasks: deque[Task] = deque()
        self.begun: list[str] = []
        self.most = 0
        self.random = random.Random(shuffle) if shuffle is not None else None

    def room(self) -> int:
        return self.places - len(self.tasks)

    def submit(self, task: Task) -> None:
        self.begun.append(task.key)
        self.tasks.append(task)
        self.most = max(self.most, len(self.tasks))

    def next(self) -> Outcome:
        if self.random:
            self.tasks.rotate(self.random.randrange(len(self.tasks)))
        task = self.tasks.popleft()
        end = self.ends(task.key)
        return Outcome(task, error=end) if isinstance(end, Exception) else Outcome(task, end)

    def close(self) -> None:
        self.tasks.clear()


class Watch:
    """What the graph told: of nodes to expect and of tasks that ended."""

    def __init__(self) -> None:
        self.expected: list[str] = []
        self.heard: list[tuple[str, Any]] = []

    def expect(self, nodes: Iterable[Node]) -> None:
        self.expected += [node.key for node in nodes]

    def told(self, node: Node, outcome: Outcome) -> None:
        self.heard.append((node.key, outcome.error or outcome.state))


def _finish(nodes: Sequence[Node], executor: Pretender, watch: Watch | None = None) -> Ended:
    run = GraphRun(executor, watch or Watch())
    run.add(nodes)
    return run.finish()


def test_needs_come_first_then_rank_then_the_order_of_adding() -> None:
    executor = Pretender()
    nodes = [_node("late", rank=2.0), _node("b", "a", rank=-9.0), _node("a", rank=1.0), _node("c"), _node("d")]
    ended = _finish(nodes, executor)
    assert executor.begun == ["c", "d", "a", "b", "late"]
    assert ended == Ended(done={"a", "b", "c", "d", "late"})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("places", [1, 3, 50])
def test_nothing_begins_before_its_needs_and_every_place_is_used(seed: int, places: int) -> None:
    draw = random.Random(seed)
    keys = [str(i) for i in range(60)]
    needs = {key: draw.sample(keys[:i], min(i, draw.randrange(3))) for i, key in enumerate(keys)}
    nodes = [_node(key, *needs[key], rank=draw.random()) for key in keys]
    draw.shuffle(nodes)
    done: set[str] = set()
    watch = Watch()
    executor = Pretender(places, shuffle=seed)
    begin = executor.submit

    def submit(task: Task) -> None:
        assert done >= set(needs[task.key])
        begin(task)

    def told(node: Node, outcome: Outcome) -> None:
        done.add(node.key)

    executor.submit, watch.told = submit, told  # type: ignore[method-assign]
    free = sum(not wanted for wanted in needs.values())
    assert _finish(nodes, executor, watch).done == set(keys)
    assert sorted(executor.begun, key=int) == keys
    assert min(places, free) <= executor.most <= places


def test_what_is_already_there_counts_as_done() -> None:
    executor, watch = Pretender(ends=lambda key: "there"), Watch()
    assert _finish([_node("a"), _node("b", "a")], executor, watch).done == {"a", "b"}
    assert watch.heard == [("a", "there"), ("b", "there")]


def test_a_failure_takes_along_what_needs_it_and_nothing_else() -> None:
    fault = ValueError("the model's")
    executor, watch = Pretender(2, lambda key: fault if key == "a" else "done"), Watch()
    nodes = [_node("d", "c"), _node("c", "b", "x"), _node("b", "a"), _node("a"), _node("x"), _node("y", "x")]
    ended = _finish(nodes, executor, watch)
    assert ended == Ended(done={"x", "y"}, failed={"a": fault}, dropped={"b", "c", "d"})
    assert sorted(watch.expected) == ["a", "b", "c", "d", "x", "y"]
    assert sorted(key for key, _ in watch.heard) == ["a", "x", "y"]


def test_a_refused_subject_is_not_tried_further_and_others_are() -> None:
    refusal = BadInput("No such thing; give another.")
    executor = Pretender(ends=lambda key: refusal if key == "bad-1" else "done")
    nodes = [_node(f"{subject}-{i}", subject=subject) for i in range(4) for subject in ("bad", "good")]
    ended = _finish([*nodes, _node("after", "bad-3")], executor)
    assert ended.refused == {"bad": refusal}
    assert ended.failed == {"bad-1": refusal}
    assert ended.done == {"bad-0", "good-0", "good-1", "good-2", "good-3"}
    assert ended.dropped == {"bad-2", "bad-3", "after"}
    assert executor.begun == ["bad-0", "good-0", "bad-1", "good-1", "good-2", "good-3"]


def test_the_first_refusal_of_a_subject_is_kept_when_more_of_it_is_running() -> None:
    executor = Pretender(4, lambda key: BadInput(f"refused by {key}."))
    ended = _finish([_node(key, subject="model") for key in "abc"], executor)
    assert str(ended.refused["model"]) == "refused by a."
    assert set(ended.failed) == {"a", "b", "c"}


@pytest.mark.parametrize("error", [DiskError("No space left."), OSError(28, "No space left")])
def test_nothing_begins_once_results_cannot_be_kept(error: Exception) -> None:
    executor = Pretender(ends=lambda key: error if key == "b" else "done")
    with pytest.raises(type(error), match="No space left") as caught:
        _finish([_node(key) for key in "abcd"], executor)
    assert caught.value is error
    assert executor.begun == ["a", "b"]


def test_a_call_brings_more_nodes_which_may_need_old_ones() -> None:
    calls: list[str] = []

    def open_() -> list[Node]:
        calls.append("open")
        return [_node("shard", "a"), _node("next", "shard"), _node("a")]

    watch = Watch()
    ended = _finish([Node("opening", None, frozenset({"a"}), then=open_), _node("a")], Pretender(), watch)
    assert calls == ["open"]
    assert ended.done == {"opening", "a", "shard", "next"}
    assert sorted(watch.expected) == ["a", "next", "opening", "shard"]
    assert watch.heard == [("a", "done"), ("shard", "done"), ("next", "done")]


def test_a_task_calls_then_when_it_is_done_and_only_then() -> None:
    called: list[str] = []

    def then(key: str) -> Callable[[], list[Node]]:
        return lambda: called.append(key) or []  # type: ignore[func-returns-value]

    fault = ValueError("no")
    nodes = [_node(key, then=then(key)) for key in "abc"]
    _finish(nodes, Pretender(ends=lambda key: fault if key == "b" else "done"))
    assert called == ["a", "c"]


def test_a_call_that_is_refused_refuses_its_subject() -> None:
    def refuse() -> list[Node]:
        raise BadInput("The model is not there; train it.")

    nodes = [Node("opening", None, subject="m", then=refuse), _node("m-1", "opening", subject="m"), _node("other")]
    ended = _finish(nodes, Pretender())
    assert list(ended.refused) == ["m"]
    assert ended.dropped == {"m-1"}
    assert ended.done == {"other"}


def test_nodes_without_a_subject_are_not_refused_with_each_other() -> None:
    refusal = BadInput("No such thing; give another.")
    ended = _finish(
        [_node("a", subject=""), _node("b", subject="")], Pretender(ends=lambda k: refusal if k == "a" else "done")
    )
    assert ended.done == {"b"}
    assert ended.failed == {"a": refusal}


@pytest.mark.parametrize("nodes", [[_node("a", "never added")], [_node("a", "b"), _node("b", "a")]])
def test_what_can_never_begin_is_dropped_and_not_forgotten(nodes: list[Node]) -> None:
    ended = _finish([*nodes, _node("x")], Pretender())
    assert ended == Ended(done={"x"}, dropped={node.key for node in nodes})


def test_what_another_process_does_is_asked_for_again_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(graph.time, "sleep", naps.append)
    asked: list[str] = []

    def ends(key: str) -> str:
        asked.append(key)
        return ("done" if asked.count("a") == 4 else "busy") if key == "a" else "done"

    executor, watch = Pretender(2, ends), Watch()
    ended = _finish([_node("a"), _node("b"), _node("after", "a")], executor, watch)
    assert asked == ["a", "b", "a", "a", "a", "after"]
    assert naps == [graph.POLL] * 2, "one wait per look, but none while something here has ended"
    assert ended.done == {"a", "b", "after"}
    assert watch.heard == [("b", "done"), ("a", "done"), ("after", "done")]


def test_work_elsewhere_does_not_keep_a_place_from_work_here() -> None:
    tries: list[str] = []

    def ends(key: str) -> str:
        tries.append(key)
        return "busy" if key == "theirs" and len(tries) < 9 else "done"

    executor = Pretender(1, ends)
    ended = _finish([_node("theirs", rank=-1.0), *(_node(f"ours-{i}") for i in range(4))], executor)
    assert len(ended.done) == 5
    assert [key for key in executor.begun if key != "theirs"] == [f"ours-{i}" for i in range(4)]
    assert executor.begun.count("theirs") <= 6


def _chain(count: int) -> list[Node]:
    return [_node("0"), *(_node(str(i), str(i - 1)) for i in range(1, count))]


def _ladder(count: int) -> list[Node]:
    """Calls that each bring the next one."""

    def rung(i: int) -> list[Node]:
        return [Node(str(i), None, then=lambda: rung(i + 1) if i < count - 1 else [])]

    return rung(0)


def _star(count: int) -> list[Node]:
    return [_node("0"), *(_node(str(i), "0") for i in range(1, count))]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([_node(str(i)) for i in range(2000)], id="independent"),
        pytest.param(_chain(2000), id="chain"),
        pytest.param(_chain(2000)[::-1], id="chain, last first"),
        pytest.param(_ladder(2000), id="calls that bring calls"),
        pytest.param(_star(2000), id="all need one"),
    ],
)
@pytest.mark.parametrize("places", [1, 8])
def test_two_thousand_nodes_take_less_than_a_second(nodes: list[Node], places: int) -> None:
    executor = Pretender(places)
    began = time.process_time()
    ended = _finish(nodes, executor)
    assert len(ended.done) == 2000
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("nodes", [_chain(2000), _chain(2000)[::-1], _star(2000)])
def test_dropping_two_thousand_nodes_takes_less_than_a_second(nodes: list[Node]) -> None:
    fault = ValueError("no")
    began = time.process_time()
    ended = _finish(nodes, Pretender(ends=lambda key: fault if key == "0" else "done"))
    assert len(ended.dropped) == 1999
    assert time.process_time() - began < 1.0

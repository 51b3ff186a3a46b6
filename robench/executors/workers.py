"""Where tasks run: in this process, or on the workers of a Ray cluster; both behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robench.errors import BadInput, require, unknown
from robench.executors.base import Executor, Here, Orders, Show, There
from robench.executors.inline import Inline
from robench.executors.ray_cluster import check_address, check_form, package
from robench.executors.ray_executor import Ray
from robench.ranges import hold, number

EXECUTORS: dict[str, Callable[[Orders], Executor]] = {"inline": Inline, "ray": Ray}


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
        hold(self, workers="--workers?")
        cpus, gpus = number("--cpus-per-task", self.cpus), number("--gpus-per-task", self.gpus)
        require(cpus < 1 or cpus % 1 == 0, "--cpus-per-task", cpus, "a whole number or one of 0.01 to 1")  # as of Ray
        require(gpus == 0 or gpus >= 0.01, "--gpus-per-task", gpus, "0, or from 0.01 to 1")
        if self.kind == "inline" and (self.workers or 1) > 1:
            raise BadInput(
                f"--workers is {self.workers}, but the inline executor does one task at a time, with all threads; "
                "give --executor ray for several."
            )
        for name, value, default in (("--cpus-per-task", self.cpus, 1.0), ("--gpus-per-task", self.gpus, 0.0),
                                     ("--address", self.address, None)):  # fmt: skip
            if self.kind == "inline" and value != default:
                raise BadInput(f"{name} is {value}, which the inline executor has no use for; give --executor ray.")
        if self.address is not None:
            check_form(self.address)

    def check(self) -> None:
        """Raise BadInput where the cluster that was named is not there, which is found even where nothing is to do."""
        if self.kind == "ray" and self.address is not None:
            package()
            check_address(self.address)

    def start(self, root: Path, here: Here, there: There, show: Show) -> Executor:
        """The executor, ready for tasks of the runs folder `root`. Raises BadInput where it cannot be started.

        here: performs a task in this process. there: the module-level function that a worker elsewhere calls.
        """
        orders = Orders(root, here, there, show, self.workers, self.cpus, self.gpus, self.address)
        return EXECUTORS[self.kind](orders)

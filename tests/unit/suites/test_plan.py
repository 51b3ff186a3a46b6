"""From a suite to its trainings: what they share."""

from __future__ import annotations

from pathlib import Path

from robench.store.runs import Store
from robench.suites.plan import Setup, plan
from robench.suites.suite import load


def test_rows_on_the_same_data_hold_it_once(tmp_path: Path) -> None:
    """Of CIFAR-10 a row would hold 180 megabytes otherwise."""
    found = plan(load("cifar10-linf").at("smoke"), Setup(), Store(tmp_path))
    assert len(found.trainings) > 10
    assert len({id(training.job.dataset) for training in found.trainings}) == 1

"""Figures that are upper bounds alone: in some norms those that no attack along the decision boundary tried, and worst
cases of attacks that all take a single step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from robench import registry
from robench.errors import BadInput
from robench.norms import NORMS
from robench.results.accuracy import Measure
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged

UPPER_BOUND = "upper bound: no boundary attack"
SINGLE_STEP = "upper bound: attacks of a single step alone"
IMPORTED = "upper bound: images from elsewhere alone"
# what is said of worst cases that nothing was searched for
UNSEARCHED = (SINGLE_STEP, IMPORTED)


def upper_bound(norm: str, metric: str, boundary: bool) -> str:
    """What is said beside a figure: that it is an upper bound, or nothing; boundary: whether such an attack tried."""
    above = NORMS[norm].bounded_above and not boundary and Measure(metric) is Measure.ROBUST
    return UPPER_BOUND if above else ""


def upper_bound_of_all(norm: str, boundary: bool, kinds: Iterable[str]) -> str:
    """What is said beside a worst case: that it is an upper bound, or nothing; kinds: how its attacks search."""
    found = set(kinds)
    if found and found <= {"single-step", "imported"}:
        return IMPORTED if "imported" in found else SINGLE_STEP
    return upper_bound(norm, Measure.ROBUST, boundary)


def walked(folder: EvaluationFolder) -> bool:
    """Whether an attack along the decision boundary made an evaluation, or one that it goes on from, as far as
    those can be read. Raises Damaged."""
    spec = folder.spec
    options = {name: value for name, value in spec["attack_options"].items() if name != "library"}
    with contextlib.suppress(BadInput):  # an attack that is not installed, or takes these options no more
        if registry.load("attack", spec["attack"]).build(options).boundary:
            return True
    with contextlib.suppress(Damaged):  # what it goes on from, which may have been none
        return bool(spec.get("after")) and walked(EvaluationFolder(folder.path.parent / spec["after"]))
    return False


def bound_of(folder: EvaluationFolder) -> str:
    """What is said beside a stored figure where it is an upper bound alone. Raises Damaged."""
    norm, metric = folder.spec["norm"], folder.about.metric
    return upper_bound(norm, metric, boundary=bool(upper_bound(norm, metric, boundary=False)) and walked(folder))

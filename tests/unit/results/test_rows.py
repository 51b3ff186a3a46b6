"""Rows: what the judge writes has the columns that are described, and they mean what is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from robench import ThreatModel, registry
from robench.attack.judge import Examples, Settings, attack_shard
from robench.norms import NORMS
from robench.results.rows import COLUMNS, COUNTED, SEALED, broken, correct, misled, succeeded, success_of
from tests import liars

REJECTED = 3
# label, goal, clean_pred, adv_pred -> correct, broken, broken where it was accepted, success
MEANINGS = [
    ((0, -1, 0, 0), (True, False, False, False)),
    ((0, -1, 0, 1), (True, True, True, True)),
    ((0, -1, 1, 1), (False, False, False, False)),  # wrong to begin with: not the attack's doing
    ((0, -1, 0, -1), (True, True, True, True)),  # an answer that is not finite
    ((0, -1, 0, REJECTED), (True, True, False, False)),
    ((0, 2, 0, 2), (True, True, True, True)),
    ((0, 2, 0, 1), (True, True, True, False)),  # broken, but not as it was aimed
    ((0, 2, 1, 2), (False, False, False, True)),  # the goal was reached, whatever the clean answer
    ((0, 2, 0, 0), (True, False, False, False)),
]


@pytest.mark.parametrize(("cells", "meaning"), MEANINGS)
def test_what_a_row_means(cells: tuple[int, ...], meaning: tuple[bool, ...]) -> None:
    rows = pd.DataFrame([cells], columns=["label", "goal", "clean_pred", "adv_pred"])
    rows["clean_correct"] = rows["clean_pred"] == rows["label"]
    rows["success"] = success_of(rows, rejected=REJECTED)
    found = correct(rows), broken(rows), broken(rows, REJECTED), succeeded(rows)
    assert tuple(bool(mark[0]) for mark in found) == meaning
    assert misled(rows)[0] == (cells[3] != cells[0])


@pytest.mark.parametrize("name", ["fgsm", "random-targeted"])
def test_the_judge_writes_the_columns_that_are_described(name: str) -> None:
    module, x = liars.Conv(), liars.images()
    y = module(x).argmax(1)
    y[0] = (y[0] + 1) % 4  # one that is wrong to begin with
    examples = Examples(x, y, torch.arange(len(x)))
    attack = registry.load("attack", name).build({} if name == "fgsm" else {"steps": 5})
    rows = attack_shard(module, 4, attack, ThreatModel.of("linf", "0.3"), examples, Settings()).rows
    assert set(rows.columns) == set(COLUMNS) | set(NORMS)
    assert set(COUNTED) < set(COLUMNS) | set(SEALED)
    assert succeeded(rows).any()
    np.testing.assert_array_equal(succeeded(rows), success_of(rows, rejected=4))
    np.testing.assert_array_equal(correct(rows), rows["clean_pred"] == rows["label"])


# goal, adv_pred, sealed_clean, sealed_adv, sealed_success of an image of class 0 -> broken, success
SECOND = [
    ((-1, 0, 0, 0, False), (False, False)),
    ((-1, 1, 0, 0, False), (True, True)),  # broken in the first verdict alone
    ((-1, 0, 0, 1, True), (True, True)),  # in the second alone
    ((-1, 0, 1, 0, True), (True, True)),  # the clean image lies within eps
    ((-1, 0, -1, 0, True), (True, True)),  # not finite there
    ((-1, 0, 0, REJECTED, False), (False, False)),
    ((2, 0, 0, 1, False), (True, False)),  # another class than its goal
    ((2, 0, 0, 2, True), (True, True)),
]


@pytest.mark.parametrize(("row", "expected"), SECOND)
def test_broken_in_either_verdict_is_broken(row: tuple[int, ...], expected: tuple[bool, bool]) -> None:
    goal, adv, *sealed = row
    names = ("sealed_clean", "sealed_adv", "sealed_success")
    first = {"label": [0], "goal": [goal], "clean_pred": [0], "adv_pred": [adv], "clean_correct": [True]}
    rows = pd.DataFrame(first | {name: [value] for name, value in zip(names, sealed, strict=True)})
    rows["success"] = success_of(rows, REJECTED)
    assert (bool(broken(rows, REJECTED)[0]), bool(succeeded(rows)[0])) == expected
    assert bool(rows["success"][0]) == (adv == goal if goal >= 0 else adv not in (0, REJECTED))

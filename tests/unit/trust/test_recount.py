"""What rows say of passes, steps and marks: what cannot be is found in them, the rest by running the attack again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from robench.attack.orbits import Orbits
from robench.store.files import Damaged
from robench.trust import recount
from tests.unit.trust.forger import Change, Forger, faults


def _put(**values: Any) -> Change:
    """Every row says these values."""

    def change(rows: pd.DataFrame, images: Tensor) -> None:
        del images
        for name, value in values.items():
            rows[name] = value

    return change


def cheap(rows: pd.DataFrame, images: Tensor) -> None:
    """Every attacked image cost two forward passes and a backward one."""
    del images
    tried = rows["forwards"] > 0
    rows.loc[tried, ["forwards", "backwards", "passes"]] = [2, 1, 4]


@pytest.mark.parametrize("change", [cheap, _put(step=1), _put(zero_pixels=0.9), _put(flags="non-finite"),
                                    _put(stages="first")])  # fmt: skip
def test_columns_of_other_values_than_the_attack_comes_to_are_found(change: Change, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 5})
    assert forger.verify(again=40).holds
    forger.rows(change)
    found = forger.verify(again=40)
    assert found.faults["wrong counts"] > 10
    assert found.exit_code == 1


def test_one_image_that_is_said_to_cost_less_is_found_on_the_machine_that_attacked_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere rounding may explain it, of a few images."""
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 5})

    def first(rows: pd.DataFrame, images: Tensor) -> None:
        del images
        at = rows.index[rows["clean_correct"] & ~rows["success"]][0]
        rows.loc[at, ["forwards", "passes"]] -= 1

    forger.rows(first, slice(0, 1))
    assert forger.verify().holds
    assert faults(forger.verify(again=100)) == {"wrong counts": 1}
    monkeypatch.setattr(recount, "environment", lambda: {"processor": "another"})
    assert forger.verify(again=100).holds
    forger.rows(cheap)
    assert forger.verify(again=100).faults["wrong counts"] > 10


@pytest.mark.parametrize(
    "change",
    [
        _put(forwards=0, backwards=1, passes=2),
        _put(forwards=1000, backwards=5, passes=1010),
        _put(forwards=7, backwards=6, passes=19),
    ],
    ids=["no forward", "more forwards than a run takes", "more backwards than a run takes"],
)
def test_counts_that_cannot_be_are_found_in_the_rows(change: Change, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 5})
    forger.rows(change)
    assert faults(forger.verify()) == {"wrong counts": 40}


def test_passes_that_are_no_sum_are_found_in_the_rows(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain")
    with pytest.raises(Damaged):  # nothing else reads such a shard
        forger.rows(_put(passes=5), slice(0, 1))
    assert forger.verify().faults["wrong counts"] == 20


@pytest.mark.parametrize("more", [{"attack": "random-noise"}, {"attack": "pgd", "eot": 3, "options": {"steps": 2}},
                                  {"attack": "fgsm", "factory": "noisy"},
                                  {"attack": "pgd,apgd-ce", "options": {"steps": 5}, "max_passes": 9}])  # fmt: skip
def test_honest_counts_hold(more: dict[str, Any], tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, more.pop("factory", "plain"), **more)
    found = forger.verify(again=10)
    assert found.holds, (faults(found), found.reason)


def test_rows_of_a_search_that_went_on_in_circles_hold_and_those_that_cost_less_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows from before searches ended where they come round say what they took, which is more than they take now."""
    with monkeypatch.context() as before:
        before.setattr(Orbits, "ended", lambda *_: None)
        forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 60})
        rows = forger.folder.rows()
        stand = rows["clean_correct"] & ~rows["success"]
        assert (rows.loc[stand, "backwards"] == 60).all()
    assert forger.verify(again=40).holds
    now = Forger.of(tmp_path / "now", "plain", "pgd", options={"steps": 60})
    took = now.folder.rows().loc[stand, "backwards"]
    assert (took < 60).any()
    now.rows(cheap)
    assert now.verify(again=40).faults["wrong counts"] > 10

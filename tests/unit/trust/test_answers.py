"""Ties and chance: what of a recorded verdict may differ from today's answer, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robench.attack.inspection import spread
from robench.trust.answers import tied, too_many
from tests.unit.trust.forger import Forger, faults, flipped, nothing

LOGITS = torch.tensor([[3.0, 1.0, -1.0, 2.0], [0.0, 5.0, 5.0, -2.0], [1.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("factor", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 3e4, -3e4])
def test_the_spread_of_logits_is_their_own_whatever_is_added_or_multiplied(factor: float, offset: float) -> None:
    changed = LOGITS.double() * factor + offset
    torch.testing.assert_close(spread(changed) / factor, torch.tensor([7 / 3, 4.0, 1.0]).double(), rtol=1e-6, atol=0)


def test_the_spread_of_two_classes_is_that_of_all_rows() -> None:
    two = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 1e-9]])
    assert spread(two).tolist() == [1.0, 1.0, 1.0]
    assert tied(two, torch.tensor([0, 1, 0])).tolist() == [False, False, True]


@pytest.mark.parametrize("factor", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 3e4, -3e4])
def test_a_tie_is_between_the_recorded_class_and_the_predicted_one(factor: float, offset: float) -> None:
    logits = LOGITS * factor + (offset if factor >= 1 else 0)
    recorded = torch.tensor([3, 2, 1])
    assert tied(logits, recorded).tolist() == [False, True, False]
    assert tied(logits, torch.tensor([1, 0, 0])).tolist() == [False, False, True]
    assert tied(logits, torch.tensor([-1, 4, 99])).tolist() == [False] * 3


def test_what_float32_cannot_tell_apart_is_a_tie() -> None:
    """An offset of 1e6 rounds logits to sixteenths; so a sixteenth is a tie there, and half a unit is none."""
    logits = torch.tensor([[1e6, 1e6 - 1 / 16, 1e6 - 9], [1e6, 1e6 - 0.5, 1e6 - 9]])
    assert tied(logits, torch.tensor([1, 1])).tolist() == [True, False]


def test_an_answer_that_is_not_finite_is_no_tie() -> None:
    logits = torch.tensor([[torch.nan, 0.0], [torch.inf, torch.inf], [1.0, 1.0]])
    assert tied(logits, torch.tensor([1, 1, 1])).tolist() == [False, False, True]


def test_how_many_ties_are_too_many() -> None:
    assert [too_many(close, 1000) for close in (0, 12, 13, 58)] == [0, 0, 1, 46]
    assert [too_many(close, 20) for close in (2, 3, 4)] == [0, 0, 1]


@pytest.mark.parametrize("factory", ["plain", "offset", "large", "small", "one_hot"])
def test_flipped_verdicts_are_no_ties_whatever_the_scale_of_the_logits(factory: str, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, factory, "untargeted", options={"steps": 10, "restarts": 1})
    broken = int(forger.folder.rows()["success"].sum())
    assert broken >= 3
    for size in (1, 7, 97):
        found = forger.verify(batch_size=size)
        assert found.holds, faults(found)
        assert found.close == 0
    forger.rows(flipped)
    found = forger.verify()
    assert faults(found) == {"wrong verdict": broken}
    assert (found.close, found.exit_code) == (0, 1)


@pytest.mark.parametrize("shards", [slice(0, 1), slice(None)])
def test_randomness_that_is_only_noted_excuses_nothing(shards: slice, tmp_path: Path) -> None:
    """In one shard or in all of them: the model answers every time as before."""
    forger = Forger.of(tmp_path, "plain")
    broken = int(forger.folder.rows()["success"].sum())
    forger.rows(flipped)
    forger.rows(nothing, shards, flags=["randomised"])
    assert faults(forger.verify()) == {"wrong verdict": broken}


def test_a_model_that_answers_at_random_is_excused_where_it_wavers_and_nowhere_else(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "noisy", count=200, shard_size=100)
    assert all(notes["flags"] == ["randomised"] for notes in forger.folder.notes())
    for size in (7, 97):
        found = forger.verify(batch_size=size)
        assert found.holds, faults(found)
    broken = int(forger.folder.rows()["success"].sum())
    forger.rows(flipped)
    found = forger.verify()
    assert found.exit_code == 1
    assert found.faults["wrong verdict"] > broken / 2
    assert found.faults["unlikely verdict"] > broken / 2


def test_a_random_model_s_flag_cannot_be_left_out(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "noisy")
    forger.rows(nothing, flags=[])
    assert forger.verify().faults["missing flag"] == 1
    forger.rows(nothing, slice(0, 1), flags=["randomised"])
    assert forger.verify().faults["missing flag"] == 1


def test_the_excuse_is_that_of_its_shard(tmp_path: Path) -> None:
    """A model that wavers, of which one shard does not say so: there its wavering verdicts count."""
    forger = Forger.of(tmp_path, "noisy", count=200, shard_size=100)
    forger.rows(flipped, slice(1, 2), flags=[])
    broken = int(forger.folder.rows()["success"][:100].sum())
    found = forger.verify()
    assert found.faults["missing flag"] == 1
    assert found.faults["wrong verdict"] > 0
    assert found.examples == 200
    assert broken > 0


def test_a_model_that_looks_around_is_found_although_nothing_was_forged(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "looking", count=200)
    for name in ("sealed.json", "sealed.parquet"):  # as if nobody had taken the second verdict
        (forger.folder.path / name).unlink()
    forger.folder.finish(forger.folder.summarised("robust accuracy"))
    found = forger.verify()
    assert faults(found).keys() == {"wrong when sealed"}
    assert found.exit_code == 1


def test_a_second_verdict_that_was_noted_is_no_fault(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "looking", count=200)
    assert "answers differ when sealed" in forger.folder.result.flags
    assert forger.verify().holds

"""Rows taken and put by position are those that torch's own indexing gives."""

from __future__ import annotations

import pytest
import torch

from robench import either, picked

SHAPES = [(5,), (5, 3), (5, 2, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at", [[], [0], [4, 1, 1, 0], [0, 1, 2, 3, 4]])
def test_picked_rows_are_torchs_own(shape: tuple[int, ...], at: list[int]) -> None:
    values, marks = torch.randn(shape), torch.arange(5)
    where = torch.tensor(at, dtype=torch.int64)
    rows, left = picked(where, values, marks)
    assert torch.equal(rows, values[where])
    assert left.tolist() == at
    rows.zero_()
    assert values.abs().min() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("marked", [[0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_either_is_torchs_where(shape: tuple[int, ...], marked: list[int]) -> None:
    new, old = torch.randn(shape), torch.randn(shape)
    new[1], old[0] = torch.nan, torch.inf
    kept, mark = (new.clone(), old.clone()), torch.tensor(marked, dtype=torch.bool)
    found = either(mark, new, old)
    wanted = torch.where(mark.reshape(-1, *(1,) * (len(shape) - 1)), new, old)
    assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0))
    found.fill_(3.0)  # a copy, whatever is marked
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip((new, old), kept, strict=True))

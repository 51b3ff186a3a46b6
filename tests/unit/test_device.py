"""Devices: what is done for a GPU, on machines that have none, and on this one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from robench import device
from robench.device import numbers_apart, spare_memory


def test_numbers_are_as_they_were() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        wanted = torch.rand(2)
        torch.manual_seed(3)
        with numbers_apart():
            torch.manual_seed(4)
            torch.rand(5)
        assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize(("in_use", "wanted"), [(False, []), (True, [0, 1, 2])])
def test_a_gpu_that_nobody_uses_is_not_started(
    monkeypatch: pytest.MonkeyPatch, in_use: bool, wanted: list[int]
) -> None:
    """torch's own default starts them all, says that this is slow, and sets a variable of the environment."""
    asked: list[list[int]] = []

    def fork(devices: Sequence[int] | None = None) -> AbstractContextManager[None]:
        assert devices is not None
        asked.append(list(devices))
        return nullcontext()

    monkeypatch.setattr(device, "in_use", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.random, "fork_rng", fork)
    with numbers_apart():
        pass
    assert asked == [wanted]


@pytest.mark.parametrize(("name", "emptied"), [("cpu", 0), ("cuda", 1), ("cuda:1", 1)])
def test_memory_of_a_gpu_alone_is_given_back(monkeypatch: pytest.MonkeyPatch, name: str, emptied: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(device.torch.cuda, "empty_cache", lambda: calls.append(1))
    spare_memory(name)
    assert len(calls) == emptied

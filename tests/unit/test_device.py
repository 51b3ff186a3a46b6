"""Devices: what is done for a GPU, on machines that have none, and on this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from robench import device
from robench.attack.guard import Guard
from robench.device import full_precision, numbers_apart, precisions, spare_memory


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


def everything() -> None:
    torch.backends.fp32_precision = "tf32"


def products() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def convolutions() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def older() -> None:
    torch.set_float32_matmul_precision("medium")


WAYS = [everything, products, convolutions, older]


@pytest.fixture
def before() -> Iterator[tuple[Any, ...]]:
    """The settings as they are, and are again after the test."""
    values = precisions()
    yield values
    device.set_precisions(values)


@pytest.mark.parametrize("way", WAYS)
def test_float32_is_float32_whichever_way_a_program_has_said_otherwise(
    way: Callable[[], None], before: tuple[Any, ...]
) -> None:
    """torch has two sets of settings, and refuses to read the older one where the newer contradicts it."""
    way()
    theirs = precisions()
    with full_precision():
        assert set(precisions()[2:]) == {"ieee"}
        assert precisions()[:2] == (False, "highest")
    assert precisions() == theirs
    assert theirs != before


@pytest.mark.parametrize("way", [*WAYS, lambda: setattr(torch.backends.cudnn, "allow_tf32", True)])
def test_a_model_that_says_otherwise_is_told_of_and_undone(way: Callable[[], None], before: tuple[Any, ...]) -> None:
    with full_precision():
        guard, strict = Guard(), precisions()
        with guard:
            way() if way is not convolutions else setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32")
        assert precisions() == strict
        assert guard.settings == ["matmul precision"]
    assert precisions() == before


def test_a_gpu_sums_in_one_order_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    with full_precision():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic


FAULTS = """
import resource, torch
from robench.device import keep_freed
{before}
def touched():
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [torch.ones(2**21) for _ in range(4)]  # 8 MiB each
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
touched()
print(touched())
"""


@pytest.mark.parametrize(("before", "few"), [("", False), ("assert keep_freed()", True)], ids=["without", "with"])
def test_memory_that_is_freed_is_kept(before: str, few: bool) -> None:
    words = [sys.executable, "-c", FAULTS.format(before=before)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, env={"MALLOC_MMAP_THRESHOLD_": str(2**20)})
    assert (int(ran.stdout) < 200) is few  # of some 160,000 pages

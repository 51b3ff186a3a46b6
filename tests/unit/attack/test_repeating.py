"""A failure that comes again is told from one that passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from robench.attack.repeating import repeated
from robench.errors import BadInput, Permanent


def failing(*errors: Exception | None) -> Callable[[], int]:
    """A call that raises these one after another, None for an answer; the last one ever after."""
    left = list(errors)

    def call() -> int:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return 7

    return call


def test_an_answer_is_given() -> None:
    assert repeated(failing(None)) == 7


def test_what_fails_again_is_permanent_and_says_where() -> None:
    with pytest.raises(Permanent, match=r"fails each time with ValueError: no \(.*test_repeating.py, line 20\); mend"):
        repeated(failing(ValueError("no")))


@pytest.mark.parametrize("then", [None, KeyError("other")])
def test_what_does_not_is_raised_as_it_was(then: Exception | None) -> None:
    with pytest.raises(ValueError, match=r"^once$"):
        repeated(failing(ValueError("once"), then))


@pytest.mark.parametrize("error", [BadInput("said"), OSError("disk"), MemoryError("full"), RuntimeError("CUDA error")])
def test_what_the_machine_or_robench_says_is_not_asked_again(error: Exception) -> None:
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        repeated(call)
    assert calls == 1

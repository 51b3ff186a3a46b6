"""What is said to bad input: one sentence on one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from robench.errors import BadInput


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as caught:
        action()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text

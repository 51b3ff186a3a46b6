"""What tests of models that change their process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import Tensor

from robench.attack.namespaces import Functions
from robench.attack.surroundings import Settings
from tests import liars
from tests.unit.attack.test_liars import SMALL, attacked, robust


@pytest.fixture
def as_before() -> Iterator[None]:
    """Nothing that a test changes stays, were the guard to fail."""
    far, before = Functions.far(), Settings.now()
    yield
    before.restore()
    far.restore()


@pytest.fixture(scope="session")
def honest() -> Tensor:
    """Which images the honest linear model keeps, bool [n]."""
    return robust(attacked(liars.Linear(), eps=SMALL))

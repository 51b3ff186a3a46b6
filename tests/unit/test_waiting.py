"""How threads wait is set where robench is imported, before torch can read it, and what the user set stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MKL_CBWR")
TELL = f"import os, sys, robench; print([os.environ.get(name) for name in {NAMES!r}], 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ["300", None, "AUTO,STRICT"]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", None, "AUTO,STRICT"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, [None, "ACTIVE", "AUTO,STRICT"]),
        ({"MKL_CBWR": "COMPATIBLE"}, ["300", None, "COMPATIBLE"]),
    ],
)
def test_threads_let_go_of_their_core_soon_unless_the_user_says_otherwise(
    given: dict[str, str], told: list[str | None]
) -> None:
    rest = {name: value for name, value in os.environ.items() if name not in NAMES}
    run = subprocess.run([sys.executable, "-c", TELL], env=rest | given, capture_output=True, text=True, check=True)
    assert run.stdout == f"{told} False\n", run.stderr

"""What a suite's table says of its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from robench.norms import NORMS
from robench.results.accuracy import Figure, Measure
from robench.suites.suite import load
from robench.suites.table import Entry, SuiteTable
from robench.trust.bounds import upper_bound
from tests.unit.suites.test_readings import TWO
from tests.unit.suites.test_suite import written

# a norm in which only an attack along the boundary makes a figure more than a bound
BOUNDED = next(name for name, norm in NORMS.items() if norm.bounded_above)

WATCHED = """
title = "A table"
source = "Nobody, 2026"
[scales.small]
dataset = "digits"
[[rows]]
name = "Plain"
defense = "standard"
[[columns]]
name = "Clean"
[[columns]]
name = "PGD"
attack = "pgd"
eps = 0.1
"""


@pytest.mark.parametrize(
    ("norm", "metric", "boundary", "said"),
    [
        (BOUNDED, Measure.ROBUST, False, True),
        (BOUNDED, Measure.ROBUST, True, False),
        (BOUNDED, Measure.SUCCESS, False, False),
        ("linf", Measure.ROBUST, False, False),
    ],
)
def test_a_table_explains_upper_bounds_where_it_has_them(
    tmp_path: Path, norm: str, metric: str, boundary: bool, said: bool
) -> None:
    """Neither a success rate nor a figure of an attack along the boundary is called one, or explained as one."""
    note = upper_bound(norm, metric, boundary)
    entry = Entry("A", 0, "A", "w", Figure(5, 10), "complete", metric=metric, note=note)
    table = SuiteTable.of(load(written(tmp_path, TWO)).at("small"), [entry], [])
    cell = table.lines()[0][table.headers.index("w")]
    assert ("(upper bound)" in cell) is said
    assert ("no boundary attack" in table.note) is said


def test_which_rows_are_behind_a_detector_is_said_of_each_column(tmp_path: Path) -> None:
    watched, plain = '[[rows]]\nname = "Watched"\ndefense = "er-classifier"\ndetector = "er-kde"\n', WATCHED
    both = SuiteTable.of(
        load(written(tmp_path, plain.replace("[[columns]]", f"{watched}[[columns]]", 1))).at("small"), [], []
    )
    clean, attacked = both.settings()
    assert "clean accuracy on digits, of models without their detectors" in clean
    assert "behind er-kde for Watched, without a detector for Plain" in attacked
    assert "detector" not in " ".join(SuiteTable.of(load(written(tmp_path, plain)).at("small"), [], []).settings())
    alone = plain.replace('[[rows]]\nname = "Plain"\ndefense = "standard"\n', watched)
    assert ", behind er-kde, n" in SuiteTable.of(load(written(tmp_path, alone)).at("small"), [], []).settings()[1]

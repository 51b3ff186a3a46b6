"""Columns with a count and a guide of their own, and which of two readings of a printed column is nearer to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robench.evaluation.bench import Bench
from robench.results.accuracy import Figure
from robench.store.runs import Store
from robench.suites.claims import Verdict, claims_of
from robench.suites.plan import Setup, plan
from robench.suites.readings import nearest, readings_of
from robench.suites.reproduce import reproduce
from robench.suites.suite import ScaledSuite, load
from robench.suites.table import Entry, SuiteTable
from tests.unit.suites.test_suite import written

TWO = """
title = "Two readings"
source = "Nobody, 2020."
[scales.small]
dataset = "digits"
count = 40
epochs = 2
[[rows]]
name = "A"
defense = "standard"
[[rows]]
name = "B"
defense = "madry"
[[rows]]
name = "Source"
defense = "standard"
seeds = [1]
shown = false
[[columns]]
name = "b"
attack = "fgsm"
eps = "0.1"
surrogate = "Source"
[[columns]]
name = "g"
attack = "min-fgsm"
eps = "0.1"
guide = "Source"
reading_of = "b"
count = 20
[[columns]]
name = "w"
attack = "pgd"
eps = "0.1"
options = { steps = 3 }
[printed.A]
b = 50
[printed.B]
b = 90
"""


@pytest.fixture
def suite(tmp_path: Path) -> ScaledSuite:
    return load(written(tmp_path, TWO)).at("small")


def table(suite: ScaledSuite, counts: dict[tuple[str, str], list[int | None]]) -> SuiteTable:
    """Counts out of 100 for every seed of a place."""
    entries = [
        Entry(row, seed, f"{row}-{seed}", column, None if count is None else Figure(count, 100), "complete")
        for (row, column), seeds in counts.items()
        for seed, count in enumerate(seeds)
    ]
    return SuiteTable.of(suite, entries, [])


def test_the_nearer_reading_is_computed_from_the_table(suite: ScaledSuite) -> None:
    """|60 - 50|, |91 - 90| of the mean over seeds against |45 - 50|, |70 - 90|."""
    found = table(suite, {("A", "b"): [55, 65], ("B", "b"): [90, 92], ("A", "g"): [45, 45], ("B", "g"): [70, 70]})
    (reading,) = found.readings()
    assert str(reading) == (
        "b against print, mean absolute distance over 2 places: crafted on Source 5.5, guided by Source 12.5; "
        "nearer is crafted on Source."
    )
    assert found.to_json()["readings"] == [
        {"printed": "b", "places": 2, "mean_distance": {"crafted on Source": 5.5, "guided by Source": 12.5},
         "nearer": "crafted on Source"}
    ]  # fmt: skip
    printed = {(entry["row"], entry["column"]): entry["printed"] for entry in found.to_json()["rows"]}
    assert printed == {("A", "b"): 50, ("B", "b"): 90, ("A", "g"): 50, ("B", "g"): 90}
    assert found.text("A", "g").endswith("(50)")


ORDER = (
    TWO.replace("[[rows]]", '[scales.paper]\ndataset = "digits"\n[[rows]]', 1)
    + """
[[orders]]
claim = "B is above A"
column = ["b", "g", "w"]
rows = ["A", "B"]
"""
)


@pytest.mark.parametrize(("crafted", "nearer"), [(60, "g"), (50, "b")])
def test_a_claim_is_about_the_nearer_reading_an_order_as_well_as_a_value(
    tmp_path: Path, crafted: int, nearer: str
) -> None:
    """B stands above A by what is guided, and below it by what is crafted."""
    suite = load(written(tmp_path, ORDER)).at("small")
    counts = {("A", "b"): crafted, ("B", "b"): 20, ("A", "g"): 52, ("B", "g"): 91 if nearer == "g" else 20,
              ("A", "w"): 10, ("B", "w"): 10}  # fmt: skip
    entries = [
        Entry(row, 0, row, column, Figure(count, 100), "complete", stood=np.arange(100) < count)
        for (row, column), count in counts.items()
    ]
    found = list(claims_of(SuiteTable.of(suite, entries, [])))
    read = "" if nearer == "b" else ", read as g"
    assert [claim.claim for claim in found] == [
        f"A: b{read}", f"B: b{read}", f"B is above A (b){read}", "B is above A (w)",
    ]  # fmt: skip
    assert found[2].verdict is (Verdict.REPRODUCED if nearer == "g" else Verdict.NOT)
    assert found[2].ours == ("A 52.0 < B 91.0" if nearer == "g" else "B 20.0 < A 50.0")
    assert found[3].ours in ("A 10.0 = B 10.0", "B 10.0 = A 10.0")


def test_columns_that_are_read_in_other_ways_each_have_the_one_that_is_nearer(tmp_path: Path) -> None:
    """b by itself or guided; w alone or crafted on the source: each is nearer by its first way, or by its second."""
    further = """[[columns]]
name = "wb"
attack = "pgd"
eps = "0.1"
surrogate = "Source"
reading_of = "w"
options = { steps = 3 }
[printed.A]
b = 50
w = 10
[printed.B]"""
    suite = load(written(tmp_path, TWO.replace("[printed.A]\nb = 50\n[printed.B]", further))).at("small")
    places = {"b": 100, "g": 60, "w": 10, "wb": 70}
    counts = {(row, column): [count] for row in "AB" for column, count in places.items()}
    found = table(suite, counts).readings()
    assert [each.printed for each in found] == ["b", "w"]
    assert nearest(found) == {"b": "guided by Source", "w": "on the models alone"}
    claims = {claim.claim: claim.ours for claim in claims_of(table(suite, counts))}
    assert claims["A: w"].startswith("10")
    assert claims["A: b, read as g"].startswith("60")


def test_a_place_counts_where_every_reading_is_there(suite: ScaledSuite) -> None:
    counts = {("A", "b"): [50], ("B", "b"): [0], ("A", "g"): [50], ("B", "g"): [None]}
    (reading,) = table(suite, counts).readings()
    assert (reading.distances, reading.nearer) == ({"crafted on Source": (0.0,), "guided by Source": (0.0,)}, "")
    assert str(reading).endswith("neither is nearer.")
    (reading,) = table(suite, {}).readings()
    assert str(reading) == "b against print: no place has every reading yet."


def test_no_reading_is_told_of_where_there_is_one_column(suite: ScaledSuite) -> None:
    assert readings_of(load("mnist").at("cpu"), lambda row, column: 1.0) == []
    several = readings_of(load("guess-first-mnist").at("cpu"), lambda row, column: 1.0)
    assert [each.printed for each in several][:2] == ["FGSM_b@0.15", "FGSM_b@0.30"]
    assert several[-1].printed.startswith("All of FGSM_b@0.15, ")
    assert len(several[-1].distances["guided by LeNet-5"]) == 5 * 6


def test_a_column_has_its_own_count_and_guide(suite: ScaledSuite, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    done = reproduce(plan(suite, Setup(device="cpu"), store), Bench(store))
    assert done.complete
    entries = {(entry.row, entry.column): entry for entry in done.table.entries}
    assert {entries["A", column].figure.n for column in "bw"} == {40}  # type: ignore[union-attr]
    for row in "AB":
        (evaluation,) = entries[row, "g"].evaluations
        folder = store.evaluation(evaluation)
        assert folder.spec["count"] == 20
        assert folder.about.access == "guided"
        assert folder.about.guide == "standard-digits-e2-s1"
        white = store.evaluation(entries[row, "w"].evaluations[0]).spec
        assert "guide" not in white
    told = "g: min-fgsm, linf eps 0.1, guided by Source, another reading of b, n = 20 (balanced over classes, of 500)"
    assert done.table.settings()[1] == told
    assert all(finding.model for finding in done.findings)
    again = reproduce(plan(suite, Setup(device="cpu"), store), Bench(store))
    assert [entry.evaluations for entry in again.table.entries] == [entry.evaluations for entry in done.table.entries]


def test_a_draw_is_no_matter_of_training(suite: ScaledSuite, tmp_path: Path) -> None:
    """The first images of the same models: nothing is trained anew, and no row is of other data."""
    store = Store(tmp_path / "runs")
    first = suite.on({"digits": "digits?draw=first"})
    before = plan(suite, Setup(device="cpu"), store)
    done = reproduce(plan(first, Setup(device="cpu"), store), Bench(store))
    assert [t.name for t in before.trainings] == [t.name for t in plan(first, Setup(device="cpu"), store).trainings]
    specs = [store.evaluation(name).spec for entry in done.table.entries for name in entry.evaluations]
    assert specs
    assert all("draw" not in spec for spec in specs)
    assert done.table.settings()[1].endswith("n = 20 (the first of 500)")
    assert all(t.done for t in plan(suite, Setup(device="cpu"), store).trainings)

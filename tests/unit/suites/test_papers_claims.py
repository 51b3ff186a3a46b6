"""Claims: the rule by which a printed value or an order of rows is reproduced, and what cannot be tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from robench import BadInput
from robench.results.accuracy import Figure
from robench.suites.claims import WIDEST, Claim, Claims, Verdict, claims_of
from robench.suites.provenance import Made
from robench.suites.suite import ScaledSuite, load, names
from robench.suites.table import Entry, SuiteTable
from robench.tables.rendering import write

SUITE = """
title = "A table"
source = "Nobody, 2020, Table 1"
tolerance = 0.5
[scales.cpu]
dataset = "mnist"
[scales.other]
dataset = "digits"
[scales.paper]
dataset = "mnist"
[[rows]]
name = "Weak"
defense = "standard"
[[rows]]
name = "Firm"
defense = "madry"
[[columns]]
name = "Natural"
[[columns]]
name = "PGD"
attack = "pgd"
eps = 0.1
[printed.Weak]
PGD = 30
[[orders]]
claim = "Firm is above Weak"
column = "PGD"
rows = ["Weak", "Firm"]
"""
MADE = (Made("model", 1800.0, "abc", "a machine"),)


def suite(folder: Path, scale: str = "cpu", text: str = SUITE) -> ScaledSuite:
    (folder / "mine.toml").write_text(text)
    return load(str(folder / "mine.toml")).at(scale)


def entry(row: str, stood: Sequence[bool], seed: int = 0) -> Entry:
    marks = np.array(stood)
    figure = Figure(int(marks.sum()), len(marks))
    return Entry(row, seed, row, "PGD", figure, "complete", stood=marks, made=MADE)


def judged(scaled: ScaledSuite, stood: Mapping[str, Sequence[Sequence[bool]]]) -> tuple[Claim, Claim]:
    """The claims about the first value and about the order, from which images stood by row and seed."""
    entries = [entry(row, marks, seed) for row, seeds in stood.items() for seed, marks in enumerate(seeds)]
    value, *_, order = claims_of(SuiteTable.of(scaled, entries, []))
    return value, order


def first(count: int, n: int = 100) -> list[bool]:
    return [i < count for i in range(n)]


def test_a_value_inside_the_widened_interval_is_reproduced(tmp_path: Path) -> None:
    value, _ = judged(suite(tmp_path), {"Weak": [first(38)], "Firm": [first(90)]})
    low, high = (100 * end for end in binomtest(38, 100).proportion_ci(method="wilson"))
    assert low < 30 < high  # the interval alone holds it
    assert value.interval == pytest.approx((low - 0.5, high + 0.5))
    assert (value.verdict, value.ours, value.printed) == (Verdict.REPRODUCED, "38.0", "30")


def test_what_is_said_of_figures_is_said_of_claims(tmp_path: Path) -> None:
    weak = replace(entry("Weak", first(38)), note="upper bound: no boundary attack", flags=("randomised",))
    value, *_, order = claims_of(SuiteTable.of(suite(tmp_path), [weak, entry("Firm", first(90))], []))
    said = "; said of our figures: upper bound: no boundary attack, randomised"
    assert value.why == f"one seed, n = 100, tolerance 0.5{said}"
    assert order.why.endswith(said)


def test_a_value_outside_is_not(tmp_path: Path) -> None:
    value, _ = judged(suite(tmp_path), {"Weak": [first(45)], "Firm": [first(90)]})
    assert value.interval is not None
    assert value.interval[0] > 30
    assert value.verdict is Verdict.NOT


def test_the_spread_of_seeds_widens_the_interval(tmp_path: Path) -> None:
    marks = {"Weak": [first(count, 300) for count in (105, 114, 123)], "Firm": [first(270, 300)] * 3}
    value, _ = judged(suite(tmp_path), marks)
    low, high = (100 * end for end in binomtest(114, 300).proportion_ci(method="wilson"))
    assert low - 0.5 > 30
    assert value.interval == pytest.approx((low - 3.5, high + 3.5))
    assert (value.verdict, value.ours) == (Verdict.REPRODUCED, "38.0 ± 3.0")


@pytest.mark.parametrize(
    ("counts", "n", "tolerance", "said"),
    [
        ([0], 1, 1, "the interval of n = 1 is 80.3 points wide; more images tell"),
        ([15], 50, 1, "the interval of n = 50 is 26.6 points wide; more images tell"),
        ([25, 35, 45], 100, 1, "the interval of n = 100 and 3 seeds is 40.4 points wide; its seeds have a standard "
                               "deviation of 10.0"),
        ([380], 1000, 13, "the interval of n = 1,000 is 32.0 points wide; its tolerance is 13"),
    ],
)  # fmt: skip
def test_inside_an_interval_of_almost_anything_a_value_is_untested(
    tmp_path: Path, counts: list[int], n: int, tolerance: float, said: str
) -> None:
    scaled = suite(tmp_path, text=SUITE.replace("tolerance = 0.5", f"tolerance = {tolerance}.0"))
    seeds = len(counts)
    value, _ = judged(scaled, {"Weak": [first(count, n) for count in counts], "Firm": [first(n, n)] * seeds})
    assert (value.verdict, value.why) == (Verdict.UNTESTED, said)
    assert value.interval is not None
    assert value.interval[0] < 30 < value.interval[1]
    assert value.ours != "-"


def test_outside_even_a_wide_interval_a_value_is_not_reproduced(tmp_path: Path) -> None:
    high = suite(tmp_path, text=SUITE.replace("PGD = 30", "PGD = 95"))
    value, _ = judged(high, {"Weak": [first(0, 1)], "Firm": [first(1, 1)]})
    assert (value.verdict, value.interval) == (Verdict.NOT, pytest.approx((0, 79.8), abs=0.1))


def test_a_hundred_images_of_one_seed_are_enough_for_every_share(tmp_path: Path) -> None:
    scaled = suite(tmp_path, text=SUITE.replace("tolerance = 0.5", "tolerance = 1.0"))
    marks = [{"Weak": [first(count)], "Firm": [first(90)]} for count in range(101)]
    values = [judged(scaled, each)[0] for each in marks]
    assert Verdict.UNTESTED not in {value.verdict for value in values}
    assert max(value.interval[1] - value.interval[0] for value in values if value.interval) < 21.25 < WIDEST


@pytest.mark.parametrize("n", range(1, 6))
def test_no_order_of_few_images_is_reproduced(tmp_path: Path, n: int) -> None:
    """However far apart: of five images the exact test makes 0.06 at best, and several seeds make it no better."""
    for seeds in (1, 3):
        _, order = judged(suite(tmp_path), {"Weak": [first(0, n)] * seeds, "Firm": [first(n, n)] * seeds})
        assert order.verdict is Verdict.UNTESTED
        assert order.why.startswith(f"too few images for {seeds} of {seeds} pairs: Weak < Firm: +100.0, p = ")


def test_of_few_images_the_reverse_of_an_order_can_be_told_all_the_same(tmp_path: Path) -> None:
    _, order = judged(suite(tmp_path), {"Weak": [first(20, 20)], "Firm": [first(10, 20)]})
    assert (order.verdict, order.why[:22]) == (Verdict.NOT, "fails in 1 of 1 pairs:")
    _, order = judged(suite(tmp_path), {"Weak": [first(20, 20)], "Firm": [first(17, 20)]})
    assert order.verdict is Verdict.UNTESTED
    several = {"Weak": [first(20, 20)] * 2, "Firm": [first(17, 20), first(8, 20)]}  # one pair of two tells enough
    assert judged(suite(tmp_path), several)[1].verdict is Verdict.NOT


def test_the_tolerance_decides_at_the_edge(tmp_path: Path) -> None:
    marks = {"Weak": [first(40)], "Firm": [first(90)]}
    assert judged(suite(tmp_path), marks)[0].verdict is Verdict.NOT
    wide = suite(tmp_path, text=SUITE.replace("tolerance = 0.5", "tolerance = 1.0"))
    assert judged(wide, marks)[0].verdict is Verdict.REPRODUCED


def test_an_order_holds_by_the_exact_test_on_the_same_images(tmp_path: Path) -> None:
    _, order = judged(suite(tmp_path), {"Weak": [first(30)], "Firm": [first(36)]})
    assert binomtest(6, 6).pvalue < 0.05
    assert order.verdict is Verdict.REPRODUCED
    _, order = judged(suite(tmp_path), {"Weak": [first(30)], "Firm": [first(35)]})
    assert binomtest(5, 5).pvalue > 0.05  # above, but five images are not enough
    assert order.verdict is Verdict.NOT
    _, order = judged(suite(tmp_path), {"Weak": [first(36)], "Firm": [first(30)]})
    assert order.verdict is Verdict.NOT
    assert "Weak < Firm: -6.0" in order.why


def test_an_order_is_told_beside_the_printed_values(tmp_path: Path) -> None:
    """Rows may stand in the printed order and nowhere near print."""
    marks = {"Weak": [first(0)], "Firm": [first(6)]}
    _, order = judged(suite(tmp_path), marks)
    assert (order.verdict, order.ours) == (Verdict.REPRODUCED, "Weak 0.0 < Firm 6.0")
    assert order.why.endswith("; printed: Weak 30")
    _, order = judged(suite(tmp_path, text=f"{SUITE}[printed.Firm]\nPGD = 70.5\n"), marks)
    assert order.why.endswith("; printed: Weak 30, Firm 70.5")


def test_an_order_must_hold_in_every_seed_after_adjustment(tmp_path: Path) -> None:
    _, order = judged(suite(tmp_path), {"Weak": [first(30)] * 2, "Firm": [first(50), first(36)]})
    assert order.verdict is Verdict.REPRODUCED
    _, order = judged(suite(tmp_path), {"Weak": [first(30)] * 2, "Firm": [first(50), first(35)]})
    assert order.verdict is Verdict.NOT
    # two pairs at p = 0.031 each: neither is below 0.05 once there are two
    _, order = judged(suite(tmp_path), {"Weak": [first(30)] * 2, "Firm": [first(36)] * 2})
    assert order.verdict is Verdict.NOT


def test_other_data_and_what_is_not_complete_are_untested(tmp_path: Path) -> None:
    marks = {"Weak": [first(38)], "Firm": [first(90)]}
    value, order = judged(suite(tmp_path, "other"), marks)
    assert (value.verdict, order.verdict) == (Verdict.UNTESTED, Verdict.UNTESTED)
    assert value.why == "run on digits, and the paper's is about mnist"
    empty = Entry("Weak", 0, "Weak", "PGD", None, "incomplete")
    found = list(claims_of(SuiteTable.of(suite(tmp_path), [empty, entry("Firm", first(90))], [])))
    assert [claim.verdict for claim in found] == [Verdict.UNTESTED] * 2
    assert {claim.why for claim in found} == {"not complete"}


def test_hours_and_commits_count_a_training_once(tmp_path: Path) -> None:
    _, order = judged(suite(tmp_path), {"Weak": [first(30)], "Firm": [first(36)]})
    assert (order.hours, order.commits) == (0.5, ("abc",))
    assert order.command == f"robench reproduce {tmp_path / 'mine.toml'} --scale cpu"


def test_the_claims_files_have_every_claim(tmp_path: Path) -> None:
    entries = [entry("Weak", first(45)), entry("Firm", first(90))]
    claims = Claims.of([SuiteTable.of(suite(tmp_path), entries, [])])
    assert claims.title == "2 claims of the papers: 1 reproduced, 1 not reproduced, 0 untested"
    for path in write(claims, tmp_path / "out"):
        text = path.read_text()
        assert "Weak: PGD" in text
        assert "Firm is above Weak" in text
    assert (tmp_path / "out" / "claims.md").read_text().count("not reproduced |") >= 1


def test_of_several_scales_those_count_that_test_a_claim(tmp_path: Path) -> None:
    tested = [entry("Weak", first(45)), entry("Firm", first(90))]
    cpu, other = suite(tmp_path), suite(tmp_path, "other")
    on_both = Claims.of([SuiteTable.of(other, tested, []), SuiteTable.of(cpu, tested, [])])
    assert [claim.scale for claim in on_both.claims] == ["cpu", "cpu"]
    twice = Claims.of([SuiteTable.of(cpu, tested, []), SuiteTable.of(cpu, tested, [])])
    assert len(twice.claims) == 4
    on_none = Claims.of([SuiteTable.of(other, tested, []), SuiteTable.of(cpu, [], [])])
    assert [(claim.scale, claim.verdict) for claim in on_none.claims] == [("other", Verdict.UNTESTED)] * 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('column = "PGD"', 'column = "Natural"', "Natural"),
        ('column = "PGD"', 'column = "FGSM"', "FGSM"),
        ('rows = ["Weak", "Firm"]', 'rows = ["Weak", "Frim"]', "did you mean 'Firm'"),
        ('rows = ["Weak", "Firm"]', 'rows = ["Weak"]', "orders[0].rows"),
        ("tolerance = 0.5", "tolerance = -1.0", "tolerance"),
    ],
)
def test_what_an_order_may_not_say(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(BadInput, match=said.replace("[", r"\[")):
        suite(tmp_path, text=SUITE.replace(old, new))


@pytest.mark.parametrize("name", names())
def test_every_order_is_that_of_the_printed_values(name: str) -> None:
    """Where both are in the paper."""
    suite = load(name)
    for scale in suite.scales.values():
        for order in scale.orders:
            for column in order.columns:
                printed = [scale.printed_in(row, column) for row in order.rows]
                known = [value for value in printed if value is not None]
                assert len(known) in (0, len(printed))
                assert known == sorted(known), (order.claim, column)
                assert len(set(known)) == len(known)


def test_what_a_scale_leaves_out_is_a_claim_as_well(tmp_path: Path) -> None:
    skipping = SUITE.replace(
        '[scales.other]\n', '[scales.cpu.rows.Weak]\nskip = true\nreason = "hours"\n[scales.other]\n'
    )  # fmt: skip
    entries = [entry("Firm", first(90))]
    (alone,) = Claims.of([SuiteTable.of(suite(tmp_path, text=skipping), entries, [])]).claims
    assert (alone.claim, alone.printed, alone.verdict) == ("Weak: PGD", "30", Verdict.UNTESTED)
    assert alone.why == "not run at this scale: hours"
    whole = SuiteTable.of(suite(tmp_path, "paper", skipping), [entry("Weak", first(30)), *entries], [])
    both = Claims.of([SuiteTable.of(suite(tmp_path, text=skipping), entries, []), whole])
    assert [(claim.scale, claim.verdict) for claim in both.claims] == [("paper", Verdict.REPRODUCED)] * 2

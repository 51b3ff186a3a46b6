"""Verdicts of another store: which are kept beside a store's own, and which a file may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from robench import BadInput
from robench.page.claims import read
from robench.suites.claims import Claim, Claims, Verdict, claims_of
from robench.suites.kept import keeping
from robench.suites.settings import settings
from robench.suites.suite import ScaledSuite, load, names
from robench.suites.table import SuiteTable
from robench.tables.rendering import write
from tests.unit.suites.test_papers_claims import SUITE, entry, first, suite

NOT_STATED = "; kept, not of this store; its settings were not recorded"


def table(scaled: ScaledSuite, weak: int = 45, n: int = 100) -> SuiteTable:
    return SuiteTable.of(scaled, [entry("Weak", first(weak, n)), entry("Firm", first(n * 9 // 10, n))], [])


def empty(scaled: ScaledSuite) -> Claims:
    return Claims.of([SuiteTable.of(scaled, [], [])])


def file(path: Path, claims: Iterable[Claim]) -> list[Claim]:
    """What a file of the claims says."""
    write(Claims(tuple(claims)), path)
    return [claim.measured() for claim in read(path / "claims.csv")]


def verdicts(claims: Claims) -> list[Verdict]:
    return [claim.verdict for claim in claims.claims]


def test_they_stay_where_this_store_has_none(tmp_path: Path) -> None:
    scaled = suite(tmp_path)
    earlier = file(tmp_path, claims_of(table(scaled)))
    assert [replace(each, interval=None) for each in earlier] == [
        replace(claim, interval=None) for claim in claims_of(table(scaled))
    ]
    kept = keeping(empty(scaled), earlier, [scaled])
    assert verdicts(kept) == [Verdict.NOT, Verdict.REPRODUCED]
    assert [claim.why for claim in kept.claims] == [f"{claim.why}; kept, not of this store" for claim in earlier]
    assert keeping(kept, kept.claims, [scaled]) == keeping(empty(scaled), kept.claims, [scaled]) == kept
    better = Claims.of([SuiteTable.of(scaled, [entry("Weak", first(30))], [])])
    value, order = keeping(better, earlier, [scaled]).claims
    assert (value.verdict, value.ours, "kept" in value.why) == (Verdict.REPRODUCED, "30.0", False)
    assert (order.verdict, "kept" in order.why) == (Verdict.REPRODUCED, True)


def test_what_is_printed_or_claimed_otherwise_now_is_not_kept(tmp_path: Path) -> None:
    earlier = [replace(claim, settings="") for claim in claims_of(table(suite(tmp_path)))]
    changed = suite(tmp_path, text=SUITE.replace("PGD = 30", "PGD = 31").replace("Firm is above", "Firm beats"))
    assert set(verdicts(keeping(empty(changed), earlier, [changed]))) == {Verdict.UNTESTED}


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("eps = 0.1", "eps = 0.2", (False, False)),
        ('attack = "pgd"', 'attack = "fgsm"', (False, False)),
        ("eps = 0.1", 'eps = 0.1\nnorm = "l2"', (False, False)),
        ("eps = 0.1", "eps = 0.1\noptions = {steps = 7}", (False, False)),
        ("eps = 0.1", "eps = 0.1\neot = 2", (False, False)),
        ('attack = "pgd"', 'attack = ["pgd", "fgsm"]\ncombine = "minimum"', (False, False)),
        ('dataset = "mnist"', 'dataset = "mnist"\nepochs = 3', (False, False)),
        ('dataset = "mnist"', 'dataset = "mnist"\nrecipe = "paper"', (False, False)),
        ('dataset = "mnist"', 'dataset = "mnist?size=20"', (False, False)),
        ('defense = "standard"', 'defense = "trades"', (False, False)),
        ('defense = "madry"', 'defense = "madry"\nbatch_size = 7', (True, False)),
        ('defense = "madry"', 'defense = "madry"\noptions = {backbone = "x"}', (True, False)),
        ("tolerance = 0.5", "tolerance = 0.6", (False, True)),
        ('dataset = "mnist"', 'dataset = "mnist"\ncount = 50\nseeds = [3, 4]', (True, True)),
        ("eps = 0.1", "eps = 0.1\ncount = 50", (True, True)),
        ('title = "A table"', 'title = "Another"', (True, True)),
    ],
)
def test_verdicts_of_other_settings_are_not_kept(tmp_path: Path, old: str, new: str, kept: tuple[bool, bool]) -> None:
    """The value is about a row, the order about both; neither counts nor seeds nor words matter."""
    before = SUITE
    if "combine" in new:  # an order is of what counts images
        before = before[: before.index("[[orders]]")]
    earlier = file(tmp_path, claims_of(table(suite(tmp_path, text=before))))
    assert all(claim.settings for claim in earlier)
    assert old in before
    changed = suite(tmp_path, text=before.replace(old, new))
    found = verdicts(keeping(empty(changed), earlier, [changed]))
    assert [verdict is not Verdict.UNTESTED for verdict in found] == list(kept[: len(found)])
    unknown = keeping(empty(changed), [replace(claim, settings="") for claim in earlier], [changed])
    assert all(claim.why.endswith(NOT_STATED) and not claim.settings for claim in unknown.claims)
    assert verdicts(unknown) == [claim.verdict for claim in earlier]
    assert keeping(unknown, unknown.claims, [changed]) == unknown


def test_a_surrogate_and_another_scale_are_held_against_the_suite_of_today(tmp_path: Path) -> None:
    source = '[[rows]]\nname = "Source"\ndefense = "standard"\nshown = false\nepochs = 3\n'
    text = SUITE.replace("eps = 0.1", f'eps = 0.1\nsurrogate = "Source"\n{source}')
    earlier = file(tmp_path, claims_of(table(suite(tmp_path, "paper", text))))
    cpu = empty(suite(tmp_path, text=text))
    kept = keeping(cpu, earlier, [suite(tmp_path, scale, text) for scale in ("cpu", "other", "paper")])
    assert [claim.scale for claim in kept.claims] == ["paper", "paper"]
    changed = text.replace("epochs = 3", "epochs = 4")
    kept = keeping(cpu, earlier, [suite(tmp_path, scale, changed) for scale in ("cpu", "other", "paper")])
    assert set(verdicts(kept)) == {Verdict.UNTESTED}
    assert set(verdicts(keeping(cpu, earlier, [suite(tmp_path, text=text)]))) == {Verdict.UNTESTED}


def test_a_verdict_is_kept_for_the_column_that_it_was_read_as(tmp_path: Path) -> None:
    other = '[[columns]]\nname = "Follow"\nreading_of = "PGD"\nattack = "pgd"\neps = 0.1\nguide = "Guide"\n'
    other += '[[rows]]\nname = "Guide"\ndefense = "standard"\nshown = false\n[printed.Weak]'
    text = SUITE.replace("[printed.Weak]", other)
    scaled = suite(tmp_path, text=text)
    far, near = table(scaled, 90).entries, table(scaled, 30).entries
    (value, *_) = claims_of(SuiteTable.of(scaled, [*far, *(replace(e, column="Follow") for e in near)], []))
    assert (value.claim, value.verdict) == ("Weak: PGD, read as Follow", Verdict.REPRODUCED)
    assert verdicts(keeping(empty(scaled), [value], [scaled]))[0] is Verdict.REPRODUCED
    changed = suite(tmp_path, text=text.replace("eps = 0.1\nguide", "eps = 0.2\nguide"))
    assert verdicts(keeping(empty(changed), [value], [changed]))[0] is Verdict.UNTESTED


def test_a_copy_of_the_data_is_the_same_setting(tmp_path: Path) -> None:
    scaled = suite(tmp_path)
    assert settings(scaled.on({"mnist": "npz:mine.npz"}).within(1, 7)) == settings(scaled)


def test_one_image_replaces_no_kept_verdict(tmp_path: Path) -> None:
    """Neither where the printed value lies inside its interval nor where it lies outside."""
    scaled = suite(tmp_path)
    earlier = file(tmp_path, claims_of(table(scaled, 300, 1000)))
    for weak in (0, 1):
        tried = Claims.of([SuiteTable.of(scaled, [entry("Weak", first(weak, 1))], [])])
        value, _ = keeping(tried, earlier, [scaled]).claims
        assert (value.verdict, value.ours) == (Verdict.REPRODUCED, "30.0")
    high = suite(tmp_path, text=SUITE.replace("PGD = 30", "PGD = 95"))
    tried = Claims.of([SuiteTable.of(high, [entry("Weak", first(0, 1))], [])])
    assert tried.claims[0].verdict is Verdict.NOT
    earlier = file(tmp_path, claims_of(table(high, 950, 1000)))
    value, _ = keeping(tried, earlier, [high]).claims
    assert (value.verdict, value.ours) == (Verdict.REPRODUCED, "95.0")
    wide = [replace(claim, interval=(0.0, 50.0), verdict=Verdict.NOT) for claim in earlier[:1]]
    assert keeping(tried, wide, [high]).claims[0] == tried.claims[0]


def test_what_the_rule_leaves_untested_today_is_not_kept(tmp_path: Path) -> None:
    scaled = suite(tmp_path)
    value, _ = file(tmp_path, claims_of(table(scaled, 30)))
    wide = replace(value, interval=(0.0, 80.3), settings="")
    assert verdicts(keeping(empty(scaled), [wide], [scaled]))[0] is Verdict.UNTESTED


@pytest.mark.parametrize(
    ("low", "high", "verdict", "fine"),
    [
        (20.0, 29.0, Verdict.REPRODUCED, False),
        (20.0, 29.99, Verdict.REPRODUCED, False),
        (20.0, 30.0, Verdict.REPRODUCED, True),
        (30.01, 40.0, Verdict.REPRODUCED, False),
        (40.0, 20.0, Verdict.REPRODUCED, False),
        (20.0, 40.0, Verdict.NOT, False),
        (30.0, 40.0, Verdict.NOT, True),
        (31.0, 40.0, Verdict.NOT, True),
        (20.0, 40.0, Verdict.UNTESTED, True),
        (float("nan"), 40.0, Verdict.NOT, False),
        (20.0, float("inf"), Verdict.REPRODUCED, False),
    ],
)
def test_a_verdict_that_its_own_figures_do_not_allow_is_refused(
    tmp_path: Path, low: float, high: float, verdict: Verdict, fine: bool
) -> None:
    value, order = claims_of(table(suite(tmp_path)))
    told = replace(value, interval=(low, high), verdict=verdict)
    if fine:
        assert file(tmp_path, [told, order])[0] == told
        return
    with pytest.raises(BadInput, match=r"'Weak: PGD' of 'mine' .*give the claims.csv as robench wrote it"):
        file(tmp_path, [told, order])


def test_an_order_and_a_value_without_an_interval_are_taken_as_they_are(tmp_path: Path) -> None:
    found = [replace(claim, interval=None, verdict=Verdict.REPRODUCED) for claim in claims_of(table(suite(tmp_path)))]
    assert [claim.verdict for claim in file(tmp_path, found)] == [Verdict.REPRODUCED] * 2


def test_a_file_without_the_column_is_read(tmp_path: Path) -> None:
    file(tmp_path, claims_of(table(suite(tmp_path))))
    path = tmp_path / "claims.csv"
    path.write_text(path.read_text().replace(",settings,", ",other,"))
    assert [claim.settings for claim in read(path)] == ["", ""]


@pytest.mark.parametrize("name", names())
def test_every_claim_of_what_is_run_has_its_settings(name: str) -> None:
    for scaled in load(name).scales.values():
        for claim in claims_of(SuiteTable.of(scaled, [], [])):
            assert bool(claim.settings) is ("not run at this scale" not in claim.why)

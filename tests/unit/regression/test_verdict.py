"""Baselines and comparisons: exact tests, verdicts, the file, and what a CI system is shown."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import pandas as pd
import pytest
import xmlschema
from torch import nn

from robench import BadInput
from robench.regression.baseline import Baseline, Kept, Outcomes, encode, read, write
from robench.regression.check import substitutes
from robench.regression.junit import Case, Suite, document
from robench.regression.report import Checked
from robench.regression.verdict import CLEAN, Line, Terms, Verdict, judge
from robench.results.accuracy import attack_figure, worst_case
from robench.results.rows import success_of
from robench.results.statistics import holm, mcnemar, paired_interval, wilson
from robench.store.runs import EvaluationFolder
from robench.store.specs import EvalSpec

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parents[2] / "junit.xsd"))


def binomial_tails(fell: int, rose: int) -> Fraction:
    """Twice the smaller tail of a fair coin, by counting."""
    n, few = fell + rose, min(fell, rose)
    return min(Fraction(1), 2 * Fraction(sum(math.comb(n, k) for k in range(few + 1)), 2**n))


def test_mcnemar_by_counting() -> None:
    for fell in range(0, 41, 4):
        for rose in range(41):
            assert mcnemar(fell, rose) == pytest.approx(float(binomial_tails(fell, rose)), rel=1e-12)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 0) == 2 / 1024
    assert mcnemar(5, 15) == mcnemar(15, 5) == pytest.approx(0.04138946533203125, abs=1e-15)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_paired_interval_by_hand_and_by_its_coverage() -> None:
    # 1000 images, 62 fell and 12 rose: shares 63/1002 and 13/1002, difference -50/1002
    down, up, n = 63 / 1002, 13 / 1002, 1002
    half = 1.959963984540054 * math.sqrt((down + up - (up - down) ** 2) / n)
    assert paired_interval(62, 12, 1000) == pytest.approx((up - down - half, up - down + half), abs=1e-12)
    assert paired_interval(0, 0, 0) == (-1.0, 1.0)
    draws = np.random.Generator(np.random.Philox(7)).multinomial(300, [0.08, 0.04, 0.88], size=4000)
    covered = [low <= -0.04 <= high for low, high in (paired_interval(int(a), int(b), 300) for a, b, _ in draws)]
    assert 0.94 <= np.mean(covered) <= 0.97


SPEC = EvalSpec(
    model_digest="a" * 16, data_digest="d" * 16, count=4, norm="linf", eps="1/10", attack="pgd", attack_version=1,
    attack_options={"steps": 10}, seed=0,
)  # fmt: skip


def a_kept(model: str = "plain", outcomes: str = "rrc-", **changes: object) -> Kept:
    metric = changes.get("metric", "robust accuracy")
    n, right = len(outcomes), sum(outcomes.count(letter) for letter in "rcm")
    counted = sum(outcomes.count(letter) for letter in ("cx" if metric == "attack success rate" else "rm"))
    fields = {
        "evaluation": "0123456789ab", "model": model, "reference": model, "dataset": "digits",
        "metric": "robust accuracy", "given_options": {"steps": 10}, "against": "", "spec": SPEC,
        "clean_accuracy": right / n, "clean_interval": wilson(right, n), "figure": counted / n,
        "interval": wilson(counted, n), "flags": [],
        "environment": {"python": "3.11"}, "outcomes": outcomes,
    }  # fmt: skip
    return Kept(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["robust accuracy", "attack success rate"])
def test_letters_keep_what_the_figures_are_made_of(metric: str, tmp_path: Path) -> None:
    """Class 1 is the truth; the last image is broken at another class than the attack aimed at, if it aimed."""
    targeted = metric == "attack success rate"
    rows = pd.DataFrame({
        "example_id": range(4), "label": 1, "goal": 2 if targeted else -1, "clean_pred": [0, 0, 1, 1],
        "adv_pred": [0, 2, 1, 3 if targeted else 2], "clean_correct": [False, False, True, True],
    })  # fmt: skip
    rows["success"] = success_of(rows, rejected=9)
    folder = EvaluationFolder(tmp_path)
    object.__setattr__(folder, "rows", lambda: rows)
    outcomes = Outcomes.of(encode(folder, SPEC), metric)
    assert outcomes.correct.tolist() == [False, False, True, True]
    figure = attack_figure(rows, metric).count
    assert int(outcomes.stood.sum()) == (4 - figure if targeted else figure)
    assert outcomes.robust.tolist() == [False, False, True, False]
    assert int(outcomes.robust.sum()) == worst_case([rows]).count
    object.__setattr__(folder, "rows", lambda: rows[:3])
    with pytest.raises(BadInput, match="rows of other examples"):
        encode(folder, SPEC)


def line(
    fell: int, rose: int, n: int = 1000, attack: str = "pgd, linf eps 0.1", metric: str = "robust accuracy"
) -> Line:
    then, now = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    metric = "clean accuracy" if attack == CLEAN else metric
    then[: fell + 300], now[fell : fell + 300 + rose] = True, True
    found = Line("plain", attack, n, metric, then=float(then.mean())).counted(then, now, float(now.mean()))
    assert (found.fell, found.rose, found.stayed) == (fell, rose, 300)
    return found


def verdicts(lines: list[Line], **terms: float) -> list[str]:
    return [each.verdict for each in judge(lines, Terms(**terms))]


def test_a_drop_must_be_more_than_chance() -> None:
    assert verdicts([line(30, 0)]) == ["fell"]
    assert verdicts([line(0, 30)]) == ["rose"]
    assert verdicts([line(30, 20)]) == ["same"]
    assert verdicts([line(20, 20)]) == ["same"]
    assert mcnemar(15, 5) < 0.05 < 2 * mcnemar(15, 5)
    assert verdicts([line(15, 5)]) == ["fell"]
    assert verdicts([line(15, 5), line(3, 3)]) == ["same", "same"]  # one of two: Holm's correction
    assert verdicts([line(15, 5), line(3, 3)], alpha=0.1) == ["fell", "same"]
    assert verdicts([line(15, 5), line(40, 0)]) == ["fell", "fell"]


def few(stood: int, fell: int, **more: Any) -> Line:
    """A line of 60 images of which so many stood then."""
    then, now = np.arange(60) < stood, (np.arange(60) < stood) & (np.arange(60) >= fell)
    return Line("plain", "pgd", 60, "robust accuracy", then=stood / 60, **more).counted(then, now, float(now.mean()))


def test_a_fall_that_too_few_images_could_tell_is_no_pass() -> None:
    """All five that stood fell, which chance does once in sixteen times."""
    assert mcnemar(5, 0) > 0.05 > mcnemar(6, 0)
    assert verdicts([few(5, 5)]) == ["open"]
    assert verdicts([few(6, 6)]) == ["fell"]
    assert verdicts([few(6, 6), few(6, 1)]) == ["open", "open"]  # one of two
    assert verdicts([few(5, 5)], max_drop=0.02) == ["fell"]
    assert verdicts([few(5, 1)], max_drop=0.02) == ["same"]
    assert verdicts([few(5, 5, doubts=("flat-logits",))]) == ["untrusted"]
    assert verdicts([few(5, 0), few(0, 0)]) == ["same", "same"]
    (line,) = judge([few(1, 1)], Terms())
    assert line.sentence.endswith(
        "; 1 image stood then, and were they all to fall, that could be chance; take more images, or give --max-drop."
    )
    found = Checked("b", (line,), Terms())
    assert (found.exit_code, found.verdict) == (3, "Of 1 comparisons with b, 1 stand on too few images to tell.")
    assert 'errors="1"' in found.junit()
    told = [each.blindness for each in judge([few(5, 0), few(0, 0), few(40, 0)], Terms())]
    assert told == ["plain under pgd: 5 images stood then, and were they all to fall, that could be chance; take more "
                    "images, or give --max-drop.", "", ""]  # fmt: skip


def test_a_fall_that_chance_explains_is_not_called_none() -> None:
    lines = judge([line(5, 3)], Terms())
    assert Checked("b", lines, Terms()).verdict == "Nothing fell more than chance explains in 1 comparisons with b."
    lines = judge([line(3, 3)], Terms())
    assert Checked("b", lines, Terms()).verdict == "Nothing fell in 1 comparisons with b."


def test_a_limit_on_the_drop_is_exact_and_for_robust_accuracy_only() -> None:
    assert 0.07 * 100 > 7  # what a float would make of the limit
    assert verdicts([line(50, 43, n=500)], max_drop=0.014) == ["same"]
    assert verdicts([line(17, 10, n=400)], max_drop=0.0175) == ["same"]
    assert verdicts([line(50, 43, n=500)], max_drop=0.0139) == ["fell"]
    assert not Terms(max_drop=0.07).too_far(7, 100)
    assert Terms(max_drop=0.07).too_far(8, 100)
    assert verdicts([line(21, 20, attack=CLEAN)], max_drop=0.0) == ["same"]
    assert verdicts([line(21, 20)], max_drop=0.0) == ["fell"]
    assert verdicts([line(40, 0, attack=CLEAN)]) == ["fell"]


@pytest.mark.parametrize("terms", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": math.nan}, {"max_drop": -0.1},
                                   {"max_drop": 2.0}, {"max_drop": math.nan}])  # fmt: skip
def test_terms_out_of_range_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="|".join(f"--{name.replace('_', '-')}" for name in terms)):
        Terms(**terms)


def checked() -> Checked:
    incomplete = Line("other", "fgsm, linf eps 0.1", 1000, "robust accuracy", 0.5)
    odd = replace(line(40, 2, attack="a|b <c>, linf eps 0.1"), model="file.py:a\x00b|c")
    targeted = line(2, 5, attack="random-targeted", metric="attack success rate")
    return Checked("b.json", judge([line(3, 3, attack=CLEAN), targeted, odd, incomplete], Terms()), Terms(), ("Note.",))


def test_the_outcome_of_a_check() -> None:
    found = checked()
    assert [each.verdict for each in found.lines] == ["same", "same", "fell", "incomplete"]
    assert found.exit_code == 1
    assert Checked("b", (found.lines[0], found.lines[3]), Terms()).exit_code == 3
    assert Checked("b", found.lines[:2], Terms()).exit_code == 0
    assert found.verdict == "Of 4 comparisons with b.json, 1 fell and 1 could not be made."
    sentence = found.of(Verdict.FELL)[0].sentence
    assert "34.0% then, 30.2% now; of 1,000 images 40 fell, 2 rose and 300 stayed" in sentence
    assert f"p = {mcnemar(40, 2):.2g}, with Holm's correction {4 * mcnemar(40, 2):.2g}" in sentence
    content = json.loads(json.dumps(found.to_json()))
    assert content["lines"][3]["fell"] is content["lines"][3]["p"] is content["lines"][3]["now"] is None
    assert content["lines"][2]["change"] == -0.038
    assert content["lines"][2]["interval"] == list(paired_interval(40, 2, 1000))


def test_markdown_is_one_table_whatever_the_names() -> None:
    text = checked().markdown()
    rows = [each for each in text.splitlines() if each.startswith("|")]
    assert len(rows) == 6
    assert {row.replace("\\|", "").count("|") for row in rows} == {12}
    assert "a\\|b \\<c\\>" in rows[4]
    assert "30.2 † | 30.5 †" in rows[3]
    assert all(ord(letter) >= 32 or letter == "\n" for letter in text)


def test_junit_is_valid_and_says_what_failed() -> None:
    text = checked().junit()
    SCHEMA.validate(text)
    root = Tree.fromstring(text)
    cases = {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}
    assert len(cases) == 4
    kinds = {name: [child.tag for child in case] for (_, name), case in cases.items()}
    assert kinds == {CLEAN: [], "random-targeted": [], "a|b <c>, linf eps 0.1": ["failure"],
                     "fgsm, linf eps 0.1": ["error"]}  # fmt: skip
    failure = next(root.iter("failure"))
    assert "40 fell, 2 rose" in failure.get("message", "")
    totals = [[int(suite.get(key, "")) for key in ("tests", "failures", "errors")] for suite in root]
    assert totals == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    properties = {each.get("name"): each.get("value") for each in root[1].iter("property")}
    assert properties["a|b <c>, linf eps 0.1: fell"] == "40"
    assert properties["alpha"] == "0.05"


def test_the_schema_can_say_no() -> None:
    good = document([Suite("s", [Case("t", "c", 1.5, failure="f")], {"a": 1})], "p")
    SCHEMA.validate(good)
    for old, new in (
        ('time="1.500"', 'time="soon"'),
        ("<system-out />", ""),
        ('classname="c"', ""),
        ("failure", "fault"),
    ):
        assert old in good
        assert not SCHEMA.is_valid(good.replace(old, new))


def test_a_baseline_survives_git_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    baseline = Baseline("b.json", (a_kept(), a_kept("other", "ccr-", metric="attack success rate")))
    write(baseline, path)
    text = path.read_text()
    assert read(path) == baseline
    assert text == baseline.text()
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert read(path) == baseline
    lines = text.splitlines()
    assert all(len(each) < 200 for each in lines)
    keys = [each.strip().partition('"')[2].partition('"')[0] for each in lines if each.startswith('   "')]
    first = keys[: keys.index("spec") + 1]
    assert all(a < b for a, b in pairwise(first))
    for damage in (text[:-200], text.replace("rrc-", "rrr-"), text.replace("0.75", "0.76"), "[]", "{}", "", "\x00"):
        path.write_text(damage)
        with pytest.raises(BadInput, match=r"b\.json") as caught:
            read(path)
        assert "restore it from git" in str(caught.value)
    path.write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(BadInput, match="format 9, but this robench reads 1"):
        read(path)
    with pytest.raises(BadInput, match=r"There is no file .*none\.json"):
        read(tmp_path / "none.json")


def changed(**changes: object) -> Kept:
    """What was kept, with what no evaluation can come to."""
    return a_kept().model_copy(update=changes)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ((a_kept(outcomes="rrc"),), "outcomes of 3 examples instead of 4"),
        ((a_kept(outcomes="rrc?"),), "outcomes"),
        ((), "no evaluations"),
        ((changed(figure=math.nan),), "figure: Input should be a finite number"),
        ((a_kept(figure=0.25),), "robust accuracy is 0.25, and outcomes make 0.5"),
        ((changed(clean_accuracy=1e30),), "clean_accuracy: Input should be less than or equal to 1"),
        ((changed(clean_interval=(0.0, math.inf)),), "clean_interval.1: Input should be a finite number"),
        ((a_kept(interval=(0.9, 0.1)),), "robust accuracy is 0.5"),
        ((a_kept(figure=0.5, metric="attack success rate"),), "attack success rate is 0.5, and outcomes make 0.25"),
        ((changed(metric="kindness"),), "metric: Value error, must be robust accuracy or attack success rate"),
    ],
)
def test_a_well_sealed_file_must_make_sense_too(kept: tuple[Kept, ...], told: str, tmp_path: Path) -> None:
    write(Baseline("b.json", kept), tmp_path / "b.json")
    with pytest.raises(BadInput, match=re.escape(told)):
        read(tmp_path / "b.json")


def test_which_models_a_model_stands_for() -> None:
    one, two = Baseline("b", (a_kept(),)), Baseline("b", (a_kept(), a_kept("other"), a_kept()))
    module = nn.Flatten()
    assert substitutes(None, two) == (two, {})
    assert substitutes(module, one) == (one, {"plain": module})
    assert substitutes("new.py:load", one) == (one, {"plain": "new.py:load"})
    part, models = substitutes("plain", two)
    assert (len(part.kept), models) == (2, {})
    part, models = substitutes({"other": module}, two)
    assert ([each.model for each in part.kept], models) == (["other"], {"other": module})
    for wrong in (module, "new.py:load"):
        with pytest.raises(BadInput, match=r"has 2 models \(plain, other\)"):
            substitutes(wrong, two)
    with pytest.raises(BadInput, match="not empty"):  # nothing to compare must not pass as nothing fell
        substitutes({}, two)
    with pytest.raises(BadInput, match="'othr'; did you mean 'other'"):
        substitutes({"othr": module}, two)

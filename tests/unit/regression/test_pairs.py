"""The lines that a baseline's evaluations and today's make: worst cases, what cannot be trusted, labels."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import pytest
from rich.console import Console

from robench import BadInput
from robench.evaluation.summaries import Evaluated, Result
from robench.regression import check
from robench.regression.baseline import Kept, Outcomes
from robench.regression.pairs import Pair, lines_of
from robench.regression.report import Checked
from robench.regression.verdict import Line, Terms, Verdict, judge
from robench.results.accuracy import Measure
from robench.results.summary import Summary
from robench.store.about import About
from robench.store.runs import Store
from robench.store.specs import EvalSpec
from robench.trust.gates import Finding


def a_pair(
    then: str,
    now: str,
    attack: str = "pgd",
    access: str = "white-box",
    metric: str = "robust accuracy",
    flags: tuple[list[str], list[str]] = ([], []),
    dataset: str = "digits",
    misses: bool | None = None,
    **spec: Any,
) -> Pair:
    """A pair with these outcomes, a letter per image; `now` "" for an incomplete one."""
    fields = {
        "model_digest": "a" * 16, "data_digest": "d" * 16, "count": len(then), "norm": "linf", "eps": "1/10",
        "attack": attack, "attack_version": 1, "attack_options": {}, "seed": 0, **spec,
    }  # fmt: skip
    whole = EvalSpec(**fields)
    kept = Kept(
        evaluation=whole.job_id, model="plain", reference="plain", dataset=dataset, metric=metric, given_options={},
        against=" from other" if whole.surrogate else "", spec=whole, surrogate="other" if whole.surrogate else None,
        clean_accuracy=0.9, clean_interval=(0.8, 0.95), figure=then.count("r") / len(then), interval=(0.1, 0.9),
        flags=flags[0], environment={}, outcomes=then, misses=misses,
    )  # fmt: skip
    about = About(
        model="plain", reference="plain", dataset=dataset, eps="0.1", given_options={}, metric=metric, access=access,
        command="", environment={},
    )  # fmt: skip
    figure = now.count("r") / len(then)
    summary = Summary(
        Measure(metric), len(then), 0.9, (0.8, 0.95), figure if now else None, flags=tuple(flags[1]), seconds=1.0,
        status="complete" if now else "incomplete",
    )  # fmt: skip
    result = Result(whole.job_id, attack, whole.norm, "a" * 16, about, summary)
    return Pair(kept, result, Outcomes.of(then, metric), Outcomes.of(now, metric) if now else None)


def judged(pairs: list[Pair], **terms: float) -> list[Line]:
    return list(judge(lines_of(pairs), Terms(**terms)))


def worst(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.attack.startswith("worst case")]


def test_a_worst_case_may_fall_where_no_attack_does() -> None:
    """Each attack breaks 20 of 60 images then and now; together 20 then, 40 now."""
    one, other, same = "c" * 20 + "r" * 40, "r" * 20 + "c" * 20 + "r" * 20, "c" * 20 + "r" * 40
    found = judged([a_pair(one, other), a_pair(same, same, "fgsm")])
    assert [(line.attack, line.verdict) for line in found] == [
        ("clean", "same"), ("worst case, linf eps 0.1", "fell"), ("pgd, linf eps 0.1", "same"),
        ("fgsm, linf eps 0.1", "same"),
    ]  # fmt: skip
    (line,) = worst(found)
    assert (line.then, line.now, line.fell, line.rose, line.stayed) == (40 / 60, 20 / 60, 20, 0, 20)
    assert line.adjusted == 4 * line.p  # one of the four that Holm's correction is over
    assert line.sentence.startswith("plain in the worst case, linf eps 0.1: robust accuracy 66.7% then, 33.3% now")
    small = [a_pair("r" * 60, "c" * 2 + "r" * 58), a_pair("r" * 60, "rrcc" + "r" * 56, "fgsm")]
    assert [line.verdict for line in judged(small, max_drop=0.05)] == ["same", "fell", "same", "same"]


@pytest.mark.parametrize(
    "other",
    [
        {"access": "noise"},
        {"access": "transfer", "surrogate": "b" * 16},
        {"metric": "attack success rate"},  # of a file from before outcomes told what a targeted attack breaks
        {"eps": "2/10"},
        {"norm": "l2"},
        {"data_digest": "e" * 16},
        {"then": "r" * 30, "now": "r" * 30},
    ],
)
def test_what_a_worst_case_is_not_over(other: dict[str, Any]) -> None:
    plain = {"then": "r" * 40, "now": "r" * 40, "attack": "fgsm"}
    assert not worst(judged([a_pair("r" * 40, "r" * 40), a_pair(**{**plain, **other})]))
    assert worst(judged([a_pair("r" * 40, "r" * 40), a_pair(**plain)]))
    assert worst(judged([a_pair("r" * 40, "r" * 40), a_pair(**plain, seed=1)]))


def test_a_targeted_attack_counts_with_every_image_that_it_broke() -> None:
    """Whatever class it aimed at; c: its goal, m: another wrong class."""
    untargeted, aimed = a_pair("r" * 6, "r" * 6), a_pair("r" * 6, "rrccmm", metric=Measure.SUCCESS, misses=True)
    (line,) = worst(judged([untargeted, aimed]))
    assert (line.then, line.now, line.fell) == (1.0, 2 / 6, 4)
    assert not worst(judged([aimed, a_pair("r" * 6, "r" * 6, "fgsm", metric=Measure.SUCCESS, misses=True)]))


def test_a_worst_case_is_incomplete_if_one_of_its_attacks_is() -> None:
    found = judged([a_pair("rrrr", "rrrr"), a_pair("rrcc", "", "fgsm")])
    assert [line.verdict for line in found] == ["same", "incomplete", "same", "incomplete"]
    assert (worst(found)[0].then, worst(found)[0].now) == (0.5, None)


@pytest.mark.parametrize(
    ("then", "now", "doubts"),
    [
        ([], ["zero-gradient 12%"], ["zero-gradient 12% (not in the baseline)"]),
        ([], ["non-finite <1%"], ["non-finite <1% (not in the baseline)"]),
        ([], ["invalid-proposal 3%"], ["invalid-proposal 3% (not in the baseline)"]),
        ([], ["gradient-at-inference"], ["gradient-at-inference (not in the baseline)"]),
        (["zero-gradient 20%"], ["zero-gradient 31%"], ["zero-gradient 31% (20% in the baseline)"]),
        (["zero-gradient 20%"], ["zero-gradient 30%"], []),  # no more than half again
        (["non-finite 1%"], ["non-finite 5%"], []),  # less than 5 points
        (["non-finite <1%"], ["non-finite 5%"], ["non-finite 5% (0% in the baseline)"]),
        (["gradient-at-inference", "zero-gradient 90%"], ["gradient-at-inference", "zero-gradient 70%"], []),
        ([], ["borderline 3%", "surrogate gradient-at-inference"], []),
    ],
)
def test_gradient_trouble_that_is_new_is_not_trusted(then: list[str], now: list[str], doubts: list[str]) -> None:
    pair = a_pair("c" * 40, "r" * 40, flags=(then, now))
    _, line = judged([pair])
    assert (line.verdict, list(line.doubts)) == ("untrusted" if doubts else "rose", doubts)
    assert (pair.news != "") == any(flag.startswith(("borderline", "surrogate")) for flag in now)
    if doubts:
        assert f"cannot be trusted: {doubts[0]}" in line.sentence
        assert "robench diagnose" in line.sentence


def test_a_loss_is_a_loss_whatever_its_flags() -> None:
    _, line = judged([a_pair("r" * 40, "c" * 40, flags=([], ["zero-gradient 50%"]))])
    assert line.verdict == "fell"
    assert "how far it fell is not certain: zero-gradient 50%" in line.sentence


def test_a_worst_case_is_trusted_if_one_attack_can_be() -> None:
    bad, good = a_pair("c" * 40, "r" * 40, flags=([], ["zero-gradient 50%"])), a_pair("c" * 40, "r" * 40, "fgsm")
    found = judged([bad, good])
    assert [line.verdict for line in found] == ["same", "rose", "untrusted", "rose"]
    found = judged([bad, a_pair("c" * 40, "r" * 40, "fgsm", flags=([], ["non-finite 9%"]))])
    assert [line.verdict for line in found] == ["same", "untrusted", "untrusted", "untrusted"]


def test_what_cannot_be_trusted_fails_the_check() -> None:
    lines = judged([a_pair("c" * 40, "r" * 40, flags=([], ["zero-gradient 50%"]))])
    found = Checked("b.json", tuple(lines), Terms(), ("One note.", "Another <note>."))
    assert found.exit_code == 1
    assert found.verdict == "Of 2 comparisons with b.json, 1 cannot be trusted."
    assert found.told == [lines[1].sentence, "One note.", "Another <note>."]
    assert found.to_json()["lines"][1]["doubts"] == ["zero-gradient 50% (not in the baseline)"]
    (suite,) = Tree.fromstring(found.junit())
    assert (suite.get("failures"), suite.findtext("system-out")) == ("1", "One note.\nAnother <note>.")
    both = Checked("b", (*lines, Line("m", "pgd", 9, "robust accuracy", 0.5)), Terms())
    assert both.verdict == "Of 3 comparisons with b, 1 cannot be trusted and 1 could not be made."


def compared(monkeypatch: pytest.MonkeyPatch, root: Path, pairs: list[Pair], done: list[Evaluated]) -> Checked:
    """What a check makes of these pairs and of what evaluating them found."""
    found, left = iter(done), iter(pairs)
    monkeypatch.setattr(check, "evaluate_one", lambda address, store: next(found))
    monkeypatch.setattr(Pair, "of", lambda *_: next(left))
    plan: Any = [(pair.kept, None) for pair in pairs]
    return check._compare("b.json", plan, Store(root), Terms())


def test_no_gain_is_held_of_a_model_that_cannot_be_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for flags, gains in (([], 3), (["zero-gradient 50%"], 0)):
        pairs = [a_pair("c" * 40, "r" * 40, flags=([], flags)), a_pair("c" * 40, "r" * 40, "fgsm")]
        found = compared(monkeypatch, tmp_path / str(gains), pairs, [Evaluated([pair.result]) for pair in pairs])
        assert sum("hold the gain" in note for note in found.notes) == gains
        assert found.exit_code == (1 if flags else 0)
        monkeypatch.undo()


def test_every_diagnostic_that_fired_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the same gate did not fire on other evidence, or fired before in what a later list holds too."""

    def finding(evidence: str, fired: bool) -> Finding:
        return Finding("zero gradient", fired, evidence, "none", "look")

    pairs = [a_pair("rr", "rr"), a_pair("rr", "rr", "fgsm"), a_pair("rr", "rr", "fgsm", eps="2/10", norm="l2")]
    lists = [
        [finding("pgd", True)],
        [finding("pgd", True), finding("fgsm", False)],
        [finding("l2", True), finding("l2 small", False)],
    ]
    done = [Evaluated([pair.result], findings=found) for pair, found in zip(pairs, lists, strict=True)]
    found = compared(monkeypatch, tmp_path, pairs, done)
    told = [note for note in found.notes if "stood then" not in note]
    assert told == ["plain: zero gradient (pgd); look.", "plain: zero gradient (l2); look."]


def test_lines_of_one_model_are_of_one_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pairs = [a_pair("rr", "rr"), a_pair("rr", "rr", "fgsm")]
    done = [
        Evaluated([replace(pair.result, model_digest=digest * 16)]) for pair, digest in zip(pairs, "ab", strict=True)
    ]
    with pytest.raises(BadInput, match=r"'plain' is another one each time it is loaded \(digests a{16}, b{16}\)"):
        compared(monkeypatch, tmp_path, pairs, done)


def test_labels_that_would_collide_are_told_apart() -> None:
    """By what they differ in; so every test of a JUnit report has a name of its own."""

    def labels(*pairs: Pair) -> list[str]:
        lines = judged(list(pairs))
        cases = [case.get("name", "") for case in Tree.fromstring(Checked("b", tuple(lines), Terms()).junit())[0]
                 if case.tag == "testcase"]  # fmt: skip
        assert cases == [line.attack for line in lines]
        assert len(set(cases)) == len(cases)
        return cases

    few, many = a_pair("rr", "rr"), a_pair("rrr", "rrr")
    pgd = "pgd, linf eps 0.1"
    assert labels(few, many) == ["clean", f"{pgd}, n 2", f"{pgd}, n 3"]
    seeds = [a_pair("rr", "rr", seed=seed) for seed in (3, 5)]
    worst_case = "worst case, linf eps 0.1"
    assert labels(*seeds) == ["clean", worst_case, f"{pgd}, seed 3", f"{pgd}, seed 5"]
    elsewhere = a_pair("rr", "rr", dataset="mnist", data_digest="e" * 16)
    found = judged([few, elsewhere])
    assert labels(few, elsewhere) == ["clean, on digits", "clean, on mnist", f"{pgd}, on digits", f"{pgd}, on mnist"]
    assert found[1].sentence.startswith("plain on clean images, on mnist: clean accuracy")
    assert labels(*seeds, a_pair("rrr", "rrr", seed=3), a_pair("rrr", "rrr", "fgsm"))[1:3] == [
        f"{worst_case}, n 2", f"{worst_case}, n 3",
    ]  # fmt: skip
    renamed = a_pair("rr", "rr", data_digest="f" * 16)  # other data of the same name
    assert all("evaluation" in label for label in labels(few, renamed))


@pytest.mark.parametrize("width", [80, 79])
def test_verdicts_are_whole_in_a_narrow_terminal(width: int) -> None:
    """The label of a worst case and a tiny p leave them the least room."""
    some = {"n": 10_000, "metric": "robust accuracy", "then": 0.386, "now": 0.896, "fell": 1234, "rose": 5678,
            "stayed": 1234, "p": 3.5e-277, "adjusted": 3.5e-277}  # fmt: skip
    verdicts = tuple(Verdict)
    lines = [Line(model="plain", attack="worst case, linf eps 8/255", verdict=each, **some) for each in verdicts]
    lines[2] = replace(lines[2], now=None)
    out = io.StringIO()
    Console(width=width, file=out).print(Checked("b.json", tuple(lines), Terms()).tables())
    lasts = [line.split()[-1] for line in out.getvalue().splitlines() if line.strip()]
    assert [last for last in lasts if last in verdicts] == list(verdicts)

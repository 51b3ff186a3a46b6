"""Gates on a baseline and on today: what a check says of a model that hides its gradients, and of another attack."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robench.regression.check import HOLD, _gains
from robench.regression.masking import then_of, unwitnessed
from robench.regression.pairs import Pair, lacking
from robench.results.accuracy import Measure
from tests.unit.regression.test_pairs import a_pair, judged
from tests.unit.trust.attack_runs import N, run

SINGLE = "single step beats iteration"


def seen(attack: str, then: int, now: int, kind: str = "iterative", eps: str = "1/10", **more: str) -> Pair:
    """A pair under an attack that broke the first `then` of the images, and breaks the first `now` of them."""
    letters = ["c" * broken + "r" * (N - broken) for broken in (then, now)]
    pair = a_pair(*letters, attack, eps=eps, **more)
    return replace(pair, run=run(range(now), kind, eps=eps, attack=attack))


def test_a_run_is_made_again_of_what_a_baseline_keeps() -> None:
    pair = a_pair("r-cm" + "r" * (N - 4), "c" * N)
    assert pair.run is None
    found = then_of((pair.kept, run(range(N))))
    assert found.broken.nonzero()[0].tolist() == [2, 3]
    assert found.rows["clean_correct"].tolist() == [True, False, *(N - 2) * [True]]


def test_a_rise_that_a_gate_speaks_against_is_no_gain() -> None:
    pairs = [seen("pgd", 120, 20), seen("fgsm", 100, 80, "single-step")]
    lines = judged(pairs)
    assert [line.verdict for line in lines] == ["same", "untrusted", "untrusted", "untrusted"]
    assert {line.doubts for line in lines[1:]} == {(f"{SINGLE} on 60 of 200 images (it did not in the baseline)",)}
    assert f"today's figure cannot be trusted: {SINGLE} on 60 of 200" in lines[2].sentence
    assert "make no baseline of it unless" in lines[2].sentence
    assert lacking(pairs) == {}


@pytest.mark.parametrize(
    ("then", "now", "doubted"),
    [
        ((100, 80), (90, 80), False),  # it fires neither then nor now
        ((60, 80), (40, 60), False),  # on as many images then
        ((60, 80), (49, 80), True),  # on more than half as many images more, and on 5% of all more
        ((78, 80), (76, 80), True),  # on too few to fire then
        ((20, 80), (15, 80), False),
    ],
)
def test_a_gate_that_fired_before_counts_where_it_fires_on_far_more(
    then: tuple[int, int], now: tuple[int, int], doubted: bool
) -> None:
    pairs = [seen("pgd", then[0], now[0]), seen("fgsm", then[1], now[1], "single-step")]
    assert [bool(line.doubts) for line in judged(pairs)] == [False, *3 * [doubted]]


def test_gates_are_asked_within_one_threat_model_and_across_them() -> None:
    apart = [seen("pgd", 120, 20), seen("fgsm", 100, 80, "single-step", eps="2/10")]
    assert not any(line.doubts for line in judged(apart))
    lost = [seen("pgd", 100, 60), seen("pgd", 120, 40, eps="2/10")]
    told = {doubt for line in judged(lost) for doubt in line.doubts}
    assert told == {"success not rising with eps on 20 of 200 images (it did not in the baseline)"}
    aimed = [seen("pgd", 120, 20, metric=Measure.SUCCESS), seen("fgsm", 100, 80, "single-step")]
    assert not any(line.doubts for line in judged(aimed))


@pytest.mark.parametrize(("now", "doubted"), [(85, False), (92, True)])
def test_walks_and_queries_that_find_some_more_are_no_masking(now: int, doubted: bool) -> None:
    """Where they find 2 images then, too few for the gate, and 5 or 12 now: 5% of all images must be new."""
    walked = seen("fab-t", 82, now)
    assert walked.run is not None
    for other in (replace(walked, run=replace(walked.run, boundary=True)), seen("square", 82, now, "query")):
        assert [bool(line.doubts) for line in judged([seen("pgd", 80, 80), other])] == [False, *3 * [doubted]]


def test_a_loss_stays_a_loss_whatever_gates_say() -> None:
    pgd = judged([seen("pgd", 20, 60), seen("fgsm", 15, 100, "single-step")])[2]
    assert (pgd.verdict, len(pgd.doubts)) == ("fell", 1)
    assert f"how far it fell is not certain: {SINGLE}" in pgd.sentence


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([seen("pgd", 1, 1)], True),
        ([seen("fgsm", 1, 1, "single-step")], True),
        ([seen("pgd", 1, 1), seen("fgsm", 1, 1, "single-step", eps="2/10")], True),
        ([seen("pgd", 1, 1), seen("square", 1, 1, "query")], False),
        ([seen("pgd", 1, 1), seen("fgsm", 1, 1, "single-step")], False),
        ([seen("pgd", 1, 1), seen("pgd", 1, 1, eps="2/10")], False),
        ([seen("standard", 1, 1, "ensemble")], False),
        ([seen("square", 1, 1, "query")], False),  # asks for no gradient
        ([], False),
    ],
)
def test_what_could_show_masking(pairs: list[Pair], told: bool) -> None:
    sentences = lacking(pairs)
    assert len(sentences) == told
    for sentence in sentences.values():
        assert "could show that the model hides its gradients" in sentence
        assert "'robench evaluate plain --attack square --eps 0.1 --norm linf -n 200'" in sentence
        assert "--attack standard" in sentence
    assert unwitnessed([(pair.kept, pair.run) for pair in pairs if pair.run]) == sentences


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, 40, "the baseline does not say on how many"),
        (None, 2, ""),
        ({}, 40, "it did not in the baseline"),
        ({"queries-beat-gradients": 35}, 40, ""),
        ({"queries-beat-gradients": 20}, 40, "20 in the baseline"),
        ({"walks-beat-ascents": 40}, 40, "it did not in the baseline"),
    ],
)
def test_marks_of_an_attack_made_of_stages_count_as_gates(before: dict[str, int] | None, now: int, said: str) -> None:
    """It is its own witness, and the same model as then is asked about both times."""
    pair = seen("standard", 120, 20, "ensemble")
    assert pair.run is not None
    flags = ["queries-beat-gradients" if i < now else "" for i in range(N)]
    rows = pair.run.rows.assign(stages="untargeted;queries", flags=flags)
    pair = replace(pair, kept=pair.kept.model_copy(update={"marks": before}), run=replace(pair.run, rows=rows))
    line = judged([pair])[-1]
    assert line.doubts == ((f"queries come nearer than gradients on {now} of {N} images ({said})",) if said else ())
    assert line.verdict == ("untrusted" if said else "rose")


@pytest.mark.parametrize("now", [20, 120])
def test_another_attack_says_nothing_of_a_rise(now: int) -> None:
    edited = replace(seen("pgd", 120, now), other="the source of the attack pgd is another than the baseline's")
    same = seen("square", 10, 10, "query")
    clean, worst, pgd, square = judged([edited, same])
    assert [line.verdict for line in (clean, worst, pgd, square)] == ["same", "untrusted", "untrusted", "same"]
    assert worst.doubts == pgd.doubts == (edited.other,)
    _, fallen = judged([replace(seen("pgd", 20, 90), other=edited.other)])
    assert fallen.verdict == "fell"


def test_a_rise_is_no_gain_where_nothing_could_show_masking() -> None:
    pairs = [seen("pgd", 120, 20)]
    told = _gains(judged(pairs), lacking(pairs))
    assert told == ["plain rose on pgd, linf eps 0.1; no gain before another attack says so."]
    pairs = [*pairs, seen("square", 120, 10, "query")]
    told = _gains(judged(pairs), lacking(pairs))
    assert [each.endswith(f"; {HOLD}.") for each in told] == 3 * [True]

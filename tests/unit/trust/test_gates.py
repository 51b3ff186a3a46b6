"""The gates for gradient masking on rows made by hand: each fires on its pathology, at its threshold, not elsewhere."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from robench import ThreatModel
from robench.norms import NORMS
from robench.trust.diagnosis import wider
from robench.trust.gates import GATES, AttackRun, diagnose, together
from tests.unit.trust.attack_runs import CLASSES, N, fired, found, honest, rows_of, run, walk

LEAST = 3


def test_honest_runs_fire_nothing_and_reach_every_gate() -> None:
    staged = rows_of(range(104)).assign(stages="untargeted;witness")
    runs = [*honest(), run([], "ensemble", attack="standard", rows=staged)]
    findings = diagnose(runs)
    assert fired(*runs) == set()
    assert {finding.gate for finding in findings} == {
        "answers from outside of the process", "answers too coarse to hold gradients against them",
        "randomised output", "optimisation during inference", "answers that depend on earlier calls",
        "answers that depend on the batch", "gradients that do not fit the answers", "zero gradient",
        "single step beats iteration", "black box beats white box",
        "queries beat gradients", "boundary attack beats ascent", "success not rising with eps",
        "robust at eps that allows anything", "more effort still breaks images", "replaced functions",
        "changed global state", "answers that change without warning", "squashed outputs", "logits beyond comparison",
        "logits too small for a cross-entropy", "an attack that moves nothing",
        "queries come nearer than gradients", "walks break what ascents do not", "clean answers at chance",
    }  # fmt: skip
    assert len({finding.gate for finding in findings}) == len(GATES)
    assert all(f.evidence and f.threshold and f.advice and "nan" not in f.evidence for f in findings)
    assert diagnose([]) == []


def test_what_fired_comes_first() -> None:
    order = [finding.fired for finding in diagnose([*honest(), run(range(9), flags=("randomised",))])]
    assert order[0]
    assert order == sorted(order, reverse=True)


# --- single runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "gate"),
    [
        ("randomised", "randomised output"),
        ("gradient-at-inference", "optimisation during inference"),
        ("changes-its-state", "answers that depend on earlier calls"),
        ("changes-its-answers", "answers that depend on earlier calls"),
        ("batch-dependent", "answers that depend on the batch"),
        ("changes-torch (torch.clamp)", "replaced functions"),
        ("changes-global-state (seed)", "changed global state"),
        ("reaches-outside (memory.pt)", "answers from outside of the process"),
        ("unchecked-gradients", "answers too coarse to hold gradients against them"),
        ("squashed-outputs", "squashed outputs"),
        ("extreme-logits", "logits beyond comparison"),
        ("flat-logits", "logits too small for a cross-entropy"),
        ("moved-nothing", "an attack that moves nothing"),
    ],
)
def test_flags_of_one_run_are_enough(flag: str, gate: str) -> None:
    assert fired(*honest(), run([], "noise", flags=("borderline 2%", flag))) == {gate}
    assert f"1 of 10 runs on {N} images in linf" in found(gate, *honest(), run([], "noise", flags=(flag,)))[0].evidence


def test_one_gate_on_one_model_is_one_warning() -> None:
    one = replace(found("squashed outputs", run([], "noise", flags=("squashed-outputs",)))[0], model="mine")
    other = replace(one, evidence="seen in 2 of 2 runs on 50 images in l2")
    theirs, quiet = replace(other, model="theirs"), replace(one, evidence="seen in none", fired=False)
    merged = together([one, theirs, quiet, other, one])
    assert [(each.model, lines) for each, lines in merged.items()] == [
        ("mine", [one.evidence, other.evidence]), ("theirs", [other.evidence]),
    ]  # fmt: skip


@pytest.mark.parametrize(("images", "fires"), [(10, False), (11, True)])
def test_images_without_gradient(images: int, fires: bool) -> None:
    rows = rows_of(range(100))
    rows.loc[: images - 1, ["flags", "zero_pixels"]] = ["borderline;zero-gradient", 1.0]
    assert (fired(run([], rows=rows)) == {"zero gradient"}) is fires
    assert fired(run([], "query", rows=rows)) == set(), "a query attack asks for no gradient"


@pytest.mark.parametrize(("share", "fires"), [(0.89, False), (0.91, True)])
def test_pixels_without_gradient(share: float, fires: bool) -> None:
    rows = rows_of([]).assign(zero_pixels=share)
    rows.loc[100:, ["backwards", "zero_pixels"]] = [0, float("nan")]  # misclassified from the start
    assert (fired(run([], "single-step", rows=rows)) == {"zero gradient"}) is fires
    assert "100 attacked" in found("zero gradient", run([], rows=rows))[0].evidence


def test_gradients_nobody_noted() -> None:
    for rows in (rows_of([]).assign(zero_pixels=float("nan")), rows_of([]).drop(columns="zero_pixels")):
        (finding,) = found("zero gradient", run([], rows=rows))
        assert not finding.fired
        assert "nan" not in finding.evidence
    assert found("zero gradient", run([], rows=rows_of([]).assign(backwards=0))) == []


# --- pairs of runs ----------------------------------------------------------------------------------------------------

PAIRS = [
    ("single step beats iteration", "single-step", "iterative"),
    ("black box beats white box", "noise", "iterative"),
    ("black box beats white box", "transfer", "single-step"),
    ("queries beat gradients", "query", "iterative"),
    ("single step beats iteration", "single-step", "ensemble"),
    ("black box beats white box", "transfer", "ensemble"),
]


@pytest.mark.parametrize(("gate", "weak", "strong"), PAIRS)
def test_the_weaker_attack_breaks_images_alone(gate: str, weak: str, strong: str) -> None:
    stronger = run(range(100), strong)
    assert fired(run(range(50, 100 + LEAST - 1), weak), stronger) == set()
    assert fired(run(range(50, 100 + LEAST), weak), stronger) == {gate}
    assert fired(run(range(150, 160), weak), stronger) == {gate}, "per image, whatever the totals"
    assert found(gate, run(range(150, 160), weak, eps="0.2"), stronger) == [], "another threat model"
    helped = run(range(150, 160), strong, attack="other")
    assert fired(run(range(150, 160), weak), stronger, helped) == set(), "one of the stronger is enough"


def test_queries_do_not_excuse_gradients() -> None:
    runs = run(range(20), "noise"), run([]), run(range(100), "query")
    assert fired(*runs) == {"black box beats white box", "queries beat gradients"}
    assert found("black box beats white box", runs[0], runs[2]) == []


def test_an_ensemble_that_asks_queries_too_says_nothing_for_the_gradients() -> None:
    runs = run(range(20)), run(range(100), "ensemble"), run(range(100), "query")
    assert fired(*runs) == {"queries beat gradients"}


@pytest.mark.parametrize("ascent", ["iterative", "single-step"])
def test_the_boundary_attack_breaks_images_alone(ascent: str) -> None:
    gate, climbed = "boundary attack beats ascent", run(range(100), ascent)
    assert fired(walk(range(50, 100 + LEAST - 1)), climbed) == set()
    assert fired(walk(range(50, 100 + LEAST)), climbed) == {gate}
    assert fired(walk(range(150, 160)), climbed) == {gate}, "per image, whatever the totals"
    assert found(gate, walk(range(150, 160), eps="0.2"), climbed) == [], "another threat model"
    assert fired(walk(range(150, 160)), climbed, run(range(150, 160), ascent, attack="other")) == set(), "one of them"
    (evidence,) = found(gate, walk(range(150)), climbed, walk(range(160), attack="library:fab-t"))
    assert "fab-t, library:fab-t broke 60 of 200 images that" in evidence.evidence, "one walk hides no other"


def test_neither_ensembles_nor_queries_nor_images_of_others_are_ascents_or_walks() -> None:
    gate = "boundary attack beats ascent"
    for kind in ("query", "ensemble", "noise", "transfer"):
        assert found(gate, walk(range(100)), run([], kind)) == []
        assert fired(walk(range(100)), run([]), run(range(100), kind)) >= {gate}, "which hide nothing of it"
        assert found(gate, walk(range(100), kind), run([])) == []


@pytest.mark.parametrize(("gate", "weak", "strong"), PAIRS[:4])
def test_a_walk_excuses_no_ascent(gate: str, weak: str, strong: str) -> None:
    """It breaks the same images, and the alarm stays; nor is it held against what it cannot find by itself."""
    weaker, stronger = run(range(150, 160), weak), run(range(100), strong)
    assert fired(weaker, stronger, walk(range(150, 160))) >= {gate}
    assert found(gate, weaker, walk(range(100))) == []


def test_one_percent_of_many_images() -> None:
    strong = run([], rows=rows_of([], 1000))
    assert fired(run([], "noise", rows=rows_of(range(10), 1000)), strong) == set()
    assert fired(run([], "noise", rows=rows_of(range(11), 1000)), strong) == {"black box beats white box"}


@pytest.mark.parametrize("kind", ["iterative", "query"])
def test_success_not_rising(kind: str) -> None:
    small, gate = run(range(50), kind), {"success not rising with eps"}
    assert fired(small, run(range(LEAST - 1, 50), kind, eps="0.3")) == set()
    assert fired(small, run(range(LEAST, 50), kind, eps="0.3")) == gate
    assert fired(small, run(range(LEAST, 150), kind, eps="0.3")) == gate, "per image, though it broke more"
    assert fired(run(range(LEAST, 150), kind, eps="0.3"), small) == gate, "in any order"
    assert found(*gate, small, run([], kind, eps="0.3", options={"steps": 5})) == [], "not the same attack"


@pytest.mark.parametrize("kind", ["single-step", "noise", "transfer"])
def test_what_does_not_search_need_not_rise(kind: str) -> None:
    assert fired(run(range(50), kind), run(range(20), kind, eps="0.3")) == set()


def test_more_effort() -> None:
    gate = "more effort still breaks images"
    less = run(range(50), options={"steps": 40, "restarts": 1})
    assert fired(less, run(range(50 + LEAST - 1), options={"steps": 80, "restarts": 1})) == set()
    more = run(range(50 + LEAST), options={"steps": 40, "restarts": 2})
    assert fired(less, more) == fired(more, less) == {gate}
    assert found(gate, less, run(range(99), options={"steps": 70, "restarts": 1})) == [], "less than twice"
    assert found(gate, less, run(range(99), options={"steps": 80, "restarts": 1, "step": "1"})) == []
    assert found(gate, less, run(range(99), options={"steps": 80, "restarts": 1}, eps="0.2")) == []
    assert found(gate, *(run(range(9 * k), "noise", options={"restarts": k}) for k in (1, 4))) == []
    queries = [run(range(k // 10), "query", options={"queries": k}) for k in (500, 5000)]
    assert fired(*queries) == {gate}


def test_a_figure_that_has_come_to_rest_is_silent() -> None:
    steps = {40: 50, 80: 70, 160: 71}
    runs = [run(range(count), options={"steps": step}) for step, count in steps.items()]
    assert fired(*runs[:2]) == {"more effort still breaks images"}
    assert fired(*runs) == set()


# --- eps that allows anything -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iterative", "query"])
def test_robust_where_nothing_can_be(kind: str) -> None:
    chance = N // CLASSES + 2  # one class's share, and 1%
    assert fired(run(range(chance, N), kind, eps="0.5")) == set()
    assert fired(run(range(chance + 1, N), kind, eps="0.5")) == {"robust at eps that allows anything"}
    assert fired(run(range(N // 2, N), kind, eps="0.5"), run(range(N // 2), kind, eps="0.5", attack="b")) == set()
    assert fired(run([], kind, eps="0.499")) == set()


def test_one_step_need_not_reach_grey() -> None:
    assert fired(run([], "single-step", eps="0.5")) == set()


def test_robust_where_nothing_can_be_in_l2() -> None:
    def far(eps: str, pixels: int) -> set[str]:
        return fired(run([], eps=eps, norm="l2", pixels=pixels))

    assert far("4", 64) == {"robust at eps that allows anything"}
    assert far("3.99", 64) == far("4", 65) == far("4", 0) == set()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_every_image_can_be_made_grey(norm: str, shape: tuple[int, ...]) -> None:
    pixels = torch.Size(shape).numel()
    corner = (torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    threat = ThreatModel(norm, NORMS[norm].grey(pixels))
    assert threat.contains(corner, torch.full_like(corner, 0.5)).all()
    closer = ThreatModel(norm, threat.eps - Fraction(1, 50))
    assert not closer.contains(corner, torch.full_like(corner, 0.5)).any()


@pytest.mark.parametrize(
    ("norm", "eps", "expected"),
    [
        ("linf", "8/255", ["16/255", "1/2"]), ("linf", "0.25", ["1/2"]), ("linf", "0.3", ["1/2"]),
        ("linf", "1", ["1/2"]), ("linf", "0", ["0", "1/2"]), ("l2", "0.5", ["1", "4"]), ("l2", "3", ["4"]),
    ],
)  # fmt: skip
def test_larger_eps(norm: str, eps: str, expected: list[str]) -> None:
    threats = wider(ThreatModel.of(norm, eps), 64)
    assert [threat.eps for threat in threats] == [Fraction(text) for text in expected]
    for threat in threats:
        threat.check_shape((1, 8, 8))


@pytest.mark.parametrize(
    ("mark", "gate"),
    [
        ("queries-beat-gradients", "queries come nearer than gradients"),
        ("walks-beat-ascents", "walks break what ascents do not"),
    ],
)
@pytest.mark.parametrize(("count", "fires"), [(0, False), (10, False), (11, True)])
def test_marks_of_masked_gradients_fire_above_a_twentieth_of_the_images(
    mark: str, gate: str, count: int, fires: bool
) -> None:
    rows = rows_of(range(50)).assign(stages="untargeted;boundary;witness")
    rows["flags"] = [f"borderline;{mark}" if i < count else "" for i in range(N)]
    (finding,) = found(gate, run([], "ensemble", attack="standard", rows=rows))
    assert finding.fired == fires
    assert f"{count} of {N} images" in finding.evidence


def test_no_mark_is_looked_for_where_an_attack_has_no_stages() -> None:
    rows = rows_of([]).assign(stages="", flags="walks-beat-ascents")
    assert not found("walks break what ascents do not", run([], rows=rows), run([]))


def guessing(right: int, n: int = N) -> AttackRun:
    """A run on images of which the model knew so many before it."""
    rows = rows_of([], n)
    rows["clean_correct"] = [i < right for i in range(n)]
    return run([], rows=rows)


@pytest.mark.parametrize("right", [0, 12, 20, 27])
def test_a_model_that_is_right_as_often_as_luck_is_told(right: int) -> None:
    """Of 200 images in ten classes luck gets 27 or more in 6.7% of draws, and 28 or more in 4.3%."""
    (finding,) = found("clean answers at chance", guessing(right))
    assert finding.fired
    assert f"{right} of 200 clean images" in finding.evidence


@pytest.mark.parametrize("right", [28, 60, 200])
def test_one_that_knows_more_is_not(right: int) -> None:
    (finding,) = found("clean answers at chance", guessing(right))
    assert not finding.fired


def test_few_images_are_no_evidence_of_chance() -> None:
    assert not found("clean answers at chance", guessing(0, 19))
    assert found("clean answers at chance", guessing(0, 20))

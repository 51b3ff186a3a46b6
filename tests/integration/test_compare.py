"""robench compare: two models or evaluations image by image, and refusals where nothing can be paired."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binomtest

from robench.results.accuracy import worst_case
from robench.results.rows import correct, misled
from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused


@pytest.fixture
def two(store: Path, robench: Run) -> Store:
    """Two models under fgsm and pgd, and the first under random noise too."""
    assert robench("train", "standard", "--epochs", "1", "--seed", "1", "--name", "other").code == 0
    for model in ("plain", "other"):
        assert robench("evaluate", model, "-a", "fgsm,pgd", "-n", "60", "--eps", "0.1").code == 0
    assert robench("evaluate", "plain", "-a", "multi-targeted", "-n", "60", "--eps", "0.1", "--steps", "3").code == 0
    return Store(store)


def rows(store: Store, model: str, attack: str):  # type: ignore[no-untyped-def]
    found = [store.evaluation(i) for i in store.evaluation_ids()]
    (one,) = [f for f in found if (f.about.model, f.spec["attack"], f.spec["count"]) == (model, attack, 60)]
    return one.rows()


def test_two_models_are_paired_image_by_image(two: Store, robench: Run) -> None:
    (found,) = robench("compare", "plain", "other", "--json").json["comparisons"]
    tables = {model: [rows(two, model, attack) for attack in ("fgsm", "pgd")] for model in ("plain", "other")}
    clean, worst = found["pairs"]
    ours, theirs = correct(tables["plain"][0]), correct(tables["other"][0])
    assert [clean[k] for k in ("both", "only_a", "only_b", "neither")] == [
        (ours & theirs).sum(), (ours & ~theirs).sum(), (theirs & ~ours).sum(), (~ours & ~theirs).sum()
    ]  # fmt: skip
    stands = {m: correct(t[0]) & ~misled(t[0]) & ~misled(t[1]) for m, t in tables.items()}
    b, c = int((stands["plain"] & ~stands["other"]).sum()), int((stands["other"] & ~stands["plain"]).sum())
    assert (worst["only_a"], worst["only_b"]) == (b, c)
    assert b + c > 0
    assert worst["p"] == pytest.approx(binomtest(b, b + c, 0.5).pvalue)
    assert worst["accuracy_a"] == worst_case(tables["plain"]).value
    assert found["attacks"] == ["fgsm", "pgd"]
    assert "multi-targeted (steps=3) (only plain)" in found["notes"][1]


def test_what_diagnose_ran_on_fewer_images_shrinks_nothing(two: Store, robench: Run) -> None:
    for model in ("plain", "other"):
        assert robench("diagnose", model, "-n", "20", "--eps", "0.1").code in (0, 1)
    probed = {f.spec["attack"] for f in two.intact()[0] if f.about.probes and f.about.access == "white-box"}
    assert probed - {"fgsm", "pgd", "multi-targeted"}, "diagnose ran attacks that nothing else did"
    found = robench("compare", "plain", "other", "--json").json["comparisons"]
    (here,) = [each for each in found if each["eps"] == "0.1"]
    assert here["attacks"] == ["fgsm", "pgd"]
    assert here["pairs"][0]["n"] == 60


def test_one_attack_alone_and_the_table(two: Store, robench: Run) -> None:
    del two
    (found,) = robench("compare", "plain", "other", "-a", "fgsm", "--json").json["comparisons"]
    assert [pair["question"] for pair in found["pairs"]] == ["clean", "fgsm"]
    shown = robench("compare", "plain", "other")
    assert shown.code == 0
    assert "A: plain, B: other; digits, linf eps 0.1, n = 60" in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())


def test_two_evaluations_by_their_ids_on_the_images_that_both_have(two: Store, robench: Run) -> None:
    ids = {
        (f.about.model, f.spec["attack"], f.spec["count"]): i for i in two.evaluation_ids() if (f := two.evaluation(i))
    }
    one, other = ids["plain", "fgsm", 20], ids["plain", "pgd", 60]
    (found,) = robench("compare", one, other, "--json").json["comparisons"]
    assert found["pairs"][1]["n"] == 20
    assert found["pairs"][0]["only_a"] == found["pairs"][0]["only_b"] == 0
    assert found["notes"][0] == "Only the 20 images that both were evaluated on."


def test_what_cannot_be_paired_is_refused_in_a_sentence(two: Store, robench: Run) -> None:
    assert robench("evaluate", "plain", "-a", "fgsm", "-n", "60", "--eps", "0.2").code == 0
    assert robench("evaluate", "plain", "-a", "fgsm", "-n", "60", "--eps", "1", "--norm", "l2").code == 0
    ids = {(f.spec["norm"], f.spec["eps"], f.spec["count"]): i for i in two.evaluation_ids()
           if (f := two.evaluation(i)).about.model == "plain" and f.spec["attack"] == "fgsm"}  # fmt: skip
    base = ids["linf", "1/10", 60]
    assert_refused(robench("compare", base, ids["linf", "1/5", 60]), ("different eps", "0.1 and 0.2"))
    assert_refused(robench("compare", base, ids["l2", "1", 60]), ("different norm", "linf and l2"))
    assert_refused(robench("compare", "plain", base), ("a model and an evaluation",))
    assert_refused(robench("compare", "plain", "plian"), ("'plian'", "did you mean 'plain'?"))
    assert_refused(robench("compare", "plain", "plain"), ("given twice",))
    assert_refused(robench("compare", "plain", "other", "-a", "cw"), ("'plain'", "'cw'", "robench evaluate plain"))
    assert_refused(robench("compare", base, ids["linf", "1/5", 60], "-a", "fgsm"), ("leave it out",))
    assert robench("evaluate", "other", "-a", "multi-targeted", "--steps", "3", "-n", "30", "--eps", "0.2").code == 0
    outcome = robench("compare", "plain", "other", "-a", "multi-targeted")
    assert_refused(outcome, ("share no data, norm and eps", "digits, linf eps 0.1", "digits, linf eps 0.2"))

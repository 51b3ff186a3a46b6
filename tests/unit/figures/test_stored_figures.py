"""Figures of stored evaluations and trainings: their numbers against FGSM by hand, other evaluations and cards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robench import BadInput, ThreatModel
from robench.detector.request import DetectorRequest
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.figures import classes, learning, spending, stored
from robench.results.statistics import wilson
from robench.store.files import Damaged, write_sealed
from robench.store.runs import Store
from tests.unit.evaluation.evaluating import linear
from tests.unit.figures.tiny import ByHand, Linear, column, evaluated, lines

EPS, N = 0.05, 60


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def hand() -> ByHand:
    return ByHand(Linear(), N)


def test_confusion_by_hand(store: Store, hand: ByHand, tmp_path: Path) -> None:
    found = lines(classes.confusion(store, evaluated(store, Linear(), "fgsm")), tmp_path)
    right = hand.logits(hand.x).argmax(1) == hand.y
    after = hand.logits(hand.fgsm(EPS)).argmax(1)
    expected = Counter(zip(hand.y[right].tolist(), after[right].tolist(), strict=True))
    assert 0 < sum(count for (a, b), count in expected.items() if a != b) < right.sum()
    assert {(int(r["clean"]), int(r["adversarial"])): int(r["count"]) for r in found if r["count"] != "0"} == expected
    rows = Counter(hand.y[right].tolist())
    assert column(found, "share") == pytest.approx([int(r["count"]) / rows[int(r["clean"])] for r in found], abs=1e-5)


def test_what_a_detector_rejects_stands_beside_the_diagonal(store: Store) -> None:
    guard = DetectorRequest("kd", {}, "fgsm@linf:0.3", images=60)
    request = Request([linear()], ["fgsm"], ThreatModel.of("linf", "0.1"), dataset="digits", count=60, guard=guard)
    done = evaluate(request, store)
    (job_id,) = (result.evaluation for result in done.results if result.access == "detector")
    rows = store.evaluation(job_id).rows()
    right = rows[rows["clean_correct"]]
    rejected, kept = int((right["adv_pred"] == 10).sum()), int((right["adv_pred"] == right["label"]).sum())
    assert rejected > 0
    assert kept + rejected == (~right["success"]).sum()
    told = classes.confusion(store, job_id).caption[-1]
    assert f"{kept + rejected} stand: {kept} keep their class (the diagonal) and {rejected} are rejected" in told


def test_a_second_verdict_counts_as_an_answer() -> None:
    rows = pd.DataFrame({"label": [1, 1, 1, 1], "adv_pred": [2, 1, 1, 1]})
    assert classes.answered(rows).tolist() == [2, 1, 1, 1]
    rows = rows.assign(sealed_adv=[3, 4, 1, 1], sealed_clean=[1, 1, 5, 1])
    assert classes.answered(rows).tolist() == [2, 4, 5, 1]


def test_accuracy_by_class_by_hand(store: Store, hand: ByHand, tmp_path: Path) -> None:
    found = lines(classes.per_class(store, [evaluated(store, Linear(), "fgsm")]), tmp_path)
    clean = hand.logits(hand.x).argmax(1) == hand.y
    robust = clean & (hand.logits(hand.fgsm(EPS)).argmax(1) == hand.y)
    assert [int(line["class"]) for line in found] == sorted(set(hand.y.tolist()))
    for line in found:
        mine = hand.y == int(line["class"])
        assert int(line["n"]) == mine.sum()
        assert float(line["clean_accuracy"]) == pytest.approx(clean[mine].mean(), abs=1e-5)
        assert float(line["robust_accuracy"]) == pytest.approx(robust[mine].mean(), abs=1e-5)
        ends = wilson(int(robust[mine].sum()), int(mine.sum()))
        assert (float(line["low"]), float(line["high"])) == pytest.approx(ends, abs=1e-5)


def test_examples_by_hand(store: Store, hand: ByHand, tmp_path: Path) -> None:
    job_id = evaluated(store, Linear(), "fgsm")
    before, after = hand.logits(hand.x).argmax(1), hand.logits(hand.fgsm(EPS)).argmax(1)
    broken = np.flatnonzero((before == hand.y) & (after != hand.y))
    found = lines(stored.examples(store, job_id, 5, "broken", None), tmp_path)
    assert [int(line["example_id"]) for line in found] == broken[:5].tolist()
    assert [int(line["adv_pred"]) for line in found] == after[broken[:5]].tolist()
    change = np.abs(hand.fgsm(EPS) - hand.x).max(1)
    assert column(found, "largest_change") == pytest.approx(change[broken[:5]], abs=1e-6)
    drawing = stored.examples(store, job_id, 9, "standing", None)
    stand = np.flatnonzero((before == hand.y) & (after == hand.y))
    assert [record["example_id"] for record in drawing.records] == stand[:9].tolist()
    assert len(stored.examples(store, job_id, 64, "all", None).records) == N
    told = {which: stored.examples(store, job_id, 1, which, None).caption[1] for which in ("broken", "all")}  # type: ignore[arg-type]
    assert told["broken"].startswith(f"The first of {len(broken)} broken images.")
    assert told["all"].startswith(f"The first of {N} images.")
    assert stored.examples(store, job_id, 64, "all", None).caption[1].startswith(f"All {N} images.")
    assert stored._first(1, 1, "all") == "The only image."
    assert job_id in drawing.caption[0]
    assert "linf eps 0.05" in drawing.caption[0]
    assert "n = 60" in drawing.caption[0]


def test_the_sheet_shows_what_was_stored(store: Store, hand: ByHand) -> None:
    from robench.figures.drawing import draw

    drawing = stored.examples(store, evaluated(store, Linear(), "fgsm"), 2, "all", None)
    images = [axes.images[0].get_array() for axes in draw(drawing).axes if axes.images]
    shown = np.stack([np.asarray(image) for image in images]).reshape(3, 2, 64)
    assert shown[0] == pytest.approx(hand.x[:2], abs=1e-6)
    assert shown[1] == pytest.approx(hand.fgsm(EPS)[:2], abs=1e-6)
    change = hand.fgsm(EPS)[:2] - hand.x[:2]
    assert shown[2] == pytest.approx(0.5 + change / (2 * np.abs(change).max()), abs=1e-5)


def test_restarts_are_those_of_other_evaluations(store: Store, tmp_path: Path) -> None:
    """After 1 and 9 restarts, where groups end, the figure is that of evaluations with so many."""
    options = {"steps": 1, "step": 0.02}
    many = evaluated(store, Linear(), "pgd", restarts=12, **options)
    found = {int(line["restarts"]): line for line in lines(spending.restarts(store, [many]), tmp_path)}
    assert sorted(found) == list(range(13))
    assert [k for k, line in found.items() if line["exact"] == "True"] == [0, 1, 9, 12]
    values = [float(found[k]["robust_accuracy"]) for k in range(13)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(store.evaluation(many).rows()["clean_correct"].mean(), abs=1e-5)
    assert values[12] < values[1] < values[0]
    for count in (1, 9):
        job_id = evaluated(store, Linear(), "pgd", restarts=count, **options)
        result = store.evaluation(job_id).result
        assert result is not None
        assert values[count] == pytest.approx(result.value, abs=1e-5)


def test_restarts_under_a_budget_are_exact_at_the_ends_alone(store: Store, tmp_path: Path) -> None:
    """What an image that ran out would have cost with fewer restarts is not known."""
    options = {"steps": 1, "step": 0.02, "restarts": 12}
    cut = evaluated(store, Linear(), "pgd", most=20, **options)
    assert store.evaluation(cut).rows()["flags"].str.contains("out-of-budget").any()
    drawing = spending.restarts(store, [cut])
    assert [int(line["restarts"]) for line in lines(drawing, tmp_path) if line["exact"] == "True"] == [0, 12]
    assert "ran out of their budget" in " ".join(drawing.caption)
    ample = spending.restarts(store, [evaluated(store, Linear(), "pgd", most=500, **options)])
    assert [line["restarts"] for line in ample.records if line["exact"]] == [0, 1, 9, 12]
    assert "budget" not in " ".join(ample.caption)


def test_restarts_below_a_larger_eps_are_refused(store: Store) -> None:
    """Images that stood there were not attacked here, whether or not a find was taken over."""
    threats = [ThreatModel.of("linf", eps) for eps in ("0.01", "0.02")]
    request = Request([Linear()], ["pgd"], threats[0], dataset="digits", count=20, options={"restarts": 3, "steps": 2})
    done = evaluate(request, store, None, [replace(request, threat=threats[1])])
    assert done.complete, "also where a flag of the larger eps lets no image stand by it"
    below = next(result.evaluation for result in done.results if "below" in result.about.against)
    (one,) = stored.stored(store, [below])
    for rows in (one.rows, one.rows.assign(trial=0)):
        with pytest.raises(BadInput, match="goes on from another"):
            spending._restarts_of(replace(one, rows=rows))


def test_passes_count_each_image_s_cost(store: Store, tmp_path: Path) -> None:
    job_id = evaluated(store, Linear(), "pgd", steps=5, step=0.02, restarts=2)
    found = lines(spending.passes(store, [job_id]), tmp_path)
    rows = store.evaluation(job_id).rows()
    cost, lost = rows["forwards"] + 2 * rows["backwards"], rows["clean_correct"] & rows["success"]
    assert len(found) > 3
    for line in found:
        stands = rows["clean_correct"] & ~(lost & (cost <= int(line["passes"])))
        assert float(line["robust_accuracy"]) == pytest.approx(stands.mean(), abs=1e-5)
    assert int(found[-1]["passes"]) == cost.max()


def card(name: str = "m", **more: object) -> dict[str, object]:
    data = {"name": "digits", "channels": 1, "height": 8, "width": 8, "classes": 10, "mean": [0.5], "std": [0.2],
            "family": "digits"}  # fmt: skip
    accuracy = {"validation": 0.5, "test": 0.5, "test_count": 10, "test_digest": "0" * 16, "test_interval": [0.1, 0.9]}
    return {"name": name, "spec_id": "a" * 12, "defense": "dvib", "options": {}, "digest": "b" * 64, "data": data,
            "seconds": 1.0, "accuracy": accuracy, "recipe_name": "quick", **more}  # fmt: skip


HISTORY = [
    {"epoch": 0, "val_accuracy": 0.5, "distortion": 2.0, "rate": -0.25, "total": 1.75, "matched": 3},
    {"epoch": 1, "val_accuracy": 0.75, "distortion": 0.01, "rate": 0.5, "total": 0.51, "matched": 1},
]


def test_training_curves_are_the_card_s(store: Store, tmp_path: Path) -> None:
    store.finish_model("m", card(history=HISTORY))
    store.finish_model("o", card("o", history=[{"epoch": 0, "val_accuracy": 1.0, "total": 4.0}]))
    found = lines(learning.training(store, ["m", "o"]), tmp_path)
    seen = {(line["model"], int(line["epoch"]), line["term"]): float(line["value"]) for line in found}
    expected = {("m", i + 1, term): value for i, epoch in enumerate(HISTORY) for term, value in epoch.items()
                if term != "epoch"}  # fmt: skip
    assert seen == {**expected, ("o", 1, "val_accuracy"): 1.0, ("o", 1, "total"): 4.0}


def test_the_caption_says_of_how_many_images_robustness_was_watched(store: Store) -> None:
    """Older cards do not tell; a data set may have fewer validation images than are looked at."""
    watched = [{"epoch": 0, "val_accuracy": 0.5, "robust accuracy at 0.1": 0.25}]
    store.finish_model("m", card(history=watched, watched_images=129))
    store.finish_model("old", card("old", history=watched))
    store.finish_model("plain", card("plain", history=HISTORY))
    assert "of the first 129 validation images" in learning.training(store, ["m", "plain"]).caption[-1]
    assert "of the first up to 200 validation images" in learning.training(store, ["old"]).caption[-1]
    assert "the first 129 (m), up to 200 (old) validation" in learning.training(store, ["m", "old"]).caption[-1]


def test_a_model_without_curves_is_told(store: Store) -> None:
    store.finish_model("old", card("old"))
    with pytest.raises(BadInput, match="trained before curves were kept"):
        learning.training(store, ["old"])
    store.finish_model("bad", card("bad", history=[{"epoch": 0, "total": "x"}]))
    with pytest.raises(Damaged, match="curves of model 'bad'"):
        learning.training(store, ["bad"])
    with pytest.raises(BadInput, match="no model named 'none'"):
        learning.training(store, ["none"])
    with pytest.raises(BadInput, match="No model is named; known: bad, old"):
        learning.training(store, [])


def test_what_cannot_be_drawn_is_refused(store: Store) -> None:
    plain = evaluated(store, Linear(), "fgsm", n=10)
    rate = evaluated(store, Linear(), "random-targeted", n=10, steps=1)
    with pytest.raises(BadInput, match="No evaluation is named"):
        classes.per_class(store, [])
    with pytest.raises(BadInput, match="no evaluation named 'zzz'"):
        classes.confusion(store, "zzz")
    with pytest.raises(BadInput, match="attack success rate"):
        classes.per_class(store, [rate])
    with pytest.raises(BadInput, match="no restarts"):
        spending.restarts(store, [plain])
    with pytest.raises(BadInput, match="no restarts"):
        spending.restarts(store, [rate])
    with pytest.raises(BadInput, match="-n is 0"):
        stored.examples(store, plain, 0, "all", None)
    with pytest.raises(BadInput, match="at most 64 images"):
        stored.examples(store, plain, 65, "all", None)
    assert classes.confusion(store, rate).records
    (tensors,) = store.evaluation(plain).path.glob("*.safetensors")
    tensors.unlink()
    with pytest.raises(BadInput, match="are not whole"):
        stored.examples(store, plain, 4, "all", None)


def test_rows_of_classes_that_the_record_does_not_name_are_refused(store: Store) -> None:
    job = evaluated(store, Linear(), "fgsm", n=20)
    folder = store.evaluation(job)
    write_sealed(folder.path / "about.json", {**folder.about.to_json(), "classes": 7, "evaluation": job})
    for draw in (lambda: classes.per_class(store, [job]), lambda: classes.confusion(store, job)):
        with pytest.raises(BadInput, match=r"answers of class 9, but its record says that there are 7 classes"):
            draw()


def test_no_broken_image_is_told(store: Store) -> None:
    still = evaluated(store, Linear(), "fgsm", eps="0", n=10)
    with pytest.raises(BadInput, match="has no image that is broken"):
        stored.examples(store, still, 4, "broken", None)
    drawing = stored.examples(store, still, 4, "all", None)
    assert [record["largest_change"] for record in drawing.records] == ["0"] * 4

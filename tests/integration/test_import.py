"""robench import: images made elsewhere are judged as an attack's are, kept, verified, and part of the worst case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robench.data.dataset import open_dataset
from robench.results.accuracy import standing
from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

VERDICTS = ["example_id", "label", "clean_pred", "adv_pred", "clean_correct", "success"]


def imported_of(store: Path, attack: str):  # type: ignore[no-untyped-def]
    found = Store(store)
    (one,) = [f for f in map(found.evaluation, found.evaluation_ids()) if f.spec["attack"] == attack]
    return one


@pytest.fixture
def arrays(evaluation: Path, robench: Run) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The images of the store's evaluation, fgsm on 20 of digits, as an export has them."""
    assert robench("export", evaluation.name, "--to", "npz", "--out", "made.npz").code == 0
    with np.load("made.npz") as file:
        return dict(file)


def test_an_export_of_a_draw_says_where_its_images_stand(evaluation: Path, robench: Run) -> None:
    """Which is no place of theirs in the first of the data, and comes back as it was."""
    assert Store(evaluation.parents[1]).evaluation(evaluation.name).spec["draw"] == "balanced"
    assert robench("export", evaluation.name, "--to", "npz", "--out", "made.npz").code == 0
    data = open_dataset("digits")
    with np.load("made.npz") as file:
        assert file["label"].tolist() == data.test.labels[file["index"]].tolist()
        near = torch.from_numpy(file["adversarial"]) - data.test.pixels(torch.from_numpy(file["index"]))
        assert float(near.abs().max()) < 0.1 + 1e-6
        assert file["index"].tolist() != list(range(20))
    assert robench("import", "made.npz", "--model", "plain").code == 0
    spec = imported_of(Path("runs"), "imported:made").spec
    assert (spec["draw"], spec["start"], spec["count"]) == ("balanced", 0, 20)


@pytest.mark.parametrize("form", ["made.npz", "made.pt", "made"])
def test_export_import_verify_gives_equal_verdicts(form: str, evaluation: Path, robench: Run) -> None:
    kind = Path(form).suffix[1:] or "folder"
    rounding = ["--uint8"] if kind == "folder" else []
    told = robench("export", evaluation.name, "--to", kind, "--out", form, *rounding, "--json").json
    found = robench("import", form, "--model", "plain", "--json").json
    assert found["outside"] == 0
    (row,) = found["rows"]
    assert (row["attack"], row["n"], row["flags"]) == ("imported:made", 20, [])
    assert row["robust_accuracy"] == pytest.approx(told["uint8"]["value"] if rounding else told["value"])
    mine, theirs = imported_of(Path("runs"), "imported:made"), Store(Path("runs")).evaluation(evaluation.name)
    if not rounding:
        assert mine.rows()[VERDICTS].equals(theirs.rows()[VERDICTS])
        assert torch.equal(mine.span(0, 20), theirs.span(0, 20))
    (check,) = robench("verify", mine.job_id, "--json").json["evaluations"]
    assert check["holds"]
    again = robench("verify", "--again", "5", "--json")
    assert (again.code, {each["holds"] for each in again.json["evaluations"]}) == (0, {True})
    assert {each["evaluation"]: (each["again"], each["elsewhere"]) for each in again.json["evaluations"]} == {
        mine.job_id: (0, True), theirs.job_id: (5, False)}  # fmt: skip
    assert f"1 of 2 evaluations are of images made elsewhere, which no attack can be run again on ({mine.job_id})" in (
        again.err
    )
    assert found["together"]["attacks"] == ["fgsm", "imported:made"]
    assert found["together"]["robust_accuracy"] == found["together"]["without"]


def test_images_of_some_enter_the_worst_case_of_those_alone(
    arrays: dict[str, np.ndarray],
    robench: Run,  # type: ignore[type-arg]
) -> None:
    """Of another attack's images 10 to 19 are imported, backwards: the worst case is over those ten."""
    assert robench("evaluate", "plain", "-a", "multi-targeted", "-n", "20", "--eps", "0.1", "--steps", "5").code == 0
    store = Store(Path("runs"))
    other = imported_of(Path("runs"), "multi-targeted")
    assert robench("export", other.job_id, "--to", "npz", "--out", "theirs.npz").code == 0
    with np.load("theirs.npz") as file:
        x = file["adversarial"]
    order = np.arange(10, 20)[::-1]
    np.savez("mine.npz", x_adv=x[order], ids=order)
    places = ("--dataset", "digits?draw=balanced")
    mine = ("import", "mine.npz", "--model", "plain", "--eps", "0.1", "--name", "theirs")
    assert_refused(robench(*mine), ("None of the 10 images", "?draw=balanced"))
    found = robench(*mine, *places, "--json").json
    mine = imported_of(Path("runs"), "imported:theirs")
    assert mine.rows()["example_id"].tolist() == list(range(10, 20))
    assert torch.equal(mine.span(10, 20), other.span(10, 20))
    fgsm = next(f for f in map(store.evaluation, store.evaluation_ids()) if f.spec["attack"] == "fgsm")
    tables = [f.rows().iloc[10:].reset_index(drop=True) for f in (fgsm, other)]
    assert found["together"]["n"] == 10
    assert found["together"]["robust_accuracy"] == pytest.approx(standing(tables).mean())
    next(other.path.glob("shard-*.safetensors")).unlink()
    again = robench("import", "mine.npz", "--model", "plain", "--eps", "0.1", "--name", "theirs", *places)
    assert (
        f"Left out of the worst case: The evaluation {other.job_id}, plain under multi-targeted (steps=5)" in again.err
    )
    assert "over fgsm, imported:theirs" in again.out
    told = " ".join(robench("leaderboard").out.split())
    assert "drawn images 10-19 (n = 10, balanced over classes, of 500)" in told


def test_what_lies_outside_is_projected_counted_and_flagged(
    arrays: dict[str, np.ndarray],
    robench: Run,  # type: ignore[type-arg]
) -> None:
    x = arrays["adversarial"].copy()
    x[:5] = np.clip(x[:5] + 0.3, 0, 1)
    np.savez("far.npz", adversarial=x, example_id=arrays["example_id"])
    far = ("import", "far.npz", "--model", "plain", "--dataset", "digits?draw=balanced", "--eps", "0.1")
    done = robench(*far, "--json")
    assert done.json["outside"] == 5
    assert "5 of 20 images of far.npz lie outside linf eps 0.1" in done.err
    assert any(flag.startswith("outside-eps") for flag in done.json["rows"][0]["flags"])
    rows = imported_of(Path("runs"), "imported:far").rows()
    assert rows["linf"].max() <= 0.1 + 1e-6
    x[7] += 0.001
    np.savez("far.npz", adversarial=x, example_id=arrays["example_id"])
    again = robench(*far)
    assert_refused_last(again.err, "imported:far stands for other images")


def assert_refused_last(err: str, says: str) -> None:
    assert says in err.splitlines()[-1]


def test_slips_are_sentences(arrays: dict[str, np.ndarray], robench: Run) -> None:  # type: ignore[type-arg]
    x, at = arrays["adversarial"], ("--model", "plain", "--eps", "0.1")
    assert_refused(robench("import", "made.npz"), ("--model",))
    assert_refused(robench("import", "nothing.pt", *at), ("nothing.pt",))
    Path("x.txt").write_text("x")
    assert_refused(robench("import", "x.txt", *at), ("x.txt", ".npz"))
    np.savez("big.npz", adversarial=x * 255)
    assert_refused(robench("import", "big.npz", *at), ("divide them by 255",))
    np.savez("normal.npz", adversarial=(x - 0.5) / 0.25)
    assert_refused(robench("import", "normal.npz", *at), ("undo the normalisation",))
    np.savez("hole.npz", adversarial=x[:3], example_id=np.array([0, 1, 5]))
    assert_refused(robench("import", "hole.npz", *at), ("5 after 1",))
    np.savez("beyond.npz", adversarial=x[:1], example_id=np.array([99999]))
    assert_refused(robench("import", "beyond.npz", *at), ("99999",))
    np.savez("labels.npz", adversarial=x, example_id=np.arange(20), label=np.zeros(20, int))
    assert_refused(robench("import", "labels.npz", *at), ("other labels",))
    np.savez("shape.npz", adversarial=np.zeros((4, 3, 32, 32), np.float32))
    assert_refused(robench("import", "shape.npz", *at), ("[3, 32, 32]", "--dataset"))
    torch.save({"model": object()}, "pickle.pt")
    assert_refused(robench("import", "pickle.pt", *at), ("pickle.pt", "no pickle"))
    assert_refused(robench("import", "made.npz", *at, "--name", "a b"), ("'a b'",))
    refused = robench("evaluate", "plain", "-a", "imported:mine", "-n", "20", "--eps", "0.1")
    assert_refused(refused, ("robench import FILE", "--name mine"))

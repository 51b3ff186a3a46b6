"""Detectors, transfer and diagnosis on the command line, from a model to a verified evaluation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

EVALUATE = ("evaluate", "plain", "-a", "pgd", "--steps", "5", "--eps", "0.1", "-n", "60")
WATCHED = (*EVALUATE, "--detector", "kd", "--detector-images", "100", "--trained-on", "pgd@linf:0.2")


def test_a_detector_is_measured_and_attacked_too(store: Path, robench: Run) -> None:
    done = robench(*WATCHED, "--json").json
    static, adaptive = done["rows"]
    assert (static["against"], adaptive["against"]) == ("", " + kd (pgd@linf:0.2)")
    (found,) = done["detections"]
    assert found["attacked"] == round(60 * static["clean_accuracy"])
    assert found["broken"] == round(60 * (static["clean_accuracy"] - static["robust_accuracy"]))
    assert found["acc_nadv_n"] == 2 * found["attacked"]
    assert found["clean_accuracy"] == adaptive["clean_accuracy"]
    assert adaptive["robust_accuracy"] <= found["robust_accuracy"]
    assert [row["attacks"] for row in done["worst_case"]] == [["pgd (steps=5)"]]
    assert {row["holds"] for row in robench("verify", "--json").json["evaluations"]} == {True}

    scores = pd.read_parquet(next((store / "detectors").glob("*/scores-*.parquet")))
    assert len(scores) == 60
    rows = Store(store).evaluation(adaptive["evaluation"]).rows()
    rejected = rows["adv_pred"] == 10
    assert not (rows["success"] & rejected).any()
    assert ((rows["clean_pred"] == 10) == (scores["score_clean"] > _threshold(store))).all()


def _threshold(store: Path) -> float:
    import json

    (fitted,) = (store / "detectors").glob("*/fitted.json")
    return float(json.loads(fitted.read_text())["threshold"])


def test_the_same_again_fits_and_attacks_nothing(store: Path, robench: Run) -> None:
    first = robench(*WATCHED, "--json").json
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert robench(*WATCHED, "--json").json == first
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_a_damaged_detector_is_not_used(store: Path, robench: Run) -> None:
    assert robench(*WATCHED).code == 0
    (weights,) = (store / "detectors").glob("*/detector.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert_refused(robench(*WATCHED), (weights.parent.name, "delete"))


def test_a_leaderboard_keeps_detectors_out_of_the_worst_case(store: Path, robench: Run, tmp_path: Path) -> None:
    assert robench(*WATCHED).code == 0
    assert robench("leaderboard", "--out", str(tmp_path / "boards")).code == 0
    text = next((tmp_path / "boards").glob("*n60*.csv")).read_text()
    header, line = text.splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=False))
    assert values["worst case value"] == values["pgd (steps=5) value"]
    assert "pgd (steps=5) + kd (pgd@linf:0.2) value" in header


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--detector", "er-kde"), ("embed", "kd")),
        (("--detector", "kde"), ("'kde'", "kd")),
        (("--detector", "kd", "--fpr", "2"), ("--fpr", "2")),
        (("--detector", "kd", "--detector-images", "5"), ("--detector-images", "5")),
        (("--detector", "kd", "--trained-on", "pgdd"), ("'pgdd'", "pgd")),
        (("--detector", "kd", "--trained-on", "pgd@0.3"), ("pgd@0.3", "NAME@linf:0.3")),
        (("--detector", "kd", "--trained-on", "cw@linf:0.3"), ("cw", "l2")),
        (("--detector", "kd", "--trained-on", "pgd@linf:0"), ("broke 0",)),
        (("--detector", "kd", "--trained-option", "stepz=3"), ("'stepz'", "steps")),
        (("--detector", "kd", "-o", "bandwidth=-1"), ("bandwidth", "-1")),
        (("--detector", "kd", "-o", "bandwith=1"), ("'bandwith'",)),
        (("--detector", "lid", "-o", "k=200"), ("k", "200")),
        (("--detector", "kd", "--surrogate", "plain"), ("--detector", "--surrogate")),
        (("--surrogate", "nobody"), ("'nobody'",)),
        (("--eot", "0"), ("--eot", "0")),
        (("--bpda", "middle"), ("'middle'", "backbone")),
    ],
)
def test_bad_input_is_one_sentence(
    store: Path, robench: Run, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    before = sorted(path for path in store.rglob("*"))
    assert_refused(robench(*EVALUATE, *arguments), names)
    assert sorted(path for path in store.rglob("*")) == before


def test_transfer_and_its_matrix(store: Path, robench: Run) -> None:
    assert robench("train", "standard", "--epochs", "2", "--seed", "1", "--name", "other").code == 0
    command = (
        "evaluate",
        "--surrogate",
        "plain",
        "--surrogate",
        "other",
        "-a",
        "fgsm,r-fgsm",
        "--eps",
        "0.1",
        "-n",
        "40",
    )
    done = robench(*command, "--json").json
    assert len(done["rows"]) == 8
    assert {(cell["model"], cell["surrogate"]) for cell in done["transfer"]} == {
        (a, b) for a in ("plain", "other") for b in ("plain", "other")
    }
    assert done["worst_case"] == []
    assert "from other" in robench(*command).out
    assert {row["holds"] for row in robench("verify", "--json").json["evaluations"]} == {True}


def test_diagnose_an_honest_model(store: Path, robench: Run) -> None:
    done = robench("diagnose", "plain", "--eps", "0.1", "-n", "60", "--json").json
    gates = {finding["gate"]: finding["fired"] for finding in done["diagnostics"]}
    assert len(gates) >= 9
    assert not any(gates.values())
    assert "Did not fire" in robench("diagnose", "plain", "--eps", "0.1", "-n", "60").out

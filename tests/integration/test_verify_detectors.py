"""What verification says of detectors: scores, their figures and their records that were edited and sealed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from robench.store.files import checksum, write_sealed
from tests.integration.conftest import Run

WATCHED = ("evaluate", "plain", "-a", "pgd", "--steps", "5", "--eps", "0.2", "-n", "60", "--detector", "kd",
           "--trained-option", "steps=5")  # fmt: skip


def _verified(robench: Run) -> tuple[int, dict[str, int], list[str]]:
    """The exit code, the faults of all evaluations together, and the records that are wrong."""
    done = robench("verify", "--json")
    faults: dict[str, int] = {}
    found = json.loads(done.out)["evaluations"]
    for each in found:
        for kind, count in each["faults"].items():
            faults[kind] = faults.get(kind, 0) + count
    records = [name.partition(": ")[2] for each in found for name in each["records"]]
    return done.code, {kind: count for kind, count in faults.items() if count}, records


def _edited(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value = {key: item for key, item in value.items() if key not in ("seal", "format")}
    write_sealed(path, {**value, **changes})


@pytest.fixture
def detector(store: Path, robench: Run) -> Path:
    """The folder of a detector that was measured and attacked."""
    assert robench(*WATCHED).code == 0
    (found,) = (store / "detectors").iterdir()
    return found


def test_honest_scores_and_records_hold(detector: Path, robench: Run) -> None:
    assert list(detector.glob("scores-*.parquet"))
    assert _verified(robench) == (0, {}, [])


def test_scores_that_the_images_do_not_have_are_found(detector: Path, robench: Run) -> None:
    """Clean images far below the threshold, adversarial ones far above, and figures that follow."""
    (path,) = detector.glob("scores-*.parquet")
    table = pd.read_parquet(path)
    table["score_clean"] = table["score_noisy"] = -50.0
    table["score_adversarial"] = 50.0
    table.to_parquet(path, index=False)
    _edited(path.with_suffix(".json"), sha256=checksum(path))
    code, faults, records = _verified(robench)
    assert code == 1
    assert faults["wrong scores"] > 100
    assert {"auc", "false_positive_rate"} <= set(records)


@pytest.mark.parametrize(("field", "value"), [("auc", 1.0), ("detection_rate", 0.123), ("trained_on", "cw@l2:1"),
                                              ("acc_com_interval", [0.0, 1.0]), ("model", "other")])  # fmt: skip
def test_figures_that_the_scores_do_not_have_are_found(field: str, value: Any, detector: Path, robench: Run) -> None:
    (path,) = detector.glob("scores-*.json")
    _edited(path, **{field: value})
    assert _verified(robench) == (1, {"wrong record": 1}, [field])


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "other"), ("threshold", 99.0), ("fitted_on", 999), ("fitted_on", 60), ("adversarial", 2),
     ("adversarial", 5000), ("threshold_images", 7)],
)  # fmt: skip
def test_what_a_detector_says_of_its_fit_follows_from_it(field: str, value: Any, detector: Path, robench: Run) -> None:
    _edited(detector / "fitted.json", **{field: value})
    code, faults, records = _verified(robench)
    assert (code, set(faults)) == (1, {"wrong record"})
    assert field in records


def test_a_threshold_that_clean_images_do_not_have_is_found(detector: Path, robench: Run) -> None:
    path = detector / "detector.safetensors"
    tensors = load_file(path)
    tensors["threshold"] = tensors["threshold"] - 5
    save_file(tensors, path)
    _edited(detector / "fitted.json", threshold=float(tensors["threshold"]), digest=checksum(path))
    code, _, records = _verified(robench)
    assert code == 1
    assert "the stored threshold" in records

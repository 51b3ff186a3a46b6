"""What the figures of a suite's table count and over how many images: detectors' shares, and models brought beside."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.integration.conftest import Run, assert_refused
from tests.integration.test_ones_own_beside import NET

SUITE = """
title = "Detection"
source = "Nobody, 2026"
[scales.smoke]
dataset = "digits"
count = 40
epochs = 1
[[rows]]
name = "Plain"
defense = "standard"
[[columns]]
name = "Clean"
[[columns]]
name = "ACC-NADV"
attack = "fgsm"
norm = "l2"
eps = 1
detector = "kd"
detector_images = 60
trained_on = "fgsm"
figure = "acc_nadv"
[[columns]]
name = "ACC-COM"
attack = "fgsm"
norm = "l2"
eps = 1
detector = "kd"
detector_images = 60
trained_on = "fgsm"
figure = "acc_com"
[[columns]]
name = "FGSM"
attack = "fgsm"
norm = "l2"
eps = 1
"""
COMMAND = ("reproduce", "seen.toml", "--scale", "smoke", "--runs", "runs", "--out", "tables")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    (tmp_path / "seen.toml").write_text(SUITE)
    (tmp_path / "net.py").write_text(NET)


def lines() -> dict[tuple[str, str], dict[str, str]]:
    found = csv.DictReader(io.StringIO(Path("tables", "seen-smoke.csv").read_text()))
    return {(line["row"], line["column"]): line for line in found}


def test_every_figure_says_what_it_counts_and_over_which_images(robench: Run) -> None:
    assert robench(*COMMAND).code == 0
    plain = {column: line for (_, column), line in lines().items()}
    assert {column: line["metric"] for column, line in plain.items()} == {
        "Clean": "clean accuracy", "ACC-NADV": "acc_nadv", "ACC-COM": "acc_com", "FGSM": "robust accuracy",
    }  # fmt: skip
    # no attack bounds what a detector says of images that nobody attacked
    assert {column for column, line in plain.items() if "upper bound" in line.get("note", "")} == {"ACC-COM", "FGSM"}


def test_a_model_beside_that_was_trained_here_is_counted_on_the_whole_test_set(robench: Run) -> None:
    head, columns = SUITE[: SUITE.index("[[columns]]")], SUITE.split("[[columns]]")
    Path("seen.toml").write_text("[[columns]]".join([head, columns[1], columns[-1]]))
    beside = ("--beside", "Again=standard-digits-e1", "--beside", "Mine=net.py:load")
    assert robench(*COMMAND).code == 0
    assert robench(*COMMAND, *beside).code == 0
    found = lines()
    assert found["Again", "Clean"]["value"] == found["Plain", "Clean"]["value"]
    assert {row: found[row, "Clean"]["n"] for row in ("Plain", "Again", "Mine")} == {
        "Plain": "500", "Again": "500", "Mine": "40",
    }  # fmt: skip
    assert "Clean: clean accuracy on digits, n = 500; 40 for Mine" in Path("tables", "seen-smoke.md").read_text()


def test_the_least_of_success_rates_is_no_figure(robench: Run) -> None:
    several = (
        SUITE
        + """
[[columns]]
name = "Reached"
attack = "random-targeted"
combine = "minimum"
eps = 0.1
"""
    )
    Path("seen.toml").write_text(several)
    assert_refused(robench(*COMMAND), ("Reached", "attack success rates", "give each a column"))

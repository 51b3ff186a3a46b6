"""robench reproduce on a copy of the data, on fewer seeds and images, and with models of the user's own beside it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from robench.environment import environment
from tests.integration.conftest import Run, assert_refused
from tests.integration.test_reproduce import COMMAND, SUITE

NET = """
import torch
from torch import nn

def load(scale: float = 1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    net[1].weight.data *= scale
    return net
"""


@pytest.fixture(autouse=True)
def _suite(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SUITE)
    (tmp_path / "net.py").write_text(NET)


def test_on_ones_own_copy_of_the_data(robench: Run, tmp_path: Path) -> None:
    digits = load_digits()
    x, y = (digits.images / 16).astype("float32")[:, None], digits.target
    np.savez(tmp_path / "copy.npz", x_train=x[:1200], y_train=y[:1200], x_test=x[1200:], y_test=y[1200:])
    own = ("--dataset", "digits=npz:copy.npz")
    assert robench(*COMMAND, *own, "--runs", "runs", "--out", "tables").code == 0
    text = Path("tables", "two-smoke.md").read_text()
    assert "Clean: clean accuracy on npz:copy.npz in place of digits, n = 597" in text
    assert "robench reproduce two.toml --scale smoke --dataset digits=npz:copy.npz" in text
    for wrong, said in (("digit=npz:copy.npz", "'digits'"), ("digits", "cifar10=npz:"), ("digits=", "cifar10=npz:")):
        assert_refused(robench(*COMMAND, "--dataset", wrong), (said,))
    assert_refused(robench(*COMMAND, "--dataset", "digits=npz:none.npz"), ("none.npz",))


def test_a_model_of_one_s_own_is_a_row_like_the_others(robench: Run) -> None:
    mine = ("--beside", "Mine, twice=net.py:load?scale=2")
    assert robench(*COMMAND, *mine, "--runs", "runs", "--out", "tables").code == 0
    lines = csv.DictReader(io.StringIO(Path("tables", "two-smoke.csv").read_text()))
    rows = {line["column"]: line for line in lines if line["row"] == "Mine, twice"}
    assert list(rows) == ["Clean", "FGSM", "Worst", "Black box"]
    assert {(row["status"], row["n"], row["printed"]) for row in rows.values()} == {("complete", "60", "")}
    alone = ("evaluate", "net.py:load?scale=2", "--dataset", "digits", "-n", "60", "--eps", "0.1", "--runs", "apart")
    (told,) = robench(*alone, "-a", "fgsm", "--json").json["rows"]
    assert float(rows["FGSM"]["value"]) == told["robust_accuracy"]
    assert float(rows["Clean"]["value"]) == told["clean_accuracy"]
    assert "--beside 'Mine, twice=net.py:load?scale=2'" in Path("tables", "two-smoke.md").read_text()


def test_who_made_a_figure_is_told_by_whoever_tabulates_it(robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    known = environment()
    monkeypatch.setattr("robench.environment._environment", lambda: {**known, "commit": "0a0a0a0"})
    assert robench(*COMMAND, "--runs", "runs", "--out", "tables").code == 0
    monkeypatch.setattr("robench.environment._environment", lambda: {**known, "commit": "b1b1b1b"})
    assert robench(*COMMAND, "--runs", "runs", "--out", "again", "--stored").code == 0
    assert "| 0a0a0a0 |" in Path("again", "two-smoke.md").read_text()
    assert "b1b1b1b" not in Path("again", "two-smoke.md").read_text()


def test_on_fewer_seeds_and_images(robench: Run, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(
        SUITE.replace("epochs = 3", "epochs = 1\nseeds = [3, 4]").replace('"Plain"\n', '"Plain"\nseeds = [7]\n', 1)
    )
    smaller = ("--seeds", "1", "-n", "40", "--runs", "runs", "--out", "tables")
    assert robench(*COMMAND, *smaller).code == 0
    text = Path("tables", "two-smoke.md").read_text()
    assert "robench reproduce two.toml --scale smoke --seeds 1 -n 40" in text
    lines = list(csv.DictReader(io.StringIO(Path("tables", "two-smoke.csv").read_text())))
    assert {(line["row"], line["seed"]) for line in lines} == {("Plain", "7"), ("Matched", "3")}
    assert {line["n"] for line in lines if line["column"] != "Clean"} == {"40"}
    assert (
        robench(*COMMAND, "-n", "100", "--stored", "--runs", "runs", "--out", "more").code == 3
    )  # of 60, and two seeds
    for wrong in (("--seeds", "0"), ("-n", "0"), ("-n", "-5"), ("--seeds", "some")):
        assert_refused(robench(*COMMAND, *wrong), (wrong[0], wrong[1]))


def test_more_images_than_there_are_is_all_of_them(robench: Run, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SUITE.replace("count = 60\n", ""))
    planned = robench(*COMMAND, "-n", "1000", "--dry-run", "--runs", "runs")
    assert planned.code == 0, planned.err
    assert "500 images" in planned.out
    assert "1,000 images" not in planned.out
    fewer = robench(*COMMAND, "-n", "70", "--dry-run", "--runs", "runs")
    assert "70 images" in fewer.out
    (tmp_path / "two.toml").write_text(SUITE.replace("count = 60", "count = 600"))
    assert_refused(robench(*COMMAND), ("600 test images", "digits has 500"))
    assert "40 images" in robench(*COMMAND, "-n", "40", "--dry-run", "--runs", "runs").out


def test_what_cannot_stand_beside(robench: Run) -> None:
    assert_refused(robench(*COMMAND, "--beside", "Plain=net.py:load"), ("'Plain'",))
    assert_refused(robench(*COMMAND, "--beside", "net.py:load"), ("mine=model.py:load",))
    assert_refused(robench("reproduce", "--all", "--beside", "a=net.py:load"), ("--beside", "--all"))

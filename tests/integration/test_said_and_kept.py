"""What is said of a model or of its data before an attack stays with the figures: flags, everywhere with advice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robench import open_dataset
from robench.data.dataset import Dataset
from robench.trust.flags import advice
from tests import plain_net
from tests.integration.conftest import Run

MODEL = """
from torch import nn
from plain_net import plain_net


class Bytes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = plain_net()

    def forward(self, x):
        return self.inner(x / 255)


def load():
    return Bytes().eval()


def plain():
    return plain_net()
"""
ATTACK = ("-a", "fgsm,pgd", "--eps", "0.1", "-n", "120", "--shard-size", "50")


def arrays(data: Dataset, count: int) -> dict[str, Any]:
    """The first images of the two files of data, as a user's file has them."""
    parts = {"train": data.train, "test": data.test}
    return {f"x_{part}": split.images(slice(0, count)).numpy() for part, split in parts.items()} | {
        f"y_{part}": split.labels[:count].numpy() for part, split in parts.items()
    }


@pytest.fixture
def digits(store: Path) -> dict[str, Any]:
    """Arrays of digits, and in the working folder files of a model of them, which wants bytes in one of them."""
    Path("model.py").write_text(MODEL)
    shutil.copy(plain_net.__file__, ".")
    return arrays(open_dataset("digits"), 500)


def test_that_a_model_wants_other_pixels_stays_with_its_figures(digits: object, robench: Run) -> None:
    flag = "other-pixels (--pixels 0..255)"
    done = robench("evaluate", "model.py:load", "--dataset", "digits", *ATTACK, "--json")
    assert done.err.count("it looks as if it wanted such pixels") == 1
    assert all(flag in row["flags"] for row in done.json["rows"])
    assert flag in done.json["worst_case"][0]["flags"]
    job = done.json["rows"][0]["evaluation"]
    assert flag in robench("show", job).out
    again = robench("evaluate", "model.py:load", "--dataset", "digits", *ATTACK, "--json")
    assert all(flag in row["flags"] for row in again.json["rows"])
    robench("leaderboard", "--out", "boards")
    assert any(flag.partition(" ")[0] in path.read_text() for path in Path("boards").rglob("*.md"))
    assert "--pixels" in advice(flag)
    right = robench("evaluate", "model.py:load", "--pixels", "0..255", "--dataset", "digits", *ATTACK, "--json")
    assert not any("other-pixels" in flag for row in right.json["rows"] for flag in row["flags"])


def test_that_images_repeat_stays_with_figures(digits: dict[str, Any], robench: Run) -> None:
    twice = np.arange(120) % 60
    np.savez("twice.npz", **{**digits, "x_test": digits["x_test"][twice], "y_test": digits["y_test"][twice]})
    done = robench("evaluate", "model.py:plain", "--dataset", "npz:twice.npz", *ATTACK, "--json")
    assert done.err.count("Of the 120 test images 60 are different") == 1
    assert all("repeated-images 50%" in row["flags"] for row in done.json["rows"])
    assert "repeated-images 50%" in robench("show", done.json["rows"][1]["evaluation"]).out
    assert "each image once" in advice("repeated-images 50%")
    some = robench("evaluate", "model.py:plain", "--dataset", "npz:twice.npz", *ATTACK[:4], "-n", "1", "--json")
    assert not any("repeated-images" in flag for row in some.json["rows"] for flag in row["flags"])


def test_a_training_says_that_it_saw_the_test_images(digits: dict[str, Any], robench: Run) -> None:
    digits["x_test"][:200], digits["y_test"][:200] = digits["x_train"][:200], digits["y_train"][:200]
    np.savez("seen.npz", **digits)
    told = "200 of the 500 test images of npz:seen.npz stand among its training images"
    done = robench("train", "standard", "--dataset", "npz:seen.npz", "--epochs", "1", "--name", "seen")
    assert done.err.count(told) == 1
    assert "500 test images of npz:seen.npz, 200 of which are training images." in done.out
    assert "200 of which" in robench("train", "standard", "--dataset", "npz:seen.npz", "--epochs", "1",
                                     "--name", "seen").out  # fmt: skip
    assert "test_among_training: 200" in robench("show", "seen").out
    rows = robench("evaluate", "seen", *ATTACK, "--json").json["rows"]
    assert all("seen-in-training 40%" in row["flags"] for row in rows)
    assert "take them out of one side" in advice("seen-in-training 40%")
    np.savez("fresh.npz", x_test=digits["x_test"][200:], y_test=digits["y_test"][200:])
    fresh = robench("evaluate", "seen", *ATTACK, "--dataset", "npz:fresh.npz", "--json").json["rows"]
    assert not any("seen-in-training" in flag for row in fresh for flag in row["flags"])
    card = json.loads(robench("train", "standard", "--dataset", "digits", "--epochs", "1", "--json").out)
    assert "test_among_training" not in card["accuracy"]


def test_a_detector_that_was_fitted_on_the_test_images_is_flagged(digits: dict[str, Any], robench: Run) -> None:
    """Of a model that robench did not train, so that nothing else knows of it."""
    np.savez("apart.npz", **digits)
    digits["x_test"], digits["y_test"] = digits["x_train"], digits["y_train"]
    np.savez("both.npz", **digits)
    told, flag = (
        "500 of the 500 test images of npz:both.npz stand among the training and validation",
        "seen-by-detector",
    )
    behind = ("--detector", "kd", "-a", "pgd", "--eps", "0.2", "-n", "60", "--steps", "5", "--json")
    done = robench("evaluate", "model.py:plain", "--dataset", "npz:both.npz", *behind)
    assert done.err.count(told) == 1
    alone, adaptive = done.json["rows"]
    assert f"{flag} 100%" in adaptive["flags"]
    assert not any(flag in each for each in alone["flags"])
    (found,) = done.json["detections"]
    assert found["flags"] == [f"{flag} 100%"]
    assert "fit it anew" in advice(f"{flag} 100%")
    table = robench("evaluate", "model.py:plain", "--dataset", "npz:both.npz", *behind[:-1])
    assert f"{flag} 100%" in " ".join(table.out.replace("\u2502", " ").split())
    assert {each["holds"] for each in robench("verify", "--json").json["evaluations"]} == {True}
    other = robench("evaluate", "model.py:plain", "--dataset", "npz:apart.npz", *behind)
    assert "stand among" not in other.err
    assert other.json["detections"][0]["flags"] == []
    assert not any(flag in each for row in other.json["rows"] for each in row["flags"])

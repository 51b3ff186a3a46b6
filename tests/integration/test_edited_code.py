"""Figures follow the code, on the command line: one line of an attack, a helper, a defense's loss or a detector is
edited, and it is computed again; a comment or an unrelated function, and it is not."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Outcome, run_forked

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """\
[robench.attacks]
mine = mine.attack:Mine
[robench.defenses]
own = mine.defense:Own
[robench.detectors]
watch = mine.detector:Watch
"""
FILES = {
    "mine/__init__.py": "",
    "mine/attack.py": '''
from robench import Attack
from mine.helper import how_far

class Mine(Attack):
    """Makes images darker."""

    def perturb(self, model, batch):
        return batch.x - how_far() * batch.threat.radius
''',
    "mine/helper.py": "def how_far():\n    return 1.0\n",
    "mine/defense.py": '''
from torch import nn
from torch.nn import functional
from robench import Defense, Recipe

class Own(Defense):
    """A linear layer."""

    recipes = {"digits": {"quick": Recipe(epochs=2, lr=1e-2)}}

    def __init__(self, data):
        super().__init__(data)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))

    def loss(self, x, y):
        return {"total": functional.cross_entropy(self(x), y)}
''',
    "mine/detector.py": '''
from robench import Detector

class Watch(Detector):
    """Looks how bright an image is."""

    def fit(self, model, train):
        self.keep("mean", train.pixels(slice(None)).mean(0))

    def features(self, model, x):
        return model(x), (x - self.mean).square().flatten(1).mean(1, keepdim=True)
''',
    "m.py": """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        from late import scaled
        return scaled(self.head(x.flatten(1)))

def load():
    return Net().eval()
""",
    "late.py": "def scaled(x):\n    return 2 * x\n",
    "mine-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
    "mine-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
}
# what says nothing, before the first definition of a file that has the word
SILENT = "# a comment\ndef unrelated(x):\n    return x\n\n\n"
EVALUATE = ("-n", "30", "--eps", "0.5", "--dataset", "digits", "--json")


class Place:
    """A folder with a package of plugins, a model file and a runs folder, in which every command is a new process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file."""
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new, 1))

    def run(self, *arguments: str, code: int = 0) -> Outcome:
        """A command, and its exit code."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = run_forked(*arguments, "--runs", "runs", folder=self.folder, environment=environment)
        assert done.code == code, done.err
        return done

    def evaluate(self, model: str, *arguments: str) -> tuple[dict[str, Any], str]:
        """The first row of an evaluation, and what was said."""
        done = self.run("evaluate", model, *arguments, *EVALUATE)
        return done.json["rows"][0], done.err


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The folder."""
    return Place(tmp_path)


def test_an_attack_a_helper_and_a_model_file(place: Place) -> None:
    first, _ = place.evaluate("m.py:load", "-a", "mine")
    place.edit("mine/attack.py", "class Mine", f"{SILENT}class Mine")
    place.edit("mine/attack.py", "Makes images darker.", "Says something else.")
    place.edit("mine/helper.py", "def how_far", f"{SILENT}def how_far")
    place.edit("m.py", "class Net", f"{SILENT}class Net")
    place.edit("late.py", "def scaled", f"{SILENT}def scaled")
    same, told = place.evaluate("m.py:load", "-a", "mine")
    assert same == first
    assert "was in the store" in told
    place.run("verify")

    place.edit("mine/attack.py", "batch.x - how_far", "batch.x + how_far")
    line, told = place.evaluate("m.py:load", "-a", "mine")
    assert line["evaluation"] != first["evaluation"]
    assert "was in the store" not in told
    assert f"the stored figure {first['evaluation']} was made by another source of the attack 'mine'" in told
    assert "made by another source of the attack 'mine'" in place.run("show", first["evaluation"]).out
    assert "made by" not in place.run("show", line["evaluation"]).out.split("spec:")[0]
    assert (
        "1 of 1 evaluations were made by another source of the attack 'mine'"
        in place.run("verify", first["evaluation"]).err
    )

    place.edit("mine/helper.py", "return 1.0", "return 0.25")
    helper, told = place.evaluate("m.py:load", "-a", "mine")
    assert helper["evaluation"] not in (first["evaluation"], line["evaluation"])
    assert "was in the store" not in told

    place.edit("late.py", "2 * x", "-x")
    model, told = place.evaluate("m.py:load", "-a", "mine")
    assert model["evaluation"] != helper["evaluation"]
    assert "was in the store" not in told


def test_a_defense_s_loss(place: Place) -> None:
    train = ("train", "own", "--dataset", "digits", "--json")
    first = place.run(*train).json
    place.edit("mine/defense.py", "class Own", f"{SILENT}class Own")
    assert not place.run(*train).json["fresh"]
    place.edit("mine/defense.py", "cross_entropy(self(x), y)", "cross_entropy(2 * self(x), y)")
    _, told = place.evaluate("own-digits", "-a", "fgsm")
    assert "trained by another source of the defense 'own' than is installed; train it again with 'robench" in told
    done = place.run(*train)
    assert done.json["fresh"]
    assert done.json["digest"] != first["digest"]
    assert "is trained anew, as it was made by another source of the defense 'own'" in done.err


def test_a_detector(place: Place) -> None:
    place.run("train", "standard", "--dataset", "digits", "--epochs", "1", "--name", "it")
    command = ("it", "-a", "fgsm", "--detector", "watch", "--trained-on", "fgsm@linf:0.3", "--detector-images", "60")
    place.evaluate(*command)
    place.edit("mine/detector.py", "class Watch", f"{SILENT}class Watch")
    _, told = place.evaluate(*command)
    assert told.count("was in the store") == 2
    place.edit("mine/detector.py", ".square()", ".abs()")
    _, told = place.evaluate(*command)
    assert told.count("was in the store") == 1  # of the attack that does not know of it
    assert len(list((place.folder / "runs/detectors").iterdir())) == 2


def test_an_attack_of_robench_s_own_that_was_edited(place: Place) -> None:
    first, _ = place.evaluate("m.py:load", "-a", "pgd")
    shutil.copytree(ROOT / "attacks", place.folder / "robench_attacks")
    place.edit("robench_attacks/pgd.py", "class PGD", f"{SILENT}class PGD")
    same, told = place.evaluate("m.py:load", "-a", "pgd")
    assert same == first
    assert "was in the store" in told
    place.edit("robench_attacks/pgd.py", "] * self.steps", "] * (self.steps + 1)")
    edited, told = place.evaluate("m.py:load", "-a", "pgd")
    assert edited["evaluation"] != first["evaluation"]
    assert f"the stored figure {first['evaluation']} was made by another source of the attack 'pgd'" in told


SUITE = """
title = "A table"
source = "Nobody, 2026"
[scales.paper]
dataset = "digits"
count = 30
seeds = [0, 1]
[[rows]]
name = "Own"
defense = "own"
[[columns]]
name = "Natural"
[[columns]]
name = "Darker"
attack = "mine"
eps = 0.5
"""


def test_no_cell_of_a_stored_table_is_of_a_training_that_other_code_did(place: Place) -> None:
    """Clean accuracy is none either, and neither commit nor hours are told. A model beside the rows has its clean
    accuracy from the images that today's code attacked, since its card's is that of the other code."""
    place.write("table.toml", SUITE)
    command = ("reproduce", "table.toml", "--scale", "paper", "--beside", "Mine=beside", "--out", "tables")
    place.run("train", "own", "--dataset", "digits", "--name", "beside")
    place.run(*command)
    before = _cells(place)
    assert {cell["status"] for cell in before.values()} == {"complete"}
    assert before["Mine", "0", "Natural"]["n"] != "30"
    place.edit("mine/defense.py", "functional.cross_entropy(self(x), y)", "functional.cross_entropy(2 * self(x), y)")
    place.run(*command, "--stored", code=3)
    after = _cells(place)
    own = [cell for (row, *_), cell in after.items() if row == "Own"]
    assert [(cell["status"], cell["value"], cell["commits"], cell["hardware"]) for cell in own] == [
        ("incomplete", "", "", "")
    ] * 4
    assert after["Mine", "0", "Natural"]["status"] == after["Mine", "0", "Darker"]["status"] == "incomplete"
    place.run(*command)
    again = _cells(place)
    assert {cell["status"] for cell in again.values()} == {"complete"}
    assert again["Mine", "0", "Natural"]["n"] == "30"


def _cells(place: Place) -> dict[tuple[str, str, str], dict[str, str]]:
    with (place.folder / "tables" / "table-paper.csv").open() as file:
        return {(cell["row"], cell["seed"], cell["column"]): cell for cell in csv.DictReader(file)}

"""What is guessed about data and models' files is right, said, or refused; told apart, and found from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import robench as public
from robench.errors import BadInput
from robench.models import load_model
from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

MEAN = """
import json
from pathlib import Path
import torch
from torch import nn
from net import SIGN, K
class Mean(nn.Module):
    '''The nearest of ten means, each moved by 1e-3 per class.'''
    def __init__(self):
        super().__init__()
        means = torch.tensor(json.loads((Path(__file__).parent / 'means.json').read_text()))[:K]
        self.means = nn.Parameter(means)
        self.sign = SIGN
    def forward(self, x):
        x = x.mean(1, keepdim=True).flatten(1)
        return self.sign * (2 * x @ self.means.T - (self.means ** 2).sum(1))
def load():
    return Mean().eval()
"""


def digits() -> tuple[Any, Any]:
    """uint8 [1797, 8, 8] and labels."""
    found = load_digits()
    return np.rint(found.images * 255 / 16).astype(np.uint8), found.target


def repository(folder: Path, sign: int = 1, classes: int = 10) -> Path:
    """A folder with model.py and the net.py that it imports."""
    images, labels = digits()
    means = [(images[:1297][labels[:1297] == k] / 255).mean(0).ravel().tolist() for k in range(10)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MEAN)
    (folder / "net.py").write_text(f"SIGN, K = {sign}, {classes}\n")
    (folder / "means.json").write_text(json.dumps(means))
    return folder


def npz(path: Path, keep: Any = slice(None), **changes: Any) -> str:
    images, labels = digits()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_test=images[-500:][keep], y_test=labels[-500:][keep], **changes)
    return f"npz:{path}"


def clean(outcome: Any) -> list[float]:
    return [row["clean_accuracy"] for row in outcome.json["rows"]]


def fgsm(*models: str, data: str = "digits", count: int = 200) -> list[str]:
    return ["evaluate", *models, "-a", "fgsm", "--eps", "0.05", "--dataset", data, "-n", str(count), "--json"]


def test_two_folders_of_one_command_are_each_as_by_themselves(robench: Run, tmp_path: Path) -> None:
    for name, sign in (("A", 1), ("B", -1)):
        repository(tmp_path / name, sign)
    alone = [clean(robench(*fgsm(f"{name}/model.py:load"), "--runs", name)) for name in "AB"]
    both = robench(*fgsm("A/model.py:load", "B/model.py:load"))
    assert clean(both) == [alone[0][0], alone[1][0]]
    assert alone[0][0] > 0.8
    assert alone[1][0] < 0.1
    assert [row["model"] for row in both.json["rows"]] == ["A/model.py:load", "B/model.py:load"]
    worst = {row["model"]: row["robust_accuracy"] for row in both.json["worst_case"]}
    assert worst["A/model.py:load"] > 0.1 > worst["B/model.py:load"]


def test_one_reference_in_two_folders_is_two_models_and_both_are_found_again(
    robench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, accuracy = tmp_path / "runs", {}
    for name, sign in (("A", 1), ("B", -1)):
        folder = repository(tmp_path / name, sign)
        npz(folder / "data.npz")
        monkeypatch.chdir(folder)
        accuracy[name] = clean(robench(*fgsm("model.py:load", data="npz:data.npz", count=100), "--runs", runs))[0]
    assert accuracy["A"] > accuracy["B"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = robench("verify", "--runs", runs, "--json").json["evaluations"]
    assert [(each["holds"], each["examples"]) for each in found] == [(True, 100), (True, 100)]
    board = robench("leaderboard", "--runs", runs, "--json").json["boards"][0]
    assert {row["model"]: row["clean"]["value"] for row in board["rows"]} == {
        f"{name}/model.py:load": accuracy[name] for name in "AB"
    }
    # a file of that name where the command is run from is not taken for the recorded one
    monkeypatch.chdir(repository(tmp_path / "third", 1, classes=9))
    assert robench("verify", "--runs", runs).code == 0
    # the folders were moved: what is there from here is taken, if it is the same
    (tmp_path / "A").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert robench("verify", "--runs", runs).code == 2  # nobody here has run it from here
    trusted = robench("verify", "--runs", runs, "--trust", "--json").json["evaluations"]
    assert [each["holds"] for each in trusted] == [True, True]


def test_one_model_alone_keeps_its_short_name(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    assert robench(*fgsm("A/model.py:load", count=20)).json["rows"][0]["model"] == "model.py:load"


def test_test_images_without_the_last_label(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    labels = digits()[1][-500:]
    whole = npz(tmp_path / "whole.npz", np.argsort(labels == 9, kind="stable"))
    fewer = npz(tmp_path / "fewer.npz", labels < 9)
    count = int((labels < 9).sum())
    expected = clean(robench(*fgsm("A/model.py:load", data=whole, count=count)))
    found = robench(*fgsm("A/model.py:load", data=fewer, count=count))
    assert clean(found) == expected
    assert "has labels up to 8, of 10 classes: for so many the model answers" in found.err
    assert found.json["rows"][0]["absent"] == "class 9 absent"
    again = robench(*fgsm("A/model.py:load", data=fewer, count=count), "--classes", "10")
    assert again.json["rows"][0]["evaluation"] == found.json["rows"][0]["evaluation"]
    assert robench("verify", "--json").json["evaluations"][0]["holds"]
    refused = robench(*fgsm("A/model.py:load", data=fewer, count=count), "--classes", "11")
    assert refused.code == 2
    assert "the data has 11 classes" in refused.err
    repository(tmp_path / "eight", classes=8)
    assert "the data has 9 classes" in robench(*fgsm("eight/model.py:load", data=fewer, count=count)).err
    assert_refused(robench(*fgsm("A/model.py:load"), "--classes", "9"), ("--classes is 9", "digits has 10 classes"))


def test_classes_from_python(tmp_path: Path) -> None:
    data = npz(tmp_path / "a.npz", digits()[1][-500:] < 9)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    run = {"attacks": "fgsm", "eps": "0.05", "count": 20, "runs": tmp_path / "runs"}
    report = public.evaluate(model, data, classes=10, **run)  # type: ignore[arg-type]
    assert report.complete
    with pytest.raises(BadInput, match="--classes is 8, but must be from 9"):
        public.evaluate(model, data, classes=8, **run)  # type: ignore[arg-type]


def test_training_on_more_classes_than_labels_show(robench: Run, tmp_path: Path) -> None:
    images, labels = digits()
    keep = labels < 9
    train = {"x_train": images[:400][keep[:400]], "y_train": labels[:400][keep[:400]]}
    data = npz(tmp_path / "a.npz", labels[-500:] < 9, **train)
    command = ["train", "standard", "--dataset", data, "--epochs", "1", "--json"]
    ten = robench(*command, "--classes", "10", "--name", "ten").json
    nine = robench(*command, "--name", "nine").json
    assert (ten["data"]["classes"], nine["data"]["classes"]) == (10, 9)
    assert ten["spec_id"] != nine["spec_id"]
    assert robench(*command, "--classes", "9", "--name", "nine").json["fresh"] is False
    rows = robench(*fgsm("ten", "nine", data=data, count=20)).json["rows"]
    assert [row["status"] for row in rows] == ["complete", "complete"]
    assert "--classes 10" in robench("show", "ten").out


def test_a_sample_that_lacks_classes_says_so_everywhere(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    labels = digits()[1][-500:]
    data = npz(tmp_path / "sorted.npz", np.argsort(labels, kind="stable"))
    data = f"{data}?draw=first"
    command = fgsm("A/model.py:load", data=data, count=80)
    assert robench(*command).json["rows"][0]["absent"] == "classes 2-9 absent"
    shown = robench(*[each for each in command if each != "--json"]).out
    assert "n = 80 (the first of 500), classes 2-9 absent" in " ".join(shown.split())
    (row,) = robench(*command).json["rows"]
    assert robench("show", row["evaluation"], "--json").json["absent"] == "classes 2-9 absent"
    assert "classes 2-9 absent" in robench("show", row["evaluation"]).out
    robench(*fgsm("A/model.py:load", data=data, count=500))
    assert "absent" not in json.dumps(robench(*fgsm("A/model.py:load", data=data, count=500)).json)
    boards = robench("leaderboard", "--json").json["boards"]
    assert sorted("classes 2-9 absent" in board["title"] for board in boards) == [False, True]
    command = ["diagnose", "A/model.py:load", "--dataset", data, "-n", "40", "--attack", "fgsm,pgd", "--eps", "0.1"]
    assert "classes 1-9 absent" in robench(*command).out.replace("\n", " ")
    found = robench(*command, "--json")
    told = json.loads(found.out)["diagnostics"]
    assert told
    assert all(each["evidence"].endswith("; of these images classes 1-9 absent") for each in told)


def folder(base: Path, dtype: Any, scale: float, ending: str = "png") -> str:
    """The last 200 test digits as files, and 20 of training."""
    images, labels = digits()
    for part, chosen in (("train", range(20)), ("test", range(1597, 1797))):
        for i in chosen:
            (base / part / str(labels[i])).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((images[i].astype(np.float64) * scale).astype(dtype))
            image.save(base / part / str(labels[i]) / f"{i}.{ending}")
    return f"folder:{base}"


def test_eight_and_sixteen_bits_give_equal_figures_and_floats_are_refused(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    eight, sixteen, shifted = (
        robench(*fgsm("A/model.py:load", data=folder(tmp_path / str(scale), dtype, scale))).json["rows"][0]
        for dtype, scale in ((np.uint8, 1), (np.uint16, 257), (np.uint16, 256))
    )
    assert eight["clean_accuracy"] > 0.8
    for other in (sixteen, shifted):
        assert other["evaluation"] == eight["evaluation"]
    floats = folder(tmp_path / "floats", np.float32, 1 / 255, "tif")
    assert_refused(robench(*fgsm("A/model.py:load", data=floats)), (".tif", "floating-point", "mode F"))


def test_one_image_of_another_size(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    data = folder(tmp_path / "d", np.uint8, 1)
    odd = next((tmp_path / "d" / "test" / "3").iterdir())
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(odd)
    assert_refused(robench(*fgsm("A/model.py:load", data=data)), ("219 are 8x8, and 1 are not", str(odd), "@SIZE"))
    assert clean(robench(*fgsm("A/model.py:load", data=f"{data}@8")))[0] > 0.8


def test_the_record_says_where_names_are_from(robench: Run, tmp_path: Path) -> None:
    repository(tmp_path / "A")
    for reference in ("A/model.py:load", f"{tmp_path / 'A' / 'model.py'}:load"):
        (found,) = robench(*fgsm(reference, count=20)).json["rows"]
        about = robench("show", found["evaluation"], "--json").json["about"]
        assert (about["folder"], about["classes"]) == (str(tmp_path), 10)


@pytest.mark.parametrize("way", ["relative", "lazy", "link", "module"])
def test_the_sealed_verdict_loads_a_file_as_it_was_loaded(robench: Run, tmp_path: Path, way: str) -> None:
    """With relative imports, one inside forward, beside a link, or handed over as a module."""
    folder = repository(tmp_path / "A")
    text = (folder / "model.py").read_text()
    if way == "relative":
        (folder / "model.py").write_text(text.replace("from net", "from .net"))
    if way == "lazy":
        moved = text.replace("from net import SIGN, K", "K = 10").replace("= SIGN", "= None")
        call = "from net import SIGN\n        return SIGN * ("
        (folder / "model.py").write_text(moved.replace("return self.sign * (", call))
    if way == "link":
        (tmp_path / "shared").mkdir()
        (folder / "model.py").rename(tmp_path / "shared" / "model.py")
        (folder / "model.py").symlink_to(tmp_path / "shared" / "model.py")
    if way == "module":
        model = load_model("A/model.py:load", Store(tmp_path / "runs")).module
        report = public.evaluate(model, "digits", "fgsm", eps="0.05", count=40, runs=tmp_path / "runs")
        (row,) = report.rows
    else:
        (row,) = robench(*fgsm("A/model.py:load", count=40)).json["rows"]
    assert row["clean_accuracy"] > 0.8
    assert row["flags"] == []

"""robench export: every form holds rows and images as stored; 8 bits are judged again; nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from torchvision.transforms.functional import pil_to_tensor

from robench.cli.app import app
from robench.data.dataset import open_dataset
from robench.models import load_model
from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

SUFFIX = {"folder": "", "npz": ".npz", "csv": ".csv", "parquet": ".parquet", "pt": ".pt"}


def images_in(form: str, place: Path) -> tuple[NDArray[np.generic], list[int]]:
    """Images and example ids as a stranger to robench reads them."""
    if form == "npz":
        with np.load(place, allow_pickle=False) as found:
            return found["adversarial"], found["example_id"].tolist()
    if form == "pt":
        held = torch.load(place, weights_only=True)
        return held["adversarial"].numpy(), held["example_id"].tolist()
    if form == "parquet":
        table = parquet.read_table(place)
        shape = json.loads(table.schema.metadata[b"robench"])["shape"]
        return np.stack(table["adversarial"].to_pylist()).reshape(-1, *shape), table["example_id"].to_pylist()
    if form == "csv":
        rows = pd.read_csv(place)
        pixels = rows[[name for name in rows if name.startswith("x_")]]
        last = [int(part) + 1 for part in pixels.columns[-1].split("_")[1:]]
        return pixels.to_numpy().reshape(-1, *last), rows["example_id"].tolist()
    rows = pd.read_csv(place / "rows.csv")
    pictures = [pil_to_tensor(Image.open(place / name)).numpy() for name in rows["file"]]
    return np.stack(pictures), rows["example_id"].tolist()


@pytest.mark.parametrize("form", SUFFIX)
def test_a_form_holds_what_the_store_does(form: str, evaluation: Path, robench: Run) -> None:
    place = Path("out") / f"made{SUFFIX[form]}"
    told = robench("export", evaluation.name[:6], "--to", form, "--out", place, "--json").json
    images, ids = images_in(form, place)
    folder = Store(Path("runs")).evaluation(evaluation.name)
    stored = folder.span(0, 20).numpy()
    assert ids == list(range(20))
    if form == "folder":
        assert np.abs(images / 255 - stored).max() <= 0.5 / 255 + 1e-6
        assert "--uint8" in told["note"]
    else:
        assert np.array_equal(images.astype(np.float32), stored)
        assert told["note"] == ""
    assert told["value"] == folder.result.value  # type: ignore[union-attr]
    assert [path.name for path in Path("out").iterdir()] == [place.name]


@pytest.mark.parametrize("form", SUFFIX)
def test_8_bits_lie_in_the_ball_and_the_verdicts_are_the_models(form: str, evaluation: Path, robench: Run) -> None:
    place = Path(f"made{SUFFIX[form]}")
    told = robench("export", evaluation.name, "--to", form, "--out", place, "--uint8", "--json").json
    images, ids = images_in(form, place)
    assert images.min() >= 0
    assert images.max() <= 255
    assert np.array_equal(images, np.rint(images))
    test = open_dataset("digits").drawn("balanced")
    original = test.images(ids).numpy().astype(int)
    assert np.abs(images.astype(int) - original).max() <= 25  # 0.1 is 25.5 steps
    store = Store(Path("runs"))
    model = load_model("plain", store).module
    with torch.no_grad():
        answers = model(torch.from_numpy(images.astype(np.float32)) / 255).argmax(1).numpy()
    rows = store.evaluation(evaluation.name).rows()
    label, right = rows["label"].to_numpy(), rows["clean_correct"].to_numpy()
    broken = right & (answers != label)
    finds = rows["success"].to_numpy()
    assert told["uint8"]["finds"] == finds.sum() > 0
    assert told["uint8"]["survive"] == (finds & broken).sum()
    assert told["uint8"]["value"] == pytest.approx((right & ~broken).mean())


def test_what_is_said(evaluation: Path, robench: Run) -> None:
    done = robench("export", evaluation.name, "--to", "npz", "--out", "a.npz", "--uint8")
    assert done.code == 0
    assert "20 images (uint8)" in done.out
    assert "finds survive" in done.out


def test_nothing_is_overwritten_unless_asked(evaluation: Path, robench: Run) -> None:
    ask = ("export", evaluation.name, "--to", "npz", "--out", "a.npz")
    assert robench(*ask).code == 0
    before = Path("a.npz").read_bytes()
    assert_refused(robench(*ask), ("'a.npz'", "--force"))
    assert Path("a.npz").read_bytes() == before
    assert robench(*ask, "--force").code == 0
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    into = ("export", evaluation.name, "--to", "folder", "--out", "mine")
    assert_refused(robench(*into), ("--force",))
    assert_refused(robench(*into, "--force"), ("no export",))
    assert Path("mine/thesis.txt").read_text() == "years of work"
    assert robench("export", evaluation.name, "--to", "folder", "--out", "new").code == 0
    assert robench("export", evaluation.name, "--to", "folder", "--out", "new", "--force").code == 0


def test_slips_are_sentences(evaluation: Path, robench: Run) -> None:
    assert_refused(robench("export", evaluation.name), ("--to",))
    assert_refused(robench("export", evaluation.name, "--to", "npz"), ("--out",))
    assert_refused(robench("export", evaluation.name, "--to", "jpg", "--out", "x"), ("'jpg'", "npz"))
    assert_refused(robench("export", evaluation.name, "--to", "npz", "--out", "x.pt"), ("'x.pt'", ".npz"))
    assert_refused(robench("export", "nothing", "--to", "npz", "--out", "x.npz"), ("'nothing'",))
    Path("blocked").write_text("")
    assert_refused(robench("export", evaluation.name, "--to", "npz", "--out", "blocked/x.npz"), ("blocked/x.npz",))


def test_a_changed_model_does_not_judge_again(evaluation: Path, robench: Run, model_file: Path) -> None:
    del model_file
    ask = ("export", evaluation.name, "--to", "npz", "--out", "x.npz", "--uint8")
    assert_refused(robench(*ask, "--model", "my_model.py:load"), ("'my_model.py:load'",))
    assert not list(Path().glob("*x.npz*"))
    assert "export" in [command.name for command in app.registered_commands]


def test_images_that_are_no_levels_of_255_are_not_rounded(store: Path, robench: Run) -> None:
    """They are fractions of 1, and an image near one of them in 8 bits need not be within eps of it."""
    test = open_dataset("digits").test
    x = np.clip(test.pixels(slice(0, 40)).numpy() * 0.9 + 0.0123, 0, 1)
    np.savez("fractions.npz", x_test=x, y_test=test.labels[:40].numpy())
    ran = robench("evaluate", "plain", "--dataset", "npz:fractions.npz", "-a", "fgsm", "--eps", "0.1", "--json").json
    ask = ("export", ran["rows"][0]["evaluation"], "--to", "npz", "--out", "x.npz")
    assert_refused(robench(*ask, "--uint8"), ("npz:fractions.npz", "no levels of 255", "without --uint8"))
    assert not Path("x.npz").exists()
    assert robench(*ask).code == 0
    images, _ = images_in("npz", Path("x.npz"))
    assert np.abs(images - x).max() <= 0.1 + 1e-6

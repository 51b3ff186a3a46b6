"""How figures are written: which files, hostile names in all of them, the same bytes each time, and bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from robench import BadInput
from robench.cli.app import main
from robench.figures import gradients
from robench.figures.drawing import Drawing, as_is, draw, legend, named_ticks, places, write
from robench.store.runs import Store
from robench.text.escaping import visible
from tests.hostile import NAMES
from tests.unit.figures.test_stored_figures import HISTORY, card
from tests.unit.figures.tiny import Linear, evaluated, subjects


def test_a_name_without_an_ending_is_three_files() -> None:
    assert places(Path("a/b.PNG")) == [Path("a/b.PNG")]
    assert [str(path) for path in places(Path("a/b"))] == ["a/b.png", "a/b.svg", "a/b.csv"]
    for out in (None, Path("b.pdf"), Path("b.png.gz"), Path("/")):
        with pytest.raises(BadInput, match="--out"):
            places(out)


def drawing(name: str) -> Drawing:
    def paint(picture: object) -> None:
        axes = picture.add_subplot()  # type: ignore[attr-defined]
        line = axes.plot([0, 1], [0, 1])[0]
        named_ticks(axes.xaxis, [name, "b"])
        as_is(axes.set_ylabel(""), name)
        legend(axes, [line, line], [name, "_b"])

    return Drawing(name, (name, "second"), [{"name": name, "value": 1}], (4, 2), paint)


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 100], ids=ascii)
def test_hostile_names_are_plain_text(name: str, tmp_path: Path) -> None:
    picture = draw(drawing(name))
    (axes,) = picture.axes
    found = axes.get_legend()
    assert found is not None
    assert [text.get_text() for text in found.get_texts()] == [visible(name), "_b"]
    assert axes.get_ylabel() == visible(name)
    texts = [*found.get_texts(), axes.yaxis.label, *axes.get_xticklabels(), picture._suptitle, picture._supxlabel]  # type: ignore[attr-defined]
    assert not any(text.get_parse_math() for text in texts)
    write(drawing(name), [tmp_path / "a.svg", tmp_path / "a.csv"])
    kinds = {element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "a.svg").iter()}
    assert not kinds & {"script", "a", "image", "foreignObject"}
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert rows[1][0].removeprefix("'") == visible(name).removeprefix("'")


def test_the_same_figure_makes_the_same_bytes(tmp_path: Path) -> None:
    for ending in ("png", "svg"):
        paths = [tmp_path / f"{i}.{ending}" for i in range(2)]
        for path in paths:
            write(drawing("a"), [path])
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_three_channels_are_drawn_in_colour_and_summed() -> None:
    grads = torch.randn(2, 3, 4, 4)
    summed = gradients.clipped(grads[0].sum(0, keepdim=True))
    assert summed.shape == (1, 4, 4)
    assert gradients.clipped(grads[0]).shape == (3, 4, 4)
    assert float(gradients.clipped(grads[0]).max()) <= 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/, which has a model's card and an evaluation, and net.py."""
    folder = tmp_path_factory.mktemp("drawing")
    (folder / "net.py").write_text(
        "import torch\n\n\ndef load():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    store = Store(folder / "runs")
    store.finish_model("m", card(history=HISTORY))
    evaluated(store, Linear(), "fgsm", n=20)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its runs/, the test's own, in the working folder, which is a copy of it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_commands_write_and_tell(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job_id,) = Store(runs).evaluation_ids()
    asked = [
        ("classes", job_id), ("confusion", job_id[:6]), ("examples", job_id, "-n", "2"), ("passes", job_id),
        ("training", "m"), ("curve", job_id),
        ("surface", "net.py:load", "--dataset", "digits", "--points", "5"),
        ("steps", "net.py:load", "--dataset", "digits", "-n", "4", "-o", "steps=2", "--eps", "0.1"),
        ("gradients", "net.py:load", "--dataset", "digits", "-n", "2"),
    ]  # fmt: skip
    for kind, *arguments in asked:
        assert main(["figure", kind, *arguments, "--out", f"out/{kind}", "--runs", "runs"]) == 0, kind
        told = capsys.readouterr().out
        assert f"Wrote out/{kind}.png, out/{kind}.svg, out/{kind}.csv." in told
        assert {path.suffix for path in Path("out").glob(f"{kind}.*")} == {".png", ".svg", ".csv"}
    assert main(["figure", "training", "m", "--out", "t.csv", "--runs", "runs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == ["t.csv"]
    assert found["caption"][0] == "m: dvib on digits, recipe quick, seed 0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["training", "m"], "--out is not given"),
        (["training", "m", "--out", "t.pdf"], "must end in .png, .svg or .csv"),
        (["training", "n", "--out", "t"], "no model named 'n'"),
        (["training", "--out", "t"], "No model is named"),
        (["examples", "ffff", "--out", "t"], "no evaluation named 'ffff'"),
        (["examples", "", "--which", "worst", "--out", "t"], "no choice of examples named 'worst'"),
        (["classes", "--out", "t"], "No evaluation is named"),
        (["passes", "--out", "t"], "No evaluation is named"),
        (["restarts", "--out", "t"], "No evaluation is named"),
        (["surface", "--out", "t"], "No model is named"),
        (["surface", "net.py:load", "--out", "t"], "say which data with --dataset"),
        (["surface", "none.py:load", "--dataset", "digits", "--out", "t"], "none.py"),
        (["surface", "net.py:load", "--dataset", "digits", "-n", "x", "--out", "t"], "'x' is not a whole number"),
        (["surface", "net.py:load", "--dataset", "digits", "--points", "4", "--out", "t"], "odd number"),
        (["ellipses", "net.py:load", "--dataset", "digits", "--out", "t"], "has no method encode"),
        (["codes", "net.py:load", "--dataset", "digits", "--out", "t"], "has no method embed"),
        (["codes", "net.py:load", "--dataset", "digits", "--method", "umap", "--out", "t"], "no method named 'umap'"),
        (["angles", "net.py:load", "--dataset", "digits", "--out", "t"], "must be two models"),
        (["steps", "net.py:load", "--dataset", "digits", "-a", "pdg", "--out", "t"], "no attack named 'pdg'"),
        (["steps", "net.py:load", "--dataset", "digits", "-a", "cw", "--out", "t"], "does not support norm linf"),
        (["steps", "net.py:load", "--dataset", "digits", "-o", "steps", "--out", "t"], "not of the form key=value"),
        (["pie", "m", "--out", "t"], "pie"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", *arguments, *(["--runs", str(runs)] if arguments[0] != "pie" else [])]) == 2
    told = capsys.readouterr()
    assert said in told.err.splitlines()[-1]
    assert told.out == ""
    assert not list(Path().glob("t*"))


def test_help_lists_every_kind_with_a_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    from robench.cli.figure import KINDS

    assert main(["figure", "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    lines = [line.split(maxsplit=1) for line in listed if line.strip()]
    assert [name for name, _ in lines] == [kind.__name__ for kind in KINDS]
    assert all(text.endswith(".") and not text.endswith("...") for _, text in lines)


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = subjects(tmp_path, Linear(0), Linear(1), n=5).names
    assert len(set(names)) == 2
    assert all(name.startswith("Linear#") for name in names)

"""Curves of accuracy against eps: by hand from rows, from a store, and as files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel
from robench.cli.app import main
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.figures import curves
from robench.figures.curves import Curve, standing
from robench.results.accuracy import attack_figure
from robench.results.statistics import wilson
from robench.store.runs import Store
from robench_attacks.fgsm import FGSM


def table() -> pd.DataFrame:
    """Six images: one wrong from the start, three broken at 0.1, 0.1 and 0.25, one not broken, one broken at 0.3."""
    return pd.DataFrame({
        "clean_correct": [False, True, True, True, True, True],
        "success": [False, True, True, True, False, True],
        "linf": [0.0, 0.1 + 5e-8, 0.1, 0.25, 0.3, 0.3],
        "l2": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    })  # fmt: skip


def curve(rows: pd.DataFrame | None = None, eps: str = "0.3", norm: str = "linf", name: str = "a") -> Curve:
    return Curve(name, "m", "digits", "pgd", ThreatModel.of(norm, eps), table() if rows is None else rows)


@pytest.mark.parametrize(
    ("eps", "left"), [(0.0, 5), (0.05, 5), (0.0999, 5), (0.1, 3), (0.24, 3), (0.25, 2), (0.29, 2), (0.3, 1)]
)
def test_accuracy_by_hand(eps: float, left: int) -> None:
    figure = curve().at(eps)
    assert figure is not None
    assert (figure.count, figure.n) == (left, 6)
    assert standing(table(), "linf", eps).sum() == left


def test_what_is_wrong_without_an_attack_in_the_second_verdict_stands_within_no_eps() -> None:
    second = {
        "label": 0,
        "sealed_clean": [0, 0, 0, 0, 7, 7],
        "sealed_adv": 0,
        "sealed_success": [False] * 4 + [True] * 2,
    }
    rows = table().assign(**second)
    assert [standing(rows, "linf", eps).sum() for eps in (0.0, 0.1, 0.25)] == [3, 1, 0]
    eps, accuracy = curve(rows).steps()
    assert eps == pytest.approx([0, 0, 0.1, 0.1, 0.25, 0.3], abs=1e-6)
    assert accuracy == pytest.approx([5 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0])


def test_nothing_is_said_beyond_the_evaluation() -> None:
    assert curve().at(0.3000001) is not None
    assert curve().at(0.31) is None
    found = curve().to_json([Fraction(0), Fraction("0.3"), Fraction("0.4")])
    assert [point["eps"] for point in found["points"]] == [0.0, 0.3]
    assert found["points"][1]["interval"] == list(wilson(1, 6))


def test_the_norm_is_the_evaluations() -> None:
    figures_at = [curve(eps="5", norm="l2").at(eps) for eps in (1.0, 2.5, 5.0)]
    assert [figure.count for figure in figures_at if figure] == [4, 3, 1]


def test_steps_fall_where_accuracy_does() -> None:
    eps, accuracy = curve().steps()
    assert eps == pytest.approx([0, 0.1, 0.1, 0.25, 0.3, 0.3], abs=1e-6)
    assert accuracy == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 1 / 6])
    safe = table().assign(success=False)
    assert curve(safe).steps() == ([0.0, 0.3], [5 / 6, 5 / 6])


@pytest.mark.parametrize(
    ("furthest", "eps", "expected"),
    [
        (0.3, "0.3", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.3, "1", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.33, "0.34", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.34]),
        (1.0, "1", [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.03, "0.03", [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]),
        (0.0, "0.3", [0, 0.3]),
        (0.0, "0", [0]),
    ],
)
def test_columns_end_where_no_curve_falls_any_more(furthest: float, eps: str, expected: list[float]) -> None:
    rows = table().assign(linf=[0.0, furthest / 2, furthest / 3, furthest, 0.0, furthest])
    points = curves.default_points([curve(rows, eps), curve(table().assign(success=False), eps)])
    assert [float(point) for point in points] == pytest.approx(expected)


def test_points_are_read_as_eps() -> None:
    assert curves.parse_points("0.1, 0,8/255,2,0.1") == [0, Fraction(8, 255), Fraction(1, 10), 2]
    for text in ("", ",", "x", "0,-0.1", "0.1;0.2", "1/0"):
        with pytest.raises(BadInput):
            curves.parse_points(text)


def test_the_files(tmp_path: Path) -> None:
    points = [Fraction(0), Fraction("0.1"), Fraction("0.3")]
    curves.write([curve(), curve(eps="0.1", name="b")], points, tmp_path / "c.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    assert [(line["evaluation"], line["eps"]) for line in lines] == [
        ("a", "0"), ("a", "0.1"), ("a", "0.3"), ("b", "0"), ("b", "0.1"),
    ]  # fmt: skip
    assert [float(lines[1][key]) for key in ("accuracy", "low", "high")] == pytest.approx(
        [0.5, *wilson(3, 6)], abs=1e-5
    )
    curves.write([curve()], points, tmp_path / "c.PNG")
    assert (tmp_path / "c.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(BadInput, match=r"\.png, \.svg or \.csv"):
        curves.write([curve()], points, tmp_path / "c.pdf")


def test_the_picture_has_every_step() -> None:
    (axes,) = curves.draw([curve(), curve(eps="0.1")], [Fraction(0), Fraction("0.3")]).axes
    drawn = [line for line in axes.lines if line.get_label() == "m, pgd, eps 0.3"]
    eps, accuracy = curve().steps()
    assert list(drawn[0].get_xdata()) == eps  # type: ignore[arg-type]
    assert list(drawn[0].get_ydata()) == pytest.approx([100 * a for a in accuracy])  # type: ignore[arg-type]
    assert axes.get_xlim() == (0, 0.3)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["m, pgd, eps 0.3", "m, pgd, eps 0.1"]  # type: ignore[union-attr]


def test_a_dot_stays_inside_of_the_axes() -> None:
    """A curve that falls no more before its own eps is drawn up to where it falls."""
    points = [Fraction(0), Fraction("0.3")]
    (axes,) = curves.draw([curve(eps="0.4"), curve(eps="0.3")], points).axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(dot.get_xdata()) for dot in dots] == [[0.3]]  # type: ignore[arg-type]


# --- from a store ----------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Logits W x on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of one model: fgsm and min-fgsm in linf, fgsm in l2, and a rate of success."""
    root = tmp_path_factory.mktemp("curves") / "runs"
    asked = [("fgsm", "linf", "0.05"), ("min-fgsm", "linf", "1"), ("fgsm", "l2", "0.5"),
             ("random-targeted", "linf", "0.05")]  # fmt: skip
    for attack, norm, eps in asked:
        options = {"line": 100} if attack == "min-fgsm" else {"steps": 1} if attack == "random-targeted" else {}
        request = Request(
            [Linear()], [attack], ThreatModel.of(norm, eps), dataset="digits", count=30, shard_size=20, options=options
        )
        evaluate(request, Store(root))
    return root


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """The same, the test's own."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def id_of(runs: Path, attack: str, norm: str = "linf") -> str:
    store = Store(runs)
    specs = {name: store.evaluation(name).spec for name in store.evaluation_ids()}
    return next(name for name, spec in specs.items() if (spec["attack"], spec["norm"]) == (attack, norm))


class Other(Linear):
    """The same under another name."""


def test_several_models_are_drawn_together_and_none_is_left_out_silently(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threat = ThreatModel.of("linf", "0.05")
    evaluate(Request([Other()], ["fgsm"], threat, dataset="digits", count=30), Store(runs))
    arguments = ["figure", "curve", "--norm", "linf", "--runs", str(runs), "--json"]
    assert main([*arguments, "--model", "Linear", "--model", "Other", "--model", "Linear"]) == 0
    found = json.loads(capsys.readouterr().out)["curves"]
    assert [(each["model"], each["attack"].split()[0]) for each in found] == [
        ("Linear", "fgsm"), ("Linear", "min-fgsm"), ("Other", "fgsm"),
    ]  # fmt: skip
    assert main([*arguments, "--model", "Linear", "--model", "Nobody"]) == 2
    assert "complete for model 'Nobody'" in capsys.readouterr().err


def test_what_an_older_version_of_an_attack_found_is_not_drawn_beside_the_newest(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = id_of(runs, "fgsm")
    monkeypatch.setattr(FGSM, "version", FGSM.version + 1)
    evaluate(Request([Linear()], ["fgsm"], ThreatModel.of("linf", "0.05"), dataset="digits", count=30), Store(runs))
    arguments = ["figure", "curve", "--norm", "linf", "--runs", str(runs), "--json"]
    assert main([*arguments, "--model", "Linear"]) == 0
    drawn = {each["evaluation"]: each["attack"] for each in json.loads(capsys.readouterr().out)["curves"]}
    assert sorted(drawn.values()) == ["fgsm", "min-fgsm (line=100)"]
    assert older not in drawn
    assert main([*arguments, older]) == 0  # asked for by its id it is drawn
    assert [each["evaluation"] for each in json.loads(capsys.readouterr().out)["curves"]] == [older]


def test_curves_from_a_store(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs / "c.csv"
    arguments = ["figure", "curve", "--model", "Linear", "--norm", "linf", "--points", "0,0.05,1", "--runs", str(runs)]
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == [str(out)]
    plain, minimal = found["curves"]
    assert [plain["attack"], minimal["attack"]] == ["fgsm", "min-fgsm (line=100)"]
    assert [point["eps"] for point in plain["points"]] == [0.0, 0.05]
    rows = Store(runs).evaluation(plain["evaluation"]).rows()
    assert plain["points"][1]["accuracy"] == attack_figure(rows, "robust accuracy").value
    assert plain["points"][0]["accuracy"] == rows["clean_correct"].mean() == minimal["points"][0]["accuracy"]
    assert minimal["points"][1]["accuracy"] == pytest.approx(plain["points"][1]["accuracy"], abs=0.07)
    assert len(out.read_text().splitlines()) == 1 + 2 + 3
    assert main([*arguments[:-2], "--runs", str(runs)]) == 0
    assert "upper bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda runs: [], "No evaluation is named"),
        (lambda runs: ["nothing"], "no evaluation named"),
        (lambda runs: ["--model", "Linaer"], "for model 'Linaer'"),
        (lambda runs: ["--model", "Linear"], "l2 and linf"),
        (lambda runs: ["--model", "Linear", "--norm", "l1"], "no norm named"),
        (lambda runs: [id_of(runs, "fgsm"), "--norm", "l2"], "in l2 is named"),
        (lambda runs: [id_of(runs, "fgsm"), "--model", "Linear"], "given together"),
        (lambda runs: [id_of(runs, "random-targeted")], "attack success rate"),
        (lambda runs: [id_of(runs, "fgsm"), "--points", "a"], "eps is 'a'"),
        (lambda runs: [id_of(runs, "fgsm"), "--points", ""], "--points"),
        (lambda runs: [id_of(runs, "fgsm"), "--out", "c.pdf"], "c.pdf"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: Callable[[Path], list[str]], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", "curve", *arguments(runs), "--runs", str(runs)]) == 2
    told = capsys.readouterr()
    assert said in told.err.splitlines()[-1]
    assert told.out == ""


def test_an_unfinished_evaluation_is_refused(runs: Path) -> None:
    name = id_of(runs, "fgsm")
    next((runs / "evaluations" / name).glob("shard-000000*.parquet")).unlink()
    with pytest.raises(BadInput, match="incomplete"):
        curves.collect(Store(runs), [name])
    (runs / "evaluations" / id_of(runs, "min-fgsm") / "result.json").unlink()
    with pytest.raises(BadInput, match="incomplete"):
        curves.collect(Store(runs), [id_of(runs, "min-fgsm")])

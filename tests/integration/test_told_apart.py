"""Evaluations that would read the same are told apart wherever they stand beside one another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robench.cli.app import main

N = ("--eps", "0.1", "-n", "30")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one of them trained anew under its name, and evaluations that differ in what labels do not say."""
    root = tmp_path_factory.mktemp("apart")
    listed = root / "ids.txt"
    listed.write_text("".join(f"{i}\n" for i in range(30)))
    folder = root / "runs"

    def run(*words: str) -> None:
        assert main([*words, "--runs", str(folder)]) == 0

    for name in ("mad", "re"):
        run("train", "standard", "--dataset", "digits", "--epochs", "2", "--name", name)
    for again in (False, True):
        if again:
            shutil.rmtree(folder / "models" / "re")
            run("train", "standard", "--dataset", "digits", "--epochs", "2", "--name", "re", "--seed", "1")
        run("evaluate", "re", "-a", "fgsm", *N)
        run("evaluate", "mad", "-a", "fgsm", "--surrogate", "re", *N)
    run("evaluate", "mad", "-a", "pgd", "--steps", "2", "--seed", "0,1", *N)
    run("evaluate", "mad", "-a", "fgsm", "--dataset", f"digits?ids={listed}", *N)
    return folder


def shown(runs: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words, "--runs", str(runs)]) == 0
    return capsys.readouterr().out


def ids(runs: Path, capsys: pytest.CaptureFixture[str], attack: str, model: str) -> list[str]:
    told = json.loads(shown(runs, capsys, "list", "evaluations", "--json"))["evaluations"]
    return [each["name"] for each in told if (each["attack"], each["model"]) == (attack, model)]


def test_no_two_lines_of_the_list_say_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(runs, capsys, "list", "evaluations").splitlines()
    names = [line.split("%")[0].split(maxsplit=1)[1].rsplit(maxsplit=1)[0] for line in lines]
    assert len(set(names)) == len(names) == 7
    assert sum("mad" in line and "fgsm from re #" in line for line in lines) == 2
    assert {"[on digits, seed 0]", "[on digits, seed 1]"} <= {
        line[line.find("[") : line.find("]") + 1] for line in lines
    }
    assert sum("ids=" in line for line in lines) == 1
    trained = shown(runs, capsys, "list", "evaluations", "--model", "re").splitlines()
    assert len({line.split()[1] for line in trained}) == 2
    assert all(line.split()[1].startswith("re#") for line in trained)
    seeds = {each["seed"] for each in json.loads(shown(runs, capsys, "list", "evaluations", "--json"))["evaluations"]}
    assert seeds == {0, 1}


def test_figures_and_costs_name_what_differs(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = json.loads(shown(runs, capsys, "figure", "curve", "--model", "mad", "--json"))["curves"]
    titles = [(each["model"], each["attack"], each["eps"]) for each in told]
    assert len(set(titles)) == len(titles) == 5
    assert all("on digits" in attack for _, attack, _ in titles)
    pair = ids(runs, capsys, "pgd (steps=2)", "mad")
    curves = shown(runs, capsys, "figure", "curve", *pair)
    passes = shown(runs, capsys, "figure", "passes", *pair, "--out", str(runs / "passes.csv"))
    for out in (curves, passes, shown(runs, capsys, "cost", *pair)):
        assert "[seed 0]" in out
        assert "[seed 1]" in out
    assert "seed" not in shown(runs, capsys, "cost", pair[0])


def test_passes_on_a_surrogate_are_said_to_be_its_own(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    crafted, plain = ids(runs, capsys, "fgsm from re", "mad")[0], ids(runs, capsys, "pgd (steps=2)", "mad")[0]
    told = "the passes are those on re, where its images were crafted"
    for words in (("cost",), ("figure", "passes", "--out", str(runs / "passes.csv"))):
        assert told in " ".join(shown(runs, capsys, *words, crafted).split())
        assert told not in " ".join(shown(runs, capsys, *words, plain).split())


def test_show_says_that_a_model_was_trained_anew(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [shown(runs, capsys, "show", each) for each in ids(runs, capsys, "fgsm", "re")]
    assert sum("renewed: trained anew since: the model 're' was #" in each for each in found) == 1
    found = [shown(runs, capsys, "show", each) for each in ids(runs, capsys, "fgsm from re", "mad")]
    assert sum("the surrogate 're' was #" in each for each in found) == 1
    assert "renewed" not in shown(runs, capsys, "show", ids(runs, capsys, "pgd (steps=2)", "mad")[0])


def test_advice_tells_its_seed(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = shown(runs, capsys, "advise", "mad")
    assert "digits, linf eps 0.1, n = 30 [seed 0]" in told
    assert "digits, linf eps 0.1, n = 30 [seed 1]" in told
    advice = json.loads(shown(runs, capsys, "advise", "mad", "--json"))["advice"]
    assert sorted(each["seed"] for each in advice) == [0, 0, 1]


def test_detectors_of_several_seeds_are_told_apart(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("evaluate", "mad", "-a", "fgsm", "--detector", "kd", "--detector-images", "50", "--seed", "0,1", *N)
    told = " ".join(shown(runs, capsys, *asked).split())
    assert "seed 0" in told[told.index("Detectors") :]
    assert "seed 1" in told[told.index("Detectors") :]
    assert [each["seed"] for each in json.loads(shown(runs, capsys, *asked, "--json"))["detections"]] == [0, 1]

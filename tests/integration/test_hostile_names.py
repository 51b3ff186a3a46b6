"""Every command with hostile names of files, factories, data, classes, options, suites and folders.

Whatever they are called, a command ends as documented, prints nothing but visible lines, and shows the names.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from robench.cli.app import main
from robench.store.files import read_sealed, write_sealed
from robench.store.runs import Store
from robench.text.escaping import visible
from tests.hostile import FUZZ, NAMES, Document, Page, on_lines, shown
from tests.integration.conftest import Outcome, Run

MODEL = """
from functools import partial
import torch
from torch import nn


def _make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""
# names that a file can have
FILES = [name for name in NAMES if name and not set(name) & {"/", "\0", "\ud800"} and len(os.fsencode(name)) < 200]
# names that a reference can end in: a factory's name has no colon
FACTORIES = [name for i, name in enumerate(NAMES) if name and ":" not in name and (i % 6 == 0 or name not in FILES)]
# of messages and folders, where one function does it for all: what cannot be printed, and some of the rest
LOUD = [name for place, name in enumerate(NAMES) if not name.isprintable() or place % 10 == 0]
LOUD_FILES = [name for name in LOUD if name in FILES]
SMALL = ("-a", "fgsm", "-n", "2", "--eps", "0.1", "--dataset", "digits")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is folded."""
    monkeypatch.setenv("COLUMNS", "4000")


def clean(outcome: Outcome, *codes: int) -> str:
    """Stdout of a command that ended with one of the codes (0 if none is given), all of it visible lines."""
    assert outcome.code in (codes or (0,)), outcome.err
    assert "Traceback" not in outcome.err
    assert on_lines(outcome.out)
    assert on_lines(outcome.err)
    return outcome.out


def flat(out: str) -> str:
    return " ".join(out.split())


@pytest.fixture
def factories(tmp_path: Path) -> list[str]:
    """References to factories by every name."""
    (tmp_path / "zoo.py").write_text(
        MODEL + f"globals().update((name, partial(_make, i)) for i, name in enumerate({FACTORIES!a}))\n"
    )
    return [f"zoo.py:{name}" for name in FACTORIES]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """References to a factory in files by every loud name, in folders by every loud name."""
    for place, name in enumerate(LOUD_FILES):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(MODEL + f"load = partial(_make, {place})\n")
    return [f"models/{name}/{name}.py:load" for name in LOUD_FILES]


def check_everything(robench: Run, models: list[str]) -> None:
    """All commands that show evaluated models, each once for all of them. models: names that tables show."""
    told = flat(clean(robench("list", "evaluations")))
    assert all(shown(model) in told for model in models)
    assert len(robench("list", "evaluations").out.splitlines()) == len(models)
    found = robench("list", "evaluations", "--json").json["evaluations"]
    assert sorted(each["model"] for each in found) == sorted(models)
    boards = clean(robench("leaderboard", "--out", "boards"))
    assert all(shown(model) in flat(boards) for model in models)
    (path,) = Path("boards").glob("*.csv")
    assert len(list(csv.reader(path.read_text().splitlines()))) == 1 + len(models)
    document = Document(path.with_suffix(".md").read_text())
    rows = document.rows[1 : 1 + len(models)]
    assert sorted(row[0] for row in rows) == sorted(map(visible, models))
    assert {len(row) for row in rows} == {4}
    page = Page(path.with_suffix(".html").read_text())
    assert set(map(visible, models)) <= set(page.of("th"))
    assert sorted(r["model"] for r in robench("leaderboard", "--json").json["boards"][0]["rows"]) == sorted(models)
    verified = clean(robench("verify"))
    assert all(shown(model) in flat(verified) for model in models)
    assert sorted(e["model"] for e in robench("verify", "--json").json["evaluations"]) == sorted(models)
    clean(robench("runs", "gc"))
    clean(robench("runs", "size"))


def check_again(robench: Run, models: list[str]) -> None:
    """All commands that take evaluations by their ids, and checks of all of them in one baseline."""
    ids = Store(Path("runs")).evaluation_ids()
    references = {}
    for job_id in ids:
        about = robench("show", job_id, "--json").json["about"]
        assert f"\nmodel: {visible(about['model'])}\n" in clean(robench("show", job_id))
        references[about["model"]] = about["reference"]
    assert sorted(references) == sorted(models)
    figure = flat(clean(robench("figure", "curve", *ids, "--out", "c.csv")))
    assert all(shown(model) in figure for model in models)
    drawn = {line["model"].removeprefix("'") for line in csv.DictReader(Path("c.csv").read_text().splitlines())}
    assert drawn == {visible(model).removeprefix("'") for model in models}
    assert all(visible(model) in clean(robench("baseline", *ids, "-o", "b.json")) for model in models[:1])
    swaps = [word for model, reference in references.items() for word in ("--model", f"{model}={reference}")]
    found = robench("check", "b.json", *swaps, "--junit", "j.xml", "--markdown", "m.md", "--json").json
    assert {line["model"] for line in found["lines"]} == set(models)
    assert found["exit_code"] == 0
    assert {case.get("classname") for case in Tree.parse("j.xml").iter("testcase")} == set(map(visible, models))
    rows = Document(Path("m.md").read_text()).rows
    assert {row[0] for row in rows[1:]} == set(map(visible, models))
    assert {len(row) for row in rows} == {11}
    some = [model for model in models if not model.isprintable()][:8]  # a table's are the same, and tested by itself
    clean(robench("baseline", *some, "-o", "b.json"))
    told = flat(clean(robench("check", "b.json")))
    assert all(shown(model) in told for model in some)


def check_commands(robench: Run, references: list[str]) -> None:
    """The command that makes an evaluation again is one visible line, of which a shell makes the same words."""
    lines = []
    for job_id in Store(Path("runs")).evaluation_ids():
        (line,) = (line for line in clean(robench("show", job_id)).splitlines() if line.startswith("made by: "))
        lines.append(line.removeprefix("made by: robench evaluate "))
    script = "; ".join(f"set -- {line}; printf '%s\\0' \"$1\"" for line in lines)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    found = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
    assert sorted(found) == sorted(references)


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_factories_by_every_name(robench: Run, factories: list[str]) -> None:
    out = clean(robench("evaluate", *factories, *SMALL))
    assert all(shown(reference) in flat(out) for reference in factories)
    rows = robench("evaluate", *factories, *SMALL, "--json").json["rows"]
    assert [row["model"] for row in rows] == factories
    check_everything(robench, factories)
    check_again(robench, factories)
    clean(robench("figure", "curve", *Store(Path("runs")).evaluation_ids(), "--out", "all.png"))


def test_files_and_folders_by_every_name(robench: Run, files: list[str]) -> None:
    names = [f"{name}.py:load" for name in LOUD_FILES]
    clean(robench("evaluate", *files, *SMALL))
    rows = robench("evaluate", *files, *SMALL, "--json").json["rows"]
    assert [row["model"] for row in rows] == names
    check_everything(robench, names)
    check_commands(robench, files)


def image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(path, format="PNG")


FLAT = """
from torch import nn
import torch


def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
"""


def test_folders_of_data_by_every_name(robench: Run, tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(FLAT.replace("CLASSES", "2"))
    names = LOUD_FILES
    for place, name in enumerate(names):
        for part in ("train", "test"):
            for level, label in enumerate("ab"):
                image(tmp_path / name / part / label / "x.png", 100 + place + level)
        data = f"folder:{name}"
        (row,) = robench("evaluate", "flat.py:load", "-a", "fgsm", "--eps", "0.1", "--dataset", data, "--json").json[
            "rows"
        ]
        assert (row["dataset"], row["n"]) == (data, 2)
        assert f"data: {visible(data)}, test images 0-1 (n = 2)" in clean(robench("show", row["evaluation"]))
    out = flat(clean(robench("leaderboard", "--out", "boards")))
    assert all(shown(f"folder:{name}, linf eps 0.1") in out for name in names)
    paths = list(Path("boards").iterdir())
    assert len(paths) == 4 * len(names) + 3  # with an index in two formats and a page
    assert all(path.name.isascii() and path.name[0].isalnum() and on_lines(path.read_text()) for path in paths)
    verified = robench("verify", "--json").json["evaluations"]
    assert [check["holds"] for check in verified] == [True] * len(names)


def test_classes_and_files_of_images_by_every_name(robench: Run, tmp_path: Path) -> None:
    classes = [name for name in FILES if not name.startswith(".")]
    (tmp_path / "flat.py").write_text(FLAT.replace("CLASSES", str(len(classes))))
    for part in ("train", "test"):
        for name in classes:
            image(tmp_path / "data" / part / name / f"x{name}.png", 7)
    how = ("evaluate", "flat.py:load", "-a", "fgsm", "--eps", "0.1", "--dataset", "folder:data")
    assert robench(*how, "--json").json["rows"][0]["n"] == len(classes)
    for name in classes:
        strange = tmp_path / "data" / "test" / f"{name} too"
        image(strange / "x.png", 1)
        refused = robench(*how)
        assert clean(refused, 2) == ""
        assert "which is no class of train" in refused.err
        (strange / "x.png").unlink()
        strange.rmdir()


@pytest.mark.parametrize("name", LOUD, ids=ascii)
def test_every_argument_that_names_nothing_is_refused_in_one_visible_line(robench: Run, name: str) -> None:
    commands: list[tuple[str, ...]] = [
        ("evaluate", "m", "-a", f"x{name}", "--dataset", "digits"),
        ("evaluate", f"m{name}", "-a", "fgsm", "--dataset", "digits"),
        ("evaluate", f"m{name}.py:load", "-a", "fgsm", "--dataset", "digits"),
        ("evaluate", f"m.py:{name}", "-a", "fgsm", "--dataset", "digits"),
        ("evaluate", "m", "-a", "fgsm", "--dataset", f"x{name}"),
        ("evaluate", "m", "-a", "pgd", "-o", f"x{name}=1"),
        ("evaluate", "m", "-a", "pgd", "-o", f"steps=x{name}"),
        ("evaluate", "m", "-a", "pgd", "--eps", f"x{name}"),
        ("evaluate", "m", "-a", "pgd", "--norm", f"x{name}"),
        ("evaluate", "m", "-a", "pgd", "--detector", f"x{name}"),
        ("evaluate", "m", "-a", "pgd", "--executor", f"x{name}"),
        ("evaluate", "m", "-a", "pgd", "-n", f"x{name}"),
        ("evaluate", f"--x{name}"),
        (f"x{name}",),
        ("train", f"x{name}"),
        ("train", "standard", "--dataset", f"npz:x{name}"),
        ("train", "standard", "--name", f"-{name}"),
        ("train", "standard", "-o", f"width{name}=1"),
        ("diagnose", f"x{name}", "--attack", "fgsm"),
        ("reproduce", f"x{name}"),
        ("reproduce", f"x{name}.toml"),
        ("reproduce", "digits", "--scale", f"x{name}"),
        ("verify", f"x{name}"),
        ("show", f"x{name}"),
        ("list", f"x{name}"),
        ("baseline", f"x{name}", "-o", "b.json"),
        ("check", f"x{name}"),
        ("figure", "curve", f"x{name}"),
        ("figure", "curve", "--model", f"x{name}"),
        ("figure", "curve", "--model", "x", "--out", f"x{name}"),
        ("figure", "curve", "--model", "x", "--points", f"x{name}"),
        ("data", "fetch", f"x{name}"),
        ("test-plugin", f"x{name}"),
        ("test-plugin", "pgd", "-o", f"x{name}=1"),
    ]
    for command in commands:
        outcome = robench(*command)
        assert clean(outcome, 2) == "", command
        assert len(outcome.err.splitlines()) == 1, command
        assert outcome.err.startswith("robench: "), command


@pytest.mark.parametrize("name", LOUD_FILES, ids=ascii)
def test_runs_folders_and_reports_by_every_name(robench: Run, store: Path, name: str) -> None:
    """Whatever the folders of runs, tables and reports are called; a runs folder of no UTF-8 is refused."""
    store.rename(name)
    runs = ("--runs", name)
    codes = (0,) if name.isprintable() or name.encode(errors="replace").decode() == name else (2,)
    out = robench("list", "evaluations", *runs)
    clean(out, *codes)
    if codes == (2,):
        assert "is not UTF-8" in out.err
        return
    clean(robench("leaderboard", *runs, "--out", f"out/{name}"))
    assert len(list(Path("out", name).iterdir())) == 4 + 3
    clean(robench("verify", *runs))
    clean(robench("runs", "gc", *runs))
    if FILES.index(name) % 3:  # the rest takes a second, and depends on the name of its own files alone
        return
    clean(robench("baseline", "plain", "-o", f"out/{name}.json", *runs))
    reports = ("--junit", f"out/{name}.xml", "--markdown", f"out/{name}.md")
    clean(robench("check", f"out/{name}.json", *runs, *reports))
    (suite,) = Tree.parse(f"out/{name}.xml").iter("testsuite")
    assert suite.get("package") == visible(f"{name}.json")
    clean(robench("figure", "curve", "--model", "plain", *runs, "--out", f"out/{name}.png"))


def toml(name: str) -> str:
    """A suite's file that says the name wherever it may say something."""
    text = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    return (
        f"title = {text}\nsource = {text}\nmetric = {text}\n[scales.{text}]\ndataset = 'digits'\nnote = {text}\n"
        f"count = 2\nepochs = 1\n[[rows]]\nname = {text}\ndefense = 'standard'\n"
        f"[[columns]]\nname = {text}\n[[columns]]\nname = 'attacked'\nattack = 'fgsm'\neps = '0.1'\n"
        f"[printed.{text}]\n{text} = 1.5\n"
    )


@pytest.mark.parametrize(
    "name", [name for name in LOUD if name and not set(name) & set("\ud800\udc80\udcff")], ids=ascii
)
def test_suites_of_hostile_text(robench: Run, store: Path, name: str) -> None:
    Path("own.toml").write_text(toml(name))
    plan = clean(robench("reproduce", "own.toml", "--scale", name, "--dry-run"))
    assert shown(name) in flat(plan)
    assert robench("reproduce", "own.toml", "--scale", name, "--dry-run", "--json").json["steps"]


def test_a_suite_of_hostile_text_is_reproduced(robench: Run) -> None:
    name = "\x1b[2J[/x]|a\n../../<b>$\\foo$"
    Path("own.toml").write_text(toml(name))
    out = clean(robench("reproduce", "own.toml", "--scale", name, "--out", "tables"))
    assert shown(name) in flat(out)
    assert len(list(Path("tables").iterdir())) == 4
    found = robench("reproduce", "own.toml", "--scale", name, "--out", "tables", "--json").json
    assert {row["row"] for row in found["rows"]} == {name}


def forge(folder: Path, name: str) -> None:
    """Put a name into every free text of an evaluation's record, under a seal that fits."""
    about = read_sealed(folder / "about.json").value
    about |= dict.fromkeys(("model", "reference", "dataset", "command", "against", "surrogate", "kind"), name)
    about |= {"given_options": {name: name}, "device": name, "more": {name: [name]}}
    about["environment"] = {"commit": name, "packages": {"torch": name, name: name}, name: name}
    write_sealed(folder / "about.json", about)


def check_forged(robench: Run, folder: Path, name: str) -> None:
    """No command on a forged record leaves its codes or prints anything that is not visible."""
    forge(folder, name)
    job_id = folder.name
    told: list[Any] = [
        clean(robench("list", "evaluations")),
        clean(robench("leaderboard", "--out", "boards")),
        clean(robench("figure", "curve", job_id, "--out", "c.csv")),
        clean(robench("show", job_id)),
    ]
    assert all(shown(name) in flat(each) for each in told)
    clean(robench("verify"), 0, 2)
    clean(robench("baseline", job_id, "-o", "b.json"), 0, 2)
    clean(robench("check", "b.json"), 0, 1, 2)
    clean(robench("runs", "gc"))
    for path in Path("boards").iterdir():
        assert on_lines(path.read_text())
        path.unlink()


def test_stored_records_of_hostile_text(robench: Run, evaluation: Path) -> None:
    for name in LOUD:
        check_forged(robench, evaluation, name)


@pytest.mark.fuzz
def test_any_stored_text_through_every_command(
    capfd: pytest.CaptureFixture[str], store: Path, evaluation: Path
) -> None:
    """Text at random, a twentieth as often as the formats by themselves are searched."""

    def robench(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    @settings(
        max_examples=max(FUZZ // 20, 10), derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.text(st.characters(), max_size=30))
    def search(name: str) -> None:
        check_forged(robench, evaluation, name)

    search()

"""Every command line of the documentation runs, and so does its Python.

The pages begin with the same store, in a folder each, and with models that are trained for an epoch. What is small
about it is stated here: `small` says what stands for what, `LEFT` what is not run and why.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from robench import registry
from robench.cli.app import main
from tests.docs_pages import PAGES, Page, read
from tests.integration.test_plugin_package import install

ALL = {path.name: read(path) for path in PAGES}
# the beginning of a command that is not run here, and why
LEFT = {
    "make ": "sets up an environment",
    "pip ": "installs",
    "uv ": "installs",
    "docker ": "needs docker",
    "git ": "is git's",
    "ray ": "starts a cluster on other machines",
    "mkdir ": "belongs to docker's line",
    "pytest": "test_plugin_package.py runs it",
    "robench test-plugin ": "test_plugin_package.py runs it",
    "robench quickstart": "test_cli.py runs it",
    "robench data fetch ": "downloads",
}
# what pages take for trained, an epoch each, as NAME-digits
MODELS = ("standard", "paradise-pm", "er-classifier", "madry", "trades", "e-cla", "paradise-ae")
# words that stand for others: data that no test has, and placeholders; EVALUATION are two of the store in turn
WORDS = {"mnist": "digits", "cifar10": "digits", "MODEL": "standard-digits", "FOLDER": "place"}
# options that are left out with their value: Ray and trackers, which test_ray.py and test_trackers.py have, another
# machine's folders, and what a network of an hour needs
WITHOUT = {
    "--executor": "ray", "--workers": "", "--address": "", "--cpus-per-task": "", "--gpus-per-task": "",
    "--log-to": "", "--runs": "$SCRATCH", "--data": "$SCRATCH", "--recipe": "paper", "--backbone": "wrn",
}  # fmt: skip
# at most so much of each; the second where every model in the store is meant, which is two of the many that pages share
# but where all of a dataset are asked for
MOST = {"-n": (8, 4), "--again": (1, 1), "--restarts": (2, 2), "--epochs": (1, 1), "--least": (8, 8)}
# what a command gets in addition
MORE = {"train": ("--epochs", "1"), "evaluate": ("-n", "8"), "diagnose": ("-n", "8")}
# whose exit code is a verdict on the model
VERDICTS = ("diagnose", "check")
# a bundled suite takes minutes: this one stands for `digits`, and of the others the plan is made
SUITE = "digits"
TINY = """
title = "Tiny"
source = "the test of the docs"
[scales.smoke]
dataset = "digits"
epochs = 1
count = 8
[[rows]]
name = "Standard"
defense = "standard"
[[columns]]
name = "FGSM"
attack = "fgsm"
eps = "0.1"
"""


@dataclass(frozen=True)
class Ground:
    """Where pages are run: a folder with the store, the ids of two evaluations of one model, and the example."""

    root: Path
    evaluations: tuple[str, ...]


def small(command: str, page: Page, evaluations: tuple[str, ...]) -> list[str]:
    """The words of a command as it is run here."""
    ids = iter(evaluations)
    words = [word for word in shlex.split(command)[1:] if word != "--open"]  # a browser
    words = [next(ids) if word == "EVALUATION" else word for word in words]
    for name, other in WORDS.items() if words[0] != "reproduce" else ():
        words = [re.sub(rf"(?<![\w/.])((?:[\w-]+-)?){name}(?![\w:])", rf"\g<1>{other}", word) for word in words]
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] in WITHOUT and word.startswith(WITHOUT[kept[-1]]):
            kept.pop()
        else:
            kept.append(word)
    name = kept[0]
    if name == "reproduce":
        return reproduced(kept, page)
    if name == "baseline":
        kept = [f"{SUITE}.toml" if word == SUITE else word for word in kept]
    if name == "verify":  # of one evaluation of the many that the pages share
        kept.append(evaluations[0])
    every = name == "evaluate" and kept[1].startswith("-") and "--config" not in kept
    if every and "--dataset" not in kept:
        kept[1:1] = [f"{each}-digits" for each in MODELS[:2]]
    for option, value in zip(MORE.get(name, ())[::2], MORE.get(name, ())[1::2], strict=True):
        kept += [] if option in kept or "--config" in kept else [option, value]
    for option, most in MOST.items():
        if option in kept:
            at = kept.index(option) + 1
            kept[at] = str(min(int(kept[at]), most[every]))
    return kept


def reproduced(words: list[str], page: Page) -> list[str]:
    """A page's own suite and the tiny one are made, of others the plan alone."""
    if words[1] in page.files:
        return words
    if words[1] == SUITE and "--dry-run" not in words:
        return [words[0], f"{SUITE}.toml", *words[2:]]
    words = ["smoke" if word in ("cpu", "paper") else word for word in words]
    return [*dict.fromkeys([*words, "--dry-run"])]


def left(command: str) -> str | None:
    return next((beginning for beginning in LEFT if f"{command} ".startswith(beginning)), None)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A store with four models and an evaluation, the example's weights, and the pages' packages on the path."""
    root = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBENCH_RUNS", str(root / "runs"))
        patch.chdir(root)
        for defense in MODELS:
            options = ["-o", "z_dim=2"] if defense == "paradise-ae" else []  # whose codes are drawn
            assert main(["train", defense, "--epochs", "1", "--name", f"{defense}-digits", *options]) == 0
        evaluations: list[str] = []
        pgd = ["pgd", "--steps", "5", "--restarts", "2"]
        for model, *attack in (["standard", *pgd], ["standard", "fgsm"], ["paradise-pm", *pgd], ["madry", *pgd]):
            assert main(["evaluate", f"{model}-digits", "--eps", "0.1", "-n", "8", "-a", *attack]) == 0
            (new,) = {path.name for path in (root / "runs/evaluations").iterdir()} - set(evaluations)
            evaluations.append(new)
        packages(root / "site")
        patch.syspath_prepend(str(root / "site"))
        patch.syspath_prepend(str(root / "example"))
        registry._entries.cache_clear()
        (root / "example").mkdir()
        for name, text in ALL["models.md"].files.items():
            (root / "example" / name).write_text(text)
        shutil.copy(root / "example/my_model.py", root / "example/new.py")
        patch.chdir(root / "example")
        runpy.run_path("train_mine.py", run_name="__main__")
        yield Ground(root, tuple(evaluations[:2]))
    registry._entries.cache_clear()
    for name in ("my_model", "new"):
        sys.modules.pop(name, None)


def packages(site: Path) -> None:
    """What pip would make of the pages' packages."""
    site.mkdir()
    for page in ALL.values():
        for name, text in page.files.items():
            if "/" in name:
                (site / Path(name).name).write_text(text)
            if name.endswith("pyproject.toml"):
                project = tomllib.loads(text)["project"]
                groups = project["entry-points"]
                install(site, project["name"], {group[len("robench.") : -1]: groups[group] for group in groups})


@pytest.fixture
def place(ground: Ground, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a page, with its files and the example's."""
    folder = ground.root / "pages" / str(request.node.callspec.params["name"]).removesuffix(".md")
    shutil.copytree(ground.root / "example", folder)
    (folder / f"{SUITE}.toml").write_text(TINY)
    monkeypatch.chdir(folder)
    shutil.copytree(ground.root / "runs", folder / "of-this-page")  # no page rests on what another one ran
    monkeypatch.setenv("ROBENCH_RUNS", str(folder / "of-this-page"))
    return folder


@pytest.mark.parametrize("name", [name for name, page in ALL.items() if page.commands or page.code])
def test_a_page_s_commands_and_python_run(
    name: str, ground: Ground, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, wrong = ALL[name], []
    for file, text in page.files.items():
        if "/" not in file:
            (place / file).write_text(re.sub(r"^n = \d+", "n = 8", text, flags=re.MULTILINE))
    for command in page.commands:
        if left(command):
            continue
        if command.startswith("python "):
            runpy.run_path(shlex.split(command)[1], run_name="__main__")
            continue
        words = small(command, page, ground.evaluations)
        code = main(words)
        said = capfd.readouterr()
        if code not in ((0, 1) if words[0] in VERDICTS else (0,)):
            wrong.append(f"{command}, run as {words}: {said.err}{said.out}")
    assert wrong == []
    for block in page.code:
        exec(compile(re.sub(r"\bn=\d+", "n=8", block), name, "exec"), given())


def given() -> dict[str, Any]:
    """What a page's Python may take for granted: a model, and images with their labels."""
    from my_model import load

    import robench

    test = robench.open_dataset("digits").test
    return {"model": load(), "x": test.pixels(slice(0, 8)), "y": torch.as_tensor(test.labels[:8])}


def test_no_more_is_left_out_than_must_be() -> None:
    commands = [command for page in ALL.values() for command in page.commands]
    assert {left(command) for command in commands} - {None} == set(LEFT)
    run = [command for command in commands if not left(command)]
    assert len(run) > 60
    assert all(command.split()[0] in ("robench", "python") for command in run)
    text = "\n".join(run)
    unused = [word for word in (*WORDS, *WITHOUT, *MOST) if word not in text]
    assert unused == []

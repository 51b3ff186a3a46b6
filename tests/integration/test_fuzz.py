"""Artifacts changed in structure, their seals fitting, under every command that reads them: never a traceback, never an
exit code that is not documented, and never a better figure than the true one without a mark.

ROBENCH_FUZZ=N tries about N changed artifacts, other ones each time; without it, a few, always the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robench.cli.app import main
from tests.mutations import change

ARTIFACTS = (
    "models/plain/spec.json", "models/plain/model.json", "models/plain/model.safetensors",
    "evaluations/{pgd}/spec.json", "evaluations/{pgd}/about.json", "evaluations/{pgd}/result.json",
    "evaluations/{pgd}/sealed.json", "evaluations/{pgd}/sealed.parquet",
    "evaluations/{pgd}/shard-000010-000020.json", "evaluations/{pgd}/shard-000010-000020.parquet",
    "evaluations/{pgd}/shard-000010-000020.safetensors", "evaluations/{transfer}/spec.json",
    "evaluations/{transfer}/about.json", "evaluations/{transfer}/shard-000000-000010.parquet", "crafted/*/spec.json",
    "crafted/*/about.json", "crafted/*/shard-000000-000010.json", "crafted/*/shard-000000-000010.parquet",
    "crafted/*/shard-000000-000010.safetensors", "detectors/*/spec.json", "detectors/*/fitted.json",
    "detectors/*/detector.safetensors", "detectors/*/scores-*.json", "detectors/*/scores-*.parquet",
    "evaluations/{transfer}/sealed.json", "evaluations/{transfer}/shard-000000-000010.safetensors",
    "superseded/*/spec.json", "superseded/*/about.json", "superseded/*/result.json", "superseded/*/sealed.json",
    "superseded/*/sealed.parquet", "superseded/*/shard-000000-000010.json",
    "superseded/*/shard-000000-000010.parquet", "superseded/*/shard-000000-000010.safetensors",
    "diagnostics/*.json", "checks/*/check.json", "../baseline.json",
)  # fmt: skip
GIVEN = int(os.environ.get("ROBENCH_FUZZ", "0"))
EACH = max(GIVEN // len(ARTIFACTS), 1)
HOW = ("-n", "20", "--eps", "0.1", "--shard-size", "10", "--device", "cpu")
EVALUATE = ("evaluate", "plain", "-a", "fgsm,pgd", *HOW)
ONE = ("evaluate", "plain", "-a", "fgsm", *HOW)
TRANSFER = ("evaluate", "plain", "-a", "pgd", "--surrogate", "other", *HOW)
WATCHED = ("evaluate", "plain", "-a", "fgsm", "--detector", "kd", "--trained-on", "fgsm@linf:0.3",
           "--detector-images", "100", "--no-adaptive", *HOW)  # fmt: skip
# each asked after some of the changes only, since it takes its time
SOME: tuple[tuple[str, ...], ...] = (
    ("diagnose", "plain", "-n", "20", "--device", "cpu"), ("reproduce", "own.toml", "--scale", "smoke"),
    ("check", "baseline.json", "--reuse", "--device", "cpu"), ("runs", "gc", "--delete"), ("verify", "--device", "cpu"),
    ("list", "models"), ("runs", "size"), (*ONE, "--fresh"), (), (),
)  # fmt: skip
SUITE = """
title = "t"
source = "s"
[scales.smoke]
dataset = "digits"
epochs = 1
count = 20
[[rows]]
name = "Standard"
defense = "standard"
[[columns]]
name = "FGSM"
attack = "fgsm"
eps = "0.1"
"""


@dataclass
class Said:
    """What a command left: its exit code, None where an exception came out of it, and what it printed."""

    code: int | None
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it printed as JSON, {} where it printed none."""
        return dict(json.loads(self.out)) if self.code in (0, 1, 3) and self.out.startswith("{") else {}


def run(*arguments: str) -> Said:
    """A command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | None = main([*arguments, "--runs", "runs"])
        except BaseException:
            code = None
            err.write(traceback.format_exc())
    return Said(code, out.getvalue(), err.getvalue())


@dataclass
class Kept:
    """The undamaged folder, and what is true of it: figures by evaluation, worst cases by model, points of curves."""

    root: Path
    ids: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)
    worst: dict[tuple[str, str], float] = field(default_factory=dict)
    points: dict[tuple[str, float], float] = field(default_factory=dict)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Models, evaluations of one by itself, from images of the other, behind a detector and set aside; a baseline and a
    check."""
    return make(tmp_path_factory.mktemp("fuzz"))


def make(place: Path) -> Kept:
    """The undamaged folder under `place`."""
    root = place / "kept"
    root.mkdir()
    os.environ["ROBENCH_DATA"] = str(place / "data")
    os.chdir(root)
    (root / "own.toml").write_text(SUITE)
    for seed, name in enumerate(("plain", "other")):
        assert run("train", "standard", "--epochs", "2", "--seed", str(seed), "--name", name).code == 0
    for command in (EVALUATE, (*ONE, "--fresh"), TRANSFER, WATCHED, ("reproduce", "own.toml", "--scale", "smoke")):
        said = run(*command)
        assert said.code == 0, said.err
    found = run("list", "evaluations", "--json").json["evaluations"]
    ids = {each["attack"].partition(" ")[0]: each["name"] for each in found if "from" not in each["attack"]}
    ids["transfer"] = next(each["name"] for each in found if "from" in each["attack"])
    assert run("baseline", ids["fgsm"], ids["pgd"], "-o", "baseline.json").code == 0
    assert run("check", "baseline.json", "--device", "cpu").code == 0
    kept = Kept(root, ids)
    kept.figures = {each["name"]: each["value"] for each in found}
    kept.worst = worst_of(run("leaderboard", "--json"))
    kept.points = points_of(run("figure", "curve", "--model", "plain", "--json"))
    assert kept.worst
    assert kept.points
    return kept


def worst_of(said: Said) -> dict[tuple[str, str], float]:
    """The worst cases of a leaderboard that no note qualifies."""
    rows = [(board["title"], row) for board in said.json.get("boards", []) for row in board["rows"]]
    cells = {(title, row["model"]): row["worst case"] for title, row in rows}
    return {key: cell["value"] for key, cell in cells.items() if cell and "value" in cell and not cell["note"]}


def points_of(said: Said) -> dict[tuple[str, float], float]:
    return {(curve["evaluation"], point["eps"]): point["accuracy"]
            for curve in said.json.get("curves", []) for point in curve["points"]}  # fmt: skip


def better(found: dict[Any, float], true: dict[Any, float], what: str) -> list[str]:
    """Figures that are better than the true ones."""
    return [f"{what} says {value} of {key}, but {true[key]} is true" for key, value in found.items()
            if key in true and value > true[key] + 1e-9]  # fmt: skip


def try_one(kept: Kept, place: Path, artifact: str, noise: Random) -> list[str]:
    """Change one artifact of a copy and ask what may read it; returns what is wrong with the answers."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(kept.root, place)
    os.chdir(place)
    (path,) = sorted(Path("runs").glob(artifact.format(**kept.ids)))[:1] or [Path(artifact.partition("/")[2])]
    told = change(path, noise)
    faults: list[str] = []

    def ask(*arguments: str) -> Said:
        said = run(*arguments)
        if said.code not in (0, 1, 2, 3) or "Traceback" in said.err:
            faults.append(f"{' '.join(arguments[:2])}: {said.err.strip().splitlines()[-1:]} {said.err[-900:]}")
        elif said.code == 2 and not (said.out + said.err).strip():
            faults.append(f"{' '.join(arguments[:2])}: exit code 2 and no word")
        return said

    listed = {each["name"]: each["value"] for each in ask("list", "evaluations", "--json").json.get("evaluations", [])
              if each.get("status") == "complete" and each.get("metric") == "robust accuracy"}  # fmt: skip
    faults += better(listed, kept.figures, "list")
    if "models" in artifact:
        ask("list", "models")
        ask("show", "plain")
    mine = "transfer" if "transfer" in artifact else "pgd"
    ask("list", "evaluations")
    ask("show", kept.ids[mine])
    board = worst_of(ask("leaderboard", "--json"))
    if not path.name.startswith("spec"):  # of another spec, it is another evaluation
        faults += better(board, kept.worst, "leaderboard")
    faults += better(points_of(ask("figure", "curve", "--model", "plain", "--json")), kept.points, "figure")
    ask("figure", "curve", kept.ids["pgd"], "--out", "curve.csv")
    ask("runs", "gc")
    ask("baseline", "plain", "-o", "new.json")
    ask("verify", kept.ids[mine], "--device", "cpu")
    if "baseline" in artifact or "check" in artifact:
        ask("check", "baseline.json", "--device", "cpu")
    if some := noise.choice(SOME):
        ask(*some)
    command = TRANSFER if re.search("crafted|transfer", artifact) else WATCHED if "detect" in artifact else EVALUATE
    again = ask(*command, "--json").json.get("rows", [])
    found = {each["evaluation"]: each["robust_accuracy"] for each in again if each["status"] == "complete"}
    faults += [f"evaluate says {value} of {key}, but {kept.figures[key]} is true" for key, value in found.items()
               if key in kept.figures and abs(value - kept.figures[key]) > 1e-9]  # fmt: skip
    return [f"{artifact}: {told}: {fault}" for fault in faults]


@pytest.mark.fuzz
@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda name: name.replace("/", "-"))
def test_no_changed_artifact_fools_a_command(artifact: str, kept: Kept, tmp_path: Path) -> None:
    @settings(
        max_examples=EACH, deadline=None, database=None, derandomize=not GIVEN,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32 - 1))
    def fuzz(seed: int) -> None:
        assert try_one(kept, tmp_path / "work", artifact, Random(f"{artifact} {seed}")) == []  # another change of each

    fuzz()

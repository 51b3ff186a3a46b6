"""robench reproduce: a suite from nothing to its table, killed and run twice at once, and what it is asked wrongly."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from robench.cli.app import main
from robench.evaluation import tasks
from robench.store.claims import journal
from tests.forked import PATIENCE
from tests.integration.conftest import Process, Run, assert_refused, start_forked, start_module, wait_for
from tests.same import assert_same_rows

SUITE = """
title = "A table of two"
source = "Nobody, 2026"
[scales.smoke]
dataset = "digits"
count = 60
epochs = 3
[scales.larger]
dataset = "digits"
count = 120
epochs = 3
[[rows]]
name = "Plain"
defense = "standard"
[[rows]]
name = "Matched"
defense = "dvib-pm"
[[columns]]
name = "Clean"
[[columns]]
name = "FGSM"
attack = "fgsm"
eps = 0.1
[[columns]]
name = "Worst"
attack = ["fgsm", "pgd", "multi-targeted"]
eps = 0.1
options = {steps = 10}
[[columns]]
name = "Black box"
attack = ["fgsm", "pgd"]
eps = 0.1
surrogate = "Plain"
[printed.Matched]
Clean = 93.5
Worst = 99.7
"""
COMMAND = ("reproduce", "two.toml", "--scale", "smoke", "--shard-size", "20")
# 2 models; fgsm, and pgd and multi-targeted after it, on 3 shards each; 2 attacks crafted once, judged on both models
WORK = Counter({"train": 2, "shard": 2 * 3 * 3 + 2 * 2 * 3, "craft": 2 * 3})


@pytest.fixture(autouse=True)
def _suite(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SUITE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The suite's runs and tables, made without any disturbance."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "two.toml").write_text(SUITE)
    command = [str(root / "two.toml") if word == "two.toml" else word for word in COMMAND]
    assert main([*command, "--runs", str(root / "runs"), "--out", str(root / "tables")]) == 0
    yield root
    shutil.rmtree(root)


def rows_of(runs: Path) -> dict[str, pd.DataFrame]:
    """Rows by evaluation and shard."""
    return {f"{p.parent.name}/{p.name}": pd.read_parquet(p) for p in sorted(runs.glob("evaluations/*/shard-*.parquet"))}


def assert_same(root: Path, made: Path) -> None:
    """Runs and tables in `root` are those of the undisturbed run."""
    found, expected = rows_of(root / "runs"), rows_of(made / "runs")
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert_same_rows(found[name], rows)
    for path in (made / "tables").iterdir():
        assert without_command(root / "tables" / path.name) == without_command(path)


def without_command(path: Path) -> str:
    """A table's text but for the path of its suite, which is another in the undisturbed run."""
    return re.sub(r"robench reproduce \S+", "robench reproduce", path.read_text())


def computed(runs: Path) -> Counter[str]:
    """How often each piece of work was finished."""
    return Counter(entry["work"] for entry in journal(runs) if entry["event"] == "end")


def kind(key: str) -> str:
    return key.partition("-")[0] if key.startswith(("train-", "craft-")) else "shard"


def test_everything_is_done_once(made: Path) -> None:
    done = computed(made / "runs")
    assert set(done.values()) == {1}
    assert Counter(kind(key) for key in done) == WORK


def test_the_table(made: Path) -> None:
    head, *rows = csv.reader(io.StringIO((made / "tables" / "two-smoke.csv").read_text()))
    assert [(row[0], row[1]) for row in rows] == [
        (model, column) for model in ("Plain", "Matched") for column in ("Clean", "FGSM", "Worst", "Black box")
    ]
    cells = {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}
    assert cells["Matched", "Worst"]["printed"] == "99.7"
    assert cells["Plain", "Worst"]["printed"] == ""
    for kind in ("md", "tex", "html"):
        text = (made / "tables" / f"two-smoke.{kind}").read_text()
        assert "Clean: clean accuracy on digits, n = 500" in text
        assert "Worst: fgsm + pgd + multi-targeted (steps=10), linf eps 0.1, n = 60" in text
        assert "Black box: fgsm + pgd, linf eps 0.1, crafted on Plain, n = 60" in text
    assert float(cells["Plain", "Worst"]["value"]) <= float(cells["Plain", "FGSM"]["value"])
    assert int(cells["Plain", "Clean"]["n"]) > int(cells["Plain", "Worst"]["n"]) == 60
    text = (made / "tables" / "two-smoke.md").read_text()
    assert "Nobody, 2026" in text
    assert "(99.7)" in text


def test_a_narrow_terminal_cuts_no_figure_off(
    made: Path, tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shutil.copytree(made / "runs", tmp_path / "runs")
    outcome = robench(*COMMAND, "--out", "tables", "--runs", "runs")
    shown = outcome.out.split("Percent with")[0]
    with (made / "tables" / "two-smoke.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        assert f"{100 * float(row['value']):.1f}" in shown
        assert f"{100 * float(row['high']):.1f}]" in shown


def test_again_nothing_is_computed(made: Path, tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made / "runs", tmp_path / "runs")
    before = len(journal(tmp_path / "runs"))
    monkeypatch.delattr(tasks, "attack_shard")
    outcome = robench(*COMMAND, "--out", "tables")
    assert outcome.code == 0, outcome.err
    assert len(journal(tmp_path / "runs")) == before
    assert_same(tmp_path, made)


def test_the_plan_names_what_is_left_and_its_cost(made: Path, tmp_path: Path, robench: Run) -> None:
    fresh = robench(*COMMAND, "--dry-run", "--json").json
    assert {step["state"] for step in fresh["steps"]} == {"to do"}
    per_image = {"fgsm": 1, "pgd": 10, "multi-targeted": 90}
    # on each of two models all three attacks, of which a cascade shares fgsm; crafting once more, on one
    attacks = 60 * (2 * sum(per_image.values()) + 1 + 40)
    training = sum(step["gradients"] for step in fresh["steps"] if step["what"].startswith("train "))
    assert fresh["gradients"] == attacks + training
    assert not (tmp_path / "runs" / "models").exists()
    shutil.copytree(made / "runs", tmp_path / "runs", dirs_exist_ok=True)
    done = robench(*COMMAND, "--dry-run", "--json").json
    assert {step["state"] for step in done["steps"]} == {"done"}
    assert done["gradients"] == 0
    larger = robench("reproduce", "two.toml", "--scale", "larger", "--dry-run", "--json").json
    assert {step["state"] for step in larger["steps"]} == {"done", "to do", "60 left"}  # of images crafted before


def test_spent_gradients_stay_below_the_estimate(made: Path, tmp_path: Path, robench: Run) -> None:
    planned = robench(*COMMAND, "--dry-run", "--json").json
    attacks = sum(step["gradients"] for step in planned["steps"] if not step["what"].startswith("train "))
    folders = [*(made / "runs").glob("evaluations/*"), *(made / "runs").glob("crafted/*")]
    crafted = [folder.name for folder in folders if folder.parent.name == "crafted"]
    spent = 0
    for folder in folders:
        spec = json.loads((folder / "spec.json").read_text())
        if "surrogate" not in spec:
            spent += sum(int(pd.read_parquet(shard)["backwards"].sum()) for shard in folder.glob("shard-*.parquet"))
    assert len(crafted) == 2
    assert 0 < spent <= attacks


def test_a_suite_as_a_baseline(made: Path, tmp_path: Path, robench: Run) -> None:
    """Its columns of one attack are kept, and the unchanged models pass the check."""
    assert_refused(
        robench("baseline", "two.toml", "--scale", "smoke", "-o", "kept.json"), ("not done", "robench reproduce")
    )
    shutil.copytree(made / "runs", tmp_path / "runs", dirs_exist_ok=True)
    kept = robench("baseline", "two.toml", "--scale", "smoke", "-o", "kept.json", "--json").json
    assert [(each["model"], each["attack"]) for each in kept["evaluations"]] == [
        ("dvib-pm-digits-e3", "fgsm, linf eps 0.1"),
        ("standard-digits-e3", "fgsm, linf eps 0.1"),
    ]
    assert robench("check", "kept.json").code == 0


def test_killed_at_any_moment_it_goes_on(made: Path, tmp_path: Path) -> None:
    """Killed once while training and then after every few finished pieces of work."""
    runs = tmp_path / "runs"
    for pieces in (1, 9, 29):
        process = start_forked(*COMMAND, "--out", "tables")
        wait_for(lambda least=pieces: sum(computed(runs).values()) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    process = start_forked(*COMMAND, "--out", "tables")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert_same(tmp_path, made)
    assert set(computed(runs).values()) == {1}
    begun = Counter(entry["work"] for entry in journal(runs) if entry["event"] == "begin")
    assert sum(begun.values()) - len(begun) <= 3, "more than what was under way was begun again"


@pytest.mark.parametrize(
    ("start", "pause"), [(start_module, 0.0), (start_forked, 0.03), (start_forked, 0.3)], ids=["0.0", "0.03", "0.3"]
)
def test_ctrl_c_twice(start: Callable[..., Process], pause: float, made: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = start(*COMMAND, "--out", "tables")
    wait_for(lambda: sum(computed(runs).values()) >= 6, process)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "Interrupted" in error
    kept = computed(runs)
    assert main([*COMMAND, "--out", "tables"]) == 0
    assert_same(tmp_path, made)
    after = computed(runs)
    assert {key: after[key] for key in kept} == dict.fromkeys(kept, 1)


def test_a_clock_that_jumps_changes_nothing(
    made: Path, tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while it works, a day back or forth with every look, nor when it looks again a year earlier."""
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86_400)
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    command = (*COMMAND, "--out", "tables", "--runs", "runs")
    assert robench(*command).code == 0
    assert_same(tmp_path, made)
    before = journal(tmp_path / "runs")
    for path in (tmp_path / "runs").rglob("*"):
        os.utime(path, (real() - 3e7, real() - 3e7))
    assert robench(*command).code == 0
    assert journal(tmp_path / "runs") == before


def test_a_full_disk_stops_it_and_loses_nothing(made: Path, tmp_path: Path) -> None:
    """No file may grow beyond what a checkpoint needs, which is what a full disk looks like to who writes it."""
    script = tmp_path / "small_disk.py"
    script.write_text(
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from robench.cli.app import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    shutil.copytree(made / "runs" / "models", tmp_path / "runs" / "models")
    command = [sys.executable, str(script), *COMMAND, "--out", "tables"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2, done.stderr
    assert re.search(r"robench: (No space left to write|Cannot write) .*shard-", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").rglob("*.part"))
    assert main([*COMMAND, "--out", "tables"]) == 0
    assert_same(tmp_path, made)


def test_two_at_once_share_the_work(made: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    both = [start_forked(*COMMAND, "--out", "tables") for _ in range(2)]
    wait_for(lambda: journal(runs), both[0])
    (first, *_) = (process for process in both if process.pid == journal(runs)[0]["process"])
    first.send_signal(signal.SIGSTOP)  # on a busy machine all could be done before the other one has started
    try:
        wait_for(lambda: len({entry["process"] for entry in journal(runs)}) == 2, first)
    finally:
        first.send_signal(signal.SIGCONT)
    ends = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert_same(tmp_path, made)
    assert set(computed(runs).values()) == {1}


def test_a_failing_shard_makes_its_cells_incomplete(
    tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.attack_shard

    def fails(module: object, classes: int, attack: object, *rest: object) -> object:
        if type(attack).__name__ == "PGD":
            raise RuntimeError("no luck")
        return real(module, classes, attack, *rest)

    monkeypatch.setattr(tasks, "attack_shard", fails)
    outcome = robench(*COMMAND, "--out", "tables")
    assert outcome.code == 3
    assert "no luck" in outcome.err
    found = {}
    for line in (tmp_path / "tables" / "two-smoke.csv").read_text().splitlines()[1:]:
        row, column, *rest = line.split(",")
        found[row, column] = rest
    assert "incomplete" in found["Plain", "Worst"]
    assert "complete" in found["Plain", "FGSM"]
    monkeypatch.setattr(tasks, "attack_shard", real)
    assert robench(*COMMAND, "--out", "tables").code == 0


def test_stored_tabulates_what_is_there_and_computes_nothing(made: Path, robench: Run) -> None:
    said = robench(*COMMAND, "--stored", "--runs", "empty", "--out", "none", "--json")
    assert said.code == 3
    assert {row["status"] for row in json.loads(said.out)["rows"]} == {"incomplete"}
    assert not list(Path("empty").glob("models/*"))
    before = computed(made / "runs")
    assert robench(*COMMAND, "--stored", "--runs", str(made / "runs"), "--out", "tables").code == 0
    assert computed(made / "runs") == before
    for path in (made / "tables").iterdir():
        assert without_command(Path("tables", path.name)) == without_command(path)


def test_all_makes_every_table_and_the_claims(
    made: Path, robench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    (bundled / "two.toml").write_text(SUITE + '[scales.paper]\ndataset = "digits"\n')
    (bundled / "third.toml").write_text(SUITE.replace('defense = "dvib-pm"', 'defense = "no-such"'))
    monkeypatch.setattr("robench.suites.suite.BUNDLED", bundled)
    refused = robench("reproduce", "--all", "--scale", "smoke", "--stored", "--runs", str(made / "runs"))
    assert_refused(refused, ("no-such",))
    (bundled / "third.toml").unlink()
    done = robench("reproduce", "--all", "--scale", "smoke", "--stored", "--runs", str(made / "runs"), "--out", "out")
    assert done.code == 0
    assert "2 claims of the papers" in done.out
    lines = list(csv.DictReader(io.StringIO(Path("out", "claims.csv").read_text())))
    assert [(line["claim"], line["printed"]) for line in lines] == [
        ("Matched: Clean", "93.5"),
        ("Matched: Worst", "99.7"),
    ]
    assert {line["command"] for line in lines} == {"robench reproduce two --scale smoke"}
    assert {line["verdict"] for line in lines} <= {"reproduced", "not reproduced"}
    assert Path("out", "two-smoke.md").exists()
    nothing = robench("reproduce", "--all", "--scale", "smoke", "--stored", "--runs", "none", "--out", "empty")
    assert nothing.code == 3
    assert "nothing of two [smoke]" in nothing.err
    assert [path.stem for path in Path("empty").glob("*.md")] == ["claims"]
    keep = ("--keep", "out/claims.csv")
    again = robench("reproduce", "--all", "--scale", "smoke", "--stored", "--runs", "none", "--out", "kept", *keep)
    assert again.code == 3
    kept = list(csv.DictReader(io.StringIO(Path("kept", "claims.csv").read_text())))
    assert [line.pop("why") for line in kept] == [f"{line.pop('why')}; kept, not of this store" for line in lines]
    assert kept == lines
    assert_refused(robench("reproduce", "two", "--scale", "smoke", *keep), ("--keep", "--all"))
    wrong = ("reproduce", "--all", "--scale", "smoke", "--keep")
    assert_refused(robench(*wrong, "gone.csv"), ("gone.csv", "--keep"))
    rows = Path("out", "claims.csv").read_text().splitlines()
    Path("wrong.csv").write_text("\n".join([rows[0], rows[1].rpartition(",")[0] + ",long"]) + "\n")
    assert_refused(robench(*wrong, "wrong.csv"), ("hours 'long'", "numbers"))
    clean = lines[0]["verdict"]
    turned = rows[1].replace(f",{clean},", ",not reproduced," if clean == "reproduced" else ",reproduced,")
    Path("turned.csv").write_text("\n".join([rows[0], turned]) + "\n")
    assert_refused(robench(*wrong, "turned.csv"), ("turned.csv", "'Matched: Clean'", "own figures do not allow"))
    (bundled / "two.toml").write_text((bundled / "two.toml").read_text().replace("steps = 10", "steps = 11"))
    assert (
        robench("reproduce", "--all", "--scale", "smoke", "--stored", "--runs", "none", "--out", "kept", *keep).code
        == 3
    )
    other = list(csv.DictReader(io.StringIO(Path("kept", "claims.csv").read_text())))
    assert [line["verdict"] for line in other] == [clean, "untested"]

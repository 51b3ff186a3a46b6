"""robench check computes everything anew: changed code is seen, and only an interrupted check goes on."""

from __future__ import annotations

import json
import select
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from robench import BadInput, open_dataset
from robench.errors import disk_error
from robench.regression.baseline import read
from robench.regression.own_store import finish, own_store
from robench.store.claims import claim
from robench.store.runs import EvaluationFolder, Store
from tests import plain_net
from tests.forked import PATIENCE
from tests.integration.conftest import Outcome, Process, Run, assert_refused, run_forked, start_forked, wait_for

# a model whose defense is in another file, which the model's digest does not see
DEFENDED = """
import sys
from pathlib import Path
from torch import nn
from plain_net import plain_net

sys.modules.pop("helper", None)
import helper


class Defended(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = plain_net()

    def forward(self, x):
        return self.inner(helper.defend(x))


def load():
    return Defended().eval()
"""
OWN = """
import helper
from plain_net import plain_net


def load():
    return plain_net()
"""
ROUNDS = "def defend(x):\n    return (x * 16).round() / 16  # digits have 17 shades\n"
NOTHING = "def defend(x):\n    return x\n"
FAILS = """
from pathlib import Path


def defend(x):
    if Path("broken").exists() and x.requires_grad:
        raise OSError("cannot be attacked")
    return (x * 16).round() / 16
"""
RIPPLES = """
import torch
from torch import nn
from plain_net import plain_net


class Rippled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = plain_net()

    def forward(self, x):
        return self.inner(x + 0.05 * torch.sin(400 * x))


def plain():
    return plain_net()


def rippled():
    return Rippled().eval()
"""
INVERTS = "def defend(x):\n    return x.where(x.sum((1, 2, 3), keepdim=True) < {limit}, 1 - x)\n"
EVALUATE = ("evaluate", "defended.py:load", "-a", "fgsm", "--eps", "0.1", "-n", "200", "--dataset", "digits")
SLOW = ("plain", "-a", "pgd", "--eps", "0.1", "-n", "120")


@pytest.fixture
def baseline(store: Path, robench: Run) -> str:
    """b.json of a model that defended.py makes with helper.py, both in the working folder."""
    assert store == Path.cwd() / "runs"
    Path("defended.py").write_text(DEFENDED)
    shutil.copy(plain_net.__file__, ".")
    Path("helper.py").write_text(ROUNDS)
    evaluation = robench(*EVALUATE, "--json").json["rows"][0]["evaluation"]
    assert robench("baseline", evaluation, "-o", "b.json").code == 0
    return "b.json"


def lines(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """The lines that `--json` printed, by attack."""
    return {line["attack"].partition(",")[0]: line for line in json.loads(outcome.out)["lines"]}


def test_a_defense_lost_in_a_helper_fails(baseline: str, robench: Run) -> None:
    assert lines(robench("check", baseline, "--json"))["fgsm"]["verdict"] == "same"
    Path("helper.py").write_text(NOTHING)
    changed = robench("check", baseline, "--json")
    assert changed.code == 1
    assert lines(changed)["fgsm"]["verdict"] == "fell"
    assert "was in the store" not in changed.err
    reused = robench("check", baseline, "--json", "--reuse")  # a digest sees what a model calls
    assert (reused.code, lines(reused)["fgsm"]["verdict"]) == (1, "fell")
    assert "was in the store" not in reused.err


def test_a_model_that_hides_its_gradients_passes_no_check(store: Path, robench: Run) -> None:
    """pgd leaves far more standing than before, and one step breaks many of those."""
    Path("rippled.py").write_text(RIPPLES)
    shutil.copy(plain_net.__file__, ".")
    robench("evaluate", "rippled.py:plain", "-a", "pgd,fgsm", "--eps", "0.1", "-n", "200", "--dataset", "digits")
    made = robench("baseline", "rippled.py:plain", "-o", "b.json", "--json")
    assert made.json["notes"] == []
    outcome = robench("check", "b.json", "--model", "rippled.py:rippled", "--json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["exit_code"]) == (1, 1)
    assert lines(outcome)["pgd"]["now"] > lines(outcome)["pgd"]["then"] + 0.2
    assert {each["verdict"] for attack, each in lines(outcome).items() if attack != "clean"} == {"untrusted"}
    assert "single step beats iteration" in lines(outcome)["worst case"]["doubts"][0]
    assert "hold the gain" not in outcome.out


def test_what_could_not_show_masking_is_said(store: Path, robench: Run) -> None:
    told = "plain: nothing beside pgd could show that the model hides its gradients"
    evaluation = robench("evaluate", *SLOW, "--json").json["rows"][0]["evaluation"]
    assert told in " ".join(robench("baseline", evaluation, "-o", "b.json").out.split())
    outcome = robench("check", "b.json", "--json")
    assert outcome.code == 0
    assert [note for note in json.loads(outcome.out)["notes"] if note.startswith(told)]


def test_the_clean_line_is_of_today(baseline: str, robench: Run) -> None:
    """One image is enough."""
    brightest = float(open_dataset("digits").drawn("balanced").pixels(slice(0, 200)).sum((1, 2, 3)).max())
    Path("helper.py").write_text(INVERTS.format(limit=brightest - 0.01))
    clean = lines(robench("check", baseline, "--json"))["clean"]
    assert (clean["fell"], clean["stayed"] + 1) == (1, round(200 * clean["then"]))
    assert lines(robench("check", baseline, "--json", "--reuse"))["clean"]["fell"] == 1


def test_a_finished_check_is_begun_anew_and_leaves_one_folder(baseline: str, robench: Run) -> None:
    for _ in range(2):
        shown = robench("check", baseline)
        assert shown.code == 0
        assert "was in the store" not in shown.err
        (folder,) = Path("runs", "checks").iterdir()
        assert len(list(folder.glob("evaluations/*/result.json"))) == 1
    assert not list(Path("runs/locks").iterdir())
    assert robench("runs", "gc").code == 0
    assert folder.is_dir()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_check_survives_being_stopped(sent: int, store: Path, robench: Run) -> None:
    """It goes on where it stopped; a file that the model does not name, edited meanwhile, makes it begin anew."""
    assert robench("evaluate", *SLOW).code == 0
    assert robench("baseline", "plain", "-o", "b.json").code == 0
    Path("own.py").write_text(OWN)
    shutil.copy(plain_net.__file__, ".")
    Path("helper.py").write_text("")
    check = ("check", "b.json", "--model", "own.py:load", "--shard-size", "6", "--max-drop", "0")
    stop(check, store, sent)
    before = shards(store)
    assert 0 < len(before) < 20
    again = run_forked(*check)
    assert again.code == 0, again.err
    assert "Going on with the check of b.json that was interrupted." in again.err
    assert before.items() <= shards(store).items()
    stop(check, store, sent)
    before = shards(store)
    Path("helper.py").write_text("CHANGED = True\n")
    anew = run_forked(*check)
    assert anew.code == 0, anew.err
    assert "Going on" not in anew.err
    assert not before.items() & shards(store).items()


def test_a_check_that_could_not_be_finished_goes_on(baseline: str, robench: Run) -> None:
    Path("helper.py").write_text(FAILS)
    Path("broken").touch()
    first = run_forked("check", baseline)
    assert first.code == 3, first.err
    Path("broken").unlink()
    told = "Going on with the check of b.json that was interrupted."
    again = run_forked("check", baseline)
    assert (again.code, told in again.err) == (0, True), again.err
    once_more = run_forked("check", baseline)
    assert (once_more.code, told in once_more.err) == (0, False), once_more.err


def stop(check: tuple[str, ...], store: Path, sent: int) -> None:
    """Begin a check and send it a signal after the first shards of its own."""
    shutil.rmtree(store / "checks", ignore_errors=True)
    process = start_forked(*check)
    try:
        wait_for(lambda: len(shards(store)) > 2, process)
        process.send_signal(sent)
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        process.communicate()


def shards(store: Path) -> dict[str, int]:
    """The manifests of a check's shards, with the times they were written at."""
    return {str(path): path.stat().st_mtime_ns for path in store.glob("checks/*/evaluations/*/shard-*.json")}


def test_a_check_of_the_same_waits_its_turn(baseline: str, store: Path, robench: Run) -> None:
    assert robench("check", baseline).code == 0
    (folder,) = (store / "checks").iterdir()
    with claim(store, f"check-{folder.name}") as mine:
        assert mine
        process = start_forked("check", baseline)
        wait_for(lambda: "Another process checks b.json" in said(process), process)
    assert process.wait(PATIENCE) == 0
    process.communicate()


def said(process: Process) -> str:
    """A line of its stderr, if there is one now."""
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], 0)
    return process.stderr.readline() if ready else ""


def test_an_attack_that_depends_on_batches_has_those_of_the_baseline(store: Path, robench: Run) -> None:
    """Images that a library attacks together share its random numbers; robench's own attacks do not care."""
    how = ("--eps", "0.1", "-n", "100", "--batch-size", "30", "--shard-size", "40")
    assert (
        robench("evaluate", "plain", "-a", "foolbox:LinfPGD", "-o", "steps=2", "-o", "rel_stepsize=0.5", *how).code == 0
    )
    assert robench("evaluate", "plain", "-a", "pgd", "--steps", "2", *how).code == 0
    assert robench("baseline", "plain", "-o", "b.json").code == 0
    kept = {each.spec.attack: each for each in read(Path("b.json")).kept}
    assert (kept["foolbox:LinfPGD"].batch_size, kept["foolbox:LinfPGD"].shard_size) == (30, 40)
    assert (kept["pgd"].batch_size, kept["pgd"].shard_size) == (None, None)
    outcome = robench("check", "b.json", "--json", "--max-drop", "0")
    changed = {line["attack"]: line["fell"] + line["rose"] for line in json.loads(outcome.out)["lines"]}
    assert (outcome.code, set(changed.values())) == (0, {0})
    own = {each.spec["attack"]: each.notes() for each in evaluations(store)}
    assert {note["batch_size"] for note in own["foolbox:LinfPGD"]} == {30}
    assert {note["batch_size"] for note in own["pgd"]} == {250}
    assert_refused(robench("check", "b.json", "--batch-size", "100"), ("batch size", "is 100 today, but was 30"))


def evaluations(store: Path) -> list[EvaluationFolder]:
    """Those of the only check."""
    (folder,) = (store / "checks").iterdir()
    own = Store(folder)
    return [own.evaluation(each) for each in own.evaluation_ids()]


def test_no_report_of_an_earlier_check_speaks_for_one_that_is_refused(baseline: str, robench: Run) -> None:
    reports = ("--junit", "out/j.xml", "--markdown", "out/s.md")
    assert robench("check", baseline, *reports).code == 0
    assert len(list(Path("out").iterdir())) == 2
    assert robench("check", baseline, "--model", "missing", *reports).code == 2
    assert not list(Path("out").iterdir())
    before = Path(baseline).read_bytes()
    assert_refused(robench("check", baseline, "--junit", f"./{baseline}"), ("b.json", "would replace the baseline"))
    assert Path(baseline).read_bytes() == before
    Path("folder").mkdir()
    assert_refused(robench("check", baseline, "--junit", "folder"), ("folder",))


def test_what_bad_input_ends_is_begun_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kinds: dict[str, tuple[BaseException, bool]] = {
        "bad": (BadInput("No."), False),
        "disk": (disk_error(OSError(28, "full"), tmp_path), True),
        "stopped": (KeyboardInterrupt(), True),
    }
    for key, (error, kept) in kinds.items():
        with pytest.raises(type(error)):
            ended_by(error, store, key)
        with own_store(store, key, "b.json") as own:
            assert (own.root / "work").exists() == kept
            assert own.models == store.models
            finish(own)
        with own_store(store, key, "b.json") as own:
            assert [path.name for path in own.root.iterdir()] == ["check.json"]


def ended_by(error: BaseException, store: Store, key: str) -> None:
    """A check that leaves some work and ends with an error."""
    with own_store(store, key, "b.json") as own:
        (own.root / "work").write_text("")
        raise error

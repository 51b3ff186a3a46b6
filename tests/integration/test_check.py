"""robench baseline and robench check on digits: an unchanged model, worse ones, unfinished ones, and bad input."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import pandas as pd
import pytest
import xmlschema
import yaml

from robench.cli.app import main
from robench.regression.baseline import read
from robench.results.accuracy import worst_case
from robench.results.statistics import mcnemar
from robench.store.files import digest
from robench.store.runs import Store
from tests import plain_net
from tests.integration.conftest import Outcome, Run, assert_refused

ROOT = Path(__file__).parents[2]
EVALUATE = ("evaluate", "plain", "-a", "pgd,fgsm", "--eps", "0.1", "-n", "200", "--steps", "10")
# models made of the store's "plain": as it is, with its weights shaken, and some that cannot be compared or trusted
VERSIONS = """
import torch
from torch import nn
from plain_net import plain_net


def plain():
    return plain_net()


def worse():
    module = plain()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.9 * parameter.std() * torch.randn_like(parameter) if parameter.dim() > 1 else 0
    return module


class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = plain()

    def forward(self, x):
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any() and x.shape[0] > 100:
            raise TypeError("cannot take so many perturbed images")
        return self.inner(x)


class Noisy(Fragile):
    def forward(self, x):
        logits = self.inner(x)
        return logits + torch.randn_like(logits)


class Rounded(Fragile):
    def forward(self, x):
        return self.inner((x * 8).round() / 8)


def rounded(): return Rounded().eval()
def unseeded(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
def fragile(): return Fragile().eval()
def noisy(): return Noisy().eval()
"""


@pytest.fixture(scope="session")
def _prepared(_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    shutil.copytree(_store / "models", folder / "runs" / "models")
    runs = ["--runs", str(folder / "runs")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*EVALUATE, *runs]) == 0
        assert main(["baseline", "plain", "-o", str(folder / "b.json"), *runs]) == 0
    (folder / "versions.py").write_text(VERSIONS)
    shutil.copy(plain_net.__file__, folder)
    shutil.copy(_store.with_name("plain.pt"), folder)
    return folder


@pytest.fixture
def baseline(_prepared: Path, tmp_path: Path) -> Path:
    """b.json in the working folder: "plain" of runs/ under pgd and fgsm, 200 images; beside it versions.py."""
    shutil.copytree(_prepared, tmp_path, dirs_exist_ok=True)
    return Path("b.json")


def found(outcome: Outcome, code: int) -> Any:
    """The object that `--json` printed."""
    assert outcome.code == code, outcome.err
    assert len(outcome.out.splitlines()) == 1
    return json.loads(outcome.out)


def test_what_a_baseline_keeps(baseline: Path, robench: Run) -> None:
    fgsm, pgd = read(baseline).kept
    assert (fgsm.spec.attack, pgd.spec.attack) == ("fgsm", "pgd")
    assert (pgd.spec.count, pgd.spec.attack_options["steps"], pgd.given_options) == (200, 10, {"steps": 10})
    rows = Store(Path("runs")).evaluation(pgd.evaluation).rows()
    assert pgd.outcomes.count("r") == int((rows["clean_correct"] & ~rows["success"]).sum())
    assert (pgd.figure, pgd.clean_accuracy) == (pgd.outcomes.count("r") / 200, rows["clean_correct"].mean())
    assert baseline.stat().st_size < 4000
    again = robench(
        "baseline", pgd.evaluation, fgsm.evaluation[:6], pgd.evaluation, "-o", "again/b.json", "--json"
    ).json
    assert [each["evaluation"] for each in again["evaluations"]] == [fgsm.evaluation, pgd.evaluation]
    assert Path("again/b.json").read_bytes() == baseline.read_bytes()


def test_an_unchanged_model_passes(baseline: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("runs/models", "fresh/models")
    for arguments in (
        ("--runs", "fresh", "--batch-size", "64", "--shard-size", "90"),
        ("--model", "versions.py:plain"),
    ):
        content = found(robench("check", baseline, "--max-drop", "0", "--json", *arguments), 0)
        assert [line["attack"] for line in content["lines"]] == [
            "clean",
            "worst case, linf eps 0.1",
            "fgsm, linf eps 0.1",
            "pgd (steps=10), linf eps 0.1",
        ]
        assert {line["verdict"] for line in content["lines"]} == {"same"}
        assert all((line["fell"], line["rose"], line["p"]) == (0, 0, 1.0) for line in content["lines"])
    shutil.rmtree("runs/checks")
    before = sorted(Path("runs").rglob("*"))
    shown = robench("check", baseline, "--reuse")
    assert shown.code == 0
    assert "Nothing fell in 4 comparisons with b.json." in shown.out
    assert shown.err.count("was in the store") == 2
    assert sorted(Path("runs").rglob("*")) == before


def test_a_worse_model_fails(baseline: Path, robench: Run) -> None:
    arguments = (
        "check",
        baseline,
        "--model",
        "plain=versions.py:worse",
        "--junit",
        "out/j.xml",
        "--markdown",
        "out/s.md",
    )
    shown = robench(*arguments)
    assert shown.code == 1
    assert "Traceback" not in shown.err
    assert "plain, now versions.py:worse" in shown.out
    content = found(robench(*arguments, "--json"), 1)
    pgd = content["lines"][3]
    assert pgd["verdict"] == "fell"
    kept = read(baseline).kept[1]
    (own,) = Path("runs/checks").iterdir()
    stores = {Path("runs"): kept.evaluation, own: pgd["evaluation"]}
    then, now = (Store(root).evaluation(each).rows() for root, each in stores.items())
    stood = [rows["clean_correct"] & ~rows["success"] for rows in (then, now)]
    counts = pd.crosstab(*stood)
    assert (pgd["fell"], pgd["rose"], pgd["stayed"]) == (counts[False][True], counts[True][False], counts[True][True])
    assert pgd["p"] == mcnemar(pgd["fell"], pgd["rose"])
    together = [
        [Store(root).evaluation(name).rows() for name in names]
        for root, names in (
            (Path("runs"), [each.evaluation for each in read(baseline).kept]),
            (own, [line["evaluation"] for line in content["lines"][2:]]),
        )
    ]
    worst = content["lines"][1]
    assert [worst["then"], worst["now"]] == [worst_case(tables).value for tables in together]
    assert (pgd["then"], pgd["now"]) == (stood[0].mean(), stood[1].mean())
    assert pgd["interval"][0] < pgd["change"] < pgd["interval"][1] < 0
    assert f"of 200 images {pgd['fell']} fell, {pgd['rose']} rose and {pgd['stayed']} stayed" in shown.out
    xmlschema.validate("out/j.xml", str(ROOT / "tests/junit.xsd"))
    (suite,) = Tree.parse("out/j.xml").getroot()
    fell = [line["attack"] for line in content["lines"] if line["verdict"] == "fell"]
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None] == fell
    assert Path("out/s.md").read_text().count("\n| plain |") == 4


def test_a_limit_on_the_drop(baseline: Path, robench: Run) -> None:
    kept = found(robench("check", baseline, "--json", "--alpha", "1e-9", "--model", "versions.py:worse"), 0)
    drops = [-line["change"] for line in kept["lines"] if line["attack"] != "clean"]
    assert min(drops) > 0.01
    limited = ("check", baseline, "--json", "--alpha", "1e-9", "--model", "versions.py:worse", "--max-drop")
    assert found(robench(*limited, str(max(drops))), 0)["exit_code"] == 0
    content = found(robench(*limited, str(min(drops) - 0.001)), 1)
    assert [line["verdict"] for line in content["lines"]] == ["same", "fell", "fell", "fell"]


def test_an_unfinished_evaluation_is_no_pass(baseline: Path, robench: Run) -> None:
    fragile = ("check", baseline, "--model", "versions.py:fragile", "--junit", "j.xml", "--markdown", "s.md")
    shown = robench(*fragile)
    assert shown.code == 2  # it fails each time
    assert "incomplete" in shown.out
    assert "fails each time with TypeError: cannot take so many perturbed images (versions.py, line" in shown.out
    (suite,) = Tree.parse("j.xml").getroot()
    assert (suite.get("errors"), suite.get("failures")) == ("4", "0")
    xmlschema.validate("j.xml", str(ROOT / "tests/junit.xsd"))
    assert "incomplete" in Path("s.md").read_text()
    assert found(robench(*fragile, "--json", "--batch-size", "50"), 0)["exit_code"] == 0


def test_a_model_that_now_answers_at_random_is_refused(baseline: Path, robench: Run) -> None:
    noisy = robench("check", baseline, "--model", "versions.py:noisy")
    assert noisy.code == 2
    assert "randomised" in noisy.err.splitlines()[-1]
    assert noisy.out == ""
    assert (
        robench("evaluate", "versions.py:noisy", "-a", "fgsm", "-n", "50", "--eps", "0.1", "--dataset", "digits").code
        == 0
    )
    assert_refused(robench("baseline", "versions.py:noisy", "-o", "n.json"), ("versions.py:noisy", "randomised"))
    assert not Path("n.json").exists()


def test_a_gain_by_hidden_gradients_fails(baseline: Path, robench: Run) -> None:
    check = ("check", baseline, "--model", "versions.py:rounded", "--junit", "j.xml")
    content = found(robench(*check, "--json"), 1)
    assert [line["verdict"] for line in content["lines"]] == ["same", *3 * ["untrusted"]]
    assert not [note for note in content["notes"] if "hold the gain" in note]
    assert sum("zero gradient (" in note for note in content["notes"]) == 2  # under each attack
    shown = robench(*check)
    assert "Of 4 comparisons with b.json, 3 cannot be trusted." in shown.out
    assert all(f"- {note}" in shown.out for note in content["notes"])
    assert shown.out.count("zero-gradient 100% (not in the baseline)") == 3
    xmlschema.validate("j.xml", str(ROOT / "tests/junit.xsd"))
    (suite,) = Tree.parse("j.xml").getroot()
    assert (suite.get("failures"), suite.findtext("system-out") or "") == ("3", "\n".join(content["notes"]))


def resealed(change: Callable[[dict[str, Any]], object]) -> None:
    """Change b.json as someone would who computes its checksum anew."""
    content = json.loads(Path("b.json").read_text())
    del content["checksum"]
    change(content)
    Path("b.json").write_text(json.dumps({**content, "checksum": digest(content)}))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda content: content.update(format=2), ("b.json", "format 2", "anew")),
        (
            lambda content: content["evaluations"][0]["spec"].update(attack_version=0),
            ("attack version", "fgsm", "anew"),
        ),
        (lambda content: content["evaluations"][1]["spec"].update(harness=0), ("harness", "pgd", "anew")),
        (
            lambda content: content["evaluations"][1]["spec"]["attack_options"].update(steps=9),
            ("attack options", "anew"),
        ),
        (
            lambda content: content["evaluations"][1]["spec"].update(data_digest="0" * 16),
            ("digits", "b.json", "--data"),
        ),
        (lambda content: content["evaluations"][1].update(surprise=1), ("b.json", "surprise")),
        (lambda content: content["evaluations"][0].update(reference=""), ("'plain'", "--model plain=REFERENCE")),
    ],
)
def test_a_baseline_that_no_longer_fits_is_refused(
    change: Callable[[dict[str, Any]], object], names: tuple[str, ...], baseline: Path, robench: Run
) -> None:
    resealed(change)
    shutil.rmtree("runs/evaluations")
    assert_refused(robench("check", baseline, "--junit", "j.xml"), names)
    assert not Path("j.xml").exists()
    assert not Path("runs/evaluations").exists()
    assert not Path("runs/checks").exists()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("check", "none.json"), ("none.json", "robench baseline")),
        (("check", "b.json", "--model", "plian=plain"), ("'plian'", "did you mean 'plain'?")),
        (("check", "b.json", "--model", "plain="), ("'plain='", "NAME=REFERENCE")),
        (("check", "b.json", "--model", "plain=plain", "--model", "plain"), ("twice", "'plain'")),
        (("check", "b.json", "--model", "missing"), ("'plain'", "'missing'", "--model plain=REFERENCE")),
        (("check", "b.json", "--model", "versions.py:nothing"), ("'nothing'", "--model plain=REFERENCE")),
        (("check", "b.json", "--model", "versions.py:unseeded"), ("'plain'", "answers differ when sealed", "seed")),
        (("check", "b.json", "--alpha", "0"), ("--alpha", "0")),
        (("check", "b.json", "--max-drop", "2"), ("--max-drop", "2")),
        (("check", "b.json", "--max-drop", "much"), ("--max-drop", "much")),
        (("check", "b.json", "--batch-size", "0"), ("--batch-size", "0")),
        (("check", "b.json", "--dataset", "npz:other.npz"), ("other.npz",)),
        (("check", "b.json", "--runs", "empty"), ("'plain'", "--model plain=REFERENCE")),
        (("baseline", "plian", "-o", "c.json"), ("'plian'", "did you mean 'plain'?")),
        (("baseline", "0123", "-o", "c.json"), ("'0123'",)),
        (("baseline", "plain"), ("--out",)),
    ],
)
def test_bad_input(arguments: tuple[str, ...], names: tuple[str, ...], baseline: Path, robench: Run) -> None:
    assert_refused(robench(*arguments), names)
    assert not Path("c.json").exists()


def test_what_a_baseline_refuses(baseline: Path, robench: Run) -> None:
    kept = read(baseline).kept[0]
    (Path("runs/evaluations") / kept.evaluation / "result.json").unlink()
    assert_refused(robench("baseline", kept.evaluation, "-o", "c.json"), (kept.evaluation, "not finished", "again"))
    left = robench("baseline", "plain", "-o", "c.json")
    assert (left.code, len(read(Path("c.json")).kept)) == (0, 1)
    assert "1 of plain's evaluations are left out" in left.err
    evaluate = ("evaluate", "-a", "fgsm", "-n", "50", "--eps", "0.1", "--dataset", "digits", "--json")
    first = robench(*evaluate, "versions.py:plain").json["rows"][0]["evaluation"]
    loads = "return plain_net()"
    Path("versions.py").write_text(
        VERSIONS.replace(loads, f"module = {loads[7:]}\n    module.tag = 1\n    return module")
    )
    second = robench(*evaluate, "versions.py:plain").json["rows"][0]["evaluation"]
    assert first != second
    assert_refused(robench("baseline", "versions.py:plain", "-o", "c.json"), (first, second))
    assert_refused(robench("baseline", first, second, "-o", "c.json"), ("2 different models", "'versions.py:plain'"))
    assert robench("baseline", first, "plain", "-o", "c.json").code == 0


def test_the_order_of_arguments_does_not_matter(baseline: Path, robench: Run) -> None:
    """Not even of evaluations that only their seeds tell apart."""
    ids = [
        robench("evaluate", "plain", "-a", "pgd", "--eps", "0.1", "-n", "40", "--seed", seed, "--json").json["rows"][0][
            "evaluation"
        ]
        for seed in ("1", "2", "3")
    ]
    for name, order in (("c.json", ids), ("d.json", ids[::-1])):
        assert robench("baseline", *order, "-o", name).code == 0
    assert Path("c.json").read_bytes() == Path("d.json").read_bytes()
    names = [line["attack"] for line in found(robench("check", "c.json", "--json"), 0)["lines"][2:]]
    assert sorted(names) == [f"pgd, linf eps 0.1, seed {seed}" for seed in (1, 2, 3)]


def test_targeted_and_transferred_attacks_are_compared_too(baseline: Path, robench: Run) -> None:
    options = ("-n", "100", "--eps", "0.15", "--json")
    targeted = robench("evaluate", "plain", "-a", "random-targeted", "--steps", "20", *options).json["rows"][0]
    assert robench("train", "standard", "--epochs", "2", "--seed", "5", "--name", "other").code == 0
    crafted = robench("evaluate", "plain", "-a", "fgsm", "--surrogate", "other", *options).json["rows"][0]
    assert robench("baseline", targeted["evaluation"], crafted["evaluation"], "-o", "c.json").code == 0
    assert found(robench("check", "c.json", "--json"), 0)["exit_code"] == 0
    content = found(robench("check", "c.json", "--json", "--model", "plain=versions.py:worse"), 1)
    clean, transfer, reached = content["lines"]
    assert [line["attack"].partition(",")[0] for line in (transfer, reached)] == [
        "fgsm from other",
        "random-targeted (steps=20)",
    ]
    assert (reached["then"], reached["metric"]) == (targeted["attack_success_rate"], "attack success rate")
    assert reached["now"] - reached["then"] == pytest.approx(-reached["change"])
    assert transfer["now"] - transfer["then"] == pytest.approx(transfer["change"])
    assert clean["now"] - clean["then"] == pytest.approx(clean["change"])
    shutil.rmtree("runs/models/other")
    assert robench("train", "standard", "--epochs", "2", "--seed", "6", "--name", "other").code == 0
    assert_refused(robench("check", "c.json"), ("surrogate", "fgsm from other", "anew"))


def test_the_projects_own_baseline(robench: Run) -> None:
    """A training of today is as robust as the one behind leaderboards/baseline-digits.json, up to chance."""
    file = ROOT / "leaderboards" / "baseline-digits.json"
    assert robench("train", "standard").code == 0
    shown = robench("check", file, "--alpha", "0.001", "--max-drop", "0.1")
    assert shown.code == 0, shown.out
    assert robench("train", "standard", "--epochs", "3").code == 0
    worse = ("check", file, "--model", "standard-digits-e3", "--alpha", "0.001", "--json")
    assert {line["verdict"] for line in found(robench(*worse), 1)["lines"]} >= {"fell"}


def test_the_workflow_in_the_docs(baseline: Path, robench: Run) -> None:
    """Its commands parse, and the robustness job uploads its report whether or not the check failed."""
    jobs = yaml.safe_load((ROOT / "docs" / "github-actions.yml").read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    (check,) = [step["run"] for step in steps if "robench check" in step.get("run", "")]
    command = next(each for each in check.splitlines() if each.startswith("robench check"))
    arguments = command.partition(" || ")[0].split()[1:]
    arguments[1] = str(baseline)
    assert robench(*arguments).code == 0
    assert not [step for step in steps if "cache" in step.get("uses", "")]
    assert "--reuse" not in command
    assert all(step.get("if") == "always()" for step in steps if "upload-artifact" in step.get("uses", ""))


def test_a_model_that_is_another_one_again_is_told_by_that_name(robench: Run) -> None:
    for name in ("first", "again"):
        assert robench("train", "standard", "--epochs", "1", "--name", name).code == 0
    assert robench("evaluate", "first", "-a", "fgsm", "--eps", "0.1", "-n", "10").code == 0
    assert robench("evaluate", "again", "-a", "fgsm", "--eps", "0.1", "-n", "10").code == 0
    assert_refused(robench("baseline", "again", "-o", "b.json"), ("'again'", "same as 'first'", "name that instead"))
    assert robench("baseline", "first", "-o", "b.json").code == 0

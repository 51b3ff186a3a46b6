"""The pytest plugin, in pytest runs of their own: what passes, what fails and how; and loading it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robench
from robench.cli.app import main
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.regression.baseline import make, write
from robench.store.runs import Store
from robench.threat import ThreatModel
from tests.forked import PATIENCE

HEAD = """
import pytest
from pathlib import Path
from tests.unit.test_pytest_plugin import Small, Fragile, Noisy

files = Path({files!r})
one, two = files / "one.json", files / "two.json"
"""
PASSES = [
    "assert robench.check(Small(), str(one)).exit_code == 0",
    "robench.check(Small(), one, max_drop=0.0, batch_size=50, dataset='digits')",
    "robench.check(f'{files}/flat.py:load', one, runs='kept'); assert list(Path('kept').iterdir())",
    "robench.check({'Small': Small()}, two)",
    "assert len(robench.check('flat.py:load', two).lines) == 2",
    "with pytest.raises(AssertionError, match='Small on clean images'): robench.check(Small(-1.0), one)",
]
FAILS = {
    "robench.check(Small(-1.0), one)": "AssertionError: Of 2 comparisons with one.json, 2 fell.",
    "robench.check(Fragile(), one)": "AssertionError: Of 2 comparisons with one.json, 2 could not be made.",
    "robench.check(Noisy(), one)": "BadInput: The model 'Small' is now flagged randomised*",
    "robench.check(Small().train(), one)": "BadInput: *eval*",
    "robench.check(Small(), two)": "BadInput: *has 2 models (Small, flat.py:load)*",
    "robench.check({'Smal': Small()}, two)": "BadInput: *did you mean 'Small'*",
    "robench.check(Small(), files / 'none.json')": "BadInput: There is no file *none.json*",
    "robench.check(None, two)": "BadInput: *'Small'*handed over in a program*",
    "robench.check('missing', one)": "BadInput: *'missing'*",
    "robench.check(Small(), one, alpha=2)": "BadInput: --alpha is 2*",
}


class Small(nn.Module):
    """A linear model fitted to digits in closed form; `sign` -1 turns every answer round."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        split = robench.open_dataset("digits").train
        x, y = split.pixels(slice(None)).flatten(1).double(), split.labels
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        gram = x.T @ x + 1e-2 * torch.eye(65, dtype=torch.float64)
        weights = torch.linalg.solve(gram, x.T @ nn.functional.one_hot(y, 10).double())
        self.head = nn.Linear(64, 10)
        with torch.no_grad():
            self.head.weight.copy_(sign * 10 * weights[:64].T)
            self.head.bias.copy_(sign * 10 * weights[64])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(x.flatten(1))


class Fragile(Small):
    """Fails on perturbed images."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of clean images."""
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            raise TypeError("cannot take a perturbed image")
        return super().forward(x)


class Noisy(Small):
    """Answers at random."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, other ones each time."""
        return super().forward(x) + torch.randn(len(x), 10)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one.json, of a Small, two.json, of a Small and another model, and weak.json, of a Small turned."""
    folder = tmp_path_factory.mktemp("files")
    report = robench.evaluate(Small(), "digits", ["fgsm"], "0.03", count=120, runs=folder / "runs")
    (first,) = (row["evaluation"] for row in report.rows)
    (folder / "flat.py").write_text("from tests.unit.test_pytest_plugin import Small\ndef load(): return Small()\n")
    report = robench.evaluate(f"{folder / 'flat.py'}:load", "digits", ["fgsm"], "0.05", count=120, runs=folder / "runs")
    (second,) = (row["evaluation"] for row in report.rows)
    report = robench.evaluate(Small(-1.0), "digits", ["fgsm"], "0.03", count=120, runs=folder / "runs")
    (third,) = (row["evaluation"] for row in report.rows)
    write(make([third], Store(folder / "runs")), folder / "weak.json")
    write(make([first], Store(folder / "runs")), folder / "one.json")
    write(make([first, second], Store(folder / "runs")), folder / "two.json")
    return folder


def outcome(pytester: pytest.Pytester, files: Path, bodies: Iterable[str], *arguments: str) -> pytest.RunResult:
    """A run of pytest on a test per body."""
    pytester.syspathinsert(Path(__file__).parents[2])
    tests = [f"def test_{i}(robench):\n    {body}\n" for i, body in enumerate(bodies)]
    pytester.makepyfile("\n".join([HEAD.format(files=str(files)), *tests]))
    return pytester.runpytest_inprocess("--strict-markers", "-p", "no:cacheprovider", *arguments)


def test_what_passes(pytester: pytest.Pytester, files: Path) -> None:
    outcome(pytester, files, PASSES).assert_outcomes(passed=len(PASSES))
    assert not (pytester.path / "runs").exists()


def test_what_fails(pytester: pytest.Pytester, files: Path) -> None:
    """Each with a sentence, at the test's own line; an unfinished evaluation and bad input are failures as well."""
    found = outcome(pytester, files, FAILS)
    found.assert_outcomes(failed=len(FAILS))
    parts = "\n".join(found.outlines).split("\n____")[1:]
    assert len(parts) == len(FAILS)
    for (body, told), part in zip(FAILS.items(), parts, strict=True):
        errors = [line.removeprefix("E").strip() for line in part.splitlines() if line.startswith("E ")]
        assert any(fnmatch(line.removeprefix("robench.errors."), told.replace("[", "[[]")) for line in errors), part
        assert f">       {body}".replace("       ", "   ") in part.replace("       ", "   "), part
        assert "robench/" not in part
    assert "McNemar p" in parts[0]


def test_notes_are_warnings(pytester: pytest.Pytester, files: Path) -> None:
    told = ["robench.check(Small(), files / 'weak.json')"]
    found = outcome(pytester, files, told)
    found.assert_outcomes(passed=1, warnings=3)  # a gain in two lines, and that one step shows no masking
    found.stdout.fnmatch_lines(["*RobustnessWarning: Small rose on *; make the baseline anew to hold the gain, if *"])
    strict = outcome(pytester, files, told, "-W", "error::robench.pytest_plugin.RobustnessWarning")
    strict.assert_outcomes(failed=1)


def test_a_trained_surrogate_is_found_where_it_is(
    pytester: pytest.Pytester, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ["--runs", str(files / "runs")]
    assert main(["train", "standard", "--epochs", "1", "--name", "trained", *runs]) == 0
    request = Request(
        [Small()], ["fgsm"], ThreatModel.of("linf", "0.03"), dataset="digits", count=50, surrogates=["trained"]
    )
    (row,) = evaluate(request, Store(files / "runs")).rows
    write(make([row["evaluation"]], Store(files / "runs")), files / "crafted.json")
    monkeypatch.setenv("ROBENCH_RUNS", str(files / "runs"))
    told = ["assert robench.check(Small(), files / 'crafted.json').exit_code == 0"]
    outcome(pytester, files, told).assert_outcomes(passed=1)


def test_the_marker(pytester: pytest.Pytester, files: Path) -> None:
    outcome(pytester, files, PASSES[:1], "-m", "not robustness").assert_outcomes(deselected=1)
    other = "import pytest\n@pytest.fixture\ndef robench(): return 1\ndef test_it(robench): pass\n"
    pytester.makepyfile(test_other=other)  # a fixture of that name which is not ours
    found = pytester.runpytest_inprocess("-m", "not robustness", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=1, deselected=1)
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.robustness: attacks a model*"])


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    """It is loaded by every run of pytest in the environment, whether or not a test uses it."""
    heavy = "{'torch', 'numpy', 'pandas', 'scipy', 'pydantic', 'rich', 'robench.regression.check', 'robench.errors'}"
    code = (
        "import sys, pytest; before = set(sys.modules); import robench.pytest_plugin; "
        f"assert not {heavy} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
    entry = "from importlib.metadata import entry_points; print(*[e.value for e in entry_points(group='pytest11')])"
    shown = subprocess.run([sys.executable, "-c", entry], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "robench.pytest_plugin" in shown.stdout.split()

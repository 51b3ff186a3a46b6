"""The pytest plugin: a fixture `robench` whose `check` fails a test when a model is less robust than its baseline.

Everything heavy is imported when a test asks for it, so that pytest starts as fast as without the plugin.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robench.text.escaping import visible

if TYPE_CHECKING:
    from robench.regression.check import Model
    from robench.regression.report import Checked

MARKER = "robustness: attacks a model, which may be slow; every test with robench's own `robench` fixture has it"


class RobustnessWarning(UserWarning):
    """What a check that passed has to tell besides: a gain, a flag, a diagnostic that fired."""


class Robench:
    """What the fixture gives a test."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._own: Path | None = None

    def check(
        self,
        model: Model | Mapping[str, Model] | None,
        baseline: str | Path,
        *,
        max_drop: float | None = None,
        alpha: float = 0.05,
        data: str | Path | None = None,
        runs: str | Path | None = None,
        dataset: str | None = None,
        **how: Any,
    ) -> Checked:
        """Evaluate a model as the baseline file says, and compare example by example, as `robench check` does.

        model: an nn.Module in eval mode, or a reference (file.py:factory, package.module:factory, torchvision:NAME, a
        trained model's name), in place of the baseline's only model. With several models in the file: {name: model} for
        those to be checked, the name being the file's; a name alone for one model as the file refers to it; None for
        all of them. max_drop, alpha, data, dataset: as on the command line. runs: where evaluations are kept; by
        default a temporary folder, or ROBENCH_RUNS or runs/ where a trained model or surrogate is named. how:
        batch_size, shard_size, device, and reuse=True to take what other commands stored there for the same model.

        Returns the comparison, its notes given as RobustnessWarning. Raises AssertionError, with the table, where
        something fell, cannot be trusted or could not be finished, and BadInput for input that cannot be used.
        """
        __tracebackhide__ = True
        from robench.errors import BadInput

        how |= {"dataset": dataset, "data_root": Path(data) if data else None}
        try:
            checked = self._compare(model, Path(baseline), Path(runs) if runs else None, (alpha, max_drop), how)
        except BadInput as error:
            raise BadInput(str(error)) from None  # the sentence says it all; robench's own lines would hide it
        if checked.exit_code:
            raise AssertionError(_text(checked))
        for note in checked.notes:
            warnings.warn(visible(note), RobustnessWarning, stacklevel=2)
        return checked

    def _compare(
        self,
        model: Model | Mapping[str, Model] | None,
        baseline: Path,
        runs: Path | None,
        terms: tuple[float, float | None],
        how: Mapping[str, Any],
    ) -> Checked:
        from robench.regression.baseline import read
        from robench.regression.check import Rerun, check, substitutes
        from robench.regression.verdict import Terms
        from robench.store.runs import Store, runs_root

        part, models = substitutes(model, read(baseline))
        references = [models.get(name, reference) for name, reference in part.models.items()]
        references += [each.surrogate for each in part.kept if each.surrogate]
        trained = any(isinstance(reference, str) and ":" not in reference for reference in references)
        root = runs or (runs_root() if trained else self._folder())
        # a test is code of whoever runs it, as is what the baseline beside it names
        return check(part, Store(root), Rerun(models, **how, trust=True), Terms(*terms))

    def _folder(self) -> Path:
        if self._own is None:
            self._own = self._folders.mktemp("robench")
        return self._own


def _text(checked: Checked) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(width=120, file=out).print(checked.tables())
    return "\n".join([out.getvalue().rstrip(), *(f"- {visible(sentence)}" for sentence in checked.told)])


@pytest.fixture
def robench(tmp_path_factory: pytest.TempPathFactory) -> Robench:
    """`robench.check(model, "baseline.json")` fails the test when the model is less robust than the baseline."""
    return Robench(tmp_path_factory)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that use the fixture, unless something else goes by its name there."""
    fixtures = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    found = fixtures.get("robench")
    if found and found[-1].baseid == "" and getattr(found[-1].func, "__module__", "") == __name__:
        item.add_marker("robustness")

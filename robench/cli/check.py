"""robench check: models against a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell, tell_json

if TYPE_CHECKING:
    from robench.regression.baseline import Baseline

Substitutes = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME=REFERENCE",
        help="What to check in place of the baseline's model NAME; repeatable. REFERENCE alone: of its only model.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        parser=shared.number,
        metavar="X",
        help="Fail above this drop of robust accuracy too, such as 0.02, even if it could be chance.",
    ),
]
Alpha = Annotated[
    float,
    typer.Option("--alpha", parser=shared.number, metavar="X", help="The chance of a false alarm in the whole check."),
]
Reuse = Annotated[
    bool,
    typer.Option(
        "--reuse",
        help="Take what evaluate and other commands stored: saves those attacks, but hides changes of code that "
        "no digest sees.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=shared.whole,
        metavar="N",
        help="Rows per batch (default: 250, or the baseline's for attacks of libraries, which depend on it).",
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option("--shard-size", parser=shared.whole, metavar="N", help="Images between saves; the same default."),
]


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that 'robench baseline' wrote.")],
    model: Substitutes = None,
    max_drop: MaxDrop = None,
    alpha: Alpha = 0.05,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also write a summary.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="The same data under another name.")] = None,
    reuse: Reuse = False,
    trust: shared.Trust = False,
    batch_size: BatchSize = None,
    shard_size: ShardSize = None,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Evaluate a baseline's models anew, in the same way, and compare example by example; exit code 1 where one fell.

    Every attack runs again, so a check costs as much as its evaluations did; only one that was interrupted goes on
    where it stopped, as long as no loaded code has changed.
    """
    from robench.regression.baseline import read
    from robench.regression.verdict import Terms
    from robench.store.files import write_text

    _clear(file, junit, markdown)
    terms, known = Terms(alpha, max_drop), read(file)
    models = _models(model or [], known)
    from robench.regression.check import Rerun
    from robench.regression.check import check as run
    from robench.store.runs import Store, runs_root

    rerun = Rerun(models, dataset, batch_size, shard_size, device, data, reuse, trust)
    checked = run(known, Store(runs_root(runs)), rerun, terms)
    for path, text in ((junit, checked.junit), (markdown, checked.markdown)):
        if path is not None:
            write_text(path, text())
    if as_json:
        tell_json(checked.to_json())
    else:
        show(checked.tables())
        for sentence in checked.told:
            tell(f"- {sentence}")
    return checked.exit_code


def _clear(baseline: Path, *targets: Path | None) -> None:
    """Remove reports of an earlier check, which would speak for this one if it failed. Raises BadInput, DiskError."""
    from robench.errors import BadInput, disk_error

    given = [path.resolve() for path in targets if path is not None]
    if len(set(given)) < len(given):
        raise BadInput(
            f"--junit and --markdown both name {given[0]}, where one would replace the other; give two files."
        )
    for path in filter(None, targets):
        if path.resolve() == baseline.resolve():
            raise BadInput(f"The report {path} would replace the baseline; give it another name.")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error


def _models(texts: list[str], baseline: Baseline) -> dict[str, str]:
    """References by the baseline's names for the models. Raises BadInput for a text of another form."""
    from robench.errors import BadInput

    found: dict[str, str] = {}
    for text in texts:
        name, reference = _named(text, list(baseline.models))
        if not name or not reference:
            raise BadInput(
                f"--model is {text!r}, but must be of the form NAME=REFERENCE, NAME being one of: "
                f"{', '.join(baseline.models)}."
            )
        if name in found:
            raise BadInput(f"--model is given twice for {name!r}; give it once.")
        found[name] = reference
    return found


def _named(text: str, known: list[str]) -> tuple[str, str]:
    """Which of the known models a text is about, and the reference; both may have "=" in them."""
    fitting = [name for name in known if text.startswith(f"{name}=")]
    if fitting:
        name = max(fitting, key=len)
        return name, text[len(name) + 1 :]
    if len(known) == 1 and ("=" not in text or Path(text.rpartition(":")[0]).is_file()):
        return known[0], text
    name, _, reference = text.partition("=")
    return name, reference

"""robench compare: two models, or two evaluations, image by image."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell_json


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model that was evaluated, or an evaluation's id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one: a model for a model, an id for an id.")],
    attack: Annotated[
        str | None, typer.Option("-a", "--attack", help="Under this attack alone (default: all that both share).")
    ] = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Pair two models image by image: right for both, for one alone, for neither, with McNemar's exact test."""
    from robench.store.runs import Store, runs_root
    from robench.tables import comparison

    found = comparison.compare(Store(runs_root(runs)), a, b, attack)
    if as_json:
        tell_json({"comparisons": [each.to_json() for each in found]})
    else:
        show(*(each.table() for each in found))
    return 0

"""robench cost: robust accuracy against passes per image."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell_json


def cost(
    evaluations: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings, of one model.")
    ] = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """What was broken at what cost: robust accuracy against passes per image, of stored evaluations side by side."""
    from robench.store.runs import Store, runs_root
    from robench.tables import costs

    found = costs.collect(Store(runs_root(runs)), evaluations or [])
    if as_json:
        points = costs.points_of(found)
        tell_json({"evaluations": [each.to_json(points) for each in found]})
    else:
        for each in costs.tables(found):
            show(each)
    return 0

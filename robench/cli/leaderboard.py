"""robench leaderboard: rows to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell, tell_json


def leaderboard(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the tables into.")] = Path("leaderboards"),
    probes: shared.Probes = False,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Write every finished evaluation into csv, markdown, LaTeX and html tables."""
    from robench.store.runs import Store, runs_root
    from robench.tables.leaderboard import build
    from robench.tables.rendering import write

    boards = build(Store(runs_root(runs)), probes=probes)
    paths = [path for board in boards for path in write(board, out)]
    if as_json:
        tell_json({"boards": [board.to_json() for board in boards], "files": [str(path) for path in paths]})
    else:
        show(*(board.table() for board in boards))
        tell(f"Wrote {len(paths)} files into {out}/.")
    return 0

"""robench leaderboard: rows to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.norms import any_of, parse_norm
from robench.text.terminal import say, show, tell, tell_json

# beside index.html, which leads to the tables
PAGE = "page.html"


def leaderboard(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the tables into.")] = Path("leaderboards"),
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this model; may be repeated.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only on this data; may be repeated.")] = None,
    norm: Annotated[
        list[str] | None, typer.Option("--norm", parser=parse_norm, help=f"Only in {any_of(norms.NORMS)}.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Only under this attack; may be repeated.")
    ] = None,
    least: Annotated[
        int, typer.Option("--least", parser=shared.whole, metavar="N", help="Only of N images or more.")
    ] = 0,
    probes: shared.Probes = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Also write page.html, see 'robench view'.")] = True,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Write every finished evaluation, or those that are chosen, into csv, markdown, LaTeX and html tables, an
    index of these, and a page to sort, filter and compare them."""
    from robench.cli.view import claims_beside
    from robench.store.runs import Store, runs_root
    from robench.tables.chosen import Chosen
    from robench.tables.index import write_index
    from robench.tables.leaderboard import build
    from robench.tables.rendering import write

    chosen = Chosen(model or (), dataset or (), norm or (), attack or (), least, probes)
    store = Store(runs_root(runs))
    boards = build(store, chosen)
    paths = [path for board in boards for path in write(board, out)]
    paths += write_index(boards, out, PAGE if page else "")
    if page:
        from robench.page.writing import write_page

        paths.append(write_page(store, boards, out / PAGE, claims_beside(out), data))
    elif (out / PAGE).exists():
        say(f"{out / PAGE} is of an earlier run and was left as it is; without --no-page it is written anew.")
    if as_json:
        tell_json({"boards": [board.to_json() for board in boards], "files": [str(path) for path in paths]})
    else:
        show(*(board.table() for board in boards))
        tell(f"Wrote {len(paths)} files into {out}/.")
    return 0

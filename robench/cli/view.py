"""robench view: what was measured, as a page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import tell, tell_json

# where claims are looked for, beside the page first
KEPT = Path("leaderboards")


def view(
    store: Annotated[
        Path | None, typer.Argument(metavar="RUNS", help="Folder of models and evaluations (default: --runs).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the page into.")] = Path("page"),
    claims: Annotated[
        Path | None, typer.Option("--claims", help="Table of the papers' claims (default: claims.csv, if there).")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    probes: shared.Probes = False,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Write all that was measured as one page that needs no network: tables to sort and filter, each model's card,
    settings, flags, curves and images, and two models compared image by image."""
    from robench.errors import BadInput
    from robench.page.writing import write_page
    from robench.store.runs import Store, runs_root
    from robench.tables.chosen import Chosen
    from robench.tables.leaderboard import build

    if store is not None and runs is not None:
        raise BadInput(f"RUNS is {str(store)!r} and --runs is {str(runs)!r}, but both name the runs folder; give one.")
    found = Store(runs_root(store or runs))
    path = write_page(
        found, build(found, Chosen(probes=probes)), out / "index.html", claims or claims_beside(out), data
    )
    if as_json:
        tell_json({"files": [str(path)]})
    else:
        tell(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")
    if open_:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
    return 0


def claims_beside(out: Path) -> Path | None:
    """The table of claims beside the page, or that in leaderboards/, if there is one."""
    from robench.page.claims import NAME

    return next((folder / NAME for folder in (out, KEPT) if (folder / NAME).is_file()), None)

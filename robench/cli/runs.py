"""robench runs: what the runs folder holds, and what of it no table needs."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import tell, tell_json

app = typer.Typer(help="Look after the runs folder.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Look after the runs folder."""


@app.command("gc")
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, it is only listed.")] = False,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """List what no table needs, with sizes and reasons; a finished model is never among it."""
    from robench.store.leftovers import leftovers, remove
    from robench.store.runs import Store, runs_root

    store = Store(runs_root(runs))
    found = leftovers(store)
    gone = remove(store, found) if delete else []
    if as_json:
        tell_json({"leftovers": [each.to_json() for each in found], "deleted": len(gone)})
        return 0
    for each in found:
        more = f" and {len(each.paths) - 1} more" if len(each.paths) > 1 else ""
        kept = "" if not delete or each in gone else " (kept: somebody has begun to work on it)"
        tell(f"{_bytes(each.size):>9}  {each.paths[0]}{more}: {each.reason}{kept}")
    total = _bytes(sum(each.size for each in (gone if delete else found)))
    if not found:
        tell(f"Every artifact in {store.root} is needed.")
    elif delete:
        tell(f"Deleted {len(gone)} of {len(found)}, {total}.")
    else:
        tell(f"{len(found)} that no table needs, {total}; nothing was deleted, 'robench runs gc --delete' does.")
    return 0


@app.command("size")
def size(runs: shared.Runs = None, as_json: shared.Json = False) -> int:
    """Say how much of what there is."""
    from robench.store.leftovers import sizes
    from robench.store.runs import Store, runs_root

    found = sizes(Store(runs_root(runs)))
    if as_json:
        tell_json({kind: {"count": count, "bytes": size} for kind, (count, size) in found.items()})
        return 0
    for kind, (count, size) in found.items():
        tell(f"{kind:<12} {count:>7,}  {_bytes(size):>9}")
    tell(f"{'all':<12} {'':>7}  {_bytes(sum(size for _, size in found.values())):>9}")
    return 0


def _bytes(size: float) -> str:
    """A size in the largest unit that leaves at least one."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

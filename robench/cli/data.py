"""robench data: fetch datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import tell

app = typer.Typer(help="Fetch datasets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Fetch datasets."""


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A dataset's name; see 'robench list datasets'.")],
    data: shared.Data = None,
) -> int:
    """Download a dataset through torchvision into the data folder."""
    from robench.data.dataset import default_root
    from robench.data.dataset import fetch as run

    root = data or default_root()
    run(name, root)
    tell(f"{name} is ready in {root}.")
    return 0

"""robench data: fetch datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import tell


def named_data(
    dataset: str | None,
    classes: str | None = None,
    labels_from: int | None = None,
    one_hot: bool = False,
    layout: str | None = None,
    reach: str | None = None,
    ids: str | None = None,
) -> tuple[str | None, int | None]:
    """The data's name with what options say of them, and the number of classes where that was said.

    Raises BadInput for classes that are neither a number nor names.
    """
    from robench.data_names import with_settings
    from robench.errors import require

    number, names = None, None
    if classes is not None and classes.strip().isdigit():
        number = shared.whole(classes)
    elif classes is not None:
        words = [word.strip() for word in classes.split(",")]
        named = len(words) > 1 and all(words) and len(set(words)) == len(words)
        require(named, "--classes", classes, "a whole number, or the names of all classes with commas between")
        names = ",".join(words)
    start = None if labels_from is None else str(labels_from)
    told = {"labels_from": start, "one_hot": "" if one_hot else None, "layout": layout, "range": reach}
    return with_settings(dataset, **told, names=names, ids=ids), number


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

"""robench export: rows and adversarial images of a stored evaluation for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.errors import BadInput, unknown
from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.exchange.exporting import Exported

FORMS = ("folder", "npz", "csv", "parquet", "pt")


def export(
    evaluation: Annotated[str, typer.Argument(help="An evaluation's id, or its beginning.")],
    to: Annotated[str | None, typer.Option("--to", help=f"{', '.join(FORMS[:-1])} or {FORMS[-1]}.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file, or the folder, that is written.")] = None,
    uint8: Annotated[
        bool, typer.Option("--uint8", help="Round to 8 bits inside eps, and ask the model again.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier export left at --out.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if --uint8 does not find it.")
    ] = None,
    trust: shared.Trust = False,
    batch_size: shared.BatchSize = 250,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Write the rows and adversarial images of a stored evaluation to a folder of PNG, npz, csv, parquet or pt."""
    if to is None or out is None:
        raise BadInput(
            f"{'--to' if to is None else '--out'} is not given; say what to write and where, such as --to npz --out "
            "images.npz."
        )
    if to not in FORMS:
        raise unknown("form to export to", to, FORMS)
    from robench.exchange import exporting
    from robench.store.runs import Store, runs_root
    from robench.trust.opened import How

    how = How(model, batch_size, device, data, trust)
    done = exporting.export(Store(runs_root(runs)), evaluation, to, out, uint8=uint8, force=force, how=how)
    if as_json:
        tell_json(done.to_json())
    else:
        _tell(done)
    return 0


def _tell(done: Exported) -> None:
    tell(f"Wrote {done.out}: {done.images:,} images ({done.kind}) with their rows, of evaluation {done.evaluation}.")
    tell(f"{done.measure.capitalize()} as judged in float32: {done.figure.text()}%.")
    if done.rounded is not None:
        rounded = done.rounded
        tell(
            f"In 8 bits {rounded.survive:,} of {rounded.finds:,} finds survive ({100 * rounded.share:.1f}%), "
            f"{rounded.new:,} more are found; {done.measure}: {rounded.figure.text()}%."
        )
    if done.note:
        tell(done.note)

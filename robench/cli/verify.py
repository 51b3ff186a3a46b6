"""robench verify: re-check stored adversarial examples."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared


def verify(
    evaluations: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings; none: all of them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if not under the name it was evaluated by.")
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", parser=shared.whole, metavar="N", help="Rows per batch; other than the evaluation's."
        ),
    ] = 97,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Re-check stored adversarial examples: norm, box, NaN, label and verdict, in batches of another size."""
    from robench.store.runs import Store, runs_root
    from robench.trust.verification import verify_all

    checks = verify_all(Store(runs_root(runs)), evaluations or [], model, batch_size, device, data)
    if as_json:
        import json

        print(json.dumps({"evaluations": [check.to_json() for check in checks]}))
    else:
        from rich.console import Console

        from robench.tables.report import verified_table

        Console().print(verified_table(checks))
    codes = {check.exit_code for check in checks}
    return next((code for code in (1, 2, 3) if code in codes), 0)

"""robench verify: re-check stored adversarial examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell_json

if TYPE_CHECKING:
    from robench.trust.verification import Verified


def verify(
    evaluations: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings; none: all of them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if not under the name it was evaluated by.")
    ] = None,
    again: Annotated[
        int,
        typer.Option(
            "--again",
            parser=shared.whole,
            metavar="N",
            help="Run the attack again on N images of each evaluation that are said to stand.",
        ),
    ] = 0,
    trust: shared.Trust = False,
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
    """Re-check stored adversarial examples and their records: norm, box, NaN, label, verdicts in batches of another
    size, names, options and flags; with --again, that what stands withstands the attack."""
    from robench.store.runs import Store, runs_root
    from robench.trust.verification import verify_all

    checks = verify_all(Store(runs_root(runs)), evaluations or [], model, batch_size, device, data, trust, again)
    if as_json:
        tell_json({"evaluations": [check.to_json() for check in checks]})
    else:
        from robench.tables.report import verified_table

        show(verified_table(checks))
    codes = {check.exit_code for check in checks}
    _tell(checks)
    return next((code for code in (1, 2, 3) if code in codes), 0)


def _tell(checks: list[Verified]) -> None:
    """A sentence on stderr for each outcome that is not fine."""
    from robench.progress import say

    told = {
        1: "do not hold: what is stored is not what it says, see the faults",
        2: "could not be checked, see why",
        3: "are not finished: run their commands again ('robench show ID' has them)",
    }
    for code, text in told.items():
        ids = [check.evaluation for check in checks if check.exit_code == code]
        if ids:
            say(f"{len(ids)} of {len(checks)} evaluations {text} ({', '.join(ids[:5])}{', ...' if ids[5:] else ''}).")
    for old in dict.fromkeys(check.made_by for check in checks if check.made_by):
        ids = [check.evaluation for check in checks if check.made_by == old]
        say(
            f"{len(ids)} of {len(checks)} evaluations were made by {old} ({', '.join(ids[:5])}"
            f"{', ...' if ids[5:] else ''}): this says what that code found; for today's figure evaluate again."
        )
    ids = [check.evaluation for check in checks if check.elsewhere]
    if ids:
        say(
            f"{len(ids)} of {len(checks)} evaluations are of images made elsewhere, which no attack can be run again "
            f"on ({', '.join(ids[:5])}{', ...' if ids[5:] else ''}): their images were asked again, and nothing more."
        )
    for reason in dict.fromkeys(check.unsealed for check in checks if check.unsealed):
        ids = [check.evaluation for check in checks if check.unsealed == reason]
        say(f"{len(ids)} of {len(checks)} evaluations were not asked in a process of their own: {reason}.")

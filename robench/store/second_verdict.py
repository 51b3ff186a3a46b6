"""The record of a second verdict on an evaluation's images, taken in a process that knows nothing of the attack."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.results.rows import SEALED
from robench.store.files import Record, checksum, write_file, write_sealed
from robench.store.shard_files import answers_of

MANIFEST, ANSWERS = "sealed.json", "sealed.parquet"


@dataclass(frozen=True)
class SecondVerdict:
    """What came of a second verdict on certain shards.

    flags: about the model. counts: whether its answers count beside the first ones, which those of a randomised model
    do not. passes, seconds: what it took. digest: of the manifest. answers: the file of the answers, None where there
    are none, then `reason` says why.
    """

    flags: tuple[str, ...]
    counts: bool
    passes: int
    seconds: float
    digest: str
    answers: str | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """What is told of it."""
        told = {"answers": self.passes, "seconds": self.seconds, "flags": list(self.flags), "reason": self.reason}
        return {name: value for name, value in told.items() if value not in ("", [])}

    def beside(self, rows: Any, columns: Sequence[str] | None, advice: str) -> Any:
        """The rows with the answers that count beside them; with `columns`, only those among them.

        Raises Damaged, with `advice` on what to do, where there are no such answers.
        """
        if self.answers is None or not self.counts:
            return rows
        wanted = [name for name in SEALED if columns is None or name in columns]
        answers = answers_of(self.answers, wanted, len(rows), advice).to_pandas()
        return rows.assign(**{name: answers[name].to_numpy() for name in wanted})


def read(folder: str, manifest: Record, shards: Mapping[str, str]) -> SecondVerdict | None:
    """The second verdict in a folder if it is on these shards, by name and digest, and undamaged; otherwise None."""
    value, path = manifest.value, os.path.join(folder, ANSWERS)
    try:
        total = value["sha256"]
        if value["shards"] != shards or (total is not None and total != checksum(path)):
            return None
    except (OSError, KeyError):
        return None
    return SecondVerdict(
        tuple(value["flags"]), value["counts"], value["passes"], value["seconds"], manifest.digest,
        None if total is None else path, str(value.get("reason", "")),
    )  # fmt: skip


def write(folder: Path, evaluation: str, shards: Mapping[str, str], answers: Any, notes: Mapping[str, Any]) -> None:
    """Keep a second verdict: `answers`, a DataFrame with the columns of `SEALED`, one row per example, or None; and
    `notes`, the other fields."""
    total = None
    if answers is not None:
        total = write_file(folder / ANSWERS, lambda aside: answers.to_parquet(aside, index=False))
    write_sealed(folder / MANIFEST, {**notes, "evaluation": evaluation, "shards": dict(shards), "sha256": total})

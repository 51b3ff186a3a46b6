"""Verification's second look: whether a process that knows nothing of the evaluation answers as its rows say."""

from __future__ import annotations

import os

import pandas as pd
import torch
from torch import Tensor

from robench.attack.inspection import predictions
from robench.trust.answers import tied
from robench.trust.opened import Opened
from robench.trust.seal import Sealed, Unsealed, ask, envelope, sealed


def differing(opened: Opened, rows: pd.DataFrame) -> tuple[int, str]:
    """How many answers are neither those of the rows nor, by rounding, as good; and why nobody could be asked, or "".

    Where a second verdict was taken before and differed from the first, its answers are right too: the evaluation is
    flagged with that. Those of randomised shards are another draw and not compared.
    """
    folder, found = opened.folder, 0
    noted = zip(folder.ranges(), folder.notes(), strict=True)
    parts = [place for place, notes in noted if "randomised" not in notes.get("flags", [])]
    if not parts:
        return 0, ""
    try:
        packed = envelope(opened.model, opened.watch.guard if opened.watch else None)
        with sealed(packed, opened.how.device) as process:
            for start, stop in parts:
                part = rows[(rows["example_id"] >= start) & (rows["example_id"] < stop)]
                if part["example_id"].tolist() == list(range(start, stop)) and stop <= len(opened.split):
                    found += _shard(opened, process, part, folder.images(start, stop))
    except Unsealed as error:
        return found, str(error)
    return found, ""


def _shard(opened: Opened, process: Sealed, rows: pd.DataFrame, images: Tensor) -> int:
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    shown = torch.cat([opened.split.pixels(ids), images])
    answers = ask(process, shown, os.urandom(8).hex(), opened.how.batch_size)
    clean, adversarial = torch.split(answers, len(ids))
    return _wrong(rows, clean, "clean") + _wrong(rows, adversarial, "adv")


def _wrong(rows: pd.DataFrame, logits: Tensor, kind: str) -> int:
    """How many logits [n, K] answer other than the rows' column of that kind, and than the second one of it."""
    wrong = torch.ones(len(rows), dtype=torch.bool)
    for column in (f"{kind}_pred", f"sealed_{kind}"):
        if column in rows:
            recorded = torch.tensor(rows[column].to_numpy().copy())
            wrong &= (predictions(logits) != recorded) & ~tied(logits, recorded)
    return int(wrong.sum())

"""Evaluations that rest on others: in a cascade on the attack before, and below a larger eps on that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.results.rows import STOOD, broken, correct, spent
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged


def chain_of(folder: EvaluationFolder) -> list[EvaluationFolder]:
    """An evaluation and those that it goes on from, the first one first. Raises Damaged."""
    chain = [folder]
    while after := chain[0].spec.get("after"):
        if any(after == link.job_id for link in chain):
            raise Damaged(f"The evaluation {folder.job_id} goes on from itself; delete its folder.")
        chain.insert(0, EvaluationFolder(folder.path.parent / str(after)))
    return chain


def rungs_of(folder: EvaluationFolder) -> list[EvaluationFolder]:
    """An evaluation and those within larger eps that it takes images to stand by, the next larger one first. Raises
    Damaged."""
    found = [folder]
    while below := found[-1].spec.get("below"):
        if any(below == rung.job_id for rung in found):
            raise Damaged(f"The evaluation {folder.job_id} lies below itself; delete its folder.")
        found.append(EvaluationFolder(folder.path.parent / str(below)))
    return found


def rested_on(folder: EvaluationFolder) -> list[EvaluationFolder]:
    """The evaluations whose passes an evaluation goes on from: in a cascade those before it, and those within larger
    eps. Raises Damaged."""
    return [*chain_of(folder)[:-1], *rungs_of(folder)[1:]]


def stood_in(folder: EvaluationFolder, start: int, stop: int) -> NDArray[np.bool_]:
    """Which of the examples [start, stop) an attack left standing with nothing to say about them, bool [n].

    None do where a shard has any flag: an attack that may have been misled proves nothing of smaller eps. By the first
    verdicts alone, as a run that is resumed may have the second ones. Raises Damaged.
    """
    flagged = [shard for shard in folder.shards() if shard.notes.get("flags")]
    rows: Any = folder.rows(["example_id", "label", "adv_pred", "clean_correct", "success", "flags"])
    rows = rows[(rows["example_id"] >= start) & (rows["example_id"] < stop)].sort_values("example_id")
    quiet = rows["flags"].fillna("").isin(("", STOOD)).to_numpy()
    ids = rows["example_id"].to_numpy()
    for shard in flagged:
        quiet = quiet & ((ids < shard.start) | (ids >= shard.stop))
    found: NDArray[np.bool_] = quiet & correct(rows) & ~broken(rows)
    if len(found) != stop - start:
        raise Damaged(f"The evaluation {folder.job_id} is not complete; run its command again.")
    return found


def spent_on(folders: Sequence[EvaluationFolder], ids: Sequence[int]) -> NDArray[np.int64]:
    """What the examples `ids` cost in all of these evaluations, in forward passes, int64 [n]. Raises Damaged where one
    of them has no row of an example."""
    found: NDArray[np.int64] = np.zeros(len(ids), dtype=np.int64)
    for folder in folders:
        rows: Any = folder.rows(["example_id", "forwards", "backwards"])
        known = dict(zip(rows["example_id"].tolist(), spent(rows).tolist(), strict=True)) if len(rows) else {}
        if any(each not in known for each in ids):
            raise Damaged(f"The evaluation {folder.job_id} is not complete; run its command again.")
        found += np.array([known[each] for each in ids], dtype=np.int64)
    return found

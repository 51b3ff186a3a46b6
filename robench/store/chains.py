"""The evaluations of a cascade, each of which goes on from the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.results.rows import spent
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

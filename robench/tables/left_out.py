"""What a table says of evaluations that are damaged: whose they are or may be, so that no line looks better for it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from robench.errors import BadInput
from robench.progress import say
from robench.store.files import Damaged
from robench.store.runs import EvaluationFolder, Store

# behind a worst case that is without what a damaged evaluation would say
LEFT_OUT = "damaged left out"


def digests(store: Store) -> dict[str, str]:
    """The digests of the finished models by name, but of those whose card is damaged."""
    found, damaged = store.model_digests()
    for reason in damaged:
        say(reason)
    return found


def readable(folder: EvaluationFolder) -> bool:
    """Whether an evaluation is complete, and its rows are rows."""
    try:
        return folder.result is not None and len(folder.rows()) > 0
    except Damaged:
        return False


def left_out(store: Store, damaged: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say which evaluations are left out, by id with a sentence on why; returns their models' names and digests."""
    for reason in damaged.values():
        say(f"Left out: {reason}")
    return [_subject(store.evaluation(job_id)) for job_id in damaged]


def _subject(folder: EvaluationFolder) -> tuple[str, str]:
    """The name and the digest of the model that a damaged evaluation is of, "" for what cannot be read."""
    name = digest = ""
    with contextlib.suppress(BadInput):
        name = folder.about.model
    with contextlib.suppress(BadInput):
        digest = folder.spec["model_digest"]
    return name, digest


def may_be_of(name: str, digest: str, lost: Sequence[tuple[str, str]]) -> int:
    """How many of the damaged evaluations are, or may be, of a model: what they would say of it is not known."""
    return sum(one == ("", "") or (bool(one[0]) and one[0] == name) or (bool(one[1]) and one[1] == digest)
               for one in lost)  # fmt: skip

"""The names that records give models beside digests of theirs, held against the models that the store has."""

from __future__ import annotations

from robench.store.runs import Store
from robench.trust.opened import Opened


def misnamed(store: Store, name: str, digest: str) -> bool:
    """Whether the model of that digest is in the store, and none that goes by this name."""
    known = store.model_digests()[0]
    return digest in known.values() and known.get(name) != digest


def others_named(opened: Opened) -> str:
    """Why a surrogate or a guide may be another model than the record says, though nothing proves it: the store has one
    of that name and other weights, and none of the weights that were used; "" where there is none such."""
    spec, about, known = opened.spec, opened.about, opened.store.model_digests()[0]
    for kind, name in (("surrogate", about.surrogate), ("guide", about.guide)):
        digest = spec.get(kind)
        if digest and name in known and digest not in known.values():
            return (
                f"The {kind} of evaluation {opened.folder.job_id} is recorded as {name!r}, whose weights are others "
                "today: it was trained again since, or is another model; evaluate anew, and verify that."
            )
    return ""

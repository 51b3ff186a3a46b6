"""Images that an evaluation did not attack, since the same attack left them standing within a larger eps: did it?"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pandas as pd

from robench.errors import BadInput
from robench.results.rows import STOOD, marked
from robench.store.chains import stood_in
from robench.store.runs import Store

# what two evaluations have alike where one goes by what the other left standing
ALIKE = ("model_digest", "data_digest", "attack", "attack_version", "attack_options", "norm", "seed", "split")


def unsupported(store: Store, spec: dict[str, Any], rows: pd.DataFrame) -> int:
    """How many images are said to have stood within a larger eps and did not, by that evaluation's own rows.

    Raises BadInput where that evaluation is not there or is not complete.
    """
    if "flags" not in rows:  # rows of no shard at all
        return 0
    said = rows[marked(rows, STOOD)]
    if said.empty:
        return 0
    if not spec.get("below"):
        return len(said)
    larger = store.evaluation(str(spec["below"]))
    if not (larger.path / "spec.json").exists():
        raise BadInput(
            f"{len(said):,} of {len(rows):,} images rest on the evaluation {larger.job_id} within a larger eps, which "
            "is not in this store; import it, or evaluate this eps by itself."
        )
    other = larger.spec
    if any(other.get(name) != spec.get(name) for name in ALIKE) or Fraction(other["eps"]) < Fraction(spec["eps"]):
        return len(said)
    first = int(said["example_id"].min())
    stood = stood_in(larger, first, int(said["example_id"].max()) + 1)
    return int((~stood[said["example_id"].to_numpy() - first]).sum())

"""Several eps of one command: from the largest down, each taking for standing what stood within the next larger one.

The ball of a smaller eps lies in that of a larger one, so what nothing breaks in the larger stands in the smaller. An
attack shows that only as far as it searched: some of these images are attacked all the same, and all where one falls.
"""

from __future__ import annotations

from robench.attack.gradient import kind_of
from robench.evaluation.attacks import NamedAttack
from robench.evaluation.request import Request
from robench.results.accuracy import Measure, enters

# how an attack searches that gets further within a larger eps
SEARCHES = ("iterative", "query", "ensemble")


def apart(named: NamedAttack, request: Request) -> str:
    """Why an attack's evaluations within several eps have nothing to say of each other, "" where they have."""
    if request.guard or request.surrogates or request.guide is not None:
        return "with a detector, a surrogate or a guide"
    if request.cascade:
        return "in a cascade"
    if request.max_passes is not None:
        return "under --max-passes"
    if not enters(named.access) or Measure(named.metric) is Measure.SUCCESS:
        return "as its figure is no worst case"
    if named.attack.batched:
        return "as its figures depend on which images share a batch"
    if named.options.get("success") == "last":
        return "as its last step counts alone"
    searches = kind_of(named.attack, request.threat, named.access) in SEARCHES
    return "" if searches else "as a larger step need not reach further"

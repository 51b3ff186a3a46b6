"""Images that the same attack left standing within a larger eps: some are attacked again, to see that they stand."""

from __future__ import annotations

from torch import Tensor

from robench import randomness

# one in so many is attacked again, and at least so many
ONE_IN, LEAST = 100, 1


def to_check(stood: Tensor, ids: Tensor, seed: int) -> Tensor:
    """Which of the examples marked in `stood`, bool [n], are attacked again, drawn by their ids, int64 [n]."""
    at = stood.nonzero()[:, 0]
    wanted = min(len(at), max(LEAST, -(-len(at) // ONE_IN)))
    lots = randomness.uniform(seed, ids[at].tolist(), [0] * len(at), "below a larger eps", (1,))[:, 0]
    found = stood.clone().fill_(False)
    found[at[lots.argsort(stable=True)[:wanted]]] = True
    return found


def fallen(stood: Tensor, standing: Tensor) -> Tensor:
    """Which of the examples that stood within the larger eps stand no more, bool [n]."""
    return stood & ~standing

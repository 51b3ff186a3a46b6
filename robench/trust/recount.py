"""What stored rows say an attack spent and did, beside what can be and what it spends and does when it is run again."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from robench.attack.gradient import GradientAttack
from robench.environment import environment, made_with
from robench.results.rows import FLAT_GUIDE, STOOD, marked, spent
from robench.results.summary import UNSTABLE
from robench.trust.answers import too_many
from robench.trust.opened import Opened

# what an image costs and which stages it goes through hardly hinges on how numbers are rounded
COSTS = ("forwards", "backwards", "passes", "stages")
# which of several steps found the strongest image does
PLACES = ("trial", "step")
# marks of images that the attack itself sets; those of crafted images are of two models, and are not compared
MARKS = ("zero-gradient", FLAT_GUIDE, "non-finite", "invalid-proposal", "out-of-budget")
# a share of pixels without a gradient that differs by more is another one
APART = 0.1
# of what an environment holds, what decides how numbers are rounded beside versions and the kind of device
ROUNDED_BY = ("processor", "cores", "kernels")


def impossible(opened: Opened, rows: pd.DataFrame, flags: Sequence[str]) -> int:
    """How many rows of a shard, whose model was flagged so, count passes that no run of the attack can come to."""
    forwards, backwards = (rows[name].to_numpy() for name in ("forwards", "backwards"))
    attack, draws = opened.attack, opened.spec.get("eot") or 1
    found = (forwards < 0) | (backwards < 0)
    if "passes" in rows:
        found |= rows["passes"].to_numpy() != spent(rows)
    if attack is None or attack.batched:  # a pass may be charged to an image's neighbour
        return int(found.sum())
    found |= (backwards > 0) & (forwards < 1)
    # a guide's passes are counted beside the model's, and a model that answers at random may be attacked twice
    if not opened.spec.get("guide") and "randomised" not in flags:
        most = attack.cost(opened.threat, opened.classes)
        # what may be a find by gradients in bfloat16 is asked about in float32: at most once for each of them
        forwards = forwards - backwards if opened.spec.get("search_precision") else forwards
        for counted, bound in ((forwards, most.forwards), (backwards, most.backwards)):
            if bound is not None:
                found |= counted > bound * draws
    return int(found.sum())


def steady(opened: Opened, flags: Sequence[str]) -> bool:
    """Whether the model, flagged so now, answers alike each time, so that a run of the attack comes to the same."""
    noted = {flag for notes in opened.folder.notes() for flag in notes.get("flags", [])}
    return not any(flag.startswith(UNSTABLE) for flag in {*noted, *flags})


def suspicious(opened: Opened, stored: pd.DataFrame, now: pd.DataFrame) -> Tensor:
    """Which stored rows, bool [n], are to be held against a run in the batches that they were in: the same images by
    themselves cost something else, or most of them were found at another step."""
    found, moved = _costs(opened, stored, now), _places(stored, now)
    if exact(opened) and int(moved.sum()) > max(1, len(stored) // 2):
        found |= moved
    return found & ~_untouched(stored)


def wrong(opened: Opened, stored: pd.DataFrame, now: pd.DataFrame) -> Tensor:
    """Which stored rows, bool [n], are not what the same batches come to now."""
    found = _costs(opened, stored, now)
    return (found | _places(stored, now) if exact(opened) else found) & ~_untouched(stored)


def faulty(opened: Opened, found: int, images: int) -> int:
    """How many of the `found` wrong rows among so many images are faults: all where the numbers come out of the same
    batches on the same kind of machine, those beyond what rounding explains elsewhere."""
    return found if exact(opened) else too_many(found, images)


def exact(opened: Opened) -> bool:
    """Whether a run here rounds as the stored one did: the same versions and machine, and the very same batches."""
    now, then, device = environment(), opened.about.environment, opened.how.device
    here = all(now.get(name) == then.get(name) for name in ROUNDED_BY)
    versions = all(notes.get("made_with") == made_with(device) for notes in opened.folder.notes())
    return here and versions and not opened.spec.get("surrogate") and not opened.spec.get("below")


def _costs(opened: Opened, stored: pd.DataFrame, now: pd.DataFrame) -> Tensor:
    found = torch.zeros(len(stored), dtype=torch.bool)
    round_again = isinstance(opened.attack, GradientAttack) and opened.attack.comes_round(opened.threat)
    for name in COSTS:
        if name in stored and name in now:
            spent_now, said = (rows[name].fillna("").to_numpy() for rows in (now, stored))
            # a search that did not look for circles went on in them, up to what `impossible` allows
            found |= torch.from_numpy(said < spent_now if round_again and name != "stages" else said != spent_now)
    if "zero_pixels" in stored:
        shares, theirs = (torch.tensor(rows["zero_pixels"].to_numpy(dtype=float)) for rows in (now, stored))
        found |= ((shares - theirs).abs() > APART) | (shares.isnan() != theirs.isnan())
    if not opened.spec.get("surrogate"):
        for mark in MARKS:
            found |= torch.from_numpy(marked(now, mark).to_numpy() != marked(stored, mark).to_numpy())
    return found


def _places(stored: pd.DataFrame, now: pd.DataFrame) -> Tensor:
    found = torch.zeros(len(stored), dtype=torch.bool)
    for name in PLACES:
        if name in stored:
            found |= torch.from_numpy(now[name].to_numpy() != stored[name].to_numpy())
    return found


def _untouched(stored: pd.DataFrame) -> Tensor:
    """The images that were not attacked, since they stood within a larger eps."""
    return torch.from_numpy(marked(stored, STOOD).to_numpy().copy())

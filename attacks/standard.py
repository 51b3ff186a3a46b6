"""The worst case that we recommend: cheap stages for every image, dear ones for those that they came near to."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor

from robench import Attack, Batch, BatchModel, Cost, Kind, Proposal, Range, ThreatModel, check_count, require
from robench_attacks.apgd import APGDCE, APGDT
from robench_attacks.fab import FAB
from robench_attacks.multi_targeted import MultiTargeted
from robench_attacks.square import Square
from robench_attacks.stages import ANY, Ascend, AscendTo, Ask, AskOn, Stage, Stripes, Walk, Whole
from robench_attacks.standing import Standing
from robench_attacks.walking import Gait

Effort = Literal["quick", "standard", "thorough"]

# a third of the passes of an image that stands
EXPECTED = {"quick": 60, "standard": 250, "thorough": 8000}
# in linf the way home weighs more, and the first steps begin at the boundary; in L2 the first go beyond it
_LINF, _L2 = Gait((0.3, 0.5), closing=4), Gait(over=1.5)
_SHORT = replace(_LINF, closing=3)
# where a few steps from a walk's end leave much of the clean margin, the way to what it found leads nowhere within eps
_out = partial(Walk, steps=10, sort=False, onward=12, probe=4, promise=0.5)
_anew = partial(Walk, steps=14, sort=False, gait=Gait(over=1.8), onward=12, hope=0.7, probe=2, promise=0.2)
_QUICK = {
    "linf": (
        Stripes("stripes"),
        Ascend("untargeted", steps=2),
        Ascend("ascents", 0.8, steps=10, climbing=True),
        _out("boundary", -math.inf, also="stuck", best=True, to=(ANY,), gait=_SHORT),
        _out("boundary again", -math.inf, 4.0, first=1, to=(1,), gait=_LINF),
        _out("boundary once more", -math.inf, 0.2, first=2, to=(2,), gait=_LINF),
        AscendTo("targets", trusting=True, steps=4, first=5),
        Ascend("restarts", 0.4, trusting=True, steps=20, corners=2),
        Ascend("restarts again", 0.15, trusting=True, steps=30, corners=4),
        AskOn("queries", 0.15, trusting=True, queries=2400, first=100, worth=0.01),
    ),
    "l2": (
        Walk("boundary", steps=18, sort=False, gait=_L2, onward=12, hope=1.0, probe=6, promise=0.3),
        _anew("boundary again", 0.25, 0.3, also="unsettled", to=(0, 1), first=1),
        _anew("boundary once more", 0.1, 0.2, also="aslant", to=(0, ANY, 2), first=3),
        AscendTo("targets", 0.7, steps=3, first=2),
    ),
}
_STANDARD = {
    "linf": (
        Ascend("untargeted", steps=10),
        Walk("boundary", steps=9, to=(ANY,), sort=False, gait=_LINF, onward=12),
        Walk("boundary again", -math.inf, also="misled", steps=9, to=(ANY, 1, 2), first=1, gait=_LINF, onward=12),
        AscendTo("targets", trusting=True, steps=4, sort=True),
        Ask("witness", queries=100),
        Walk("boundary once more", steps=9, to=(ANY,), first=1, sort=False, gait=_LINF, onward=12),
        Ascend("restarts", 0.3, steps=30, corners=5),
        AscendTo("targets again", 0.2, steps=20, most=3),
        AskOn("queries", 0.2, queries=2000, first=300),
        Ascend("close restarts", 0.05, steps=60, corners=10),
        AscendTo("close targets", 0.05, steps=60, most=9),
    ),
    "l2": (
        Ascend("untargeted", steps=10),
        Walk("boundary", steps=17, to=(0, 0), sort=False, gait=_L2, onward=6),
        Walk("boundary again", steps=40, to=(1, 0, 2), first=2, sort=False, gait=_L2, onward=6),
        AscendTo("targets", trusting=True, steps=4),
        Ask("witness", queries=50),
        Ascend("restarts", 0.1, steps=30, corners=3),
        Walk(
            "boundary once more", 0.25, 0.25, steps=17, to=(ANY, 2, 0, 1) * 2, first=4, sort=False, gait=_L2, onward=6
        ),
        AscendTo("targets again", 0.1, steps=20, most=2),
        AskOn("queries", 0.1, queries=600, first=100),
        Ascend("close restarts", 0.02, steps=60, corners=8),
    ),
}


class Standard(Attack):
    """The worst case that we recommend, in linf and L2, at a tenth to a thirtieth of AutoAttack's passes.

    Short ascents on the margin, from the image and towards the likeliest wrong classes, walks along the decision
    boundary, from the image and from elsewhere, and a few queries that need no gradient and witness for those that do.
    What they came near to is attacked on: from random corners, along the boundary, and by queries from the best image
    so far, for as long as they bring it nearer. Nearness is an image's own:
    the share of its clean margin that is left, or how far outside of eps a misclassified image was found. Which stages
    an image went through stands in its row.

    effort: "quick" begins with wide stripes in linf, and leaves out the witness and most of what follows; "thorough"
    runs, on whatever stands after all stages, AutoAttack's four attacks at its settings (Croce and Hein, 2020) and
    `multi-targeted` with two starts per class. targets: how many wrong classes are tried, those with the largest clean
    logits.
    """

    version: ClassVar[int] = 10
    kind: ClassVar[Kind] = "ensemble"
    transfers: ClassVar[bool] = False
    boundary: ClassVar[bool] = True
    rough: ClassVar[bool] = True

    def __init__(self, *, effort: Effort = "standard", targets: Annotated[int, Range(1, 1000)] = 9) -> None:
        require(effort in get_args(Effort), "effort", effort, f"one of {', '.join(get_args(Effort))}")
        check_count("targets", targets)
        self.effort, self.targets = effort, targets
        self.expected = EXPECTED[effort]
        names = [stage.name for norm in self.norms for stage in self.plan(norm)]
        self.stages = tuple(dict.fromkeys(names))

    def plan(self, norm: str) -> tuple[Stage, ...]:
        """The stages in their order."""
        if self.effort == "quick":
            return _QUICK[norm]
        if self.effort == "standard":
            return _STANDARD[norm]
        return (
            *_STANDARD[norm],
            Whole("apgd-ce", plugin=APGDCE()),
            Whole("apgd-t", plugin=APGDT(targets=max(9, self.targets))),
            Whole("fab-t", plugin=FAB(targets=max(9, self.targets))),
            Whole("square", plugin=Square()),
            Whole("multi-targeted", plugin=MultiTargeted(restarts=2)),
        )

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """Of all stages, an answer to the image itself, and a gradient per class where a stage orders them."""
        plan = self.plan(threat.norm)
        costs = [stage.cost(threat, classes, self.targets) for stage in plan]
        backwards, forwards = (sum(part or 0 for part in parts) for parts in zip(
            *((cost.backwards, cost.forwards) for cost in costs), strict=True
        ))  # fmt: skip
        sorts = any(isinstance(stage, Walk | AscendTo) and stage.sort for stage in plan)
        ordering = min(self.targets, classes - 1) if sorts else 0
        return Cost(ordering + backwards, 1 + ordering + forwards)

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        """The first firm find of every image, or what came nearest."""
        standing = Standing(model, batch, self.targets)
        done, steps = torch.zeros(len(batch), dtype=torch.int64), 0
        for stage in self.plan(batch.threat.norm):
            number = self.stages.index(stage.name)
            standing.begin(number + 1, steps)
            done |= _marks(stage.run(standing), len(batch)) << number
            steps += stage.cost(batch.threat, model.classes, self.targets).forwards or 0
        return Proposal(standing.x, standing.step, done)


def _marks(rows: Tensor, count: int) -> Tensor:
    """1 where a row is among `rows`, int64 [count]."""
    return torch.zeros(count, dtype=torch.int64).index_fill_(0, rows, 1)

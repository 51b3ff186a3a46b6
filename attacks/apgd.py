"""Auto-PGD: projected gradient ascent whose steps halve by themselves, on three objectives."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor

from robench import (
    LossAttack,
    Range,
    Restarts,
    Search,
    Steps,
    ThreatModel,
    Trials,
    check_count,
)
from robench_attacks.targets import targeted_trials

Targets = Annotated[int, Range(1, 100_000)]


class APGD(LossAttack):
    """What the three have in common: the first step is 2 eps long, and each row halves it by itself.

    Croce and Hein (2020), algorithm 1, with their settings; see robench's step rule "apgd". Starts at a random point of
    the ball, goes on to the last step only where an image still stands, and proposes the best point of the rest.
    """

    version: ClassVar[int] = 2

    def __init__(self, loss: str, targeted: bool, steps: int, restarts: int, random_start: bool, success: str) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        super().__init__(loss, targeted=targeted)
        self.steps, self.restarts, self.random_start, self.success = steps, restarts, random_start, success
        self.search(ThreatModel.of("linf", 1))  # refuses what a search cannot be

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.restarts)

    def search(self, threat: ThreatModel) -> Search:
        """`steps` steps, of 2 eps at first."""
        return Search([2 * threat.radius] * self.steps, "apgd", self.random_start, self.success)


class APGDCE(APGD):
    """PGD with steps that halve by themselves, on the cross-entropy (Croce and Hein, 2020).

    success: "any" step counts, or only the "last".
    """

    def __init__(
        self, *, steps: Steps = 100, restarts: Restarts = 1, random_start: bool = True, success: str = "any"
    ) -> None:
        super().__init__("ce", False, steps, restarts, random_start, success)


class APGDDLR(APGD):
    """APGD on the difference of logits ratio (Croce and Hein, 2020).

    With two classes, where that is not defined, on the cross-entropy. success: "any" step counts, or only the "last".
    """

    def __init__(
        self, *, steps: Steps = 100, restarts: Restarts = 1, random_start: bool = True, success: str = "any"
    ) -> None:
        super().__init__("dlr", False, steps, restarts, random_start, success)


class APGDT(APGD):
    """APGD on the targeted DLR loss, towards the likeliest wrong classes in turn (Croce and Hein, 2020).

    targets: how many classes, those with the largest clean logits, at most all wrong ones. restarts: starts per class,
    each over all classes. loss: "targeted-dlr", or another objective with a goal. Any wrong answer is a success, at
    any step or only at the "last".

    The targeted DLR loss needs four classes: with three, untargeted APGD-DLR runs instead, and APGD-CE with two, once
    per restart. A trial's noise is keyed by its class and restart, so that the order does not change the starts.
    """

    def __init__(
        self,
        *,
        steps: Steps = 100,
        targets: Targets = 9,
        restarts: Restarts = 1,
        loss: str = "targeted-dlr",
        random_start: bool = True,
        success: str = "any",
    ) -> None:
        check_count("targets", targets)
        super().__init__(loss, True, steps, restarts, random_start, success)
        self.targets = targets

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per target and restart; per restart where too few classes leave the objective without a goal."""
        if logits.shape[1] < self._objective.classes:
            return super().trials(y, logits, example_id, seed)
        return targeted_trials(y, logits, self.restarts, self.targets)

"""What the three attacks of the PARADISE paper share: 200 Adam steps on a logit margin."""

from __future__ import annotations

from typing import Annotated, ClassVar

from robench import (
    ADDED,
    LossAttack,
    Restarts,
    Search,
    Steps,
    ThreatModel,
    check_count,
    parse_schedule,
)

DECAY = "0.1,0.01@100,0.001@150"


def decay(steps: int) -> list[float]:
    """The papers' schedule stretched to `steps`: 0.1 for a half, 0.01 for a quarter, 0.001 for the rest."""
    first, second = (steps + 1) // 2, (3 * steps + 3) // 4
    return [0.1] * first + [0.01] * (second - first) + [0.001] * (steps - second)


class AdamPGD(LossAttack):
    """Adam-PGD, no sign, on logit margins (Hoang et al., 2020, supplement; optimiser of Qin et al., 2019).

    restarts: random starts per trial. schedule: step sizes, each with the step it starts
    at, in pixels (in L2, 0.1 is one eps); the papers' is stretched to `steps`. rule: "adam"
    or "steepest". success: "any" step counts, or only the "last", as the papers read it.
    loss: the objective; one with a goal where the attack is `targeted`.
    """

    targeted: ClassVar[bool] = True

    def __init__(
        self,
        *,
        restarts: Restarts = 1,
        steps: Steps = 200,
        schedule: str = DECAY,
        rule: str = "adam",
        success: str = "any",
        loss: Annotated[str, ADDED] = "targeted-margin",
    ) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        super().__init__(loss, targeted=self.targeted)
        self.restarts = restarts
        sizes = decay(steps) if schedule == DECAY else parse_schedule(schedule, steps)
        self._search = Search(sizes, rule, success=success)

    def search(self, threat: ThreatModel) -> Search:
        """The same schedule under every threat model."""
        del threat
        return self._search

"""What the three attacks of the PARADISE paper share: 200 Adam steps on a logit margin."""

from __future__ import annotations

from robench import GradientAttack, Search, ThreatModel, check_count, parse_schedule

DECAY = "0.1,0.01@100,0.001@150"


class AdamPGD(GradientAttack):
    """Adam-PGD, no sign, on logit margins (Hoang et al., 2020, supplement; optimiser of Qin et al., 2019).

    restarts: random starts per trial. schedule: step sizes in pixels, each with the step it starts at. rule: "adam"
    or "steepest". success: "any" step counts, or only the "last", as the papers read it.
    """

    def __init__(
        self, *, restarts: int = 1, steps: int = 200, schedule: str = DECAY, rule: str = "adam", success: str = "any"
    ) -> None:
        check_count("steps", steps)
        check_count("restarts", restarts)
        self.restarts = restarts
        self._search = Search(parse_schedule(schedule, steps), rule, success=success)

    def search(self, threat: ThreatModel) -> Search:
        """The same schedule under every threat model."""
        del threat
        return self._search

    @property
    def passes(self) -> int:
        """Gradients per trial."""
        return len(self._search.sizes)

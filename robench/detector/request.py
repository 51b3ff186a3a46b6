"""What is asked of a detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robench import registry
from robench.errors import BadInput, require
from robench.norms import DEFAULT
from robench.ranges import hold, number
from robench.threat import ThreatModel

# fewer broken images than this cannot show a regression what adversarial means
LEAST_BROKEN = 20


@dataclass(frozen=True)
class DetectorRequest:
    """What was asked of a detector: its name and options, the attack it learns from, and its false-positive rate.

    trained_on: an attack's name, alone for the evaluation's own threat model, or "fgsm@linf:0.3". images: how many
    validation images are attacked to fit it, at most. adaptive: also attack classifier and detector together.
    """

    detector: str
    options: Mapping[str, Any] = field(default_factory=dict)
    trained_on: str = "pgd"
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    fpr: float = 0.05
    images: int = 1000
    adaptive: bool = True

    def __post_init__(self) -> None:
        for flag, name in (("--detector", self.detector), ("--trained-on", self.trained_on)):
            require(isinstance(name, str), flag, name, "a name; see 'robench list'")
        registry.check_names("detector", [self.detector])
        fpr = number("--fpr", self.fpr)
        require(0 < fpr < 1, "--fpr", fpr, "a share of clean images between 0 and 1, such as 0.05")
        hold(self, images="--detector-images")
        self.attack_and_threat(ThreatModel.of(DEFAULT, None))

    def attack_and_threat(self, default: ThreatModel) -> tuple[str, ThreatModel]:
        """The training attack's name and threat model. Raises BadInput for text of another form."""
        name, at, place = self.trained_on.partition("@")
        if not at:
            return name, default
        match = re.fullmatch(r"(\w+):(.+)", place)
        if not match:
            raise BadInput(f"--trained-on is {self.trained_on!r}, but must be of the form NAME or NAME@linf:0.3.")
        return name, ThreatModel.of(match[1], match[2])

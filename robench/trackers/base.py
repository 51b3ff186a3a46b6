"""What the author of a tracker writes, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from robench.errors import BadInput


@dataclass(frozen=True)
class Tracked:
    """A finished evaluate.

    name: models and attacks in words. figures: accuracies as fractions and numbers of images by "MODEL/ATTACK/FIGURE",
    such as "plain/pgd/robust_accuracy", and "MODEL/worst case/robust_accuracy". settings: data, threat model, attacks
    with their options, versions and the command, as text. table: what the terminal shows. rows: a dictionary per model
    and attack, as `robench evaluate --json` has them.
    """

    name: str
    figures: Mapping[str, float]
    settings: Mapping[str, str]
    table: str
    rows: Sequence[Mapping[str, Any]]


class Tracker(ABC):
    """A plugin of the group `robench.trackers`.

    place: what was given behind the name, as in `--log-to tensorboard:FOLDER`, "" for the tracker's own default.
    package: the one that it needs, and extra: what installs it; before any work, a missing one is refused.
    """

    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def __init__(self, place: str) -> None:
        self.place = place

    @classmethod
    def check(cls) -> None:
        """Raise BadInput where the package is not installed."""
        if cls.package and find_spec(cls.package) is None:
            how = f"pip install 'robench[{cls.extra}]'" if cls.extra else f"pip install {cls.package}"
            raise BadInput(f"--log-to needs the package {cls.package}, which is not installed; {how}.")

    @abstractmethod
    def send(self, tracked: Tracked) -> str:
        """Take a finished evaluate; returns where it is, in words. Whatever it raises is told, and loses nothing."""

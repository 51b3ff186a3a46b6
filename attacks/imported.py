"""Adversarial images that were made elsewhere, under the name they were imported by."""

from __future__ import annotations

from typing import Any, ClassVar

from robench import Attack, BadInput, Batch, BatchModel, Cost, Kind, ThreatModel


class Imported(Attack):
    """Adversarial images made elsewhere, as imported:NAME, that robench import judged."""

    family: ClassVar[bool] = True
    open_family: ClassVar[bool] = True  # whatever name was given when they were imported
    kind: ClassVar[Kind] = "imported"

    def __init__(self, member: str) -> None:
        self.member = member

    @classmethod
    def members(cls) -> list[str]:
        """None by name: each runs folder has its own."""
        return []

    @classmethod
    def member_options(cls, member: str) -> dict[str, Any]:
        """What was imported has no options."""
        del member
        return {}

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """None: the images are there."""
        del threat, classes
        return Cost(0, 0)

    def perturb(self, model: BatchModel, batch: Batch) -> Any:
        """Refused: robench import gives the images, and nothing here makes them. Raises BadInput."""
        del model, batch
        raise BadInput(
            f"The attack 'imported:{self.member}' makes no images, it stands for some that were made elsewhere; judge "
            f"them with 'robench import FILE --model MODEL --name {self.member}'."
        )

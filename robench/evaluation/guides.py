"""Which attacks may follow another model's gradients, and which model may be that one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from robench.errors import BadInput

if TYPE_CHECKING:  # which ask
    from robench.evaluation.attacks import NamedAttack
    from robench.evaluation.jobs import Target


def check_guided(attacks: Iterable[NamedAttack]) -> None:
    """Raise BadInput for an attack that cannot follow another model's gradients."""
    unguided = [named.name for named in attacks if not named.attack.guided]
    if unguided:
        raise BadInput(
            f"The attack {unguided[0]!r} takes no gradients, or more of a model than those of a loss, so --guide says "
            "nothing about it; choose another, such as pgd, min-pgd or cw."
        )


def check_guide(target: Target, guide: Target, draw: str | None) -> None:
    """Raise BadInput for a guide that is the target itself, or of other images or classes."""
    if guide.digest == target.digest:
        raise BadInput(
            f"The guide {guide.model.title!r} is the model {target.name!r} itself; leave --guide out, as that is a "
            "white-box attack."
        )
    if guide.dataset.drawn(draw).digest != target.dataset.drawn(draw).digest:
        raise BadInput(
            f"The guide {guide.model.title!r} has other test images ({guide.dataset.name}) than the model "
            f"{target.name!r} ({target.dataset.name}); say which data with --dataset."
        )
    if guide.dataset.classes != target.dataset.classes:
        raise BadInput(
            f"The guide {guide.model.title!r} answers with {guide.dataset.classes} classes, but the model "
            f"{target.name!r} with {target.dataset.classes}; choose a guide with the same ones."
        )

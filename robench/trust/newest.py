"""Of evaluations that ask the same, those that the newest versions of harness and attack made, and today's code."""

from __future__ import annotations

from collections.abc import Iterable

from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged, digest
from robench.trust.origins import aged

# what says which code made an evaluation, and not what was asked for
VERSIONS = ("harness", "attack_version", "sources")


def newest(folders: Iterable[EvaluationFolder]) -> list[EvaluationFolder]:
    """The evaluations in their order, without those beside which one of the same question stands that a newer version
    of the same attack made, or today's code where other code made them."""
    every, latest = [], dict[str, tuple[int, int, bool]]()
    for folder in folders:
        asked = digest({name: value for name, value in folder.spec.items() if name not in VERSIONS})
        made = folder.spec["harness"], folder.spec["attack_version"], _todays(folder)
        latest[asked] = max(made, latest.get(asked, made))
        every.append((folder, asked, made))
    return [folder for folder, asked, made in every if made == latest[asked]]


def _todays(folder: EvaluationFolder) -> bool:
    try:
        return not aged(folder)
    except Damaged:  # what its notes say of its code cannot be read
        return False

"""Of evaluations that ask the same, those that the newest versions of harness and attack made."""

from __future__ import annotations

from collections.abc import Iterable

from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import digest

# what says which code made an evaluation, and not what was asked for
VERSIONS = ("harness", "attack_version", "sources")


def newest(folders: Iterable[EvaluationFolder]) -> list[EvaluationFolder]:
    """The evaluations in their order, without those beside which a newer version of the same attack stands."""
    every = list(folders)
    asked = [digest({name: it for name, it in folder.spec.items() if name not in VERSIONS}) for folder in every]
    made = [(folder.spec["harness"], folder.spec["attack_version"]) for folder in every]
    latest = {what: max(v for w, v in zip(asked, made, strict=True) if w == what) for what in set(asked)}
    return [folder for folder, what, version in zip(every, asked, made, strict=True) if version == latest[what]]

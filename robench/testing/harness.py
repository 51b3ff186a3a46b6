"""The parts of robench's own code that figures come out of, each with the number that speaks for it and a digest."""

from __future__ import annotations

from pathlib import Path

from robench.store.modules import origin_of
from robench.store.reach import reached
from robench.store.released import RECORD, Release
from robench.store.specs import HARNESS, TRAININGS

# what a figure comes out of: where its way through the code begins, and the rooms that it leads through
EVALUATIONS = (
    ("robench.attack.judge", "attack_shard"),
    ("robench.attack.gradient", "GradientAttack"),
    ("robench.attack.gradient", "LossAttack"),
    ("robench.detector.score", "Guarded"),
    ("robench.detector.fitting", "noisy"),
    ("robench.attack.substitutes", ""),
)
MODELS = (
    ("robench.training.fit", "fit"),
    ("robench.defense.base", "Defense"),
    ("robench.defense.networks", "build_backbone"),
    ("robench.defense.training_attack", ""),
)
ROOMS = ("attack", "defense", "detector", "device", "norms", "randomness", "threat", "training")


def parts() -> dict[Release, str]:
    """Each part as a release of robench, and the digest of its code as it is today."""
    return {
        Release("robench:evaluations", HARNESS): _digest(EVALUATIONS),
        Release("robench:trainings", TRAININGS): _digest(MODELS),
    }


def place() -> Path:
    """Where their digests are recorded."""
    origin = origin_of("robench")
    assert origin is not None
    return origin.parent / RECORD


def _digest(beginnings: tuple[tuple[str, str], ...]) -> str:
    return reached(beginnings, lambda module: module.split(".")[:1] == ["robench"] and module.split(".")[1:2] in _ROOMS)


_ROOMS = [[room] for room in ROOMS]

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
    return reached(beginnings, _within)


def _within(module: str) -> bool:
    """Whether a module is in one of the rooms, or the package itself, by which the code gets at a room as a whole."""
    top, _, rest = module.partition(".")
    return top == "robench" and (not rest or rest.partition(".")[0] in ROOMS)

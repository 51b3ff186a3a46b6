"""Robustness as a training goes: after every epoch a short attack on the first validation images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robench.data.dataset import Split
from robench.defense.training_attack import TrainingPGD, perturbed
from robench.device import full_precision
from robench.errors import require
from robench.threat import ThreatModel

IMAGES, STEPS, SHARE, SEED = 200, 20, 8, 0
# a line of a training's curves is this name and an eps
STANDS = "robust accuracy at "


def balls(eps: Sequence[str]) -> tuple[str, ...]:
    """Radii in linf as they were given, each once. Raises BadInput for one that is none, or zero."""
    for each in eps:
        require(ThreatModel.of("linf", each).eps > 0, "--watch", each, "an eps above 0, such as 8/255 or 0.1")
    return tuple(dict.fromkeys(eps))


def stands(module: nn.Module, val: Split, eps: Sequence[str], classes: int) -> dict[str, float]:
    """By eps, the share of the first 200 validation images that 20 steps of PGD, each of eps/8, leave correctly
    classified: an upper bound that says when robustness comes and goes, not how much there is.

    The module answers in eval mode; it and torch's random state are left as they were. Every call has the same starts.
    """
    count = min(IMAGES, len(val))
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    x, y = val.pixels(slice(0, count)).to(device), val.labels[:count].to(device)
    found = {}
    with torch.random.fork_rng(devices=[]), full_precision(), torch.no_grad():
        for each in eps:
            torch.manual_seed(SEED)
            threat = ThreatModel.of("linf", each)
            attack = TrainingPGD(steps=STEPS, size=threat.radius / SHARE)
            worst = perturbed(module, x, y, threat, attack, classes)
            found[f"{STANDS}{each}"] = float(
                ((module(worst).argmax(1) == y) & (module(x).argmax(1) == y)).float().mean()
            )
    return found

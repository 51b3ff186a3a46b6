"""The plugins of this tree in tables, each with as little work as shows what it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robench import Attack, Defense, registry
from robench.data.dataset import DataInfo

# a family of attacks stands in the table with some of its members
MEMBERS: dict[str, list[str]] = {
    "imported": [],  # which makes no images
    "foolbox": ["foolbox:LinfPGD", "foolbox:L2CarliniWagnerAttack"],
    "art": ["art:ProjectedGradientDescent"],
    "library": ["library:apgd-ce", "library:apgd-dlr", "library:apgd-t", "library:fab-t", "library:square"],
}
DEFENSES, DETECTORS = registry.names("defense"), registry.names("detector")
ATTACKS = [member for name in registry.names("attack") for member in MEMBERS.get(name, [name])]
PLUGINS = [(k, n) for k, found in (("attack", ATTACKS), ("defense", DEFENSES), ("detector", DETECTORS)) for n in found]

SHORT: dict[str, dict[str, Any]] = {
    "attack": {"steps": 6, "restarts": 2, "queries": 20, "max_iter": 6, "binary_search_steps": 2},
    "defense": {"steps": 2, "width": 16},  # of adversarial training, and of wide networks
    "detector": {},
}


def short(kind: str, name: str, **options: Any) -> dict[str, Any]:
    """Those of the options that make it quick that the plugin has, and those given, where it has them."""
    known = registry.load(kind, name).options({})
    return {key: value for key, value in {**SHORT[kind], **options}.items() if key in known}


def attack_named(name: str, **options: Any) -> Attack:
    attack = registry.load("attack", name).build(short("attack", name, **options))
    assert isinstance(attack, Attack)
    return attack


def defense_named(name: str, data: DataInfo) -> Defense:
    torch.manual_seed(0)
    defense = registry.load("defense", name).build(short("defense", name), data)
    assert isinstance(defense, Defense)
    return defense


CASES = [(name, norm) for name in ATTACKS for norm in attack_named(name).norms]
each_case = pytest.mark.parametrize(("name", "norm"), CASES)
each_defense = pytest.mark.parametrize("name", DEFENSES)
each_plugin = pytest.mark.parametrize(("kind", "name"), PLUGINS)

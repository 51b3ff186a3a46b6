"""robench: train defenses, attack them, and re-check every figure. This is the public face; names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robench import randomness as randomness
    from robench.api import Report as Report
    from robench.api import evaluate as evaluate
    from robench.attack import Access as Access
    from robench.attack import Attack as Attack
    from robench.attack import Batch as Batch
    from robench.attack import Metric as Metric
    from robench.attack import Proposal as Proposal
    from robench.attack import Trials as Trials
    from robench.attack import check_count as check_count
    from robench.attack import misclassified_margin as misclassified_margin
    from robench.classifier import BatchModel as BatchModel
    from robench.data import DataInfo as DataInfo
    from robench.data import open_dataset as open_dataset
    from robench.defense import Defense as Defense
    from robench.defense import Recipe as Recipe
    from robench.defense import Recipes as Recipes
    from robench.errors import BadInput as BadInput
    from robench.errors import require as require
    from robench.gradient import GradientAttack as GradientAttack
    from robench.gradient import Search as Search
    from robench.gradient import cross_entropy as cross_entropy
    from robench.gradient import margin as margin
    from robench.gradient import parse_schedule as parse_schedule
    from robench.gradient import targeted_margin as targeted_margin
    from robench.networks import Backbone as Backbone
    from robench.networks import build_backbone as build_backbone
    from robench.registry import Variant as Variant
    from robench.threat import ThreatModel as ThreatModel

# module -> the public names it holds
_HOMES = {
    "api": ("Report", "evaluate"),
    "attack": ("Access", "Attack", "Batch", "Metric", "Proposal", "Trials", "check_count", "misclassified_margin"),
    "classifier": ("BatchModel",),
    "data": ("DataInfo", "open_dataset"),
    "defense": ("Defense", "Recipe", "Recipes"),
    "errors": ("BadInput", "require"),
    "gradient": ("GradientAttack", "Search", "cross_entropy", "margin", "parse_schedule", "targeted_margin"),
    "networks": ("Backbone", "build_backbone"),
    "registry": ("Variant",),
    "threat": ("ThreatModel",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_MODULE_OF, "randomness"])


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that `robench --help` needs no torch."""
    if name == "randomness":
        return importlib.import_module("robench.randomness")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'robench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robench.{_MODULE_OF[name]}"), name)

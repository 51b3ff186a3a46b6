"""robench: train defenses, attack them, and re-check every figure. This is the public face; names load on first use."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robench import randomness as randomness
    from robench.api import Report as Report
    from robench.api import evaluate as evaluate
    from robench.attack.base import Access as Access
    from robench.attack.base import Attack as Attack
    from robench.attack.base import Batch as Batch
    from robench.attack.base import Cost as Cost
    from robench.attack.base import Kind as Kind
    from robench.attack.base import Metric as Metric
    from robench.attack.base import Proposal as Proposal
    from robench.attack.base import Trials as Trials
    from robench.attack.base import check_count as check_count
    from robench.attack.base import misclassified_margin as misclassified_margin
    from robench.attack.classifier import BatchModel as BatchModel
    from robench.attack.gradient import FIRM as FIRM
    from robench.attack.gradient import Adam as Adam
    from robench.attack.gradient import GradientAttack as GradientAttack
    from robench.attack.gradient import Search as Search
    from robench.attack.gradient import cross_entropy as cross_entropy
    from robench.attack.gradient import margin as margin
    from robench.attack.gradient import parse_schedule as parse_schedule
    from robench.attack.gradient import targeted_cross_entropy as targeted_cross_entropy
    from robench.attack.gradient import targeted_margin as targeted_margin
    from robench.data.dataset import DataInfo as DataInfo
    from robench.data.dataset import Split as Split
    from robench.data.dataset import open_dataset as open_dataset
    from robench.defense.base import Defense as Defense
    from robench.defense.base import Recipe as Recipe
    from robench.defense.base import Recipes as Recipes
    from robench.defense.networks import Backbone as Backbone
    from robench.defense.networks import ConvNet as ConvNet
    from robench.defense.networks import Normalize as Normalize
    from robench.defense.networks import build_backbone as build_backbone
    from robench.defense.networks import perceptron as perceptron
    from robench.defense.training_attack import TrainingPGD as TrainingPGD
    from robench.defense.training_attack import frozen as frozen
    from robench.defense.training_attack import perturbed as perturbed
    from robench.detector.base import Detector as Detector
    from robench.detector.base import pixel_batches as pixel_batches
    from robench.errors import BadInput as BadInput
    from robench.errors import require as require
    from robench.registry import AttackSet as AttackSet
    from robench.registry import Variant as Variant
    from robench.threat import ThreatModel as ThreatModel
    from robench.threat import expand as expand

# Every process of robench begins here: command line, program, Ray's workers, pytest. MKL sums in an order that depends
# on where tensors lie in memory, unless it is told not to before its first product; what the user has set stands.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# module -> the public names it holds
_HOMES = {
    "api": ("Report", "evaluate"),
    "attack.base": (
        "Access",
        "Attack",
        "Batch",
        "Cost",
        "Kind",
        "Metric",
        "Proposal",
        "Trials",
        "check_count",
        "misclassified_margin",
    ),
    "attack.classifier": ("BatchModel",),
    "data.dataset": ("DataInfo", "Split", "open_dataset"),
    "defense.base": ("Defense", "Recipe", "Recipes"),
    "detector.base": ("Detector", "pixel_batches"),
    "errors": ("BadInput", "require"),
    "attack.gradient": (
        "FIRM",
        "Adam",
        "GradientAttack",
        "Search",
        "cross_entropy",
        "margin",
        "parse_schedule",
        "targeted_cross_entropy",
        "targeted_margin",
    ),
    "defense.training_attack": ("TrainingPGD", "frozen", "perturbed"),
    "defense.networks": ("Backbone", "ConvNet", "Normalize", "build_backbone", "perceptron"),
    "registry": ("AttackSet", "Variant"),
    "threat": ("ThreatModel", "expand"),
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

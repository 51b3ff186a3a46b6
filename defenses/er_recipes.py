"""Training settings of the ER-Classifier: the authors' code, and quick ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from robench import Recipe, Recipes
from robench_defenses.recipes import QUICK_CIFAR, QUICK_DIGITS, QUICK_SVHN

AUTHORS = "Li et al. (2021) and their code, github.com/liyao880/ER-Classifier"
EXCEPT = "; gradients zeroed per step, and batch norm and dropout in train mode in every epoch"
MNIST = Recipe(epochs=30, lr=1e-4, batch_size=100, options={"encoder": "mnist"}, source=AUTHORS + EXCEPT)
CIFAR10 = Recipe(
    epochs=30,
    lr=5e-5,
    batch_size=100,
    augment="crop-flip",
    options={"encoder": "cifar10"},
    source=AUTHORS + EXCEPT + "; encoder from random weights",
)
STL10 = replace(CIFAR10, batch_size=64, options={"encoder": "stl10"}, source=AUTHORS + EXCEPT)
TINY = replace(
    CIFAR10,
    options={"encoder": "tiny"},
    source=AUTHORS + "; Tiny ImageNet's epochs, rates and batch size as on CIFAR-10, ours",
)
EQUAL_RATES = {"classifier_lr": 1.0, "critic_lr": 0.5}
QUICK_MNIST = Recipe(
    epochs=4,
    lr=2e-3,
    batch_size=125,
    schedule="onecycle",
    options={"encoder": "mnist", "width": 32, **EQUAL_RATES},
    source="Li et al. (2021); width, epochs, batch size, schedule and learning rates ours",
)
QUICK_COLOUR = replace(QUICK_CIFAR, options={"encoder": "resnet-8", **EQUAL_RATES})
RECIPES: Recipes = {
    "digits": {"quick": replace(QUICK_DIGITS, options={"encoder": "mlp", **EQUAL_RATES})},
    "mnist": {"paper": MNIST, "quick": QUICK_MNIST},
    "fashion-mnist": {"paper": MNIST, "quick": QUICK_MNIST},
    "cifar10": {"paper": CIFAR10, "quick": QUICK_COLOUR},
    "cifar100": {"quick": QUICK_COLOUR},
    "svhn": {"quick": replace(QUICK_COLOUR, augment=QUICK_SVHN.augment)},
    "stl10": {"paper": STL10, "quick": QUICK_COLOUR},
    "imagenet": {"quick": QUICK_COLOUR, "paper-tiny": TINY},
    "other": {"quick": Recipe(epochs=10, lr=1e-3, options=EQUAL_RATES)},
}

# The radius is the paper's on each dataset (supplement, Table 1); the quick ones take fewer steps and let it grow.
ADVERSARIAL: Recipes = {
    family: {
        name: replace(recipe, epochs=20)
        if name.startswith("paper")
        else replace(
            recipe.with_options(steps=7 if "mnist" in family else 5, ramp=0.5),
            source=recipe.source + "; attack's steps and ramp ours",
        )
        for name, recipe in named.items()
    }
    for family, named in RECIPES.items()
}

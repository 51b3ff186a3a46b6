"""Training settings shared by the defenses: the papers' where a paper states them, quick ones for two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robench import Recipe, Recipes

# Zagoruyko & Komodakis (2016): error 4.00% on CIFAR-10
WIDE_RESNET = Recipe(
    epochs=200,
    lr=0.1,
    batch_size=128,
    optimizer="sgd",
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="steps",
    milestones=(60, 120, 160),
    factor=0.2,
    augment="reflect-crop-flip",
    options={"backbone": "wrn-28-10"},
    source="Zagoruyko & Komodakis (2016)",
)

# Their scripts/train_svhn.sh, whose digits are neither shifted nor mirrored; WRN-16-8 is their best there
WIDE_RESNET_SVHN = replace(
    WIDE_RESNET,
    epochs=160,
    lr=0.01,
    milestones=(80, 120),
    factor=0.1,
    augment="none",
    options={"backbone": "wrn-16-8"},
    source="Zagoruyko & Komodakis (2016), but for dropout and the extra images",
)

# He et al. (2016a) with the authors' reference code: 164 epochs, drops at 81 and 122. Depth 110 also wants a warm-up,
# which this recipe does not have.
RESNET = Recipe(
    epochs=164,
    lr=0.1,
    batch_size=128,
    optimizer="sgd",
    nesterov=True,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(81, 122),
    augment="crop-flip",
    options={"backbone": "resnet-56"},
    source="He et al. (2016)",
)

# Hoang et al. (2020): drops at 30, 60 and 90; the number of epochs is not stated, 100 is ours
IMAGENET = Recipe(
    epochs=100,
    lr=0.1,
    batch_size=256,
    optimizer="sgd",
    nesterov=False,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(30, 60, 90),
    augment="imagenet",
    options={"backbone": "resnet-34"},
    source="Hoang et al. (2020); epochs ours",
)

# Zhu et al. (2020), Appendix F: the MNIST CNN
GUESS_FIRST = Recipe(
    epochs=200,
    lr=1e-3,
    batch_size=250,
    options={"backbone": "cnn"},
    source="Zhu et al. (2020), Appendix F; convolutions padded by 1 ours",
)

QUICK_MNIST = Recipe(epochs=8, lr=3e-3, batch_size=250, schedule="onecycle", options={"backbone": "cnn"})
QUICK_DIGITS = Recipe(epochs=30, lr=2e-3, batch_size=64, schedule="onecycle", options={"backbone": "mlp"})
# ResNet-8 is a third of ResNet-20's cost and leaves the attack on 10,000 images affordable on two cores
QUICK_CIFAR = Recipe(
    epochs=15,
    lr=0.01,
    batch_size=128,
    schedule="onecycle",
    augment="crop-flip",
    options={"backbone": "resnet-8"},
)

# a mirrored digit is no digit: shifts alone
QUICK_SVHN = replace(QUICK_CIFAR, augment="crop")

COLOUR = {"paper": WIDE_RESNET, "paper-resnet": RESNET, "quick": QUICK_CIFAR}
MNIST = {"paper": GUESS_FIRST, "quick": QUICK_MNIST}

STANDARD: Recipes = {
    "digits": {"quick": QUICK_DIGITS},
    "mnist": MNIST,
    "fashion-mnist": MNIST,
    "cifar10": COLOUR,
    "cifar100": COLOUR,
    "svhn": {"quick": QUICK_SVHN, "paper": WIDE_RESNET_SVHN},
    "stl10": {"quick": QUICK_CIFAR},
    "imagenet": {"paper": IMAGENET, "quick": QUICK_CIFAR},
    "other": {"quick": Recipe(epochs=10, lr=1e-3, options={"backbone": "auto"})},
}


def with_options(recipes: Recipes, options: Mapping[str, Mapping[str, Any]]) -> Recipes:
    """The recipes with further options per family of data ("mnist") or per family and recipe ("cifar10 quick").

    The key "source" among the options is added to the recipe's own.
    """

    def extend(recipe: Recipe, extra: dict[str, Any]) -> Recipe:
        source = "; ".join(filter(None, [recipe.source, extra.pop("source", "")]))
        return replace(recipe.with_options(**extra), source=source)

    return {
        family: {
            name: extend(recipe, {**options.get(family, {}), **options.get(f"{family} {name}", {})})
            for name, recipe in named.items()
        }
        for family, named in recipes.items()
    }


# Posterior matching in a few epochs: the paper sees most of its effect after epoch 96, so a short training lets
# cross-entropy go first and reaches the full weight half-way.
SHORT_RAMP = {
    f"{family} quick": {"ramp": 0.5, "source": "ramp ours"}
    for family in ("cifar10", "cifar100", "svhn", "stl10", "imagenet")
}

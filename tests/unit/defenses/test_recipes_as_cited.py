"""Every recipe that bears a paper's name, beside what its source says: a table written from the papers and their code.

A value is what the source states. What is ours, because the source is silent, stands in `OURS` and is named in the
recipe's own `source`. Epochs and milestones are counted from 0, as a schedule's are.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import pytest

from robench import DataInfo, registry

Settings = dict[str, Any]
SGD: Settings = {"optimizer": "sgd", "momentum": 0.9, "schedule": "steps", "ema": 0.0, "clip": 0.0}
ADAM: Settings = {"optimizer": "adam", "betas": (0.9, 0.999), "weight_decay": 0.0, "schedule": "constant", "ema": 0.0,
                  "clip": 0.0}  # fmt: skip
NOT_MOVED = {"augment": "none"}

# Zagoruyko & Komodakis (2016), the Lua code: SGD with Nesterov 0.9, weight decay 5e-4, batches of 128, 0.1 times 0.2 at
# 60, 120 and 160 of 200 epochs, 4 pixels reflected, crops and flips
WIDE = SGD | {"epochs": 200, "lr": 0.1, "batch_size": 128, "nesterov": True, "weight_decay": 5e-4,
              "milestones": (60, 120, 160), "factor": 0.2, "augment": "reflect-crop-flip"}  # fmt: skip
# its scripts/train_svhn.sh: 0.01 times 0.1 at 80 and 120 of 160 epochs, randomcrop=0, hflip=false
WIDE_SVHN = SGD | {"epochs": 160, "lr": 0.01, "batch_size": 128, "nesterov": True, "weight_decay": 5e-4,
                   "milestones": (80, 120), "factor": 0.1, **NOT_MOVED}  # fmt: skip
# He et al. (2016) as in fb.resnet.torch: 0.1 times 0.1 at 81 and 122 of 164 epochs, weight decay 1e-4, padded by zeros
RESIDUAL = SGD | {"epochs": 164, "lr": 0.1, "batch_size": 128, "nesterov": True, "weight_decay": 1e-4,
                  "milestones": (81, 122), "factor": 0.1, "augment": "crop-flip"}  # fmt: skip
# Hoang et al. (2020): batches of 256, 0.1 divided by 10 at 30, 60 and 90, weight decay 1e-4; epochs unstated, ours
LARGE = SGD | {"epochs": 100, "lr": 0.1, "batch_size": 256, "nesterov": False, "weight_decay": 1e-4,
               "milestones": (30, 60, 90), "factor": 0.1, "augment": "imagenet"}  # fmt: skip
# Zhu et al. (2020), Appendix F: Adam 1e-3, batches of 250, 200 epochs
GUESS = ADAM | {"epochs": 200, "lr": 1e-3, "batch_size": 250, **NOT_MOVED}
# Alemi et al. (2017), vib_demo: Adam 1e-4, beta1 0.5, times 0.97 every 2 of 200 epochs, batches of 100, averaged 0.999
ALEMI = ADAM | {"epochs": 200, "lr": 1e-4, "batch_size": 100, "betas": (0.5, 0.999), "schedule": "exponential",
                "factor": 0.97, "every": 2, "ema": 0.999, **NOT_MOVED}  # fmt: skip
# Li et al. (2021), the first author's code: Adam 1e-4 on MNIST, 5e-5 elsewhere, StepLR never stepped, batches of 100
# and of 64 on STL-10, 30 epochs, 20 with attacks; CIFAR-10 and STL-10 cropped and flipped
ER_MNIST = ADAM | {"epochs": 30, "lr": 1e-4, "batch_size": 100, **NOT_MOVED}
ER_COLOUR = ADAM | {"epochs": 30, "lr": 5e-5, "batch_size": 100, "augment": "crop-flip"}
# Madry et al. (2018), mnist_challenge: Adam 1e-4, 100,000 steps of 50; cifar10_challenge: 80,000 steps of 128 (cut to
# whole epochs of 45,000 images: 351 steps each), 0.1 to 0.01 at 40,000 and to 0.001 at 60,000, weight decay 2e-4
MADRY_MNIST = ADAM | {"epochs": round(100_000 / (55_000 // 50)), "lr": 1e-4, "batch_size": 50, **NOT_MOVED}
MADRY_CIFAR = SGD | {"epochs": round(80_000 / 351), "lr": 0.1, "batch_size": 128, "nesterov": False,
                     "weight_decay": 2e-4, "milestones": (round(40_000 / 351), round(60_000 / 351)), "factor": 0.1,
                     "augment": "crop-flip"}  # fmt: skip
# Zhang et al. (2019), train_trades_mnist.py: 0.01, momentum 0.9, batches of 128, 100 epochs. Its "if epoch >= 55" is
# followed by "elif epoch >= 75" and "elif epoch >= 90", which are never reached: one drop, in the 55th epoch
TRADES_MNIST = SGD | {"epochs": 100, "lr": 0.01, "batch_size": 128, "nesterov": False, "weight_decay": 0.0,
                      "milestones": (55 - 1,), "factor": 0.1, **NOT_MOVED}  # fmt: skip
# train_trades_cifar10.py: 0.1, weight decay 2e-4, 76 epochs, times 0.1 from the 75th
TRADES_CIFAR = SGD | {"epochs": 76, "lr": 0.1, "batch_size": 128, "nesterov": False, "weight_decay": 2e-4,
                      "milestones": (75 - 1,), "factor": 0.1, "augment": "crop-flip"}  # fmt: skip
# Qin et al. (2019), released code: 100,000 steps of 64 (703 an epoch of 45,000), 0.1 times 0.1 at 80, 88, 96,000
LLR_CIFAR = SGD | {"epochs": round(100_000 / 703), "lr": 0.1, "batch_size": 64, "nesterov": False,
                   "weight_decay": 2e-4, "factor": 0.1,
                   "milestones": (round(80_000 / 703), round(88_000 / 703), round(96_000 / 703)),
                   "augment": "reflect-crop-flip"}  # fmt: skip

# what every defense without a paper of its own on some data is trained by there, with its network
SHARED = {
    ("mnist", "paper"): GUESS | {"backbone": "cnn"},
    ("fashion-mnist", "paper"): GUESS | {"backbone": "cnn"},
    ("cifar10", "paper"): WIDE | {"backbone": "wrn-28-10"},
    ("cifar10", "paper-resnet"): RESIDUAL | {"backbone": "resnet-56"},
    ("cifar100", "paper"): WIDE | {"backbone": "wrn-28-10"},
    ("cifar100", "paper-resnet"): RESIDUAL | {"backbone": "resnet-56"},
    ("svhn", "paper"): WIDE_SVHN | {"backbone": "wrn-16-8"},
    ("imagenet", "paper"): LARGE | {"backbone": "resnet-34"},
}
SHARING = ("standard", "c-dv", "c-js", "c-eb", "c-dv-ie", "c-js-ie", "guess-first", "paradise", "paradise-pm", "dvib",
           "dvib-pm", "rse")  # fmt: skip
ER_OWN = {"classifier_lr": 0.05, "critic_lr": 0.5, "regulariser": "wgan_logsig", "prior": "gaussian"}
ER = {
    ("mnist", "paper"): ER_MNIST | {"encoder": "mnist"},
    ("fashion-mnist", "paper"): ER_MNIST | {"encoder": "mnist"},
    ("cifar10", "paper"): ER_COLOUR | {"encoder": "cifar10"},
    ("stl10", "paper"): ER_COLOUR | {"encoder": "stl10", "batch_size": 64},
    ("imagenet", "paper-tiny"): ER_COLOUR | {"encoder": "tiny"},
}
WITH_ATTACKS = {"epochs": 20, "adversarial": True, "eps": None, "steps": None, "step": None, "ramp": 0.0}
CITED: dict[tuple[str, str, str], Settings] = {
    **{(defense, *key): settings for defense in SHARING for key, settings in SHARED.items()},
    ("dvib", "mnist", "paper"): ALEMI | {"backbone": "alemi-mlp", "z_dim": 256, "beta": 1e-3, "draws": 1,
                                         "sigma": "softplus", "mc_samples": 12},
    **{("alemi-cnn", family, "paper"): GUESS | {"backbone": "cnn-512", "beta": 1e-3, "z_dim": 256, "sigma": "softplus"}
       for family in ("mnist", "fashion-mnist")},
    **{("er-classifier", *key): settings | ER_OWN | {"adversarial": False} for key, settings in ER.items()},
    **{("e-cla", *key): settings | {"regulariser": "none", "adversarial": False} for key, settings in ER.items()},
    **{("er-classifier-adv", *key): settings | ER_OWN | WITH_ATTACKS for key, settings in ER.items()},
    ("madry", "mnist", "paper"): MADRY_MNIST | {"eps": "0.3", "steps": 40, "step": "0.01"},
    ("madry", "cifar10", "paper"): MADRY_CIFAR | {"backbone": "wrn-34-10", "eps": "8/255", "steps": 10,
                                                  "step": "2/255"},
    ("trades", "mnist", "paper"): TRADES_MNIST | {"beta": 1.0, "eps": "0.3", "steps": 40, "step": "0.01"},
    ("trades", "cifar10", "paper"): TRADES_CIFAR | {"backbone": "wrn-34-10", "beta": 6.0, "eps": "0.031", "steps": 10,
                                                    "step": "0.007", "noise": 0.001},
    ("llr", "cifar10", "paper"): LLR_CIFAR | {"backbone": "wrn-28-8", "nominal": 2.0, "linearity": 4.0,
                                              "smoothing": 0.3, "eps": "8/255", "steps": 10, "step": "0.1"},
    # Hoang et al. (2020), appendix: Adam 1e-4, batches of 128, two layers of 1000 either way; 50,000 steps of 55,000
    ("paradise-ae", "mnist", "paper"): ADAM | {"epochs": round(50_000 / (55_000 // 128)), "lr": 1e-4,
                                               "batch_size": 128, "backbone": "mlp-1000-1000", "decoder": "1000-1000"},
}  # fmt: skip
# Hoang et al. (2020): 12 draws, sigma by a sigmoid, and the weights of both losses; Li et al.'s review code for RSE
for data, name in SHARED:
    if data in ("cifar10", "cifar100"):
        CITED["paradise", data, name] = CITED["paradise", data, name] | {"alpha": 1e-4, "draws": 12, "sigma": "sigmoid"}
        CITED["paradise-pm", data, name] = CITED["paradise", data, name] | {"gamma": 25.0, "noise": 12 / 255}
        CITED["dvib-pm", data, name] = CITED["dvib-pm", data, name] | {"beta": 1e-5, "gamma": 25.0, "noise": 12 / 255}
CITED["dvib", "cifar10", "paper"] = CITED["dvib", "cifar10", "paper"] | {"beta": 1e-4, "draws": 12}
CITED["paradise", "imagenet", "paper"] = CITED["paradise", "imagenet", "paper"] | {"alpha": 1e-5}
CITED["paradise-pm", "imagenet", "paper"] = CITED["paradise", "imagenet", "paper"] | {"gamma": 100.0, "noise": 16 / 255}
CITED["rse", "mnist", "paper"] = CITED["rse", "mnist", "paper"] | {"input_std": 0.8, "inner_std": 0.4}
CITED["rse", "cifar10", "paper"] = CITED["rse", "cifar10", "paper"] | {"input_std": 0.2, "inner_std": 0.1}

# of the recipes above, by what their sources leave open, words of `source` that own up to it
OURS = {
    ("madry", "mnist"): "but for the network", ("trades", "mnist"): "but for the network",
    ("standard", "imagenet"): "epochs ours", ("standard", "svhn"): "but for dropout and the extra images",
    ("er-classifier", "imagenet"): "as on CIFAR-10, ours", ("paradise-pm", "mnist"): "gamma, noise and alpha ours",
    ("c-dv-ie", "mnist"): "lambda, kernel scale and delay ours", ("rse", "fashion-mnist"): "stds as on MNIST",
    ("alemi-cnn", "mnist"): "one draw and mu for an answer ours", ("paradise-ae", "mnist"): "alpha ours",
}  # fmt: skip


@cache
def of_papers() -> dict[tuple[str, str, str], Settings]:
    """Every recipe that is named after a paper, with its training's settings and all options of the defense."""
    found: dict[tuple[str, str, str], Settings] = {}
    for defense in registry.names("defense"):
        plugin = registry.load("defense", defense)
        for family, named in plugin.recipes.items():
            for name, recipe in named.items():
                if name.startswith("paper"):
                    found[defense, family, name] = asdict(recipe) | plugin.options(recipe.options)
    return found


def test_every_recipe_of_a_paper_is_in_the_table() -> None:
    assert of_papers().keys() == CITED.keys()


@pytest.mark.parametrize("key", CITED, ids=" ".join)
def test_a_recipe_is_what_its_source_says(key: tuple[str, str, str]) -> None:
    found = of_papers()[key]
    assert {name: found[name] for name in CITED[key]} == CITED[key]


def test_what_is_ours_is_said_to_be() -> None:
    for (defense, data), words in OURS.items():
        recipes = registry.load("defense", defense).recipes[data]
        told = [recipe.source for name, recipe in recipes.items() if name.startswith("paper")]
        assert all(words in source for source in told), (defense, data, told)


def test_digits_of_houses_are_never_mirrored() -> None:
    """A mirrored 2 or 5 is another sign."""
    for defense in registry.names("defense"):
        for name, recipe in registry.load("defense", defense).recipes.get("svhn", {}).items():
            assert recipe.augment in ("none", "crop"), (defense, name)


@pytest.mark.parametrize(
    ("name", "side", "channels", "z_dim", "weight", "eps", "steps", "step"),
    [
        ("mnist", 28, 1, 4, 5e-4, 0.3, 40, 0.01),
        ("cifar10", 32, 3, 16, 0.1, 0.03, 20, 0.01),
        ("stl10", 96, 3, 16, 0.1, 0.03, 20, 0.0078),
        ("tiny", 64, 3, 20, 0.1, 0.01, 10, 0.0025),  # weight and step ours
    ],
)
def test_er_classifiers_numbers_are_those_of_the_supplement_and_the_code(
    name: str, side: int, channels: int, z_dim: int, weight: float, eps: float, steps: int, step: float
) -> None:
    data = DataInfo("x", channels, side, side, 10, (0.5,) * channels, (0.5,) * channels, "other")
    model: Any = registry.load("defense", "er-classifier-adv").build({"encoder": name, "width": 8}, data)
    assert (model.z_dim, model.weight, model.threat.radius, model.steps, model.step) == pytest.approx(
        (z_dim, weight, eps, steps, step)
    )

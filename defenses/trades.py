"""TRADES, which trades accuracy on clean images for steadiness of the answer around them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from robench import DataInfo, Recipe, Recipes, frozen, require
from robench_defenses.adversarial import QUICK, AdversarialTraining, Inner, InnerSteps

# Zhang et al. (2019), released code
PAPER_CIFAR = Recipe(
    epochs=76,
    lr=0.1,
    batch_size=128,
    optimizer="sgd",
    nesterov=False,
    weight_decay=2e-4,
    schedule="steps",
    milestones=(74,),
    augment="crop-flip",
    options={"backbone": "wrn-34-10", "beta": 6.0, "eps": "0.031", "steps": 10, "step": "0.007"},
    source="Zhang et al. (2019), released code",
)
# It is written to drop the rate at epochs 55, 75 and 90, counted from 1, but asks "elif" after the first, which is true
# from then on: as it runs, it drops once
PAPER_MNIST = Recipe(
    epochs=100,
    lr=0.01,
    batch_size=128,
    optimizer="sgd",
    nesterov=False,
    schedule="steps",
    milestones=(54,),
    options={"backbone": "cnn", "beta": 1.0, "eps": "0.3", "steps": 40, "step": "0.01"},
    source="Zhang et al. (2019), released code, but for the network",
)


def answer_divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(other)): logits [B, C] each -> [B]."""
    before, after = functional.log_softmax(clean, 1), functional.log_softmax(other, 1)
    return (before.exp() * (before - after)).sum(1)


class Trades(AdversarialTraining):
    """TRADES: cross-entropy on the images + beta KL(answer on the image || answer nearby) (Zhang et al., 2019).

    beta: weight of the divergence, 1/lambda in the paper. noise: standard deviation in pixels of the start around the
    image, where the divergence has no gradient. eps, steps and step set the inner search for the largest divergence,
    ramp the share of the training over which eps rises from 0. The search sees the model in eval mode; then images and
    adversarial examples pass it together in train mode, one batch for batch norm; the released code passes them one
    after the other.
    """

    recipes: ClassVar[Recipes] = {
        **QUICK,
        "mnist": {**QUICK["mnist"], "paper": PAPER_MNIST},
        "cifar10": {**QUICK["cifar10"], "paper": PAPER_CIFAR},
    }

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        beta: float = 6.0,
        eps: str = "8/255",
        steps: InnerSteps = 10,
        step: str = "eps/4",
        ramp: float = 0.0,
        noise: float = 0.001,
    ) -> None:
        require(beta >= 0, "beta", beta, "zero or more")
        require(noise > 0, "noise", noise, "above 0 pixels, since the divergence has no gradient at the image")
        super().__init__(data, backbone, Inner(eps, steps, step, ramp, noise=noise))
        self.beta = beta

    @property
    def step_gradients(self) -> int:
        """The search's, and the loss's on the images and what it found."""
        return self.inner.steps + 2

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the images, and beta times the divergence at the worst images found."""
        with frozen(self), torch.no_grad():
            fixed = self(x)
        worst = self.worst(x, y, lambda logits, _: answer_divergence(fixed, logits))
        clean, adversarial = self(torch.cat([x, worst])).chunk(2)
        natural = functional.cross_entropy(clean, y)
        robust = self.beta * answer_divergence(clean, adversarial).mean()
        return {"natural": natural, "robust": robust, "total": natural + robust}

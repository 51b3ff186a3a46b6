"""Local linearity regularisation: a loss that a plane describes well leaves gradient attacks nothing to hide behind."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Recipe, Recipes, frozen, perturbed, require
from robench_defenses.adversarial import PLAIN, AdversarialTraining, Inner, InnerSteps
from robench_defenses.recipes import with_options

# Qin et al. (2019), released code: 100,000 steps of 64 images, drops at 80, 88 and 96 thousand, eps full after 500
PAPER = Recipe(
    epochs=142,
    lr=0.1,
    batch_size=64,
    optimizer="sgd",
    nesterov=False,
    weight_decay=2e-4,
    schedule="steps",
    milestones=(114, 125, 137),
    augment="reflect-crop-flip",
    options={"backbone": "wrn-28-8", "ramp": 0.005},
    source="Qin et al. (2019), released code, with ReLU for its softplus and weight decay on every parameter",
)

QUICK = with_options(
    PLAIN,
    {"digits": {"eps": "0.1"}, "mnist": {"eps": "0.1", "steps": 3}, "fashion-mnist": {"eps": "0.1", "steps": 3}}
    | {family: {"steps": 3} for family in ("cifar10", "cifar100", "svhn", "stl10", "imagenet")},
)


class LLR(AdversarialTraining):
    """LLR: cross-entropy l(x) + the largest distance of l from its tangent plane in the ball (Qin et al., 2019).

    nominal * l(x) + linearity * (g(d) + smoothing * |d.grad l(x)|), with g(d) = |l(x + d) - l(x) - d.grad l(x)| and d
    what `steps` Adam steps find to maximise g within eps; weights as in the released code. ramp: share of the training
    over which eps rises from 0. The search sees the model in eval mode; then images and perturbed images pass it
    together in train mode, one batch for batch norm (the released code fixes the statistics of the images), and the
    loss is differentiated through grad l(x).
    """

    recipes: ClassVar[Recipes] = {**QUICK, "cifar10": {**QUICK["cifar10"], "paper": PAPER}}

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        nominal: float = 2.0,
        linearity: float = 4.0,
        smoothing: float = 0.3,
        eps: str = "8/255",
        steps: InnerSteps = 10,
        step: str = "0.1",
        ramp: float = 0.0,
    ) -> None:
        for name, weight in (("nominal", nominal), ("linearity", linearity), ("smoothing", smoothing)):
            require(weight >= 0, name, weight, "zero or more")
        super().__init__(data, backbone, Inner(eps, steps, step, ramp, rule="adam"))
        self.nominal, self.linearity, self.smoothing = nominal, linearity, smoothing

    @property
    def step_gradients(self) -> int:
        """The plane's, the search's, and two of images and perturbed images: the slope's and the loss's through it."""
        return 1 + self.inner.steps + 2 * 2

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The weighted cross-entropy, distance from the plane and slope of the plane at the d found, batch means."""
        worst = self.bend(x, y)
        x = x.detach().requires_grad_(True)
        here, there = functional.cross_entropy(self(torch.cat([x, worst])), y.repeat(2), reduction="none").chunk(2)
        slope = _inner_product(worst - x.detach(), torch.autograd.grad(here.sum(), x, create_graph=True)[0])
        nominal = self.nominal * here.mean()
        linearity = self.linearity * (there - here - slope).abs().mean()
        gradient = self.linearity * self.smoothing * slope.abs().mean()
        total = nominal + linearity + gradient
        return {"nominal": nominal, "linearity": linearity, "gradient": gradient, "total": total}

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """Images [B, C, H, W] in the ball where the loss in eval mode is furthest from its plane at x."""
        with frozen(self), torch.enable_grad():
            x = x.detach().requires_grad_(True)
            here = functional.cross_entropy(self(x), y, reduction="none")
            plane = _Plane(self, x.detach(), torch.autograd.grad(here.sum(), x)[0])
        here = here.detach()

        def distance(answer: Tensor, y: Tensor) -> Tensor:
            there = functional.cross_entropy(answer[:, :-1], y, reduction="none")
            return (there - here - answer[:, -1]).abs()

        threat = self.inner.threat(self.progress)
        attack = self.inner.attack(threat, distance)
        return perturbed(plane, x.detach(), y, threat, attack, self.data.classes + 1)


class _Plane(nn.Module):
    """Answers with the model's logits and, in one more column, with the change that the plane at x predicts.

    So that the loop of the attacks, whose objectives see answers alone, can search for what the plane misses.
    """

    def __init__(self, model: nn.Module, x: Tensor, slope: Tensor) -> None:
        super().__init__()
        self.model, self.x, self.slope = model, x, slope

    def forward(self, z: Tensor) -> Tensor:
        """[B, classes + 1] for images z [B, C, H, W], one for each x."""
        return torch.cat([self.model(z), _inner_product(z - self.x, self.slope)[:, None]], 1)


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """[B, ...] each -> [B]."""
    return (a * b).flatten(1).sum(1)

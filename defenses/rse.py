"""Random self-ensemble: noise before every convolution, and an answer averaged over draws of it."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Defense, Range, Recipes, build_backbone, randomness, require
from robench_defenses.recipes import STANDARD, with_options

# what the first author of the ER-Classifier compares it with, in the code of a later review of defenses
REVIEW = "stds of github.com/liyao880/revew_adv_defense"
GREY, COLOUR = {"input_std": 0.8, "inner_std": 0.4}, {"input_std": 0.2, "inner_std": 0.1}


class Noise(nn.Module):
    """x + std u with u ~ N(0, I): [B, ...] -> [B, ...].

    draw: None for fresh noise, its own for every image; k for the k-th of `samples` fixed draws, the same for every
    image, a function of `layer` and the shape alone. The fixed draws are computed when first used and not saved.
    """

    def __init__(self, std: float, layer: int, samples: int) -> None:
        super().__init__()
        self.std, self.layer, self.samples = std, layer, samples
        self.draw: int | None = None
        self._fixed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.std:
            return x
        if self.draw is None:
            return x + self.std * torch.randn_like(x)
        return x + self.std * self._draws(x)[self.draw]

    def extra_repr(self) -> str:
        """What tells one layer of noise from another."""
        return f"std={self.std}, layer={self.layer}"

    def _draws(self, x: Tensor) -> Tensor:
        """The fixed draws [samples, *shape of one image's features], on x's device and in its precision."""
        known = self._fixed
        if known is None or known.shape[1:] != x.shape[1:] or (known.device, known.dtype) != (x.device, x.dtype):
            draws = range(self.samples)
            noise = randomness.gaussian(0, [self.layer] * len(draws), draws, "rse", tuple(x.shape[1:]))
            self._fixed = noise.to(x)
        assert self._fixed is not None
        return self._fixed


class RSE(Defense):
    """Random self-ensemble: Gaussian noise before every convolution, answers averaged over draws (Liu et al., 2018).

    input_std: of the noise on the image, in pixels of [0, 1], before normalisation, as in the authors' networks, which
    normalise nothing. inner_std: of the noise before every other convolution (shortcuts included), in the units of the
    features there; in a backbone without convolutions, before every other linear layer. samples: draws averaged in eval
    mode. fresh_noise: new draws at every call even in eval mode, as published; the harness flags such a model.

    Training sees one fresh draw per image and step. In eval mode the answer is the log of the mean softmax of fixed
    draws, so that it is deterministic and its gradient is the expectation over the draws. An evaluation costs `samples`
    times a plain one; its memory is one draw's without gradient and `samples` times that with gradient.
    """

    recipes: ClassVar[Recipes] = with_options(
        STANDARD,
        {
            "digits": {"input_std": 0.4, "inner_std": 0.2, "source": "stds ours"},
            "mnist": {**GREY, "source": REVIEW},
            "fashion-mnist": {**GREY, "source": "stds as on MNIST"},
            "cifar10": {**COLOUR, "source": REVIEW},
            "cifar100": {**COLOUR, "source": "stds as on CIFAR-10"},
        },
    )

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        input_std: float = 0.2,
        inner_std: float = 0.1,
        samples: Annotated[int, Range(1, 1000)] = 10,
        fresh_noise: bool = False,
    ) -> None:
        require(input_std >= 0, "input_std", input_std, "zero or more pixels of [0, 1]")
        require(inner_std >= 0, "inner_std", inner_std, "zero or more")
        require(samples >= 1, "samples", samples, "at least 1")
        super().__init__(data)
        self.samples, self.fresh_noise = samples, fresh_noise
        self.input_noise = Noise(input_std, 0, samples)
        self.backbone = build_backbone(backbone, data)
        for layer, (parent, name) in enumerate(_places(self.backbone), start=1):
            noise = Noise(inner_std, layer, samples)
            setattr(parent, name, nn.Sequential(noise, getattr(parent, name)))
        self.head = nn.Linear(self.backbone.width, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]: of one fresh draw in train mode, else the log of the mean softmax of the draws."""
        if self.training:
            return self._answer(x, None)
        answers = [self._answer(x, None if self.fresh_noise else draw) for draw in range(self.samples)]
        if self.samples == 1:
            return answers[0]
        return torch.stack(answers).log_softmax(-1).logsumexp(0) - math.log(self.samples)

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy under fresh noise."""
        return {"total": functional.cross_entropy(self._answer(x, None), y)}

    def _answer(self, x: Tensor, draw: int | None) -> Tensor:
        """Logits [B, classes] under one draw of the noise."""
        for module in self.modules():
            if isinstance(module, Noise):
                module.draw = draw
        logits: Tensor = self.head(self.backbone(self.input_noise(x)))
        return logits


def _places(backbone: nn.Module) -> list[tuple[nn.Module, str]]:
    """(module, attribute) of every convolution but the first, or of linear layers where there are no convolutions."""
    for kind in (nn.Conv2d, nn.Linear):
        found = [(m, name) for m in backbone.modules() for name, child in m.named_children() if isinstance(child, kind)]
        if found:
            return found[1:]
    return []

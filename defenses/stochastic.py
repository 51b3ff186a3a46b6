"""A classifier on a Gaussian code: the encoder, the draws and posterior matching that DVIB and PARADISE share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Defense, build_backbone, require
from robench_defenses import information


@dataclass(frozen=True)
class Matching:
    """Posterior matching (Hoang et al., 2020): weight gamma of the discrepancy between two noisy copies' posteriors.

    noise: largest standard deviation, in pixels. ramp: share of the training over which gamma rises linearly from 0.
    inputs: what distortion and rate are computed on, "noisy" for both copies or "clean" for x and one copy.
    clip: keep the copies in [0, 1]. weight_gradient: let gradient through the weights a_j.
    """

    gamma: float = 0.0
    noise: float = 12 / 255
    ramp: float = 0.0
    inputs: Literal["noisy", "clean"] = "noisy"
    clip: bool = False
    weight_gradient: bool = False

    def __post_init__(self) -> None:
        require(self.gamma >= 0, "gamma", self.gamma, "zero or more")
        require(self.noise >= 0, "noise", self.noise, "zero or more pixels of [0, 1]")
        require(0 <= self.ramp <= 1, "ramp", self.ramp, "a share of the training in [0, 1]")

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two inputs that are matched, [B, ...] each."""
        second = information.noisy_copy(x, self.noise, clip=self.clip)
        first = x if self.inputs == "clean" else information.noisy_copy(x, self.noise, clip=self.clip)
        return first, second

    def weight(self, progress: float) -> float:
        """gamma at this share of the training."""
        return self.gamma * min(1.0, progress / self.ramp) if self.ramp > 0 else self.gamma


@dataclass(frozen=True)
class Code:
    """The Gaussian code: z_dim dimensions (None: what the papers use for the backbone), draws per training image.

    sigma: "sigmoid" bounds it to (0, 1) (PARADISE); "softplus" is softplus(rho - 5) (Alemi et al., 2017).
    mc_samples: 0 answers from the posterior's mean; k > 0 from the mean softmax of k draws, fixed once and for all.
    """

    z_dim: int | None = None
    draws: int = 12
    sigma: Literal["sigmoid", "softplus"] = "sigmoid"
    mc_samples: int = 0

    def __post_init__(self) -> None:
        require(self.z_dim is None or self.z_dim >= 1, "z_dim", self.z_dim, "at least 1")
        require(self.draws >= 1, "draws", self.draws, "at least 1")
        require(self.mc_samples >= 0, "mc_samples", self.mc_samples, "0 for the mean, or a number of draws")

    def width(self, features: int) -> int:
        """The code's dimension: as given; else 128 for WRN-28-10, 512 for ResNet-34, 64 for ResNets, 32 otherwise."""
        return self.z_dim or {640: 128, 512: 512, 64: 64}.get(features, 32)


class StochasticEncoder(Defense):
    """p(z|x) = N(mu(x), diag(sigma(x)^2)) from two linear layers on the backbone, and a linear classifier of z.

    Training draws z several times per image; inference and attacks see the logits of mu, without noise.
    """

    def __init__(self, data: DataInfo, backbone: str, code: Code, matching: Matching) -> None:
        super().__init__(data)
        self.code, self.matching = code, matching
        self.backbone = build_backbone(backbone, data)
        width = code.width(self.backbone.width)
        self.mean = nn.Linear(self.backbone.width, width)
        self.spread = nn.Linear(self.backbone.width, width)
        self.head = nn.Linear(width, data.classes)
        if code.mc_samples:
            fixed = torch.randn(code.mc_samples, 1, width, generator=torch.Generator().manual_seed(0))
            self.register_buffer("fixed_draws", fixed)

    @abstractmethod
    def rate(self, z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """The weighted rate, a scalar, of draws z [K, B, D] from posteriors mu, log_sigma [B, D]."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma, [B, D] each, of images [B, C, H, W]."""
        h = self.backbone(x)
        rho = self.spread(h)
        log_sigma = functional.logsigmoid(rho) if self.code.sigma == "sigmoid" else functional.softplus(rho - 5).log()
        return self.mean(h), log_sigma

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of the posterior's mean, or the log of the mean softmax of the fixed draws."""
        if not self.code.mc_samples:
            logits: Tensor = self.head(self.mean(self.backbone(x)))
            return logits
        mu, log_sigma = self.encode(x)
        z = mu + self.get_buffer("fixed_draws") * log_sigma.exp()
        return self.head(z).log_softmax(-1).logsumexp(0) - math.log(self.code.mc_samples)

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """distortion + rate, and with posterior matching both on two noisy copies, plus the weighted discrepancy."""
        if not self.matching.gamma:
            mu, log_sigma = self.encode(x)
            distortion, rate = self._terms(mu, log_sigma, y)
            return {"distortion": distortion, "rate": rate, "total": distortion + rate}
        mu, log_sigma = self.encode(torch.cat(self.matching.pair(x)))
        first, second = zip(mu.float().chunk(2), log_sigma.float().chunk(2), strict=True)
        halves = [self._terms(*half, y) for half in (first, second)]
        distortion = (halves[0][0] + halves[1][0]) / 2
        rate = (halves[0][1] + halves[1][1]) / 2
        discrepancy = information.posterior_discrepancy(
            *first, *second, weight_gradient=self.matching.weight_gradient
        ).mean()
        matching = self.matching.weight(self.progress) * discrepancy
        return {"distortion": distortion, "rate": rate, "matching": matching, "total": distortion + rate + matching}

    def _terms(self, mu: Tensor, log_sigma: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion -1/(BK) sum log p(y|z), and rate, of posteriors [B, D] in float32."""
        with _full_precision(mu):
            mu, log_sigma = mu.float(), log_sigma.float()
            draws = self.code.draws
            z = mu + torch.randn(draws, *mu.shape, device=mu.device) * log_sigma.exp()
            logits = self.head(z.flatten(0, 1))
            distortion = functional.cross_entropy(logits, y.repeat(draws))
            return distortion, self.rate(z, mu, log_sigma)


@contextmanager
def _full_precision(like: Tensor) -> Iterator[None]:
    """Without autocast: log densities of long codes overflow half precision."""
    with torch.autocast(like.device.type, enabled=False):
        yield

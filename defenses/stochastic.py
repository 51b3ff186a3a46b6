"""Encoders of Gaussian codes with a classifier: what DVIB and PARADISE share, posterior matching for any of them."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import DataInfo, Defense, Range, build_backbone, perceptron, require
from robench_defenses import information

# numbers in a layer or a code, and draws of a code per image
WIDEST = 2**14
Width = Annotated[int, Range(1, WIDEST)]
Draws = Annotated[int, Range(1, 1000)]
# mu and log sigma, [B, D] each
Posterior = tuple[Tensor, Tensor]


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

    def loss(
        self,
        x: Tensor,
        encode: Callable[[Tensor], Posterior],
        terms: Callable[[Tensor, Tensor], dict[str, Tensor]],
        progress: float,
    ) -> dict[str, Tensor]:
        """The terms of the posteriors of x [B, ...], and "total"; with matching, of two inputs, plus their discrepancy.

        `terms` names scalars of one batch of posteriors; with matching each is the mean over the two inputs, which are
        encoded in one batch but are no neighbours of each other in `terms`.
        """
        if not self.gamma:
            named = terms(*encode(x))
            return {**named, "total": reduce(torch.add, named.values())}
        mu, log_sigma = (_wide(t) for t in encode(torch.cat(self.pair(x))))
        first, second = zip(mu.chunk(2), log_sigma.chunk(2), strict=True)
        halves = [terms(*half) for half in (first, second)]
        named = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
        discrepancy = information.posterior_discrepancy(*first, *second, weight_gradient=self.weight_gradient)
        named["matching"] = self.weight(progress) * discrepancy.mean()
        return {**named, "total": reduce(torch.add, named.values())}


@dataclass(frozen=True)
class Code:
    """The Gaussian code: z_dim dimensions (None: what the papers use for the backbone), draws per training image.

    sigma: "sigmoid" bounds it to (0, 1) (PARADISE); "softplus" is softplus(rho - 5) (Alemi et al., 2017).
    mc_samples: 0 answers from the posterior's mean; k > 0 from the mean softmax of k draws, fixed once and for all.
    decoder: hidden widths of the classifier on the code, such as "128" or "256-128"; "" for a linear one.
    """

    z_dim: int | None = None
    draws: int = 12
    sigma: Literal["sigmoid", "softplus"] = "sigmoid"
    mc_samples: int = 0
    decoder: str = ""

    def __post_init__(self) -> None:
        require(self.z_dim is None or self.z_dim >= 1, "z_dim", self.z_dim, "at least 1")
        require(self.draws >= 1, "draws", self.draws, "at least 1")
        require(self.mc_samples >= 0, "mc_samples", self.mc_samples, "0 for the mean, or a number of draws")
        hidden_widths("decoder", self.decoder)

    def width(self, features: int) -> int:
        """The code's dimension: as given; else 128 for WRN-28-10, 512 for ResNet-34, 64 for ResNets, 32 otherwise."""
        return self.z_dim or {640: 128, 512: 512, 64: 64}.get(features, 32)

    def head(self, width: int, classes: int) -> nn.Module:
        """The classifier of codes [..., width]."""
        widths = [width, *hidden_widths("decoder", self.decoder)]
        linear = nn.Linear(widths[-1], classes)
        return nn.Sequential(*perceptron(widths), linear) if self.decoder else linear


def hidden_widths(option: str, value: str) -> list[int]:
    """The widths in the value of an option: "256-128" -> [256, 128], "" -> []. Raises BadInput for anything else."""
    known = re.fullmatch(r"([1-9]\d{0,4}(-[1-9]\d{0,4}){0,7})?", value, flags=re.ASCII)
    allowed = f'at most 8 hidden widths of at most {WIDEST:,} such as "256-128", or "" for a linear one'
    require(known is not None and all(int(size) <= WIDEST for size in value.split("-") if size), option, value, allowed)
    return [int(size) for size in value.split("-") if size]


class GaussianEncoder(Defense):
    """p(z|x) = N(mu(x), diag(sigma(x)^2)) from two linear layers on the backbone, and a classifier of z.

    What it is trained on is the subclass's. Inference and attacks see the logits of mu, without noise.
    """

    def __init__(self, data: DataInfo, backbone: str, code: Code, matching: Matching) -> None:
        super().__init__(data)
        self.code, self.matching = code, matching
        self.backbone = build_backbone(backbone, data)
        width = code.width(self.backbone.width)
        self.mean = nn.Linear(self.backbone.width, width)
        self.spread = nn.Linear(self.backbone.width, width)
        self.head = code.head(width, data.classes)
        if code.mc_samples:
            fixed = torch.randn(code.mc_samples, 1, width, generator=torch.Generator().manual_seed(0), device="cpu")
            self.register_buffer("fixed_draws", fixed)

    @abstractmethod
    def terms(self, z: Tensor, posterior: Posterior, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scalar terms of the loss, weights included, of draws z [K, B, D] from the posteriors of images x or noisy x.

        Everything is float32 or wider and outside autocast; x are the clean images.
        """

    def encode(self, x: Tensor) -> Posterior:
        """mu and log sigma, [B, D] each, of images [B, C, H, W]."""
        h = self.backbone(x)
        with _full_precision(h):
            h = _wide(h)
            rho = self.spread(h)
            sigmoid = self.code.sigma == "sigmoid"
            log_sigma = functional.logsigmoid(rho) if sigmoid else functional.softplus(rho - 5).log()
            return self.mean(h), log_sigma

    def embed(self, x: Tensor) -> Tensor:
        """The posterior's mean mu [B, D] of images [B, C, H, W]: the code that detectors look at."""
        mu: Tensor = self.mean(self.backbone(x))
        return mu

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of the posterior's mean, or the log of the mean softmax of the fixed draws."""
        if not self.code.mc_samples:
            logits: Tensor = self.head(self.embed(x))
            return logits
        mu, log_sigma = self.encode(x)
        z = mu + self.get_buffer("fixed_draws") * log_sigma.exp()
        mean: Tensor = self.head(z).log_softmax(-1).logsumexp(0) - math.log(self.code.mc_samples)
        return mean

    @property
    def step_gradients(self) -> int:
        """Posterior matching encodes two inputs per image."""
        return 2 if self.matching.gamma else 1

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The subclass's terms; with posterior matching their mean over two noisy copies, and the discrepancy."""

        def terms(mu: Tensor, log_sigma: Tensor) -> dict[str, Tensor]:
            with _full_precision(mu):
                mu, log_sigma = _wide(mu), _wide(log_sigma)
                noise = torch.randn(self.code.draws, *mu.shape, device=mu.device, dtype=mu.dtype)
                return self.terms(mu + noise * log_sigma.exp(), (mu, log_sigma), x, y)

        return self.matching.loss(x, self.encode, terms, self.progress)


class StochasticEncoder(GaussianEncoder):
    """A Gaussian encoder whose code is shaped by the labels: distortion -1/(BK) sum log p(y|z), plus a rate."""

    @abstractmethod
    def rate(self, z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """The weighted rate, a scalar, of draws z [K, B, D] from posteriors mu, log_sigma [B, D]."""

    def terms(self, z: Tensor, posterior: Posterior, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Distortion and rate."""
        del x
        distortion = functional.cross_entropy(self.head(z.flatten(0, 1)), y.repeat(len(z)))
        return {"distortion": distortion, "rate": self.rate(z, *posterior)}


def _wide(t: Tensor) -> Tensor:
    """float32 or wider."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


@contextmanager
def _full_precision(like: Tensor) -> Iterator[None]:
    """Without autocast: log densities of long codes overflow half precision."""
    with torch.autocast(like.device.type, enabled=False):
        yield

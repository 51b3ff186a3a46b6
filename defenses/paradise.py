"""PARADISE, the parameterized rate-distortion stochastic encoder, plain and with posterior matching."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from torch import Tensor

from robench import DataInfo, Range, Recipes, Variant, require
from robench_defenses import information
from robench_defenses.recipes import SHORT_RAMP, STANDARD, with_options
from robench_defenses.stochastic import Code, Draws, Matching, StochasticEncoder, Width


class Paradise(StochasticEncoder):
    """Rate-distortion encoder: cross-entropy + alpha rate, the code's marginal from the batch (Hoang et al., 2020).

    alpha: weight of the rate; 1e-4 on CIFAR-10, 1e-5 on ImageNet. mws_draws: which of the draws enter mini-batch
    weighted sampling, "first" or "all". gamma, noise, ramp, pm_inputs, pm_clip and pm_weight_gradient set posterior
    matching, off at gamma 0. z_dim, draws, sigma, mc_samples and decoder set the code.
    """

    version: ClassVar[int] = 2
    recipes: ClassVar[Recipes] = with_options(STANDARD, {"imagenet": {"alpha": 1e-5}})

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        alpha: float = 1e-4,
        mws_draws: Literal["first", "all"] = "first",
        z_dim: Width | None = None,
        draws: Draws = 12,
        sigma: Literal["sigmoid", "softplus"] = "sigmoid",
        mc_samples: Annotated[int, Range(0, 1000)] = 0,
        decoder: str = "",
        gamma: float = 0.0,
        noise: float = 12 / 255,
        ramp: float = 0.0,
        pm_inputs: Literal["noisy", "clean"] = "noisy",
        pm_clip: bool = False,
        pm_weight_gradient: bool = False,
    ) -> None:
        require(alpha >= 0, "alpha", alpha, "zero or more")
        matching = Matching(gamma, noise, ramp, pm_inputs, pm_clip, pm_weight_gradient)
        super().__init__(data, backbone, Code(z_dim, draws, sigma, mc_samples, decoder), matching)
        self.alpha, self.mws_draws = alpha, mws_draws

    def rate(self, z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
        """alpha times the rate."""
        return self.alpha * information.paradise_rate(z[0] if self.mws_draws == "first" else z, mu, log_sigma)


# On CIFAR-10 the paper's search chose alpha 1e-4 and gamma 25, on ImageNet gamma 100 with noise 16/255; on grey digits
# ours are a weaker pull and more noise.
OURS = {"gamma": 1.0, "noise": 0.3, "alpha": 1e-4, "source": "gamma, noise and alpha ours"}

paradise_pm = Variant(
    Paradise,
    "PARADISE with posterior matching (Hoang et al., 2020).",
    {"alpha": 1e-4, "gamma": 25.0},
    with_options(
        STANDARD,
        {
            "digits": OURS,
            "mnist": OURS,
            "fashion-mnist": OURS,
            **SHORT_RAMP,
            "imagenet": {"alpha": 1e-5, "gamma": 100.0, "noise": 16 / 255},
        },
    ),
)

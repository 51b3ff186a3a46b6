"""Rates of Gaussian posteriors and posterior matching, as functions that any stochastic encoder can use.

A posterior is a diagonal Gaussian given by mu and log_sigma, [B, D] each. Everything is computed in float32 or wider.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def gaussian_entropy(log_sigma: Tensor) -> Tensor:
    """H(N(mu, diag(sigma^2))) = sum_t (log(2 pi)/2 + 1/2 + log sigma_t): [B, D] -> [B] (PARADISE, supplement 1.6)."""
    return (log_sigma + 0.5 * (LOG_2PI + 1)).sum(-1)


def gaussian_kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, diag(sigma^2)) || N(0, I)): [B, D] -> [B] (Alemi et al., 2017)."""
    return 0.5 * (mu.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(-1)


def minibatch_weighted_sampling(z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
    """(1/B) sum_i log sum_{j != i} N(z_i; mu_j, diag(sigma_j^2)): [B, D] each -> scalar (PARADISE, supplement Eq. 7).

    The constant -log(NB) is dropped. Gradient enters through z only: mu_j and sigma_j are held fixed, since they stand
    for the optimal code distribution within the step. B must be at least 2.
    """
    # sum_t (z - mu)^2 / sigma^2 as products of matrices, [B, B] at once where the differences are [B, B, D]; squares
    # cancel when they are multiplied out, hence about a common centre and in float64
    centre = mu.detach().double().mean(0)
    points, mu, log_sigma = z.double() - centre, mu.detach().double() - centre, log_sigma.detach().double()
    precision = (-2 * log_sigma).exp()
    constant = (mu.square() * precision + 2 * log_sigma + LOG_2PI).sum(-1)
    log_density = points @ (mu * precision).T - 0.5 * (points.square() @ precision.T + constant)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return log_density.masked_fill(own, -torch.inf).logsumexp(1).mean().to(z.dtype)


def paradise_rate(z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
    """-mean H(posterior) - MWS, the rate of PARADISE up to a constant (supplement, Algorithm 1).

    z: [B, D] for one draw per posterior, or [K, B, D] for the mean over K draws. mu, log_sigma: [B, D]. A batch of one
    image has no neighbours, and no marginal to estimate: what is left is -H.
    """
    if len(mu) < 2:
        return -gaussian_entropy(log_sigma).mean()
    draws = z[None] if z.dim() == 2 else z
    mws = torch.stack([minibatch_weighted_sampling(draw, mu, log_sigma) for draw in draws]).mean()
    return -gaussian_entropy(log_sigma).mean() - mws


def posterior_discrepancy(
    mu: Tensor, log_sigma: Tensor, mu2: Tensor, log_sigma2: Tensor, *, weight_gradient: bool = False
) -> Tensor:
    """sum_j a_j |mu_j - mu'_j| + (1/D) sum_j |log sigma_j - log sigma'_j|: [B, D] each -> [B] (supplement Eq. 8).

    a_j = max(1/D, |mu_j - mu'_j| / sum_k |mu_k - mu'_k|), a weight without gradient unless `weight_gradient`.
    """
    gap = (mu - mu2).abs()
    share = gap / (gap.sum(-1, keepdim=True) + 1e-12)
    weight = share.clamp(min=1 / gap.shape[-1])
    if not weight_gradient:
        weight = weight.detach()
    return (weight * gap).sum(-1) + (log_sigma - log_sigma2).abs().mean(-1)


def noisy_copy(x: Tensor, largest: float, *, clip: bool = False) -> Tensor:
    """x + s u with s ~ U(0, largest) per image and u ~ N(0, I): [B, ...] -> [B, ...] (supplement 1.5).

    `largest` is in pixels of [0, 1]. The formula does not clip to the box; `clip` does.
    """
    s = torch.rand(len(x), *(1,) * (x.dim() - 1), device=x.device, dtype=x.dtype) * largest
    noisy = torch.randn_like(x).mul_(s).add_(x)
    return noisy.clamp_(0, 1) if clip else noisy

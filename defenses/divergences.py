"""Guess-first objectives on scores of label hypotheses, and maximum mean discrepancy, as functions anyone can use.

Scores t [B, L] hold T(x_i, k) for every image and every label hypothesis k; y int64 [B] are the true labels. The joint
distribution is the pairs (i, y_i), the product of the marginals every image with every label, the true one included.
Equations are those of Zhu, An & Niu (2020).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def donsker_varadhan(t: Tensor, y: Tensor) -> Tensor:
    """-E_P[T] + log E_Q[e^T], the negated bound on KL(P || Q) (Eq. 4): [B, L], [B] -> scalar, at least -log L.

    One logarithm over the whole batch, so the value depends on the batch and a constant per image does not cancel.
    """
    return t.flatten().logsumexp(0) - math.log(t.numel()) - _true(t, y).mean()


def jensen_shannon(t: Tensor, y: Tensor) -> Tensor:
    """-E_P[log sig(T)] - E_Q[log(1 - sig(T))] (Eq. 2 up to its constant 2 log 2): [B, L], [B] -> scalar, at least 0."""
    return functional.softplus(-_true(t, y)).mean() + functional.softplus(t).mean()


def energy_based(t: Tensor, y: Tensor) -> Tensor:
    """-E_P[T] + E_x[log sum_k e^T] (Eq. 5 and 6 up to log L), cross-entropy with T as logits: [B, L], [B] -> scalar."""
    return (t.logsumexp(1) - _true(t, y)).mean()


def _true(t: Tensor, y: Tensor) -> Tensor:
    return t.gather(1, y[:, None]).squeeze(1)


def squared_distances(z: Tensor) -> Tensor:
    """|z_i - z_j|^2 of all pairs: [..., B, D] -> [..., B, B]."""
    # a product of matrices instead of [B, B, D] differences; taken about the mean, it cancels fewer digits
    z = z - z.detach().mean(-2, keepdim=True)
    norms = z.square().sum(-1, keepdim=True)
    return (norms + norms.mT - 2 * z @ z.mT).clamp(min=0)


def gaussian_kernel(z: Tensor, scale: float | None = None) -> Tensor:
    """exp(-|z_i - z_j|^2 / (2 scale^2)) of all pairs: [..., B, D] -> [..., B, B].

    scale None: the median distance of two different points of each set, without gradient (ours; the paper's is lost).
    """
    squared = squared_distances(z)
    return (squared * (-0.5 / (_median(squared.detach()) if scale is None else scale**2))).exp()


def _median(squared: Tensor) -> Tensor:
    """The median over pairs of different points, kept above zero where all are equal: [..., B, B] -> [..., 1, 1]."""
    count = squared.shape[-1]
    if count < 2:
        return squared.new_ones(())
    first, second = torch.triu_indices(count, count, 1, device=squared.device)
    return squared[..., first, second].median(-1).values.clamp(min=1e-12)[..., None, None]


def mmd_squared(p: Tensor, q: Tensor, scale: float | None = None) -> Tensor:
    """Squared maximum mean discrepancy of samples p [..., m, D] and q [..., n, D]: -> [...] (Eq. 7).

    The V-statistic: never negative, and zero for equal samples. scale is `gaussian_kernel`'s, None for the median of
    both samples together.
    """
    kernel = gaussian_kernel(torch.cat([p, q], -2), scale)
    m, n = p.shape[-2], q.shape[-2]
    weight = torch.cat([kernel.new_full((m,), 1 / m), kernel.new_full((n,), -1 / n)])
    return (kernel * torch.outer(weight, weight)).sum((-2, -1))


def label_information(z: Tensor, y: Tensor, reading: Literal["a", "b"] = "a", scale: float | None = None) -> Tensor:
    """What codes z [B, L, D], one per hypothesis, still tell about the labels y [B]: a scalar, zero or more (Eq. 3).

    Summed over the hypotheses h: reading "a", sum_y MMD^2(p(z_h | y), p(z_h)); reading "b", matched against unmatched
    images, MMD^2(p(z_h | y = h), p(z_h | y != h)). The text allows both; "a" is its Eq. 3 with MMD^2 for KL. Classes
    without an image in the batch are left out. scale is `gaussian_kernel`'s, its median taken per hypothesis.
    """
    member = functional.one_hot(y, z.shape[1]).T.to(z.dtype)
    size = member.sum(1, keepdim=True)
    rest = len(y) - size
    # MMD^2 = c K c with c the weights of one sample's points minus those of the other's
    if reading == "a":
        contrast = (member / size.clamp(min=1) - 1 / len(y)) * (size > 0)
        weight = contrast.T @ contrast
    else:
        contrast = (member / size.clamp(min=1) - (1 - member) / rest.clamp(min=1)) * ((size > 0) & (rest > 0))
        weight = contrast[:, :, None] * contrast[:, None, :]
    return (gaussian_kernel(z.transpose(0, 1), scale) * weight).sum()

"""The threat model: a norm, an exact epsilon, and the set of images an attacker may choose from."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import torch
from torch import Tensor

from robench.errors import BadInput, require, unknown

NORMS = ("linf", "l2")

# no image is this far from another; larger numbers are mistakes, and some are too large for a float
LARGEST = 10**6

# float32 pixels round: x0 + eps and x - x0 each lose up to one unit in the last place of 1.0
TOLERANCE = 2.0**-22


def parse_epsilon(value: str | float | Fraction, norm: str) -> Fraction:
    """Epsilon in pixels of [0, 1] as an exact fraction: "8/255", "0.1", 0.1 or a Fraction.

    Raises BadInput for anything that is not a finite number, is negative, or is larger than any
    perturbation of [0, 1] pixels (1 for linf).
    """
    text = str(value).strip()
    allowed = "a number of pixels in [0, 1], such as 8/255 or 0.1"
    if re.fullmatch(r"[+-]?\d+\s*/\s*0+", text):
        raise BadInput(f"eps is {text!r}, which divides by zero, but must be {allowed}.")
    try:
        eps = value if isinstance(value, Fraction) else _exact(text)
    except (ValueError, InvalidOperation, OverflowError, ZeroDivisionError):
        raise BadInput(f"eps is {text!r}, but must be {allowed}.") from None
    if eps > LARGEST:
        raise BadInput(f"eps is {text}, which is larger than any image, but must be {allowed}.")
    if eps < 0:
        raise BadInput(f"eps is {text}, but must not be negative: give {allowed}.")
    if norm == "linf" and eps > 1:
        meant = f" (did you mean {eps.numerator}/255?)" if eps.denominator == 1 and eps <= 255 else ""
        raise BadInput(f"eps is {text}, but pixels are in [0, 1], so linf eps is at most 1{meant}.")
    return eps


def _exact(text: str) -> Fraction:
    top, _, bottom = (part.strip() for part in text.partition("/"))
    parts = [Decimal(top), Decimal(bottom if "/" in text else "1")]
    if any(abs(part.adjusted()) > 50 for part in parts if part):
        raise ValueError(text)
    return Fraction(parts[0]) / Fraction(parts[1])


def parse_norm(norm: str) -> str:
    """The norm's canonical name; raises BadInput for an unknown one."""
    name = norm.strip().lower().replace("∞", "inf").replace("_", "")
    if name not in NORMS:
        raise unknown("norm", norm, NORMS)
    return name


def expand(per_example: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...], to broadcast against `like` [B, ...]."""
    return per_example.reshape(-1, *(1,) * (like.dim() - 1))


@dataclass(frozen=True)
class ThreatModel:
    """All images x in [0, 1] with ||x - x0|| <= eps, eps in pixels.

    The float radius used in arithmetic is the float32 nearest to the exact fraction.
    """

    norm: str
    eps: Fraction

    @classmethod
    def of(cls, norm: str, eps: str | float | Fraction | None) -> ThreatModel:
        """Parse both fields, eps None meaning 8/255 in linf; raises BadInput."""
        name = parse_norm(norm)
        if eps is None:
            require(name == "linf", "eps", None, "given in l2, such as --eps 0.5: 8/255 is small there")
            eps = "8/255"
        return cls(name, parse_epsilon(eps, name))

    @property
    def radius(self) -> float:
        """Epsilon as a Python float."""
        return float(self.eps)

    def __str__(self) -> str:
        return f"{self.norm} eps {self.eps_text}"

    @property
    def eps_text(self) -> str:
        """Epsilon as the papers write it: "8/255", "0.1", "0.031"."""
        if 255 % self.eps.denominator == 0 and self.eps.denominator != 5:
            return f"{self.eps * 255}/255" if self.eps.denominator != 1 else str(self.eps)
        decimal = f"{self.radius:.10g}"
        return decimal if Fraction(decimal) == self.eps else str(self.eps)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise BadInput when eps exceeds the diameter of the pixel box for images of `shape` (L2: sqrt(pixels))."""
        limit = math.sqrt(math.prod(shape)) if self.norm == "l2" else 1.0
        if self.radius > limit:
            raise BadInput(
                f"eps is {self.eps_text} in {self.norm}, but no two images of shape {shape} in [0, 1] "
                f"are further apart than {limit:.4g}; eps is in pixels of [0, 1]."
            )

    def project(self, x0: Tensor, x: Tensor) -> Tensor:
        """The point of the ball and the box nearest to x (linf), or x scaled into the ball, then clipped (L2).

        x0, x: [B, ...] -> [B, ...]. Clipping to the box moves every pixel towards x0, so the L2 norm stays within eps.
        """
        if self.norm == "linf":
            return torch.clamp(x, *self.bounds(x0))
        delta = x - x0
        flat = delta.flatten(1)
        norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
        # a hair inside, so that float32 rounding of every pixel cannot carry the result out of the ball
        reach = max(self.radius * (1 - 2e-7) - math.sqrt(flat.shape[1]) * 2.0**-25, 0.0)
        factor = torch.where(norms <= self.radius, 1.0, reach / norms.clamp(min=1e-30)).to(delta.dtype)
        return (x0 + delta * expand(factor, delta)).clamp_(0.0, 1.0)

    def bounds(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and highest pixels within linf eps of x0 and in [0, 1]: [B, ...] -> two of the same shape."""
        return (x0 - self.radius).clamp_(min=0.0), (x0 + self.radius).clamp_(max=1.0)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """||x - x0|| per example in float64: [B, ...] -> [B]."""
        return distance(self.norm, x0, x)

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        """Whether x is finite, in [0, 1] and within eps of x0, up to float32 rounding: [B, ...] -> bool [B]."""
        flat = x.flatten(1)
        inside = flat.isfinite().all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
        return inside & (self.distance(x0, x) <= self.radius + TOLERANCE)

    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None = None) -> Tensor:
        """A point uniform in the ball (then clipped to the box), made from given noise.

        linf: `uniform` [B, ...] in [0, 1) is scaled to +-eps. L2: `gaussian` [B, ...] gives the direction and the first
        element of each row of `uniform` the radius, eps * u^(1/d).
        """
        if self.norm == "linf":
            return self.project(x0, x0 + (2 * uniform - 1) * self.radius)
        if gaussian is None:
            raise ValueError("an L2 sample needs gaussian noise for its direction")
        flat = gaussian.flatten(1)
        direction = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
        radius = uniform.flatten(1)[:, :1] ** (1.0 / flat.shape[1]) * self.radius
        return self.project(x0, x0 + (direction * radius).reshape_as(x0))


def distance(norm: str, x0: Tensor, x: Tensor) -> Tensor:
    """||x - x0|| per example in float64: [B, ...] -> [B]."""
    delta = (x.double() - x0.double()).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)

"""The threat model: a norm, an exact epsilon, and the set of images an attacker may choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from robench.errors import BadInput, shown
from robench.norms import NORMS, Norm, parse_norm
from robench.ranges import is_float, read_fraction, text_of

if TYPE_CHECKING:
    from torch import Tensor

# no image is this far from another; larger numbers are mistakes, and some are too large for a float
LARGEST = 10**6
# letters of a number that a sentence repeats
SHOWN = 60

# float32 pixels round: x0 + eps and x - x0 each lose up to one unit in the last place of 1.0
TOLERANCE = 2.0**-22


def parse_epsilon(value: str | float | Fraction, norm: str | None = None) -> Fraction:
    """Epsilon in pixels of [0, 1] as an exact fraction: "8/255", "0.1", 0.1 or a Fraction.

    A float is the number it is written as: the float 8/255 is 8/255, any other is its shortest decimal. Raises BadInput
    for anything that is not a finite number, is negative, or is larger than any perturbation of [0, 1] pixels in
    `norm`, None for any.
    """
    allowed = "a number of pixels in [0, 1], such as 8/255 or 0.1"
    try:
        text = text_of(value) if is_float(value) else str(value).strip(" ")
        eps = value if isinstance(value, Fraction) else read_fraction(text)
    except ZeroDivisionError:
        raise BadInput(f"eps is {shown(value)}, which divides by zero, but must be {allowed}.") from None
    except ValueError:
        raise BadInput(f"eps is {shown(value)}, but must be {allowed}.") from None
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    if eps > LARGEST:
        raise BadInput(f"eps is {text}, which is larger than any image, but must be {allowed}.")
    if eps < 0:
        raise BadInput(f"eps is {text}, but must not be negative: give {allowed}.")
    largest = NORMS[norm].largest if norm else None
    if largest is not None and eps > largest:
        meant = f" (did you mean {eps.numerator}/255?)" if eps.denominator == 1 and eps <= 255 else ""
        raise BadInput(f"eps is {text}, but pixels are in [0, 1], so {norm} eps is at most {largest}{meant}.")
    return eps


@dataclass(frozen=True)
class ThreatModel:
    """All images x in [0, 1] with ||x - x0|| <= eps, eps in pixels.

    Arithmetic takes the float64 nearest to the exact fraction as its radius.
    """

    norm: str
    eps: Fraction

    @classmethod
    def of(cls, norm: str, eps: str | float | Fraction | None) -> ThreatModel:
        """Parse both fields, eps None meaning the norm's own default; raises BadInput."""
        name = parse_norm(norm)
        if eps is None:
            eps = NORMS[name].default
        if eps is None:
            example = NORMS[name].example
            raise BadInput(
                f"No eps is given, and {name} has none that is usual; give one, such as --eps {example}: 8/255 is "
                "small there."
            )
        return cls(name, parse_epsilon(eps, name))

    @property
    def geometry(self) -> Norm:
        """The norm behind the name."""
        return NORMS[self.norm]

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
        limit = self.geometry.diameter(shape)
        if self.radius > limit:
            raise BadInput(
                f"eps is {self.eps_text} in {self.norm}, but no two images of shape {shape} in [0, 1] "
                f"are further apart than {limit:.4g}; eps is in pixels of [0, 1]."
            )

    def project(self, x0: Tensor, x: Tensor) -> Tensor:
        """x taken into the ball around x0 and the box: [B, ...] -> [B, ...]."""
        return self.geometry.project(x0, x, self.radius)

    def nearest(self, x0: Tensor, x: Tensor) -> Tensor:
        """The nearest point of ball and box, [B, ...]; in L2 `project` stops short of it, but is faster."""
        return self.geometry.nearest(x0, x, self.radius)

    def projection(self, x0: Tensor) -> Callable[[Tensor], Tensor]:
        """The same for any number of x around one x0."""
        return self.geometry.projection(x0, self.radius)

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """||x - x0|| per example in float64: [B, ...] -> [B]."""
        return self.geometry.distance(x0, x)

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        """Whether x is finite, in [0, 1] and within eps of x0, up to float32 rounding: [B, ...] -> bool [B]."""
        flat = x.flatten(1)
        inside = flat.isfinite().all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
        return inside & (self.distance(x0, x) <= self.radius + TOLERANCE)

    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None = None) -> Tensor:
        """A point uniform in the ball (then projected), made from given noise, see `Norm.sample`."""
        return self.geometry.sample(x0, uniform, gaussian, self.radius)

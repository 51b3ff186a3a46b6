"""What differs between norms, a class each: distance, ball, steepest step, and the words and limits for their eps.

Everything else asks `NORMS`, so that a norm is added here, and by the plugins that support it. Listing plugins and
showing help read this file, so torch is imported by what computes alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from robench.errors import BadInput, shown, unknown

if TYPE_CHECKING:
    from torch import Tensor


class Norm(ABC):
    """A norm on perturbations, as far as a threat model asks: how far an image is, and the ball around it.

    default: the eps where none is given, None for a norm that has no usual one. largest: no two images in [0, 1], of
    whatever size, are further apart; None where their distance grows with the number of pixels. example, wide: an eps
    that sentences may offer, and one at which images of most datasets are broken. directed: whether a sample is made
    from Gaussian noise too. bounded_above: whether a figure is an upper bound alone where no attack that walks along
    the decision boundary tried it.
    """

    name: ClassVar[str]
    default: ClassVar[str | None]
    largest: ClassVar[int | None]
    example: ClassVar[str]
    wide: ClassVar[str]
    directed: ClassVar[bool]
    bounded_above: ClassVar[bool] = False

    @abstractmethod
    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """||x - x0|| per example in float64: [B, ...] -> [B]."""

    @abstractmethod
    def projection(self, x0: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
        """What takes x [B, ...] into the ball around x0 [B, ...] and the box, prepared once for many x.

        The result is a new tensor, finite where x is, whose distance is at most the radius up to float32 rounding.
        """

    @abstractmethod
    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None, radius: float) -> Tensor:
        """A point uniform in the ball (then projected), [B, ...], made from `uniform` [B, ...] in [0, 1) and, where the
        norm is `directed`, `gaussian` [B, ...]. Raises ValueError where that is missing."""

    @abstractmethod
    def diameter(self, shape: tuple[int, ...]) -> float:
        """The distance from a black to a white image of `shape`, the largest there is."""

    @abstractmethod
    def grey(self, pixels: int) -> Fraction:
        """The eps within which every image of so many numbers can be made grey, and so answers nothing."""

    def turning(self, size: Tensor, over: Tensor) -> Tensor:
        """Which pixels of an image in 8 bits are first rounded towards the original where it lies outside the ball: the
        largest of these, [B, P]. That is the farthest ones, unless a norm says otherwise. size: how far each is, in
        steps; over: how much of that is rounding, at most half a step."""
        return size + over

    def project(self, x0: Tensor, x: Tensor, radius: float) -> Tensor:
        """x taken into the ball around x0 and the box: [B, ...] -> [B, ...]."""
        return self.projection(x0, radius)(x)

    def nearest(self, x0: Tensor, x: Tensor, radius: float) -> Tensor:
        """The point of the ball and the box nearest to x, [B, ...]: as `project`, where that is exact."""
        return self.project(x0, x, radius)


class PlaneNorm(Norm):
    """A norm in which the nearest point of a hyperplane in the box is known, as attacks along a boundary ask for."""

    @abstractmethod
    def onto_plane(self, x: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
        """What takes x [B, ...] in the box to the nearest z of the box with <slope, z - x> = gap [B]: z - x, [B, ...].

        Where no such z is in the box, to the corner that comes nearest to it; where `slope` is zero, nowhere. The
        solution is exact but for rounding (Croce and Hein, 2020, "Minimally distorted adversarial examples", eq. 6).
        """

    @abstractmethod
    def nearer(self, x0: Tensor, x: Tensor, share: Tensor) -> Tensor:
        """The nearest point to x [B, ...] that is at most `share` [B] in [0, 1] of its distance from x0 [B, ...]."""


class SteepestNorm(Norm):
    """A norm whose steepest step is known."""

    @abstractmethod
    def steepest(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + the perturbation of length `size` with the largest product with `grad`; [B, ...], not projected.

        A row whose gradient is zero stays where it is.
        """


class AdamNorm(Norm):
    """A norm in which Adam is known: which squares its second moment averages, and what its step sizes are in."""

    @abstractmethod
    def second_moment(self, x: Tensor) -> Tensor:
        """Zeros, one per number of x [B, ...], or one per row, [B, 1, ...]."""

    @abstractmethod
    def average(self, moment: Tensor, grad: Tensor, keep: float) -> None:
        """Make `moment` its `keep` share and the rest the square of grad [B, ...], in place."""

    @abstractmethod
    def adam_length(self, size: float, radius: float) -> float:
        """The length in pixels of a step of `size`."""


class Linf(SteepestNorm, AdamNorm, PlaneNorm):
    """The largest change of a pixel. The ball is a cube, which meets the box in a cube."""

    name, default, largest, example, wide, directed = "linf", "8/255", 1, "8/255", "0.3", False

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """max |x - x0|."""
        return (x.double() - x0.double()).flatten(1).abs().amax(1)

    def projection(self, x0: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
        """The nearest point: a clamp between two fixed images."""
        low, high = (x0 - radius).clamp_(min=0.0), (x0 + radius).clamp_(max=1.0)
        return lambda x: x.clamp(low, high)

    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None, radius: float) -> Tensor:
        """`uniform`, scaled to +-radius."""
        del gaussian
        return self.project(x0, x0 + (2 * uniform - 1) * radius, radius)

    def diameter(self, shape: tuple[int, ...]) -> float:
        """1, whatever the shape."""
        del shape
        return 1.0

    def grey(self, pixels: int) -> Fraction:
        """Half the box."""
        del pixels
        return Fraction(1, 2)

    def steepest(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * sign(g)."""
        return x.add(grad.sign(), alpha=size)

    def second_moment(self, x: Tensor) -> Tensor:
        """One per pixel, as Adam has it."""
        import torch

        return torch.zeros_like(x)

    def average(self, moment: Tensor, grad: Tensor, keep: float) -> None:
        """By the square of every entry."""
        moment.mul_(keep).addcmul_(grad, grad, value=1 - keep)

    def adam_length(self, size: float, radius: float) -> float:
        """Sizes are in pixels."""
        del radius
        return size

    def onto_plane(self, x: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
        """Every pixel goes as far as the others, or to the wall: sum |s_i| min(t, room_i) = |gap|."""
        slope, room, gap = _downhill(x, slope, gap)
        pace = slope.abs()
        reached = level(pace, room, gap)
        return slope.sign().mul_(room.minimum(reached[:, None])).reshape_as(x)

    def nearer(self, x0: Tensor, x: Tensor, share: Tensor) -> Tensor:
        """The changes that are larger, cut off."""
        reach = expand((x - x0).flatten(1).abs().amax(1) * share.to(x.dtype), x)
        return x.clamp(x0 - reach, x0 + reach)


class L2(SteepestNorm, AdamNorm, PlaneNorm):
    """The Euclidean length of the perturbation over all pixels and channels."""

    name, default, largest, example, wide, directed = "l2", None, None, "0.5", "3", True
    bounded_above: ClassVar[bool] = True

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        """The root of the sum of (x - x0)^2."""
        length: Tensor = (x.double() - x0.double()).flatten(1).norm(dim=1)
        return length

    def projection(self, x0: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
        """x scaled into the ball, then clipped to the box; a point that is allowed, not the nearest one.

        Clipping moves every pixel towards x0, so the distance stays within the radius.
        """
        import torch

        def project(x: Tensor) -> Tensor:
            delta = x - x0
            flat = delta.flatten(1)
            norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
            reach = _reach(radius, flat.shape[1])
            factor = torch.where(norms <= radius, 1.0, reach / norms.clamp(min=1e-30)).to(delta.dtype)
            return (x0 + delta * expand(factor, delta)).clamp_(0.0, 1.0)

        return project

    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None, radius: float) -> Tensor:
        """`gaussian` gives the direction and the first number u of each row of `uniform` the length, radius * u^(1/d)
        for d pixels."""
        if gaussian is None:
            raise ValueError("an L2 sample needs gaussian noise for its direction")
        flat = gaussian.flatten(1)
        direction = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
        length = uniform.flatten(1)[:, :1] ** (1.0 / flat.shape[1]) * radius
        return self.project(x0, x0 + (direction * length).reshape_as(x0), radius)

    def diameter(self, shape: tuple[int, ...]) -> float:
        """The root of the number of pixels."""
        return math.sqrt(math.prod(shape))

    def grey(self, pixels: int) -> Fraction:
        """Half the diagonal of the box, rounded up to two decimals."""
        return Fraction(math.ceil(50 * math.sqrt(pixels)), 100)

    def turning(self, size: Tensor, over: Tensor) -> Tensor:
        """Those that shorten it most for what they move: by 2 size - 1, moving 1 - 2 over farther than the nearest."""
        return (2 * size - 1) / (1 - 2 * over).clamp(min=1e-9)

    def steepest(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """x + size * g / ||g||_2."""
        grad = grad * expand(unit(grad), grad)
        return x.addcdiv(grad, expand(grad.flatten(1).norm(dim=1).clamp(min=1e-30), grad), value=size)

    def second_moment(self, x: Tensor) -> Tensor:
        """One per row, so that a constant gradient keeps its direction, which is the optimum in L2."""
        return x.new_zeros(len(x), *(1,) * (x.dim() - 1))

    def average(self, moment: Tensor, grad: Tensor, keep: float) -> None:
        """By the square of each row's length."""
        moment.lerp_(expand(grad.flatten(1).square().sum(1), grad), 1 - keep)

    def adam_length(self, size: float, radius: float) -> float:
        """Sizes are in tenths of the radius: 0.1 moves by one radius."""
        return size * 10 * radius

    def onto_plane(self, x: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
        """Every pixel goes by its share of the slope, or to the wall: sum s_i^2 min(t, room_i / |s_i|) = |gap|."""
        slope, room, gap = _downhill(x, slope, gap)
        pace = slope.abs()
        reached = level(slope.square(), room / pace.clamp(min=TINY), gap)
        return slope.sign().mul_(room.minimum(pace.mul_(reached[:, None]))).reshape_as(x)

    def nearest(self, x0: Tensor, x: Tensor, radius: float) -> Tensor:
        """The point of the ball and the box nearest to x, [B, ...]: as near as rounding allows, and never outside.

        It is x0 + clip(t (x - x0)) with the largest t up to 1 that stays in the ball (Karush-Kuhn-Tucker), and so
        uses what clipping gives back, which `projection` leaves.
        """
        import torch

        start, delta = x0.flatten(1), (x - x0).flatten(1)
        room = torch.where(delta > 0, 1 - start, start).clamp_(min=0.0)
        move = delta.abs().minimum(room)
        beyond = (torch.linalg.vector_norm(move, dim=1, dtype=torch.float64) > radius).nonzero()[:, 0]
        if len(beyond):
            move[beyond] = _shortened(delta[beyond].abs(), room[beyond], _reach(radius, start.shape[1]))
        return (x0 + delta.sign().mul_(move).reshape_as(x0)).clamp_(0.0, 1.0)

    def nearer(self, x0: Tensor, x: Tensor, share: Tensor) -> Tensor:
        """All changes times `share`."""
        return x0 + expand(share.to(x.dtype), x) * (x - x0)


# by name, in the order of the columns of rows; the first two were there from the start, so add at the end
NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2())}

# the norm where none is named
DEFAULT = Linf.name


def parse_norm(norm: object) -> str:
    """The name, if it is a norm's; raises BadInput for anything else, with the name that is meant if that is clear."""
    if isinstance(norm, str) and norm in NORMS:
        return norm
    meant = "l" + str(norm).strip().lower().replace("∞", "inf").replace("_", "").removeprefix("l").removesuffix(".0")
    if meant in NORMS:
        raise BadInput(f"norm is {shown(norm)} (did you mean {meant!r}?), but must be {any_of(map(repr, NORMS))}.")
    raise (
        unknown("norm", norm, NORMS)
        if isinstance(norm, str)
        else BadInput(f"norm is {shown(norm)}, but must be {any_of(map(repr, NORMS))}.")
    )


def any_of(texts: Iterable[str]) -> str:
    """Alternatives in words: "linf or l2"."""
    *most, last = texts
    return f"{', '.join(most)} or {last}" if most else last


def default_eps() -> str:
    """The norms' own eps in words, for those that have one: "8/255 by default in linf"."""
    return ", ".join(f"{norm.default} by default in {norm.name}" for norm in NORMS.values() if norm.default)


def expand(per_example: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...], to broadcast against `like` [B, ...]."""
    return per_example.reshape(-1, *(1,) * (like.dim() - 1))


# below this share of a row's largest entry nothing moves
TINY = 1e-15


def _downhill(x: Tensor, slope: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For a move by <slope, z - x> = gap: its direction [B, d], largest entry 1, every pixel's way to the wall [B, d],
    and the length of the gap [B] in the direction's scale."""
    import torch

    scale = unit(slope)
    towards = (slope.flatten(1) * (scale * torch.where(gap < 0, -1.0, 1.0).to(scale))[:, None]).to(x.dtype)
    flat = x.flatten(1)
    room = torch.where(towards > 0, 1 - flat, flat).clamp_(min=0.0)
    return towards, room, (gap.abs() * scale).to(x.dtype)


def _reach(radius: float, pixels: int) -> float:
    """A hair inside an L2 ball, so that float32 rounding of every pixel cannot carry a point out of it."""
    return max(radius * (1 - 2e-7) - math.sqrt(pixels) * 2.0**-25, 0.0)


def _shortened(size: Tensor, room: Tensor, reach: float) -> Tensor:
    """min(t * size, room) with the t that makes its length `reach`, where the length at t = 1 is more: [B, d]."""
    import torch

    size = size * unit(size)[:, None]
    cap = (room / size.clamp(min=TINY)).square()
    target = size.new_full((len(size),), reach**2)
    move = room.minimum(size * level(size.square(), cap, target).sqrt()[:, None])
    length = torch.linalg.vector_norm(move, dim=1, dtype=torch.float64)
    shortened: Tensor = move * (reach / length.clamp(min=1e-30)).clamp(max=1.0).to(move.dtype)[:, None]
    return shortened


def level(weight: Tensor, cap: Tensor, target: Tensor) -> Tensor:
    """The t >= 0 with sum_i weight_i min(t, cap_i) = target, per row: [B, d], [B, d], [B] -> [B].

    The left side is concave and linear between caps, so t = (target - what the capped give) / the others' weight rises
    from cap to cap (Newton's method) and is exact once no more caps are met, after three or four rounds as a rule;
    sorting the caps takes longer. Where the target cannot be met, a number above all caps of entries that have weight.
    """
    import torch

    filled = weight * cap
    reached, count = target / weight.sum(1).clamp(min=1e-37), None
    for _ in range(weight.shape[1] + 1):
        free = (cap > reached[:, None]).to(weight.dtype)
        now = free.sum(1)
        if count is not None and bool((now == count).all()):
            break
        count = now
        rest, left = _dot(free, weight), target - _dot(1 - free, filled)
        reached = torch.where(rest > 0, reached.maximum(left / rest.clamp(min=1e-37)), reached.new_tensor(1e30))
    return reached


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of each row of a with that of b: [B, d], [B, d] -> [B]."""
    product: Tensor = (a[:, None] @ b[:, :, None])[:, 0, 0]
    return product


def unit(grad: Tensor) -> Tensor:
    """1 over the largest entry of each row, [B]; 1 for a row of zeros."""
    largest = grad.flatten(1).abs().amax(1)
    return largest.clamp(min=1e-37).masked_fill(~(largest > 0), 1.0).reciprocal()

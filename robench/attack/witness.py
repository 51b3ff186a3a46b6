"""What an attack saw of a model, kept to be looked into afterwards: whether the gradients that it got say what the
answers do. A model cannot tell these calls from others, for they are the attack's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# calls that are kept, images of each, and directions in which they are looked into
KEPT, IMAGES, DIRECTIONS = 2, 24, 2
# shares of the ball at which an answer's change is measured, each four times the one before. The square of a change
# that has a slope grows sixteenfold, that of a staircase fourfold and that of noise not at all: where most of them grow
# by about sixteen at no step, they say nothing of slopes
RADII, GROWN = (1 / 4096, 1 / 1024, 1 / 256, 1 / 64, 1 / 16), (8, 32)
# fewer images say nothing, and so does a change of fewer than so many roundings
LEAST, ROUNDINGS = 4, 16
# the share of the changes' energy from which on it is not what the gradients say; of honest models at most a twentieth
MISSED = 0.25
# what is said of gradients
WRONG, UNCHECKED = "wrong-gradients", "unchecked-gradients"


@dataclass
class _Sight:
    """Images [n, C, H, W] as the model was asked about them; gradients, once known, with respect to the logits and to
    the images."""

    x: Tensor
    rows: Tensor
    above: Tensor | None = None
    below: Tensor | None = None

    def take_above(self, gradient: Tensor | None) -> None:
        """The first gradient with respect to the logits that passes."""
        if self.above is None and gradient is not None:
            self.above = gradient.detach()[self.rows].double().cpu()

    def take_below(self, gradient: Tensor | None) -> None:
        """The gradient with respect to the images that came of it."""
        if self.below is None and self.above is not None and gradient is not None:  # as of a quantised layer
            self.below = gradient.detach()[self.rows].double().cpu()


class Witness:
    """Keeps a few of an attack's calls with gradients, drawn at random from all."""

    def __init__(self, seed: int) -> None:
        self._draw, self._calls = random.Random(seed), 0
        self._kept: list[_Sight] = []
        self._last: _Sight | None = None

    def see(self, x: Tensor, answer: Callable[[Tensor], Tensor]) -> Tensor:
        """What `answer` makes of x, which requires a gradient."""
        x, sight = x.view_as(x), self._sight(x)
        logits, self._last = answer(x), sight
        if sight is not None and logits.requires_grad:
            x.register_hook(sight.take_below)  # type: ignore[no-untyped-call]
            logits.register_hook(sight.take_above)  # type: ignore[no-untyped-call]
        return logits

    def told(self, gradient: Tensor) -> None:
        """Take the gradient that came of the last call, as the attack was given it, with respect to the images that it
        asked about: a model may have turned it round behind whoever listens."""
        sight, self._last = self._last, None
        if sight is not None and sight.above is not None:
            sight.below = gradient[sight.rows].double().cpu()

    def forget(self) -> None:
        """Take the next gradient for none of the calls so far."""
        self._last = None

    def _sight(self, x: Tensor) -> _Sight | None:
        self._calls += 1
        place = len(self._kept) if len(self._kept) < KEPT else self._draw.randrange(self._calls)
        if place >= KEPT:
            return None
        rows = torch.tensor(sorted(self._draw.sample(range(len(x)), min(IMAGES, len(x)))), device=x.device)
        sight = _Sight(x.detach()[rows].clone(), rows)
        self._kept[place : place + 1] = [sight]
        return sight

    def verdict(self, answer: Callable[[Tensor], Tensor], reach: float) -> str:
        """What is to be said of the gradients in the calls that were kept: WRONG, UNCHECKED, or nothing.

        The answers' changes in random directions, in which every pixel moves, are held against what the gradient says,
        however small the step. answer: the model's, asked as an attack asks. reach: by how much all pixels can move at
        once within the ball.
        """
        shares = [_missed(sight, answer, reach, self._draw.randrange(2**31)) for sight in self._kept]
        found = [share for share in shares if share is not None]
        if any(share > MISSED for share in found):
            return WRONG
        return UNCHECKED if torch.inf in map(abs, found) else ""


def _coarse(answers: Tensor) -> bool:
    """Whether answers are numbers of half precision, whose steps hide small changes."""
    kinds = (torch.bfloat16, torch.float16)
    fine = torch.equal(answers.round(), answers)  # whole numbers, which every precision has
    return not fine and any(torch.equal(answers.to(kind).to(answers), answers) for kind in kinds)


def _missed(sight: _Sight, answer: Callable[[Tensor], Tensor], reach: float, seed: int) -> float | None:
    """The share of the changes' energy that the gradient does not tell of, at the step where it tells most; minus
    infinity where the answers are too coarse to say, None where nothing is to be said."""
    if sight.above is None or sight.below is None:
        return None
    generator, before = torch.Generator().manual_seed(seed), answer(sight.x)
    if _coarse(before):
        return -torch.inf
    floor = ROUNDINGS * torch.finfo(torch.float32).eps * before.abs().amax(1) * sight.above.abs().sum(1)
    shares, sloped, last, hidden = [torch.inf], False, torch.inf, False
    drawn = torch.randint(0, 2, (DIRECTIONS, *sight.x.shape), generator=generator)
    directions = drawn.to(sight.x) * 2 - 1
    for radius in RADII:  # each in the same directions: in others a change grows by chance too
        moved = sight.x + radius * reach * directions
        outside = (moved < 0) | (moved > 1)
        moved = torch.where(outside, sight.x - radius * reach * directions, moved).clamp(0, 1)
        said = (sight.below * (moved - sight.x).double().cpu()).flatten(2).sum(2)
        done = (sight.above * (answer(moved.flatten(0, 1)).reshape(*said.shape, -1) - before)).sum(2)
        off, change = ((done - said) ** 2).sum(0), (done**2).sum(0)
        size = torch.maximum(done**2, said**2).sum(0)
        seen = (change > DIRECTIONS * floor**2) & off.isfinite() & size.isfinite()
        if radius == RADII[-2]:  # two steps are needed to see whether a change grows
            hidden = int(((change > 0) & ~seen).sum()) >= max(LEAST, len(seen) / 2)
        usual = 0.0
        if int(seen.sum()) >= LEAST:
            usual = float(change[seen].median())
            shares.append(float((off[seen] / size[seen]).median()))
        sloped |= GROWN[0] * last < usual < GROWN[1] * last
        last = usual
        if sloped and min(shares) <= MISSED:  # whatever else is measured, nothing is to be said
            break
    return min(shares) if sloped else -torch.inf if hidden else None

"""Stages of an attack: each works on images that those before it left standing and came near to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robench import (
    Attack,
    Cost,
    Proposal,
    ThreatModel,
    targeted_margin,
)
from robench_attacks.ascending import Ascent, ascend, climb, to_likeliest
from robench_attacks.fab import Finds, beside
from robench_attacks.square import Square
from robench_attacks.standing import Standing
from robench_attacks.walking import HALVINGS, PLAIN, Gait, walk

# to whichever class is likeliest at every step of a walk
ANY = -1
# the share of the clean margin that ascents must take away not to be called far from breaking an image
FAR = 0.5
# the width of stripes, as a share of the image's
WIDE = 3 / 14
# how long the first step of an ascent from stripes is, in eps: from one end of a pixel's range to the other
ACROSS = 2.0
# the share of the pixels that the first squares cover where a search goes on from an image that was found
ONWARD = 0.3
# the share of a margin by which an image that stays where it is may be answered otherwise in another batch
ROUNDED = 1e-4
# queries of an image that are asked at once where a search goes on: few are kept, and small calls cost nearly as much
AHEAD = 4


@dataclass(frozen=True)
class Stage(ABC):
    """A part of an attack under a name, for images that were come near to.

    near: no more than this share of the clean margin is left; or beyond: a misclassified image is known that is no more
    than this share of eps outside. Both are an image's own, so that no other image has a say in what is spent on it.
    also: which images count as near in any case, those that ascents are "misled" or "stuck" at, or those whose walks
    are "unsettled" or "aslant" (see `Standing`).
    trusting: whether only images are attacked whose gradients are not known to mislead.
    """

    name: str
    near: float = math.inf
    beyond: float = -math.inf
    also: Literal["", "misled", "stuck", "unsettled", "aslant"] = ""
    trusting: bool = False

    def run(self, standing: Standing) -> Tensor:
        """Run it on who stands near enough; who that was, int64."""
        rows = self.who(standing)
        if len(rows):
            self.attack(standing, rows)
        return rows

    def who(self, standing: Standing) -> Tensor:
        """Who stands near enough, int64."""
        rows = standing.within(self.near, self.beyond)
        if self.also:
            more: Tensor = getattr(standing, self.also)
            rows = torch.cat([rows, standing.rows[more.cpu()[standing.rows]]]).unique()
        return rows[~standing.misled.cpu()[rows]] if self.trusting else rows

    @abstractmethod
    def attack(self, standing: Standing, rows: Tensor) -> None:
        """Attack `rows` int64 [R]."""

    @abstractmethod
    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """The most passes of one image."""


@dataclass(frozen=True)
class Ascend(Stage):
    """Short ascents on the margin to the likeliest wrong class, from the image, or side by side from corners.

    climbing: only where ascents left no more than `near`, whatever else came nearer.
    """

    steps: int = 10
    corners: int = 0
    climbing: bool = False

    def who(self, standing: Standing) -> Tensor:
        """Who stands near enough, by ascents if so."""
        rows = super().who(standing)
        return rows[(standing.gained >= 1 - self.near).cpu()[rows]] if self.climbing else rows

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """In batches no larger than the whole; all copies of an image end with the first find."""
        copies = max(1, self.corners)
        for some in rows.split(max(1, len(standing.batch) // copies)):
            ascend(standing, some, Ascent(to_likeliest, self.steps, self.corners > 0), copies)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """A gradient per step and an answer, for every copy."""
        del threat, classes, targets
        return Cost(self.steps, self.steps + 1).times(max(1, self.corners))


@dataclass(frozen=True)
class Stripes(Stage):
    """Wide stripes, a step from those that are better than the image, and an ascent from what is nearer after it.

    Stripes across and upright, as far from the image as the ball goes, cost an answer each. They break a good part of
    what hardly resists, and show a way where gradients at the image do not. further: of so many steps, where at most
    a share `promise` of the clean margin is left.
    """

    further: int = 3
    promise: float = 0.95

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """An image leaves with its first find."""
        for axis in (-2, -1):
            self._ask(standing, rows, axis)
            rows = standing.still(rows)
        for steps, left in ((1, 1 - ROUNDED), (self.further, self.promise)):
            rows = rows[torch.isin(rows, standing.within(left, -math.inf))]
            if not len(rows):
                return
            climb(standing, rows, standing.x[rows.to(standing.device)], steps, first=ACROSS)
            standing.went(1, steps + 1)
            rows = standing.still(rows)

    def _ask(self, standing: Standing, rows: Tensor, axis: int) -> None:
        """About stripes that change along an axis of the image."""
        if not len(rows):
            return
        x, threat = standing.batch.x[rows.to(standing.device)], standing.batch.threat
        at = torch.arange(x.shape[axis], device=x.device)
        signs = (at // max(1, round(WIDE * len(at))) % 2 * 2 - 1).to(x.dtype)
        way = (signs[:, None] if axis == -2 else signs).expand_as(x)
        images = threat.project(x, threat.geometry.steepest(x, way, threat.radius))
        standing.take(rows, Proposal(images, torch.zeros_like(rows)))
        standing.went(1, 1)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """Two answers, and of each ascent a gradient per step and an answer."""
        del threat, classes, targets
        return Cost(1 + self.further, 2 + 2 + self.further + 1)


@dataclass(frozen=True)
class AscendTo(Stage):
    """Short ascents towards the wrong classes in turn, the nearest first, or as likely where nobody has sorted them.

    first: only towards so many of them. most: only towards those that came nearest, from corners. sort: whether classes
    are ordered by their distances before, if nobody has done so.
    """

    steps: int = 4
    first: int = 0
    most: int = 0
    sort: bool = False

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """Towards one class after the other."""
        if self.sort:
            standing.sort()
        places = torch.arange(standing.order.shape[1], device=standing.device).expand_as(standing.order)
        places = places[:, : self.first or None]
        if self.most:
            places = standing.reach.argsort(dim=1, descending=True, stable=True)[:, : self.most]
        for rank in range(places.shape[1]):
            rows = standing.still(rows)
            if not len(rows):
                return
            at = rows.to(standing.device)
            place = places[at, rank]
            ascent = Ascent(targeted_margin, self.steps, self.most > 0)
            reached = ascend(standing, rows, ascent, 1, standing.order[at, place])
            standing.reach[at, place] = torch.maximum(reached, standing.reach[at, place])
            standing.went(1, self.steps + 1)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """A gradient per step and an answer for each class."""
        del threat
        targets = min(targets, classes - 1)
        return Cost(self.steps, self.steps + 1).times(min(self.most or self.first or targets, targets))


@dataclass(frozen=True)
class Walk(Stage):
    """Walks along the boundary, and short ascents from their nearest finds, projected.

    to: where each leads, to the class of this place in the order or to ANY. first: the number of the first; the walk of
    number 0 begins at the image, or at the `best` one so far, the others at random points eps away. sort: whether
    classes are ordered by their distances before, not by their logits. onward: steps of the ascents; none if 0. hope:
    they are left out where no misclassified image is known that is at most this share of eps outside, unless the walk's
    end says nothing (see `Standing.level`). probe: if not 0, ascents of so many steps go before, and only where they
    leave at most a share `promise` of the clean margin do those of `onward` steps go on from their ends.
    """

    steps: int = 40
    to: tuple[int, ...] = (0,)
    first: int = 0
    best: bool = False
    sort: bool = True
    gait: Gait = PLAIN
    onward: int = 0
    hope: float = math.inf
    probe: int = 0
    promise: float = math.inf

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """One walk after the other; an image leaves with its first find within eps."""
        if self.sort:
            standing.sort()
        for number, rank in enumerate(self.to, self.first):
            rows = rows[torch.isin(rows, self.who(standing))]
            if not len(rows):
                return
            self._walk(standing, rows, number, rank)
            standing.went(1, self._each.forwards or 0)

    def _walk(self, standing: Standing, rows: Tensor, number: int, rank: int) -> None:
        at = rows.to(standing.device)
        goal = standing.order[at, rank % standing.order.shape[1]]
        handle, part = standing.part(rows, 1, goal)
        finds, radius = Finds(handle, part, nearest=False), part.threat.radius
        start = beside(part, "start", 2 * radius) if number else standing.x[at] if self.best else part.x
        planes = walk(finds, start, self.steps, gait=self.gait, to_any=rank == ANY)
        handle.note_nonfinite(finds.nonfinite)
        outside, plane = (
            (away / max(radius, 1e-30) - 1).to(standing.beyond.dtype) for away in (finds.distance, planes)
        )
        standing.plane[at] = torch.where(outside < standing.beyond[at], plane, standing.plane[at])
        standing.beyond[at] = torch.minimum(standing.beyond[at], outside)
        end = part.threat.project(part.x, finds.x)
        standing.take(rows, Proposal(end, finds.step.cpu()))
        found = outside <= 0
        rest = torch.isin(rows, standing.rows).nonzero()[:, 0] if self.onward else rows[:0]
        rest = rest[((standing.beyond[at] <= self.hope) | standing.level[at]).cpu()[rest]]
        if len(rest):
            reached = self._onward(standing, rows[rest], end[rest.to(end.device)])
            found = found.index_fill(0, rest[reached.cpu() > 0].to(found.device), True)
        handle.note_masked("walks-beat-ascents", found & standing.ascended[at] & (standing.gained[at] < FAR))

    def _onward(self, standing: Standing, rows: Tensor, x: Tensor) -> Tensor:
        """Ascents from x; how far past the boundary they came, [R]."""
        if not self.probe:
            return climb(standing, rows, x, self.onward, self._walked)[0]
        reached, x = climb(standing, rows, x, self.probe, self._walked)
        left = -reached / standing.clean[rows.to(standing.device)]
        near = ((left >= 0) & (left <= self.promise)).nonzero()[:, 0]
        if not len(near):
            return reached
        further = climb(standing, rows[near.cpu()], x[near], self.onward, self._walked + self.probe + 1)[0]
        return reached.index_copy(0, near, torch.maximum(reached[near], further))

    @property
    def _walked(self) -> int:
        """The answers that a walk takes with those behind its gradients, and the one for what comes of it."""
        return self.steps + 1 + self.gait.closing * (1 + HALVINGS)

    @property
    def _each(self) -> Cost:
        """Of a walk and the ascents from its end."""
        ascents = [steps for steps in (self.probe, self.onward) if steps]
        return Cost(self.steps + self.gait.closing + sum(ascents), self._walked + sum(ascents) + len(ascents))

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """A gradient per step, and an answer for what comes of it."""
        del threat, classes, targets
        return self._each.times(len(self.to))


@dataclass(frozen=True)
class Ask(Stage):
    """Random search with squares, which asks for answers alone, from stripes: a witness of what gradients are worth.

    Images to which it comes nearer than all gradients before it are noted.
    """

    queries: int = 100

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """`queries` for each."""
        handle, part = standing.part(rows)
        at = rows.to(standing.device)
        before = standing.margin[at].clone()
        led = standing.take(rows, Square(queries=self.queries).improve(handle, part)) > before
        standing.led[at] |= led
        handle.note_masked("queries-beat-gradients", led)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """An answer per query, and one for what comes of it."""
        del threat, classes, targets
        return Cost(0, self.queries + 1)


@dataclass(frozen=True)
class AskOn(Ask):
    """The same from the best image so far; also for images that a witness came nearer to than gradients.

    first: so many queries go before; where they take no more than a share `worth` of what is left of an image's margin,
    nothing more is asked.
    """

    first: int = 0
    worth: float = ROUNDED

    def who(self, standing: Standing) -> Tensor:
        """Who stands near enough or was led by answers alone."""
        led = standing.rows[standing.led.cpu()[standing.rows]]
        return torch.cat([super().who(standing), led]).unique()

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """`first` queries for each, and `queries` for those that still stand and gained enough by them."""
        if self.first:
            before = standing.margin.clone()
            self._ask(standing, rows, self.first)
            standing.went(1, self.first + 1)
            gained = standing.margin > before + self.worth * before.abs()
            rows = standing.still(rows[gained.cpu()[rows]])
        if len(rows):
            self._ask(standing, rows, self.queries)

    def _ask(self, standing: Standing, rows: Tensor, queries: int) -> None:
        handle, part = standing.part(rows)
        begin, most = standing.x[rows.to(standing.device)], len(standing.batch)
        standing.take(rows, self._square(queries).improve(handle, part, begin, ahead=AHEAD, most=most))

    @staticmethod
    def _square(queries: int) -> Square:
        return Square(queries=queries, p_init=ONWARD)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """An answer per query, one for what comes of each search, and those asked ahead for nothing."""
        del threat, classes, targets
        searches = [self._square(queries) for queries in (self.first, self.queries) if queries]
        return Cost(0, sum(search.queries + 1 + search.wasted for search in searches))


@dataclass(frozen=True)
class Whole(Stage):
    """An attack of its own, with all of its trials."""

    plugin: Attack = field(kw_only=True)

    def attack(self, standing: Standing, rows: Tensor) -> None:
        """One trial after the other."""
        batch = standing.batch
        plan = self.plugin.trials(batch.y.cpu(), standing.logits.cpu(), batch.example_id, batch.seed)
        for trial in range(len(plan)):
            rows = standing.still(rows)
            if not len(rows):
                return
            goal = plan.goal[rows, trial].to(standing.device)
            handle, part = standing.part(rows, 1, goal, plan.key[rows, trial])
            answer = self.plugin.perturb(handle, part)
            if not isinstance(answer, Proposal):
                answer = Proposal(answer, torch.full_like(rows, -1))
            standing.take(rows, answer)
            cost = self.plugin.passes(part.threat, handle.classes)
            standing.went(1, cost.forwards or 0)

    def cost(self, threat: ThreatModel, classes: int, targets: int) -> Cost:
        """What the attack says, and an answer for what comes of each trial."""
        del targets
        none = torch.zeros(1, dtype=torch.int64)
        trials = len(self.plugin.trials(none, torch.zeros(1, classes), none, 0))
        each = self.plugin.passes(threat, classes)
        return Cost(each.backwards, (each.forwards or 0) + 1).times(trials)

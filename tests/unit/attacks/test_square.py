"""Square: what it may ask about, that its numbers are addressed, and what it costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import Proposal, ThreatModel, registry
from robench.attack.base import Batch
from robench.attack.budget import Budget
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.testing.samples import SmallModel, data_info, random_images
from robench_attacks.square import Square
from robench_attacks.squares import bump

RADIUS = {"linf": 0.1, "l2": 0.5}
each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


class Watched(nn.Module):
    """Answers `by` an image's sums, or always the same, and keeps what it was asked about."""

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.constant, self.asked = constant, []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        rise = 0 * x.flatten(1).sum(1) if self.constant else x.flatten(1).sum(1) - 1e3
        return torch.stack([torch.ones_like(rise), rise], dim=1)


def asked(norm: str, queries: int, constant: bool, shape: tuple[int, ...] = (3, 12, 12)) -> tuple[Tensor, Tensor]:
    """Images [B, ...] in the middle of the box, and every image that the search asked about, [queries, B, ...]."""
    x = 0.4 + 0.2 * torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    module, ids = Watched(constant), torch.arange(5)
    threat, zeros = ThreatModel.of(norm, RADIUS[norm]), torch.zeros_like(ids)
    batch = Batch(x, zeros, zeros - 1, ids, zeros, ids, threat, seed=0)
    registry.load("attack", "square").build({"queries": queries}).perturb(Classifier(module, 2, 5).rows(ids), batch)
    return x, torch.stack(module.asked)


@pytest.mark.parametrize("constant", [False, True])
@each_norm
def test_every_image_lies_at_the_rim_of_the_ball(norm: str, constant: bool) -> None:
    x, images = asked(norm, 120, constant)
    assert images.shape == (120, *x.shape)
    for each in images:
        change = (each - x).flatten(1)
        if norm == "linf":
            assert torch.allclose(change.abs(), torch.full_like(change, 0.1), atol=1e-6)
        else:
            assert torch.allclose(change.norm(dim=1), torch.full((5,), 0.5), atol=1e-5)
        assert ThreatModel.of(norm, RADIUS[norm]).contains(x, each).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (1, 28, 28), (3, 4, 9), (1, 1, 1), (2, 3, 3)])
@each_norm
def test_images_of_any_shape_stay_inside(norm: str, shape: tuple[int, ...]) -> None:
    x, images = asked(norm, 30, False, shape)
    for each in images:
        assert ThreatModel.of(norm, RADIUS[norm]).contains(x, each).all()


def test_a_query_changes_one_square_of_the_planned_side_anywhere() -> None:
    """Where no answer is better, every query starts from the same image."""
    attack = Square(queries=400)
    _, images = asked("linf", 400, constant=True)
    corners = set()
    for query, each in enumerate(images[1:]):
        side = max(attack.side(query, 12, 12), 1)
        changed = (each != images[0]).any(1)  # [B, H, W]
        for row in changed:
            if row.any():
                lines, columns = row.any(1).nonzero()[:, 0], row.any(0).nonzero()[:, 0]
                assert lines[-1] - lines[0] < side
                assert columns[-1] - columns[0] < side
                if side == 1:
                    corners.add((int(lines[0]), int(columns[0])))
    assert {line for line, _ in corners} == {column for _, column in corners} == set(range(12))


def test_squares_shrink_as_published() -> None:
    attack = Square(queries=10_000)
    sides = [attack.side(query, 28, 28) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    shares = [0.8 / 2**k for k in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert sides == [round((share * 28 * 28) ** 0.5) for share in shares]
    assert [Square(queries=100).side(query, 28, 28) for query in (0, 1, 99)] == [sides[0], sides[3], sides[-1]]


def test_a_bump_has_a_hill_and_a_hollow_and_length_one() -> None:
    whole = bump(5)
    assert whole.norm().item() == pytest.approx(1)
    assert (whole[:2] > 0).all()
    assert (whole[2:] < 0).all()
    # the lower part has 3 x 5 pixels: a middle, where three rectangles lie on each other, then two, then one
    low, middle, high = 1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1
    shape = [low, middle, high, middle, low]
    assert (whole[3] / whole[3, 2]).tolist() == pytest.approx([each / high for each in shape])


def judged(x: Tensor, y: Tensor, ids: Tensor, norm: str, batch: int = 250, **options: Any) -> pd.DataFrame:
    attack = registry.load("attack", "square").build(options)
    threat, module = ThreatModel.of(norm, 0.04 if norm == "linf" else 0.2), SmallModel(1, 4)
    return attack_shard(module, 4, attack, threat, Examples(x, y, ids), Settings(batch_size=batch)).rows


@each_norm
def test_the_outcome_of_an_image_does_not_depend_on_its_neighbours(norm: str) -> None:
    x, _ = random_images(data_info("x", 1, 8, 4), 60)
    y, ids = SmallModel(1, 4)(x).argmax(1), torch.arange(60)
    whole = judged(x, y, ids, norm, queries=60, restarts=2)
    assert 0.1 < whole["success"].mean() < 0.9
    others = [judged(x, y, ids, norm, batch=batch, queries=60, restarts=2) for batch in (7, 40)]
    parts = [judged(x[part], y[part], ids[part], norm, queries=60, restarts=2) for part in (ids < 25, ids >= 25)]
    for rows in (*others, pd.concat(parts)):
        for name in ("success", "trial", "step", "forwards"):
            assert rows[name].tolist() == whole[name].tolist(), name


@each_norm
def test_numbers_run_on_from_block_to_block(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries beyond the first block draw numbers of their own."""
    monkeypatch.setattr("robench_attacks.square.BLOCK", 7)
    _, images = asked(norm, 29, constant=True)
    late = images[-21:].flatten(1)  # squares of the least side
    assert len(late.unique(dim=0)) > 14


@each_norm
def test_more_queries_find_more_and_a_find_ends_them(norm: str) -> None:
    x, _ = random_images(data_info("x", 1, 8, 4), 60)
    y, ids = SmallModel(1, 4)(x).argmax(1), torch.arange(60)
    few, many = (judged(x, y, ids, norm, queries=queries) for queries in (1, 200))
    assert few["success"].sum() < many["success"].sum()
    found = many[many["success"]]
    assert (found["forwards"] == found["step"] + 1).all()
    assert (many[~many["success"]]["forwards"] == 200).all()
    assert (many["backwards"] == 0).all()


class Counting(SmallModel):
    """Keeps how many images each call has."""

    def __init__(self) -> None:
        super().__init__(1, 4)
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return super().forward(x)


def searched(
    norm: str, queries: int, module: nn.Module, radius: float, *, budget: int = 0, **how: Any
) -> tuple[Proposal, Classifier]:
    """What 30 images' searches propose, and what they cost."""
    x, _ = random_images(data_info("x", 1, 8, 4), 30)
    y, ids = SmallModel(1, 4)(x).argmax(1), torch.arange(30)
    classifier, zeros = Classifier(module.eval(), 4, 30, labels=y), torch.zeros_like(ids)
    classifier.budget = Budget(budget, zeros) if budget else None
    batch = Batch(x, y, zeros - 1, ids, zeros, ids, ThreatModel.of(norm, radius), seed=0)
    found = Square(queries=queries, p_init=0.3).improve(classifier.rows(ids), batch, x, **how)
    return found, classifier


@pytest.mark.parametrize("ahead", [2, 4, 50])
@each_norm
def test_queries_asked_ahead_find_what_those_asked_in_turn_do(
    norm: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also across blocks of numbers: the same images at the same queries, for a twentieth more at most."""
    monkeypatch.setattr("robench_attacks.square.BLOCK", 37)
    queries, radius, turns, together = 200, 0.03 if norm == "linf" else 0.15, Counting(), Counting()
    one, first = searched(norm, queries, turns, radius)
    all_at_once, second = searched(norm, queries, together, radius, ahead=ahead)
    assert 0 < (first.forwards < queries).sum() < 30  # some fall, some stand
    assert torch.equal(one.x, all_at_once.x)
    assert torch.equal(one.step, all_at_once.step)
    more = second.forwards - first.forwards
    assert (more >= 0).all()
    assert 0 < more.max() <= Square(queries=queries).wasted == 10
    assert max(turns.calls) == 30 < max(together.calls)


class Flat(Watched):
    """Always the same answer, of three classes."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(super().forward(x), (0, 1))


def test_where_nothing_is_kept_ahead_saves_calls_and_wastes_nothing() -> None:
    x, module = torch.full((5, 3, 12, 12), 0.5), Flat(constant=True)
    ids = torch.arange(5)
    classifier, zeros = Classifier(module, 3, 5), torch.zeros_like(ids)
    batch = Batch(x, zeros, zeros - 1, ids, zeros, ids, ThreatModel.of("linf", 0.1), seed=0)
    Square(queries=401).improve(classifier.rows(ids), batch, x, ahead=4)
    assert len(module.asked) == 1 + 100
    assert classifier.forwards.tolist() == [401] * 5


def test_calls_ahead_are_no_larger_than_allowed() -> None:
    few, many = Counting(), Counting()
    small, _ = searched("linf", 80, few, 0.03, ahead=4, most=31)
    large, _ = searched("linf", 80, many, 0.03, ahead=4)
    assert max(few.calls) == 31
    assert max(many.calls) > 100
    assert torch.equal(small.x, large.x)


@pytest.mark.parametrize("most", [60, 10**6])
def test_a_budget_is_kept_and_one_that_is_large_enough_changes_nothing(most: int) -> None:
    found, free = searched("linf", 100, Counting(), 0.001, ahead=4)
    held, limited = searched("linf", 100, Counting(), 0.001, budget=most, ahead=4)
    assert (free.forwards > 60).any()
    assert (limited.forwards <= most).all()
    if most > 60:
        assert torch.equal(held.x, found.x)
        assert torch.equal(limited.forwards, free.forwards)


class Failing(SmallModel):
    """Answers NaN to one image of a hundred, by its pixels."""

    def forward(self, x: Tensor) -> Tensor:
        whole = (x.double().flatten(1) * torch.arange(1, x[0].numel() + 1)).sum(1) * 1237.7
        return super().forward(x).masked_fill((whole.frac() < 0.01)[:, None], torch.nan)


def test_an_answer_that_is_not_finite_ends_a_search_ahead_as_one_in_turn() -> None:
    found, classifier = searched("linf", 60, Failing(1, 4).eval(), 0.01, ahead=4)
    turns, plain = searched("linf", 60, Failing(1, 4).eval(), 0.01)
    assert 0 < plain.nonfinite.sum() < 30
    assert torch.equal(classifier.nonfinite, plain.nonfinite)
    assert torch.equal(found.x, turns.x)
    assert torch.equal(found.step, turns.step)


def test_images_with_copies_are_asked_about_in_turn() -> None:
    """They end together, at a query that all of them have come to."""
    x, _ = random_images(data_info("x", 1, 8, 4), 5)
    group = torch.arange(5).repeat_interleave(2)
    y, trial = SmallModel(1, 4)(x).argmax(1)[group], torch.arange(2).repeat(5)
    both = []
    for ahead in (1, 4):
        classifier = Classifier(SmallModel(1, 4).eval(), 4, 5)
        batch = Batch(x[group], y, y * 0 - 1, group, trial, group, ThreatModel.of("linf", 0.05), seed=0)
        both.append((Square(queries=120).improve(classifier.rows(group), batch, ahead=ahead), classifier))
    assert torch.equal(both[0][0].x, both[1][0].x)
    assert torch.equal(both[0][1].forwards, both[1][1].forwards)

"""Walks along the boundary: where they end, what they cost, and the ascents that go on from there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robench import PlaneNorm, ThreatModel
from robench_attacks.fab import ETA, Finds, move
from robench_attacks.stages import ANY, Walk
from robench_attacks.walking import Gait, walk
from tests.unit.attacks.standings import Linear, distances, grey, standing_of

CLOSING = Gait((0.3, 0.5), closing=3)


def test_beginning_at_the_boundary_costs_no_more_than_it_says() -> None:
    x = grey(20)
    standing, stage = standing_of(Linear(), x, eps="0.0001"), Walk("w", steps=6, to=(ANY,), sort=False, gait=CLOSING)
    stage.run(standing)
    cost, spent = stage.cost(ThreatModel.of("linf", "0.0001"), 5, 9), standing.model._classifier.spent
    plain = standing_of(Linear(), x, eps="0.0001")
    Walk("w", steps=6, to=(ANY,), sort=False).run(plain)
    assert (spent > plain.model._classifier.spent).all()  # all are broken by the first step, far outside
    assert (spent <= cost.spent + 1).all()


@pytest.mark.parametrize("gait", [Gait(), CLOSING, Gait(over=1.5)], ids=["plain", "closing", "over"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_walk_ends_at_the_boundary_whatever_its_gait(gait: Gait, norm: str) -> None:
    model, x = Linear(2), grey(20)
    standing = standing_of(model, x, norm, "0.000001")
    handle, part = standing.part(standing.rows)
    finds = Finds(handle, part, nearest=False)
    planes = walk(finds, part.x, 12, gait=gait, to_any=True)
    nearest = distances(model, x, norm).amin(1)
    assert torch.allclose(planes.float(), nearest, rtol=1e-3)  # the boundary is a plane
    share = finds.distance.float() / nearest
    assert (share > 1 - 1e-3).all()
    assert (share < ETA + 1e-3).all()


class Between(nn.Module):
    """Class 1 from 0.6 on in the first pixel, class 2 from 0.9 on, or nowhere in the box."""

    def __init__(self, *, far: bool = False) -> None:
        super().__init__()
        self.far = far
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        z = x.flatten(1)[:, 0]
        return torch.stack([0 * z, z - 0.6, 2 * z - (9.0 if self.far else 1.5)], 1)


@pytest.mark.parametrize(
    ("model", "goal", "found", "plane"),
    [(Between(), 1, 0.1, 0.1), (Between(), 2, 0.25, 0.25), (Between(far=True), 2, 0.5, 0.0)],
    ids=["goal", "goal beyond another class", "another class alone"],
)
def test_a_plane_is_known_of_the_goals_own_boundary_alone(
    model: nn.Module, goal: int, found: float, plane: float
) -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    standing = standing_of(model, x, "l2", "0.000001")
    handle, part = standing.part(standing.rows, 1, torch.full((2,), goal))
    finds = Finds(handle, part, nearest=False)
    planes = walk(finds, part.x, 12, gait=Gait(), to_any=False)
    assert finds.distance.tolist() == pytest.approx([found] * 2, rel=0.1)
    assert planes.tolist() == pytest.approx([plane] * 2, rel=1e-3)


def test_without_a_find_no_plane_is_known() -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    standing = standing_of(Between(), x, "l2", "0.000001")
    handle, part = standing.part(standing.rows, 1, torch.full((2,), 1))
    planes = walk(Finds(handle, part, nearest=False), part.x, 1, gait=Gait(), to_any=False)
    assert planes.isinf().all()


def test_what_stands_aslant_to_the_boundary_is_told() -> None:
    standing = standing_of(Bent(), torch.full((1, 1, 4, 4), 0.5) + torch.tensor([0.01, 0, 0, 0]), eps="0.104")
    Walk("w", steps=2, sort=False).run(standing)
    before = standing.plane.clone(), standing.beyond.clone()
    assert torch.isfinite(before[1]).all()
    assert (before[0] < before[1]).all()


def test_a_step_weighs_the_way_home_and_goes_as_far_beyond_as_it_is_told() -> None:
    norm = ThreatModel.of("l2", "1").geometry
    x0, x, slope = (torch.tensor([[[[*pair]]]]) for pair in ((0.5, 0.5), (0.5, 0.3), (1.0, 0.0)))
    gap, by = torch.tensor([0.1]), torch.tensor([1.5])
    assert isinstance(norm, PlaneNorm)
    plain = move(norm, x0, x, slope, gap, 0.0)
    far = move(norm, x0, x, slope, gap, 0.0, over=by)
    half = move(norm, x0, x, slope, gap, 0.5, least=0.5)
    assert plain.flatten().tolist() == pytest.approx([0.5 + ETA * 0.1, 0.3])
    assert far.flatten().tolist() == pytest.approx([0.65, 0.3])
    assert half.flatten().tolist() == pytest.approx([0.5 + ETA * 0.1, 0.4])


class Bent(nn.Module):
    """Broken where the first pixel and the others pull together: a plane at the image points to the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        z = 10 * (x.flatten(1) - 0.5)
        return torch.stack([1.0 + 0 * z[:, 0], (z[:, 0] * z[:, 1:].mean(1)).clamp(min=-1)], 1)


def test_ascents_go_on_from_where_a_walk_ended() -> None:
    threat = ThreatModel.of("linf", "0.104")
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0, 0] = 0.51
    left = []
    for onward in (0, 6):
        standing = standing_of(Bent(), x, eps="0.104")
        Walk("w", steps=2, sort=False, onward=onward).run(standing)
        assert float((standing.x - x).abs().max()) <= threat.radius + 1e-6
        left.append(len(standing.rows))
    assert left == [1, 0]


@pytest.mark.parametrize(("hope", "gone", "left"), [(0.0, 0.5, 1), (float("inf"), 0.5, 0), (0.0, 0.1, 0)])
def test_ascents_go_on_where_a_walk_came_near_or_where_its_end_says_nothing(
    hope: float, gone: float, left: int
) -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0, 0] = 0.51
    standing = standing_of(Bent(), x, eps="0.104")
    standing.margin = -(1 - gone) * standing.clean
    Walk("w", steps=2, sort=False, onward=6, hope=hope).run(standing)
    assert len(standing.rows) == left
    spent, walked = int(standing.model._classifier.spent[0]), 1 + 2 * 3 + 1
    assert spent == walked if left else spent > walked


@pytest.mark.parametrize(("promise", "further"), [(0.0, False), (0.9, True)])
def test_ascents_are_probed_and_go_on_from_there_where_they_gained(promise: float, further: bool) -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0, 0] = 0.51
    standing = standing_of(Bent(), x, eps="0.09")  # out of reach
    walk = Walk("w", steps=2, sort=False, onward=6, probe=2, promise=promise)
    walk.run(standing)
    assert len(standing.rows) == 1
    walked, probed, whole = 2 * 3 + 1, 2 * 3 + 1, 6 * 3 + 1
    assert int(standing.model._classifier.spent[0]) == 1 + walked + probed + further * whole
    assert 0 < float(-standing.margin / standing.clean) < 0.9


@pytest.mark.parametrize("probe", [0, 2])
def test_a_find_of_an_ascent_says_how_many_answers_came_before(probe: int) -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0, 0] = 0.51
    standing = standing_of(Bent(), x, eps="0.104")
    Walk("w", steps=2, sort=False, onward=6, probe=probe, promise=0.0).run(standing)
    assert standing.rows.tolist() == []
    assert standing.step.tolist() == [2 + 1 + 1]  # those of the walk and about its end, and the ascent's first


@pytest.mark.parametrize("best", [False, True])
def test_the_first_walk_begins_at_the_image_or_at_the_best_so_far(best: bool) -> None:
    model, x = Linear(), grey(3)
    standing, asked = standing_of(model, x, eps="0.0001"), []
    near = x + 0.005 * (x > 0.5)
    standing.x[1:] = near[1:]
    model.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].detach().clone()))
    Walk("w", steps=2, to=(ANY,), sort=False, best=best).run(standing)
    assert torch.equal(asked[0], standing.batch.x if not best else torch.cat([x[:1], near[1:]]))
    asked.clear()
    Walk("w", steps=2, to=(ANY,), sort=False, best=best, first=1).run(standing)
    assert not torch.isclose(asked[0], x).all()
    assert not torch.isclose(asked[0], near).all()

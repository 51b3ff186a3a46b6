"""Stripes before ascents: what is asked, what each image pays, and that a way is found where the image shows none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robench import ThreatModel
from robench_attacks.stages import Ascend, Stripes
from tests.unit.attacks.standings import standing_of

EPS = 0.25
# signs of rows 4 x 4 that change from one to the next, and of columns
ROWS = torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None].expand(4, 4)
COLUMNS = ROWS.T


class Sloping(nn.Module):
    """Two classes; the second gains 1 where pixels move by EPS along `way`, and needs `far` to win over the first."""

    def __init__(self, way: Tensor, far: float) -> None:
        super().__init__()
        self.way, self.far = way.flatten() / (16 * EPS), far
        self.asked: list[Tensor] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.asked.append(x.detach().clone())
        lead = (x.flatten(1) - 0.5) @ self.way - self.far
        return torch.stack([torch.zeros_like(lead), lead], 1)


def middle(count: int = 3, side: int = 4) -> Tensor:
    return torch.full((count, 1, side, side), 0.5)


def test_stripes_across_and_upright_are_asked_about_within_the_box() -> None:
    model, x = Sloping(-ROWS, 3.0), middle()
    x[1] = 0.9
    standing = standing_of(model, x, eps=str(EPS))
    model.asked.clear()
    Stripes("s").run(standing)
    across, upright = model.asked
    assert torch.equal(across, (x + EPS * ROWS).clamp(0, 1))
    assert torch.equal(upright, (x + EPS * COLUMNS).clamp(0, 1))


@pytest.mark.parametrize(("side", "width"), [(4, 1), (14, 3), (28, 6), (32, 7), (224, 48)])
def test_stripes_grow_with_the_image(side: int, width: int) -> None:
    asked: list[Tensor] = []

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach().clone())
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1) + 0 * x.sum()

    standing = standing_of(Sure().eval(), middle(1, side), eps=str(EPS))
    asked.clear()
    Stripes("s").run(standing)
    for images, axis in zip(asked, (0, 1), strict=True):
        line = images[0, 0].movedim(axis, 0)[:, 0] > 0.5
        assert line.int().diff().abs().nonzero()[0, 0] + 1 == width
        assert not line[0]
        assert torch.equal(images[0, 0].movedim(axis, 0)[:, 0], images[0, 0].movedim(axis, 0)[:, -1])


@pytest.mark.parametrize(("way", "far", "stands", "paid"), [
    (ROWS, 0.5, False, 1),
    (COLUMNS, 0.5, False, 2),
    (-ROWS, 3.0, True, 2),  # no stripes are better than the image
    (ROWS, 25.0, True, 2 + 4),  # 96 in a hundred are left
    (ROWS, 2.0, True, 2 + 4 + 10),  # a half
])  # fmt: skip
def test_an_image_pays_for_what_is_promised(way: Tensor, far: float, stands: bool, paid: int) -> None:
    standing = standing_of(Sloping(way, far), middle(), eps=str(EPS))
    before, stage = standing.model._classifier.spent.clone(), Stripes("s")
    stage.run(standing)
    assert standing.rows.tolist() == ([0, 1, 2] if stands else [])
    assert (standing.model._classifier.spent - before).tolist() == [paid] * 3
    assert stage.cost(ThreatModel.of("linf", str(EPS)), 2, 9).spent == 2 + 4 + 10


class Blind(Sloping):
    """The same, whose gradients vanish near the middle of the box."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        near = ((x - 0.5).abs().amax((1, 2, 3)) < 0.1)[:, None]
        logits = super().forward(x)
        return torch.where(near, logits.detach() + 0 * x.sum(), logits)


def test_a_way_is_found_where_the_image_shows_none() -> None:
    way = ROWS.clone()
    way[0] = 1.0  # of which the stripes have three rows of four
    x = middle()
    plain = standing_of(Blind(way, 0.8), x, eps=str(EPS))
    Ascend("a", steps=3).run(plain)
    assert plain.rows.tolist() == [0, 1, 2]
    striped = standing_of(Blind(way, 0.8), x, eps=str(EPS))
    Stripes("s").run(striped)
    assert striped.rows.tolist() == []
    assert (striped.x - x).abs().amax() <= EPS


def test_a_step_from_stripes_goes_from_one_end_of_a_range_to_the_other() -> None:
    way = ROWS.clone()
    way[0] *= -1
    model = Sloping(way, 3.0)
    standing = standing_of(model, middle(), eps=str(EPS))
    model.asked.clear()
    Stripes("s").run(standing)
    across, _, begun, stepped = model.asked[:4]
    assert torch.equal(begun, across)
    assert torch.allclose(stepped, middle() + EPS * way.sign())


def test_within_the_ball_in_l2() -> None:
    x = middle()
    standing = standing_of(Sloping(ROWS, 3.0), x, "l2", "0.8")
    Stripes("s").run(standing)
    away = (standing.x - x).flatten(1).norm(dim=1)
    assert away.tolist() == pytest.approx([0.8] * 3, abs=1e-5)


def test_what_stripes_bring_nearer_is_no_gain_of_ascents() -> None:
    standing = standing_of(Sloping(ROWS, 2.0), middle(), eps=str(EPS))
    Stripes("s").run(standing)
    assert standing.within(0.6, -torch.inf).tolist() == [0, 1, 2]
    assert standing.stuck.tolist() == [True] * 3
    assert not standing.ascended.any()
    assert Ascend("a", 0.6).who(standing).tolist() == [0, 1, 2]
    assert Ascend("a", 0.6, climbing=True).who(standing).tolist() == []
    standing.climbed[1] = -0.5 * standing.clean[1]
    assert Ascend("a", 0.6, climbing=True).who(standing).tolist() == [1]

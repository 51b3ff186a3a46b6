"""8 bits inside the ball: never outside, nearest where that is allowed, and the original where nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robench import ThreatModel
from robench.exchange.rounding import rounded_inside


def drawn(threat: ThreatModel, count: int = 60) -> tuple[Tensor, Tensor]:
    """Originals in 8 bits, dark and bright ones among them, and points of their balls: at the edge, and within."""
    g = torch.Generator().manual_seed(0)
    original = torch.randint(0, 256, (count, 3, 6, 6), generator=g, dtype=torch.uint8)
    original[:5], original[5:10] = 0, 255
    x0 = original.float() / 255
    step = torch.randn(x0.shape, generator=g) * threat.radius * torch.rand(count, 1, 1, 1, generator=g)
    return original, threat.project(x0, x0 + step)


@pytest.mark.parametrize(
    ("norm", "eps"),
    [("linf", "8/255"), ("linf", "0.1"), ("linf", "0.03"), ("linf", "1/1000"), ("linf", "0"), ("l2", "0.5"),
     ("l2", "0.05"), ("l2", "3"), ("l2", "0.001"), ("l2", "0")],
)  # fmt: skip
def test_no_image_leaves_the_ball_and_none_is_moved_further_than_its_grid(norm: str, eps: str) -> None:
    threat = ThreatModel.of(norm, eps)
    original, x = drawn(threat)
    found = rounded_inside(threat, original, x)
    assert found.dtype == torch.uint8
    assert threat.contains(original.float() / 255, found.float() / 255).all()
    assert ((found.double() - x.double() * 255).abs() < 1.001).all()  # up or down, no further
    nearest = (x.double() * 255).round()
    fits = threat.contains(original.float() / 255, nearest.float() / 255)
    assert torch.equal(found[fits], nearest[fits].to(torch.uint8))


def test_linf_turns_only_the_pixels_that_lie_outside() -> None:
    threat = ThreatModel.of("linf", "0.03")  # 7.65 steps: 8 are too many
    original = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    x = torch.tensor([107.65, 92.35, 103.4, 103.6]).reshape(1, 1, 2, 2) / 255
    assert rounded_inside(threat, original, x).flatten().tolist() == [107, 93, 103, 104]


def test_l2_turns_as_few_pixels_as_suffice() -> None:
    threat = ThreatModel.of("l2", "1")
    original, x = drawn(threat)
    x0 = original.float() / 255
    x = threat.project(x0, x0 + (x - x0) * 1e3)  # all at the edge
    found, nearest = rounded_inside(threat, original, x), (x * 255).round().to(torch.uint8)
    turned = (found != nearest).flatten(1).sum(1)
    assert 0 < turned.float().mean() < 20  # of 108
    distance = threat.distance(x0, found.float() / 255)
    moved = turned > 0
    assert (distance[moved] > 1 - 0.05).all()


def test_an_image_beyond_the_edge_by_rounding_comes_back() -> None:
    threat = ThreatModel.of("linf", "1/510")
    original = torch.full((1, 1, 1, 2), 7, dtype=torch.uint8)
    x = torch.tensor([7.6, 6.4]).reshape(1, 1, 1, 2) / 255
    assert torch.equal(rounded_inside(threat, original, x), original)

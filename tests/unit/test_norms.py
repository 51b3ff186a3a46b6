"""Every norm against mathematics, and what a norm that is added reaches without another line."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench import Attack, Batch, BatchModel, ThreatModel, randomness, registry
from robench.attack.judge import Examples, ShardOutcome, attack_shard
from robench.attack.step_rules import RULES
from robench.errors import BadInput
from robench.norms import NORMS, AdamNorm, Norm, SteepestNorm, any_of, default_eps, expand, parse_norm, unit
from robench.suites.schema import Column, validated
from robench.threat import TOLERANCE

SHAPE, COUNT = (2, 3, 4), 200
# ||d|| = (sum |d|^p)^(1/p), and the dual norm, whose q has 1/p + 1/q = 1
ORDER, DUAL = {"linf": math.inf, "l2": 2.0}, {"linf": 1.0, "l2": 2.0}
RADIUS = {"linf": 0.1, "l2": 0.7}


def draw(seed: int, count: int = COUNT, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def gaussian(seed: int, count: int = COUNT, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Standard normal."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def length(delta: Tensor, order: float) -> Tensor:
    """The norm of each row by its formula, in float64."""
    return torch.linalg.vector_norm(delta.double().flatten(1), ord=order, dim=1)


every = pytest.mark.parametrize("norm", NORMS.values(), ids=list(NORMS))


def test_the_table_of_this_test_has_every_norm() -> None:
    assert list(NORMS) == list(ORDER) == list(DUAL) == list(RADIUS)


@every
def test_the_distance_is_the_formula(norm: Norm) -> None:
    x0, x = draw(0), draw(1)
    found = norm.distance(x0, x)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(length(x.double() - x0.double(), ORDER[norm.name]).tolist(), rel=1e-12)
    assert norm.distance(x, x).tolist() == [0] * COUNT
    assert torch.equal(norm.distance(x, x0), found)


def test_distances_by_hand() -> None:
    x0, x = torch.zeros(2, 1, 1, 2), torch.tensor([[0.25, 0.5], [0.375, 0.5]]).reshape(2, 1, 1, 2)
    assert NORMS["linf"].distance(x0, x).tolist() == [0.5, 0.5]
    assert NORMS["l2"].distance(x0, x).tolist() == pytest.approx([math.sqrt(0.3125), 0.625], abs=1e-12)


@every
def test_a_projection_is_inside_idempotent_and_leaves_alone_what_is_inside(norm: Norm) -> None:
    radius, x0 = RADIUS[norm.name], draw(0)
    far = x0 + 3 * gaussian(1)
    once = norm.project(x0, far, radius)
    assert float(norm.distance(x0, once).max()) <= radius + TOLERANCE
    assert bool(((once >= 0) & (once <= 1)).all())
    assert torch.allclose(norm.project(x0, once, radius), once, rtol=0, atol=1e-6)
    assert torch.equal(norm.projection(x0, radius)(far), once), "prepared once for many"
    inside = x0 + 0.5 * (once - x0)
    assert torch.allclose(norm.project(x0, inside, radius), inside, rtol=0, atol=1e-6)
    assert torch.equal(norm.project(x0, far, 0.0), x0)


@pytest.mark.parametrize("size", [0.05, 1.0, 100.0])
def test_the_nearest_point_of_ball_and_box_in_l2_is_found_by_bisection_too(size: float) -> None:
    """min |z - x| over the ball and the box is x0 + clip(t (x - x0)) for one t (Karush-Kuhn-Tucker)."""
    x0 = ((draw(0) - 0.2) / 0.6).clamp(0, 1)
    x, norm = x0 + size * gaussian(1), NORMS["l2"]
    assert torch.equal(ThreatModel.of("l2", "0.7").nearest(x0, x), norm.nearest(x0, x, 0.7))
    start, delta = x0.double(), x.double() - x0.double()
    low, high = torch.zeros(COUNT, 1, 1, 1, dtype=torch.float64), torch.ones(COUNT, 1, 1, 1, dtype=torch.float64)
    whole = (start + delta).clamp(0, 1)
    for _ in range(80):
        middle = (low + high) / 2
        inside = expand(length((start + middle * delta).clamp(0, 1) - start, 2) <= 0.7, x)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    already = expand(length(whole - start, 2) <= 0.7, x)
    expected = torch.where(already, whole, (start + low * delta).clamp(0, 1))
    found = norm.nearest(x0, x, 0.7)
    assert torch.allclose(found.double(), expected, atol=2e-6)
    assert (length(found.double() - start, 2) <= 0.7 + TOLERANCE).all()
    assert torch.equal(norm.nearest(x0, found, 0.7), found)
    # nearer to x than a point that is scaled and then clipped, wherever the box is met
    gain = norm.distance(x, norm.project(x0, x, 0.7)) - norm.distance(x, found)
    assert (gain >= -1e-5).all()
    assert size < 1 or (gain > 1e-3).float().mean() > 0.9


@every
def test_away_from_the_box_a_projection_reaches_the_sphere(norm: Norm) -> None:
    radius, x0 = 0.05, torch.full((COUNT, *SHAPE), 0.5)
    found = norm.project(x0, x0 + gaussian(1), radius)
    assert norm.distance(x0, found).tolist() == pytest.approx([radius] * COUNT, abs=1e-6)


@every
def test_a_sample_is_inside_and_uniform(norm: Norm) -> None:
    radius, count = 0.3, 4000
    x0 = torch.full((count, 1, 2, 3), 0.5)
    drawn = norm.sample(x0, draw(0, count, (1, 2, 3)), gaussian(1, count, (1, 2, 3)), radius)
    assert float(norm.distance(x0, drawn).max()) <= radius + TOLERANCE
    # the share of the ball's volume within the sample's distance
    volume = (norm.distance(x0, drawn) / radius) ** 6
    assert float(volume.mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float((drawn - x0).mean().abs()) < 0.005
    assert (
        float(norm.distance(x0, norm.sample(x0, draw(0, count, (1, 2, 3)), gaussian(1, count, (1, 2, 3)), 0)).max())
        == 0
    )


@every
def test_a_sample_asks_for_gaussian_noise_where_it_needs_it(norm: Norm) -> None:
    x0 = draw(0)
    if norm.directed:
        with pytest.raises(ValueError, match="gaussian"):
            norm.sample(x0, draw(1), None, 0.1)
    else:
        assert torch.equal(norm.sample(x0, draw(1), None, 0.1), norm.sample(x0, draw(1), gaussian(2), 0.1))


@every
def test_the_diameter_is_from_black_to_white(norm: Norm) -> None:
    white = torch.ones(1, *SHAPE)
    assert norm.diameter(SHAPE) == pytest.approx(float(norm.distance(0 * white, white)), rel=1e-12)
    assert bool((norm.distance(draw(0), draw(1)) <= norm.diameter(SHAPE)).all())
    sizes = {norm.diameter(shape) for shape in ((1, 1, 1), SHAPE, (3, 224, 224))}
    assert sizes == {norm.largest} if norm.largest is not None else len(sizes) == 3


@every
def test_grey_is_within_reach_of_every_image_and_not_much_further(norm: Norm) -> None:
    pixels = math.prod(SHAPE)
    grey = norm.grey(pixels)
    assert isinstance(grey, Fraction)
    corners = (draw(0) > 0.5).float()
    worst = float(norm.distance(corners, torch.full_like(corners, 0.5)).max())
    assert worst <= float(grey) < worst + 0.01


@every
def test_the_steepest_step_has_its_length_and_gains_most_on_a_linear_function(norm: Norm) -> None:
    assert isinstance(norm, SteepestNorm)
    size, x, grad = 0.03, draw(0), gaussian(1)
    step = norm.steepest(x, grad, size) - x
    assert norm.distance(torch.zeros_like(x), step).tolist() == pytest.approx([size] * COUNT, rel=1e-4)
    gain = (step * grad).double().flatten(1).sum(1)
    best = size * length(grad, DUAL[norm.name])  # Hoelder's inequality, which some step meets
    assert gain.tolist() == pytest.approx(best.tolist(), rel=1e-4)
    other = gaussian(2)
    other *= size / expand(norm.distance(torch.zeros_like(x), other), other)
    assert bool(((other * grad).double().flatten(1).sum(1) <= gain + 1e-9).all())
    assert torch.equal(norm.steepest(x, torch.zeros_like(x), size), x)
    tiny = norm.steepest(x, 1e-30 * grad, size)
    assert torch.allclose(tiny, x + step, rtol=0, atol=1e-6), "the scale of the gradient does not matter"


@every
def test_adams_step_for_a_constant_gradient_is_the_steepest_one(norm: Norm) -> None:
    assert isinstance(norm, AdamNorm)
    assert isinstance(norm, SteepestNorm)
    x, grad, radius = draw(0), gaussian(1), RADIUS[norm.name]
    moment = norm.second_moment(x)
    for _ in range(3):
        norm.average(moment, grad, 0.9)
    scale = (moment / (1 - 0.9**3)).sqrt()  # bias-corrected, as Adam does it
    length = norm.adam_length(0.1, radius)
    assert torch.allclose(x + length * grad / scale, norm.steepest(x, grad, length), rtol=0, atol=1e-5)
    assert not norm.second_moment(x).any()


def test_sizes_of_adam_are_pixels_in_linf_and_tenths_of_the_radius_in_l2() -> None:
    lengths = {name: norm.adam_length(0.2, 0.3) for name, norm in NORMS.items() if isinstance(norm, AdamNorm)}
    assert lengths == {"linf": 0.2, "l2": pytest.approx(0.6)}


def test_unit_is_one_over_the_largest_entry() -> None:
    grad = torch.tensor([[0.5, -4.0], [0.0, 0.0], [1e-30, 0.0]]).reshape(3, 1, 1, 2)
    assert unit(grad).tolist() == pytest.approx([0.25, 1.0, 1e30])


@every
def test_words_and_limits(norm: Norm) -> None:
    assert NORMS[norm.name] is norm
    assert ThreatModel.of(norm.name, norm.example).eps <= ThreatModel.of(norm.name, norm.wide).eps
    if norm.default is None:
        with pytest.raises(BadInput, match=f"{norm.name} has none that is usual; .*--eps {norm.example}"):
            ThreatModel.of(norm.name, None)
    else:
        assert ThreatModel.of(norm.name, None) == ThreatModel.of(norm.name, norm.default)
    if norm.largest is not None:
        with pytest.raises(BadInput, match=f"so {norm.name} eps is at most {norm.largest}"):
            ThreatModel.of(norm.name, str(norm.largest + Fraction(1, 8)))


def test_names() -> None:
    assert [parse_norm(name) for name in ("linf", "l2")] == ["linf", "l2"]
    meant = {"LINF": "linf", "L_inf": "linf", "l∞": "linf", "inf": "linf", math.inf: "linf", np.inf: "linf"}
    meant |= {" L2 ": "l2", "l_2": "l2", 2: "l2", np.int64(2): "l2", "2": "l2"}
    for given, name in meant.items():
        with pytest.raises(
            BadInput, match=rf"norm is .* \(did you mean '{name}'\?\), but must be 'linf' or 'l2'\."
        ) as caught:
            parse_norm(given)
        assert "\n" not in str(caught.value)
    for given in (None, ["l2"], 1, math.nan):
        with pytest.raises(BadInput, match="but must be 'linf' or 'l2'"):
            parse_norm(given)
    with pytest.raises(BadInput, match="no norm named 'l1'"):
        parse_norm("l1")
    assert any_of(NORMS) == "linf or l2"
    assert any_of(["a"]) == "a"
    assert any_of("abc") == "a, b or c"
    assert default_eps() == "8/255 by default in linf"


def test_norms_need_no_torch() -> None:
    code = "import sys, robench.norms, robench.threat, robench.suites.schema; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a norm that is added ---------------------------------------------------------------------------------------------


class L1(Norm):
    """The sum of all changes, without a steepest step."""

    name, default, largest, example, wide, directed = "l1", None, None, "5", "20", False

    def distance(self, x0: Tensor, x: Tensor) -> Tensor:
        return (x.double() - x0.double()).flatten(1).abs().sum(1)

    def projection(self, x0: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
        def project(x: Tensor) -> Tensor:
            delta = (x - x0).double()
            reach = max(radius * (1 - 2e-7) - delta[0].numel() * 2.0**-25, 0.0)
            share = (reach / delta.flatten(1).abs().sum(1).clamp(min=1e-30)).clamp(max=1)
            return (x0 + (delta * expand(share, delta)).float()).clamp(0, 1)

        return project

    def sample(self, x0: Tensor, uniform: Tensor, gaussian: Tensor | None, radius: float) -> Tensor:
        del gaussian
        return self.project(x0, x0 + radius * (2 * uniform - 1), radius)

    def diameter(self, shape: tuple[int, ...]) -> float:
        return float(math.prod(shape))

    def grey(self, pixels: int) -> Fraction:
        return Fraction(pixels, 2)


class Darker(Attack):
    """Makes every pixel black, in any of three norms."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        del model
        return torch.zeros_like(batch.x)


class Searching(registry.load("attack", "pgd").base):  # type: ignore[misc]
    """PGD that says it can do what its step rule cannot."""

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")


@pytest.fixture
def l1(monkeypatch: pytest.MonkeyPatch) -> Norm:
    monkeypatch.setitem(NORMS, "l1", L1())
    return NORMS["l1"]


def judged(attack: Attack, norm: str, eps: str = "2") -> ShardOutcome:
    """The attack on a model of two classes that asks whether an image of 2x3 pixels is bright."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([-torch.ones(6), torch.ones(6)]))
        module[1].bias.copy_(torch.tensor([3.0, -3.0]))
    x = draw(3, 12, (1, 2, 3))
    y = (x.flatten(1).sum(1) > 3).long()
    return attack_shard(module, 2, attack, ThreatModel.of(norm, eps), Examples(x, y, torch.arange(12)))


def test_a_threat_model_takes_a_new_norm(l1: Norm) -> None:
    threat, x0 = ThreatModel.of("l1", "2"), draw(0)
    assert str(threat) == "l1 eps 2"
    projected = threat.project(x0, gaussian(1))
    assert bool(threat.contains(x0, projected).all())
    assert not bool(threat.contains(x0, x0.roll(1, 0)).any())
    threat.check_shape((1, 2, 3))
    with pytest.raises(BadInput, match="further apart than 6"):
        ThreatModel.of("l1", "7").check_shape((1, 2, 3))
    with pytest.raises(BadInput, match="l1 has none that is usual; give one, such as --eps 5"):
        ThreatModel.of("l1", None)
    assert any_of(NORMS) == "linf, l2 or l1"
    noise = randomness.uniform(0, range(COUNT), [0] * COUNT, "start", SHAPE)
    assert bool(threat.contains(x0, threat.sample(x0, noise)).all())


def test_the_judge_takes_a_new_norm_and_its_rows_have_its_distance(l1: Norm) -> None:
    shard = judged(Darker(), "l1")
    columns = list(shard.rows.columns)
    assert columns[columns.index("linf") :][:3] == ["linf", "l2", "l1"]
    x = draw(3, 12, (1, 2, 3))
    attacked = torch.tensor(shard.rows["trial"].to_numpy() >= 0)
    distance = length(shard.images.double() - x.double(), 1)
    assert shard.rows["l1"].tolist() == pytest.approx(distance.tolist(), abs=1e-9)
    assert distance[attacked].tolist() == pytest.approx(
        [min(2.0, float(image.sum())) for image in x[attacked]], abs=1e-4
    )
    assert shard.rows["success"].any()


def test_a_suite_takes_a_new_norm(l1: Norm) -> None:
    assert validated(Column, {"name": "a", "attack": "pgd", "norm": "l1", "eps": 2}).norm == "l1"


@pytest.mark.parametrize("wrong", ["l1", "L2", 2, ["l2"], None])
def test_a_suite_refuses_what_is_no_norm(wrong: object) -> None:
    with pytest.raises(BadInput, match=r"must be one of 'linf' or 'l2'\.$"):
        validated(Column, {"name": "a", "attack": "pgd", "norm": wrong, "eps": 2})


@pytest.mark.parametrize("rule", RULES)
def test_a_step_rule_that_does_not_know_a_norm_refuses_it(l1: Norm, rule: str) -> None:
    with pytest.raises(BadInput, match=f"The rule '{rule}' does not know norm l1; choose another norm"):
        RULES[rule](draw(0), ThreatModel.of("l1", "2"))
    with pytest.raises(BadInput, match="The rule 'steepest' does not know norm l1"):
        judged(Searching(), "l1")


@pytest.mark.parametrize("name", ["pgd", "fgsm", "random-noise", "autoattack", "foolbox:LinfPGD", "cw"])
def test_an_attack_that_does_not_support_a_norm_refuses_it(l1: Norm, name: str) -> None:
    attack = registry.load("attack", name).build({})
    with pytest.raises(BadInput, match="does not support norm l1; it supports"):
        judged(attack, "l1")

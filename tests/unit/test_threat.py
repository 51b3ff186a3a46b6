"""The threat model: epsilon as an exact fraction, and the ball and box that images are projected into."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robench import randomness
from robench.errors import BadInput
from robench.threat import TOLERANCE, ThreatModel, parse_epsilon

ULP = 2.0**-24  # the spacing of float32 just below 1

NORMS = st.sampled_from(["linf", "l2"])
PIXELS = st.one_of(
    st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 1 - ULP, 2.0**-149, 2.0**-30, 0.5, 0.5 + ULP, 1 / 255])
)
RADII = st.one_of(
    st.fractions(0, 1, max_denominator=1000), st.sampled_from([Fraction(8, 255), Fraction(1, 10), Fraction(31, 1000)])
)
ANYWHERE = st.one_of(PIXELS, st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-0.5, 1.5, width=32))


def tensor(values):
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


@st.composite
def case(draw):
    """(threat, image, proposal): any pixels in the box, any finite proposal."""
    size = draw(st.integers(1, 12))
    threat = ThreatModel(draw(NORMS), draw(RADII))
    x0 = tensor(draw(st.lists(PIXELS, min_size=size, max_size=size)))
    return threat, x0, tensor(draw(st.lists(ANYWHERE, min_size=size, max_size=size)))


@pytest.mark.parametrize(
    ("given_value", "norm", "exact"),
    [
        ("8/255", "linf", Fraction(8, 255)),
        (" 8 / 255 ", "linf", Fraction(8, 255)),
        ("0.1", "linf", Fraction(1, 10)),
        (0.1, "linf", Fraction(1, 10)),
        (0.031, "linf", Fraction(31, 1000)),
        ("1e-3", "linf", Fraction(1, 1000)),
        ("0.5/255", "linf", Fraction(1, 510)),
        ("0", "linf", Fraction(0)),
        (1, "linf", Fraction(1)),
        (Fraction(1, 3), "linf", Fraction(1, 3)),
        ("2.5", "l2", Fraction(5, 2)),
        ("128/255", "l2", Fraction(128, 255)),
    ],
)
def test_epsilon_is_exact(given_value, norm, exact):
    assert parse_epsilon(given_value, norm) == exact
    assert ThreatModel.of(norm, given_value).eps == exact


BAD = ["eps", "8/", "/255", "8/255/2", "8|255", "nan", "inf", "-inf", "1/0", "1/0.0", "0/0", "-0.1", "-8/255", "0x8"]


@pytest.mark.parametrize("bad", ["", *BAD, float("nan"), float("inf"), -0.1])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bad_epsilon_is_refused_in_one_sentence(bad, norm):
    with pytest.raises(BadInput) as caught:
        parse_epsilon(bad, norm)
    assert str(bad).strip() in str(caught.value)
    assert "\n" not in str(caught.value)


def test_epsilon_in_255ths_is_recognised():
    with pytest.raises(BadInput, match="did you mean 8/255"):
        parse_epsilon("8", "linf")
    with pytest.raises(BadInput, match="at most 1"):
        parse_epsilon("1.5", "linf")
    assert parse_epsilon("8", "l2") == parse_epsilon("8") == 8


def test_epsilon_beyond_floats_is_refused():
    with pytest.raises(BadInput):
        ThreatModel.of("l2", "1e400").check_shape((1, 28, 28))


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        ("8/255", "8/255"),
        ("1/255", "1/255"),
        ("51/255", "0.2"),
        ("0.031", "0.031"),
        ("0.1", "0.1"),
        ("0", "0"),
        ("1", "1"),
        ("0.3", "0.3"),
        ("1/7", "1/7"),
        ("5/255", "5/255"),
    ],
)
def test_eps_text(eps, text):
    assert ThreatModel.of("linf", eps).eps_text == text


@given(st.fractions(0, 1))
def test_eps_text_reads_back_as_the_same_fraction(eps):
    assert parse_epsilon(ThreatModel("linf", eps).eps_text, "linf") == eps


def test_radius_beyond_the_box_is_refused():
    ThreatModel.of("l2", "28").check_shape((1, 28, 28))
    with pytest.raises(BadInput, match="further apart than 28"):
        ThreatModel.of("l2", "28.1").check_shape((1, 28, 28))


@settings(max_examples=120, deadline=None)
@given(case())
def test_a_projected_image_is_contained(drawn):
    threat, x0, x = drawn
    projected = threat.project(x0, x)
    assert bool(threat.contains(x0, projected).all())
    assert projected.min() >= 0
    assert projected.max() <= 1
    exact = [
        abs(Fraction(a) - Fraction(b)) for a, b in zip(projected.flatten().tolist(), x0.flatten().tolist(), strict=True)
    ]
    size = float(max(exact)) if threat.norm == "linf" else math.sqrt(float(sum(e * e for e in exact)))
    assert size <= float(threat.eps) + TOLERANCE


@settings(max_examples=60, deadline=None)
@given(case())
def test_projection_is_idempotent(drawn):
    threat, x0, x = drawn
    once = threat.project(x0, x)
    assert torch.allclose(threat.project(x0, once), once, rtol=0, atol=0 if threat.norm == "linf" else 1e-6)


@settings(max_examples=60, deadline=None)
@given(case(), st.floats(0, 0.999))
def test_an_image_inside_is_not_moved(drawn, share):
    threat, x0, x = drawn
    inside = x0 + share * (threat.project(x0, x) - x0)
    inside = inside.clamp(0, 1)
    assert torch.allclose(threat.project(x0, inside), inside, rtol=0, atol=2 * ULP)


@settings(max_examples=60, deadline=None)
@given(case())
def test_the_linf_projection_is_the_nearest_point(drawn):
    threat, x0, x = drawn
    threat = ThreatModel("linf", threat.eps)
    projected = threat.project(x0, x).double().flatten().tolist()
    for before, wanted, got in zip(x0.flatten().tolist(), x.flatten().tolist(), projected, strict=True):
        low, high = max(0.0, before - threat.radius), min(1.0, before + threat.radius)
        assert got == pytest.approx(min(max(wanted, low), high), abs=2 * ULP)


@settings(max_examples=40, deadline=None)
@given(case())
def test_radius_zero_gives_the_image_bit_for_bit(drawn):
    threat, x0, x = drawn
    threat = ThreatModel(threat.norm, Fraction(0))
    assert torch.equal(threat.project(x0, x), x0)
    uniform = torch.rand(x0.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(threat.sample(x0, uniform, uniform - 0.5), x0)


@pytest.mark.parametrize("eps", ["8/255", "0.1", "0.3", "1/3", "0.031", "1/255", "1"])
def test_linf_rounding_at_every_pixel_value(eps):
    threat = ThreatModel.of("linf", eps)
    x0 = (torch.arange(256) / 255).reshape(256, 1, 1, 1)
    for far in (-1e30, 1e30):
        projected = threat.project(x0, torch.full_like(x0, far))
        assert bool(threat.contains(x0, projected).all())
        reach = threat.distance(x0, projected)
        room = (x0 if far < 0 else 1 - x0).double().flatten()
        assert torch.allclose(reach, room.clamp(max=threat.radius), rtol=0, atol=2 * ULP)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 224, 224)])
@pytest.mark.parametrize("eps", ["0.5", "2", "3", "5"])
def test_l2_rounding_in_one_direction(shape, eps):
    # every pixel has the same value and moves alike, so all rounding errors have one sign
    threat = ThreatModel.of("l2", eps)
    grey = (torch.arange(60, 200, 7) / 255).reshape(-1, 1, 1, 1).expand(-1, *shape) if shape[1] < 224 else None
    x0 = (torch.full((3, *shape), 0.7) * torch.tensor([1.0, 0.9, 1.1]).reshape(3, 1, 1, 1)) if grey is None else grey
    for sign in (-1, 1):
        projected = threat.project(x0, x0 + sign * 0.2)
        assert int((~threat.contains(x0, projected)).sum()) == 0


def test_the_l2_projection_reaches_the_sphere():
    threat, x0 = ThreatModel.of("l2", "0.5"), torch.full((4, 1, 5, 5), 0.5)
    wanted = x0 + torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    projected = threat.project(x0, wanted)
    assert torch.allclose(threat.distance(x0, projected), torch.tensor(0.5).double(), atol=1e-6)
    directions = [torch.nn.functional.normalize((x - x0).flatten(1)) for x in (wanted, projected)]
    assert torch.allclose(*directions, atol=1e-5)


def test_contains_refuses_what_lies_outside():
    x0 = torch.full((1, 1, 2, 2), 0.5)
    for norm in ("linf", "l2"):
        threat = ThreatModel.of(norm, "0.1")
        assert bool(threat.contains(x0, x0))
        for pixel in (math.nan, math.inf, -math.inf, 0.6 + 1e-5, 0.4 - 1e-5):
            x = x0.clone()
            x[0, 0, 0, 0] = pixel
            assert not bool(threat.contains(x0, x)), (norm, pixel)
    whole = ThreatModel.of("linf", "1")
    assert not bool(whole.contains(x0, x0 + 0.6))
    assert not bool(whole.contains(x0, x0 - 0.6))
    diagonal = x0 + 0.09  # inside linf 0.1, outside L2 0.1
    assert bool(ThreatModel.of("linf", "0.1").contains(x0, diagonal))
    assert not bool(ThreatModel.of("l2", "0.1").contains(x0, diagonal))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_are_inside_and_fill_the_ball(norm):
    threat, n, pixels = ThreatModel.of(norm, "0.3"), 4000, 6
    x0 = torch.full((n, 1, 2, 3), 0.5)
    shape, ids = (1, 2, 3), range(n)
    uniform = randomness.uniform(0, ids, [0] * n, "u", shape)
    sample = threat.sample(x0, uniform, randomness.gaussian(0, ids, [0] * n, "g", shape))
    assert bool(threat.contains(x0, sample).all())
    delta = sample - x0
    assert float(delta.mean().abs()) < 0.004  # centred
    volume = (threat.distance(x0, sample) / threat.radius) ** pixels  # uniform in [0, 1] for a uniform ball
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float((volume <= q).double().mean()) == pytest.approx(q, abs=0.03)


def test_an_l2_sample_needs_a_direction():
    with pytest.raises(ValueError, match="gaussian"):
        ThreatModel.of("l2", "1").sample(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))

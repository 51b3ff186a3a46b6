"""Guess first: objectives and MMD against plain loops in float64, what each term trains; the bottleneck in a CNN."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from robench import BadInput, registry
from robench.data.dataset import DataInfo
from robench_defenses import divergences
from robench_defenses.guess_first import GuessFirst

CLOSE = {"rtol": 0, "atol": 1e-6}
INFO = DataInfo("x", 1, 8, 8, 4, (0.4,), (0.3,), "digits")


def scores(batch=6, labels=4, seed=0, spread=3.0):
    noise = torch.Generator().manual_seed(seed)
    t = spread * torch.randn(batch, labels, generator=noise, dtype=torch.float64)
    return t, torch.randint(labels, (batch,), generator=noise)


def codes(batch=9, labels=4, width=5, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(batch, labels, width, generator=noise, dtype=torch.float64)


def slope(function, values, step=1e-5):
    """The gradient of a scalar function of a float64 array by central differences."""
    gradient = np.zeros_like(values)
    for i in np.ndindex(values.shape):
        low, high = values.copy(), values.copy()
        low[i] -= step
        high[i] += step
        gradient[i] = (function(high) - function(low)) / (2 * step)
    return gradient


# --- the formulas, with plain loops ----------------------------------------------------------------------------------


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def dv_by_hand(t, y):
    joint = sum(t[i][y[i]] for i in range(len(y))) / len(y)
    product = sum(math.exp(v) for row in t for v in row) / sum(len(row) for row in t)
    return -(joint - math.log(product))


def js_by_hand(t, y):
    joint = sum(math.log(sigmoid(t[i][y[i]])) for i in range(len(y))) / len(y)
    product = [math.log(1 - sigmoid(v)) for row in t for v in row]
    return -(joint + sum(product) / len(product))


def eb_by_hand(t, y):
    total = 0.0
    for row, label in zip(t, y, strict=True):
        total += row[label] - math.log(sum(math.exp(v) for v in row) / len(row))
    return -total / len(y) + math.log(len(t[0]))


BY_HAND = {"dv": dv_by_hand, "js": js_by_hand, "eb": eb_by_hand}
OURS = {"dv": divergences.donsker_varadhan, "js": divergences.jensen_shannon, "eb": divergences.energy_based}


def median_by_hand(points):
    distances = sorted(math.dist(points[i], points[j]) for i in range(len(points)) for j in range(i))
    return distances[(len(distances) - 1) // 2]


def mmd_by_hand(p, q, scale):
    def mean_kernel(first, second):
        values = [math.exp(-(math.dist(a, b) ** 2) / (2 * scale**2)) for a in first for b in second]
        return sum(values) / len(values)

    return mean_kernel(p, p) - 2 * mean_kernel(p, q) + mean_kernel(q, q)


def information_by_hand(z, y, reading, scale=None):
    """Explicit loops over hypotheses, classes and pairs; classes that are absent, or alone, are left out."""
    batch, labels, _ = z.shape
    total = 0.0
    for hypothesis in range(labels):
        points = [tuple(z[i, hypothesis]) for i in range(batch)]
        s = median_by_hand(points) if scale is None else scale
        for label in range(labels) if reading == "a" else [hypothesis]:
            own = [p for p, true in zip(points, y, strict=True) if true == label]
            other = [p for p, true in zip(points, y, strict=True) if true != label]
            if own and (other or reading == "a"):
                total += mmd_by_hand(own, points if reading == "a" else other, s)
    return total


# --- objectives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OURS)
@pytest.mark.parametrize("shape", [(6, 4), (1, 4), (5, 2)])
def test_an_objective_is_its_formula(objective, shape):
    t, y = scores(*shape)
    t.requires_grad_()
    value = OURS[objective](t, y)
    assert value.item() == pytest.approx(BY_HAND[objective](t.tolist(), y.tolist()), abs=1e-9)
    gradient = torch.autograd.grad(value, t)[0]
    expected = slope(lambda v: BY_HAND[objective](v, y.tolist()), t.detach().numpy())
    assert np.allclose(gradient, expected, **CLOSE)


@pytest.mark.parametrize("objective", OURS)
def test_an_objective_is_finite_far_out(objective):
    t, y = scores(spread=1e4)
    assert bool(OURS[objective](t, y).isfinite())


def test_the_energy_based_objective_is_cross_entropy():
    t, y = scores(20, 7)
    torch.testing.assert_close(divergences.energy_based(t, y), functional.cross_entropy(t, y), **CLOSE)


def test_the_bounds_are_tight_at_the_density_ratio():
    """On balanced labels that the image tells, P/Q is L on the pairs of P and 0 elsewhere, so both are known."""
    labels, y = 5, torch.arange(5).repeat(3)
    ratio = functional.one_hot(y, labels).double() * labels
    log_ratio = (ratio + 1e-300).log()
    assert float(divergences.donsker_varadhan(log_ratio, y)) == pytest.approx(-math.log(labels), abs=1e-9)
    other = functional.one_hot((y + 1) % labels, labels).double() * 0.3
    assert float(divergences.donsker_varadhan(log_ratio + other, y)) >= -math.log(labels) - 1e-12
    # f of the f-GAN's Jensen-Shannon: u log u - (u + 1) log((u + 1) / 2)
    f = [math.log(2) if u == 0 else u * math.log(u) - (u + 1) * math.log((u + 1) / 2) for u in (0, labels)]
    divergence = (labels - 1) / labels * f[0] + 1 / labels * f[1]
    assert 2 * math.log(2) - float(divergences.jensen_shannon(log_ratio, y)) == pytest.approx(divergence, abs=1e-9)


def test_a_constant_per_image_cancels_in_the_energy_based_objective_alone():
    t, y = scores()
    shifted = t + torch.linspace(-2, 2, len(t), dtype=t.dtype)[:, None]
    unchanged = {k: bool(torch.isclose(f(t, y), f(shifted, y), atol=1e-9)) for k, f in OURS.items()}
    assert unchanged == {"dv": False, "js": False, "eb": True}
    everywhere = divergences.donsker_varadhan(t + 7, y)
    torch.testing.assert_close(everywhere, divergences.donsker_varadhan(t, y), **CLOSE)


# --- maximum mean discrepancy ----------------------------------------------------------------------------------------


def test_squared_distances():
    z = codes(6, 3, 4).transpose(0, 1) + 100
    expected = (z[:, :, None] - z[:, None, :]).square().sum(-1)
    torch.testing.assert_close(divergences.squared_distances(z), expected, **CLOSE)


def test_squared_distances_of_distant_points_in_float32():
    z = codes(6, 3, 4).transpose(0, 1)
    moved = (z.float() + 1000).double()  # what float32 keeps of it
    exact = (moved[:, :, None] - moved[:, None, :]).square().sum(-1)
    assert torch.allclose(divergences.squared_distances(moved.float()).double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize(("m", "n"), [(5, 3), (4, 4), (1, 2)])
def test_mmd_is_its_formula(scale, m, n):
    p, q = codes(m, 1)[:, 0], 0.5 + codes(n, 1, seed=1)[:, 0]
    s = median_by_hand(torch.cat([p, q]).tolist()) if scale is None else scale
    value = divergences.mmd_squared(p, q, scale)
    assert value.item() == pytest.approx(mmd_by_hand(p.tolist(), q.tolist(), s), abs=1e-9)
    twice = divergences.mmd_squared(torch.stack([p, q[:1].expand(m, -1)]), torch.stack([q, q]), 0.7)
    assert twice.tolist() == pytest.approx(
        [mmd_by_hand(p.tolist(), q.tolist(), 0.7), mmd_by_hand(q[:1].tolist() * m, q.tolist(), 0.7)], abs=1e-9
    )


def test_mmd_of_equal_samples_is_zero():
    p = codes(5, 1)[:, 0]
    assert divergences.mmd_squared(p, p).item() == pytest.approx(0, abs=1e-12)
    assert divergences.mmd_squared(p, p.flip(0)).item() == pytest.approx(0, abs=1e-12)
    assert divergences.mmd_squared(p, p + 1).item() > 0.1


@pytest.mark.parametrize("reading", ["a", "b"])
@pytest.mark.parametrize("scale", [None, 1.3])
@pytest.mark.parametrize(
    "y", [[0, 1, 2, 3, 0, 1, 2, 3, 0], [0, 2, 2, 0, 2, 2, 2, 2, 0], [3, 3, 3, 3, 3, 3, 3, 3, 1], [1] * 9]
)
def test_label_information_is_its_formula(reading, scale, y):
    z = codes()
    value = divergences.label_information(z, torch.tensor(y), reading, scale)
    assert value.item() == pytest.approx(information_by_hand(z.numpy(), y, reading, scale), abs=1e-9)


@pytest.mark.parametrize("reading", ["a", "b"])
def test_the_gradient_of_label_information_holds_the_scale_fixed(reading):
    z, y = codes(6, 3, 2).requires_grad_(), [0, 1, 2, 2, 1, 0]
    gradient = torch.autograd.grad(divergences.label_information(z, torch.tensor(y), reading), z)[0]
    for h in range(3):
        fixed = median_by_hand(z[:, h].tolist())

        def one(v, h=h, fixed=fixed):
            return information_by_hand(v, y, reading, fixed)

        assert np.allclose(gradient[:, h], slope(one, z.detach().numpy())[:, h], **CLOSE)


def test_the_readings_agree_on_the_matched_class():
    """MMD^2(p_y, p) = (1 - pi_y)^2 MMD^2(p_y, p_rest) for the V-statistic."""
    z, y = codes(12, 1, 3)[:, 0], torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 1, 0])
    for label in range(3):
        own, rest = z[y == label], z[y != label]
        share = len(own) / len(z)
        against_all = divergences.mmd_squared(own, z, 1.1)
        assert against_all.item() == pytest.approx(
            (1 - share) ** 2 * divergences.mmd_squared(own, rest, 1.1).item(), abs=1e-12
        )


@pytest.mark.parametrize("reading", ["a", "b"])
def test_codes_that_ignore_the_label_hold_no_information(reading):
    z = codes(5).repeat_interleave(4, dim=0)  # every code occurs once with every label
    y = torch.arange(4).repeat(5)
    assert divergences.label_information(z, y, reading).item() == pytest.approx(0, abs=1e-12)
    told = z + 3 * y[:, None, None]
    assert divergences.label_information(told, y, reading).item() > 0.1


@pytest.mark.parametrize("reading", ["a", "b"])
@pytest.mark.parametrize("batch", [1, 4])
def test_equal_codes_have_no_information_and_finite_gradient(reading, batch):
    z = torch.ones(batch, 3, 2, requires_grad=True)
    value = divergences.label_information(z, torch.arange(batch) % 3, reading)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert bool(torch.autograd.grad(value, z)[0].isfinite().all())


# --- the network -----------------------------------------------------------------------------------------------------


def defense(name="c-dv-ie", data=INFO, **options):
    torch.manual_seed(0)
    return registry.load("defense", name).build({"backbone": "cnn", **options}, data).double()


def images(batch=6):
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64), (
        torch.arange(batch) % 4
    )


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "resnet-8"])
def test_scores_are_those_of_the_concatenated_layers(backbone):
    model, (x, _) = defense(backbone=backbone).eval(), images()
    h = model.backbone(x)
    plain = nn.Sequential(model.first, nn.ReLU(), model.second, nn.ReLU(), *model.decide)
    expected = torch.zeros(len(x), 4, dtype=x.dtype)
    for i in range(len(x)):
        for label in range(4):
            one_hot = torch.tensor([float(label == k) for k in range(4)], dtype=x.dtype)
            expected[i, label] = plain(torch.cat([h[i], one_hot])).item()
    torch.testing.assert_close(model(x), expected, **CLOSE)


def test_layers_have_the_papers_sizes():
    with torch.device("meta"):
        model = GuessFirst(DataInfo("mnist", 1, 28, 28, 10, (0.1,), (0.3,), "mnist"))
    sizes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(3136 + 10, 512), (512, 256), (256, 128), (128, 1)]
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [32, 64]


def test_sigmoid_is_only_what_is_handed_out():
    model, (x, y) = defense(), images()
    masked = defense(expose_sigmoid=True)
    model.eval()
    torch.testing.assert_close(masked.eval()(x), model(x).sigmoid(), **CLOSE)
    assert model.loss(x, y)["total"].item() == masked.loss(x, y)["total"].item()


@pytest.mark.parametrize(
    ("name", "objective", "eliminates"),
    [("c-dv", "dv", 0), ("c-js", "js", 0), ("c-eb", "eb", 0), ("c-dv-ie", "dv", 1), ("c-js-ie", "js", 1)],
)
def test_a_variant_is_its_objective_and_its_term(name, objective, eliminates):
    model, (x, y) = defense(name).eval(), images()
    weight = registry.load("defense", name).options({})["elimination"]
    terms = model.loss(x, y)
    assert terms["objective"].item() == pytest.approx(BY_HAND[objective](model(x).tolist(), y.tolist()), abs=1e-6)
    assert ("elimination" in terms) == (weight > 0) == eliminates
    if eliminates:
        z = model.code(model.backbone(x)).detach().numpy()
        assert terms["elimination"].item() == pytest.approx(weight * information_by_hand(z, y.tolist(), "a"), abs=1e-6)
    assert terms["total"].item() == pytest.approx(sum(v.item() for k, v in terms.items() if k != "total"), abs=1e-12)


def test_guess_first_is_c_dv_ie():
    assert registry.load("defense", "guess-first").options({}) == registry.load("defense", "c-dv-ie").options({})


@pytest.mark.parametrize("options", [{"elimination": 2.5}, {"reading": "b"}, {"scale": 0.9}])
def test_options_reach_the_elimination(options):
    model, (x, y) = defense(**options), images()
    z = model.code(model.backbone(x)).detach().numpy()
    expected = information_by_hand(z, y.tolist(), options.get("reading", "a"), options.get("scale"))
    weight = options.get("elimination", registry.load("defense", "c-dv-ie").options({})["elimination"])
    assert expected > 1e-4
    assert model.loss(x, y)["elimination"].item() == pytest.approx(weight * expected, rel=1e-6)


def test_elimination_sets_in_after_the_delay():
    model, (x, y) = defense(delay=0.5).eval(), images()
    values = []
    for model.progress in (0.0, 0.49, 0.5, 1.0):
        values.append(model.loss(x, y)["elimination"].item())
    assert values[0] == values[1] == 0 < values[2] == values[3]
    model = defense(delay=0.0).eval()
    model.progress = 0.0
    assert model.loss(x, y)["elimination"].item() == values[3]


def test_elimination_trains_the_first_two_layers_only():
    model, (x, y) = defense(), images()
    model.loss(x, y)["elimination"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert all(bool(p.grad.abs().sum() > 0) for p in (model.first.weight, model.second.weight))


def test_the_objective_trains_everything():
    model, (x, y) = defense(), images()
    model.loss(x, y)["objective"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("option", [{"elimination": -1.0}, {"scale": 0.0}, {"delay": 1.0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(BadInput, match=next(iter(option))):
        defense(**option)


# --- the bottleneck inside the same CNN ------------------------------------------------------------------------------


def test_alemi_cnn_is_the_cnn_with_a_code_in_the_middle():
    with torch.device("meta"):
        model = registry.load("defense", "alemi-cnn").build({}, DataInfo("m", 1, 28, 28, 10, (0.1,), (0.3,), "mnist"))
    sizes = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(3136, 512), (512, 256), (512, 256), (256, 128), (128, 10)]
    options = registry.load("defense", "alemi-cnn").options({})
    assert (options["beta"], options["draws"], options["sigma"], options["mc_samples"]) == (1e-3, 1, "softplus", 0)


def test_a_decoder_has_hidden_layers_and_none_leaves_the_model_as_it_was():
    x, y = images()
    model = defense("dvib", decoder="7-5", z_dim=6)
    sizes = [(m.in_features, m.out_features) for m in model.head if isinstance(m, nn.Linear)]
    assert sizes == [(6, 7), (7, 5), (5, 4)]
    assert [type(m) for m in model.head] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    model.eval()
    assert torch.equal(model(x), model.head(model.embed(x)))
    assert torch.equal(model.embed(x), model.encode(x)[0])
    for name in ("dvib", "paradise"):
        assert isinstance(defense(name, decoder="9").head, nn.Sequential)
        assert {"head.weight", "head.bias"} <= set(defense(name).state_dict())
    assert bool(defense("dvib", decoder="9").float().loss(x.float(), y)["total"].isfinite())


@pytest.mark.parametrize("decoder", ["0", "12-", "-12", "wide", "1 2", "128,64"])
def test_a_decoder_that_is_no_widths_is_refused(decoder):
    with pytest.raises(BadInput, match="decoder"):
        defense("dvib", decoder=decoder)

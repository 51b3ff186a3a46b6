"""Rates and posterior matching against formulas written out in float64, and the stochastic encoder that uses them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from robench import registry
from robench.data.dataset import DataInfo
from robench_defenses import information, stochastic
from robench_defenses.stochastic import Matching

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
INFO = DataInfo("x", 1, 8, 8, 3, (0.5,), (0.25,), "digits")


def posteriors(batch, width, seed=0):
    noise = torch.Generator().manual_seed(seed)
    mu = torch.randn(batch, width, generator=noise, dtype=torch.float64)
    return mu, torch.randn(batch, width, generator=noise, dtype=torch.float64) * 0.5 - 0.7


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


def entropy_by_hand(log_sigma):
    return [sum(0.5 * math.log(2 * math.pi) + 0.5 + s for s in row) for row in log_sigma]


def kl_by_hand(mu, log_sigma):
    return [
        sum(0.5 * (m**2 + math.exp(s) ** 2 - 1 - 2 * s) for m, s in zip(means, spreads, strict=True))
        for means, spreads in zip(mu, log_sigma, strict=True)
    ]


def mws_by_hand(z, mu, log_sigma):
    total = 0.0
    for i in range(len(z)):
        densities = []
        for j in range(len(mu)):
            if j == i:
                continue
            terms = [
                -0.5 * math.log(2 * math.pi) - s - 0.5 * ((value - m) / math.exp(s)) ** 2
                for value, m, s in zip(z[i], mu[j], log_sigma[j], strict=True)
            ]
            densities.append(sum(terms))
        top = max(densities)
        total += top + math.log(sum(math.exp(d - top) for d in densities))
    return total / len(z)


def discrepancy_by_hand(mu, log_sigma, mu2, log_sigma2, weight=None):
    result = []
    for i in range(len(mu)):
        width = len(mu[i])
        gaps = [abs(a - b) for a, b in zip(mu[i], mu2[i], strict=True)]
        shares = [max(1 / width, gap / sum(gaps)) for gap in gaps] if weight is None else weight[i]
        spread = sum(abs(a - b) for a, b in zip(log_sigma[i], log_sigma2[i], strict=True)) / width
        result.append(sum(a * gap for a, gap in zip(shares, gaps, strict=True)) + spread)
    return result


# --- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5])
def test_entropy(width):
    _, log_sigma = posteriors(4, width)
    value = information.gaussian_entropy(log_sigma)
    assert value.shape == (4,)
    assert np.allclose(value, entropy_by_hand(log_sigma.tolist()), **CLOSE)
    peer = torch.distributions.Normal(torch.zeros_like(log_sigma), log_sigma.exp()).entropy().sum(1)
    assert torch.allclose(value, peer, **CLOSE)


@pytest.mark.parametrize("width", [1, 5])
def test_kl(width):
    mu, log_sigma = posteriors(4, width)
    mu.requires_grad_()
    log_sigma.requires_grad_()
    value = information.gaussian_kl(mu, log_sigma)
    assert np.allclose(value.detach(), kl_by_hand(mu.tolist(), log_sigma.tolist()), **CLOSE)
    normal = torch.distributions.Normal
    peer = torch.distributions.kl_divergence(normal(mu, log_sigma.exp()), normal(0.0, 1.0)).sum(1)
    assert torch.allclose(value, peer, **CLOSE)
    value.sum().backward()
    assert torch.allclose(mu.grad, mu.detach(), **CLOSE)
    assert torch.allclose(log_sigma.grad, (2 * log_sigma.detach()).exp() - 1, **CLOSE)
    assert float(information.gaussian_kl(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


@pytest.mark.parametrize(("batch", "width"), [(2, 1), (5, 3), (7, 6)])
def test_minibatch_weighted_sampling(batch, width):
    mu, log_sigma = posteriors(batch, width)
    z = mu + torch.randn(mu.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * log_sigma.exp()
    leaves = [t.clone().requires_grad_() for t in (z, mu, log_sigma)]
    value = information.minibatch_weighted_sampling(*leaves)
    assert value.item() == pytest.approx(mws_by_hand(z.tolist(), mu.tolist(), log_sigma.tolist()), abs=1e-9)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    assert gradients[1] is None  # the code distribution is held fixed
    assert gradients[2] is None
    expected = slope(lambda v: mws_by_hand(v, mu.numpy(), log_sigma.numpy()), z.numpy())
    assert np.allclose(gradients[0], expected, **CLOSE)


def test_minibatch_weighted_sampling_of_long_codes_in_float32():
    mu, log_sigma = posteriors(6, 512)
    exact = mws_by_hand(mu.tolist(), mu.tolist(), (log_sigma - 2).tolist())
    value = information.minibatch_weighted_sampling(mu.float(), mu.float(), log_sigma.float() - 2)
    assert value.isfinite()
    assert float(value) == pytest.approx(exact, rel=1e-5)


def by_differences(z, mu, log_sigma):
    """Mini-batch weighted sampling with all differences [B, B, D] written out, in the precision of z."""
    mu, log_sigma = mu.detach(), log_sigma.detach()
    standard = (z[:, None, :] - mu[None]) * (-log_sigma).exp()[None]
    log_density = (-0.5 * standard.square() - log_sigma[None] - 0.5 * math.log(2 * math.pi)).sum(-1)
    own = torch.eye(len(z), dtype=torch.bool)
    return log_density.masked_fill(own, -torch.inf).logsumexp(1).mean()


@pytest.mark.parametrize(("centre", "spread"), [(0.0, -8.0), (300.0, -3.0), (-20.0, 0.0)])
def test_squares_multiplied_out_lose_no_digits(centre, spread):
    """Narrow posteriors, and codes far from the origin, where their squares would cancel."""
    mu, log_sigma = posteriors(40, 8)
    z = (
        mu + log_sigma.exp() * torch.randn(40, 8, generator=torch.Generator().manual_seed(4)).double() + centre
    ).float()
    mu, log_sigma = (mu + centre).float(), (log_sigma + spread).float()
    leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    value = information.minibatch_weighted_sampling(leaf, mu, log_sigma)
    expected = by_differences(exact, mu.double(), log_sigma.double())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    gradient, wanted = torch.autograd.grad(value, leaf)[0].double(), torch.autograd.grad(expected, exact)[0]
    assert float((gradient - wanted).norm()) < 1e-6 * float(wanted.norm())


def test_a_training_goes_as_with_all_differences_written_out(monkeypatch):
    def weights():
        model = defense("paradise", alpha=0.1, gamma=1.0, draws=3, mws_draws="all").train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        x, y = images(20)
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(x, y)["total"].backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    start = torch.cat([p.detach().flatten() for p in defense("paradise").parameters()])
    now = weights()
    monkeypatch.setattr(information, "minibatch_weighted_sampling", by_differences)
    before = weights()
    assert float((before - start).abs().max()) > 1e-3
    assert float((now - before).abs().max()) < 1e-5


def test_the_rate_of_paradise():
    mu, log_sigma = posteriors(5, 3)
    z = mu + 0.3 * torch.randn(4, *mu.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def by_hand(draws):
        mws = [mws_by_hand(draw, mu.numpy(), log_sigma.numpy()) for draw in draws]
        return -np.mean(entropy_by_hand(log_sigma.tolist())) - np.mean(mws)

    assert float(information.paradise_rate(z, mu, log_sigma)) == pytest.approx(by_hand(z.numpy()), abs=1e-9)
    assert float(information.paradise_rate(z[2], mu, log_sigma)) == pytest.approx(by_hand(z[2:3].numpy()), abs=1e-9)
    leaves = [t.clone().requires_grad_() for t in (z, mu, log_sigma)]
    gradients = torch.autograd.grad(information.paradise_rate(*leaves), leaves, allow_unused=True)
    assert np.allclose(gradients[0], slope(by_hand, z.numpy()), **CLOSE)
    assert gradients[1] is None
    assert torch.allclose(gradients[2], torch.full_like(mu, -1 / 5), **CLOSE)  # of -mean entropy alone


@pytest.mark.parametrize("weight_gradient", [False, True])
def test_posterior_discrepancy(weight_gradient):
    parts = [t.numpy() for seed in (0, 1) for t in posteriors(4, 5, seed)]
    leaves = [torch.tensor(p, requires_grad=True) for p in parts]
    value = information.posterior_discrepancy(*leaves, weight_gradient=weight_gradient)
    assert np.allclose(value.detach(), discrepancy_by_hand(*parts), **CLOSE)
    gradients = torch.autograd.grad(value.sum(), leaves)
    gaps = np.abs(parts[0] - parts[2])
    fixed = None if weight_gradient else np.maximum(1 / 5, gaps / gaps.sum(1, keepdims=True))
    for k, gradient in enumerate(gradients):
        expected = slope(lambda v, k=k: sum(discrepancy_by_hand(*parts[:k], v, *parts[k + 1 :], fixed)), parts[k])
        assert np.allclose(gradient, expected, **CLOSE), k


def test_equal_posteriors_have_no_discrepancy_and_finite_gradient():
    mu, log_sigma = (t.requires_grad_() for t in posteriors(3, 4))
    value = information.posterior_discrepancy(mu, log_sigma, mu.detach(), log_sigma.detach(), weight_gradient=True)
    assert value.tolist() == [0, 0, 0]
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value.sum(), (mu, log_sigma)))


def test_noisy_copies_have_the_noise_they_claim():
    torch.manual_seed(0)
    x = torch.full((4000, 1, 8, 8), 0.5)
    noise = (information.noisy_copy(x, 0.4) - x).flatten(1)
    size = noise.square().mean(1).sqrt()  # s per image, but for 64 draws' worth of noise
    assert float(size.mean()) == pytest.approx(0.2, abs=0.01)
    assert float(size.max()) < 0.4 * 1.5
    # E[noise^2] = E[s^2] = m^2 / 3, E[noise^4] = 3 m^4 / 5
    assert float(noise.square().mean()) == pytest.approx(0.16 / 3, rel=0.05)
    assert float(noise.pow(4).mean()) == pytest.approx(3 * 0.4**4 / 5, rel=0.1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    share = [float((size < q * 0.4).float().mean()) for q in (0.25, 0.5, 0.75)]
    assert share == pytest.approx([0.25, 0.5, 0.75], abs=0.03)
    assert float(information.noisy_copy(x, 2.0).max()) > 1  # the formula does not clip
    clipped = information.noisy_copy(x, 2.0, clip=True)
    assert (float(clipped.min()), float(clipped.max())) == (0, 1)
    assert torch.equal(information.noisy_copy(x, 0.0), x)
    before = x.clone()
    torch.manual_seed(5)
    made = information.noisy_copy(x, 0.4)
    torch.manual_seed(5)
    sizes = torch.rand(len(x), *(1,) * (x.dim() - 1)) * 0.4
    assert torch.equal(made, x + sizes * torch.randn_like(x))
    assert torch.equal(x, before)


# --- the encoder -----------------------------------------------------------------------------------------------------


def defense(name="dvib", **options):
    torch.manual_seed(0)
    return registry.load("defense", name).build({"backbone": "mlp-16", "z_dim": 6, **options}, INFO)


def images(batch=5):
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(batch) % 3


@pytest.fixture
def calls(monkeypatch):
    """What the rate and the discrepancy were asked for, as (name, arguments)."""
    seen = []
    for name in ("minibatch_weighted_sampling", "posterior_discrepancy", "gaussian_kl"):
        true = getattr(information, name)

        def spy(*args, name=name, true=true, **kwargs):
            seen.append((name, args, kwargs))
            return true(*args, **kwargs)

        monkeypatch.setattr(information, name, spy)
    return seen


def watch(module):
    """The inputs of every forward of `module` from now on."""
    seen = []
    module.register_forward_hook(lambda m, args, out: seen.append(args[0].detach()))
    return seen


@pytest.mark.parametrize("draws", [1, 12])
def test_training_draws_z_as_often_as_asked(draws):
    model, (x, y) = defense(draws=draws), images(400)
    seen = watch(model.head)
    terms = model.loss(x, y)
    mu, log_sigma = (t.detach() for t in model.encode(x))
    z = seen[0].reshape(draws, 400, 6)
    noise = (z - mu) / log_sigma.exp()
    assert float(noise.mean()) == pytest.approx(0, abs=0.06)
    assert float(noise.std()) == pytest.approx(1, abs=0.06)
    assert draws == 1 or abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.1
    logits = nn.functional.linear(z, model.head.weight, model.head.bias).log_softmax(-1)
    chosen = [logits[k, i, y[i]].item() for k in range(draws) for i in range(400)]
    assert terms["distortion"].item() == pytest.approx(-np.mean(chosen), abs=1e-5)
    assert terms["rate"].item() == pytest.approx(1e-4 * np.mean(kl_by_hand(mu.tolist(), log_sigma.tolist())), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "count"), [({}, 1), ({"mws_draws": "all"}, 12), ({"draws": 3, "mws_draws": "all"}, 3)]
)
def test_paradise_uses_the_draws_it_is_told_to(calls, options, count):
    model, (x, y) = defense("paradise", alpha=0.5, **options), images()
    terms = model.loss(x, y)
    assert [name for name, *_ in calls] == ["minibatch_weighted_sampling"] * count
    mws = np.mean([mws_by_hand(*(a.tolist() for a in args)) for _, args, _ in calls])
    entropy = np.mean(entropy_by_hand(calls[0][1][2].tolist()))
    assert terms["rate"].item() == pytest.approx(0.5 * (-entropy - mws), rel=1e-4)


def test_a_batch_of_one_image_has_a_finite_loss():
    model, (x, y) = defense("paradise"), images(1)
    assert bool(model.loss(x, y)["total"].isfinite())


@pytest.mark.parametrize(("sigma", "expected"), [("sigmoid", torch.sigmoid), ("softplus", None)])
def test_sigma(sigma, expected):
    model, (x, _) = defense(sigma=sigma), images()
    rho = model.spread(model.backbone(x))
    wanted = expected(rho) if expected else (1 + (rho - 5).exp()).log()
    assert torch.allclose(model.encode(x)[1].exp(), wanted, atol=1e-6)


def test_evaluation_answers_from_mu():
    model, (x, _) = defense().eval(), images()
    assert torch.equal(model(x), model(x))
    assert torch.allclose(model(x), model.head(model.encode(x)[0]))


def test_mc_samples_are_drawn_once_and_for_all():
    model, (x, _) = defense(mc_samples=7).eval(), images()
    answer = model(x)
    assert torch.equal(answer, model(x))
    assert torch.equal(answer[2:4], model(x[2:4])) or torch.allclose(answer[2:4], model(x[2:4]), atol=1e-6)
    mu, log_sigma = model.encode(x)
    draws = model.state_dict()["fixed_draws"]
    assert draws.shape == (7, 1, 6)
    mean = sum(model.head(mu + draw * log_sigma.exp()).softmax(-1) for draw in draws) / 7
    assert torch.allclose(answer, mean.log(), atol=1e-5)
    assert not torch.allclose(answer, model.head(mu).log_softmax(-1), atol=1e-3)


def test_gamma_rises_over_the_ramp():
    weights = [Matching(gamma=8.0, ramp=0.5).weight(p) for p in (0.0, 0.125, 0.25, 0.5, 0.9, 1.0)]
    assert weights == [0, 2, 4, 8, 8, 8]
    assert [Matching(gamma=8.0).weight(p) for p in (0.0, 1.0)] == [8, 8]
    model, (x, y) = defense(gamma=3.0, ramp=0.5), images()
    matching = []
    for model.progress in (0.0, 0.25, 1.0):
        torch.manual_seed(1)
        matching.append(model.loss(x, y)["matching"].item())
    assert matching[0] == 0
    assert matching[1] == pytest.approx(matching[2] / 2)


@pytest.mark.parametrize("name", ["dvib", "paradise"])
@pytest.mark.parametrize("inputs", ["noisy", "clean"])
def test_posterior_matching_uses_both_halves(calls, name, inputs):
    model, (x, y) = defense(name, gamma=2.0, pm_inputs=inputs, noise=0.2), images()
    seen, heads = watch(model.backbone), watch(model.head)
    terms = model.loss(x, y)
    assert [len(s) for s in seen] == [10]  # one forward of twice the batch
    first, second = seen[0].chunk(2)
    assert torch.equal(first, x) == (inputs == "clean")
    assert not torch.equal(second, x)
    assert not torch.equal(first, second)
    assert [len(h) for h in heads] == [12 * 5, 12 * 5]  # distortion on both
    rates = [args for kind, args, _ in calls if kind != "posterior_discrepancy"]
    assert [len(args[0]) for args in rates] == [5, 5]  # no copy is its twin's neighbour
    (_, pair, _), = [c for c in calls if c[0] == "posterior_discrepancy"]  # fmt: skip
    with torch.no_grad():
        mu, log_sigma = model.encode(seen[0])
    for got, wanted in zip(pair, (mu[:5], log_sigma[:5], mu[5:], log_sigma[5:]), strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)
    assert terms["matching"].item() == pytest.approx(
        2 * np.mean(discrepancy_by_hand(*(t.tolist() for t in pair))), rel=1e-5
    )
    parts = terms["distortion"] + terms["rate"] + terms["matching"]
    assert terms["total"].item() == pytest.approx(parts.item(), rel=1e-6)


def test_options_of_matching_reach_the_formula(calls):
    x, y = images()
    for option in (False, True):
        model = defense(gamma=1.0, pm_weight_gradient=option, pm_clip=option, noise=3.0)
        seen = watch(model.backbone)
        model.loss(x, y)
        assert [c[2]["weight_gradient"] for c in calls if c[0] == "posterior_discrepancy"][-1] is option
        assert bool((seen[0] > 1).any()) is not option
    assert stochastic.Code().width(640) == 128
    assert [stochastic.Code().width(w) for w in (64, 512, 16)] == [64, 512, 32]

"""Unsupervised PARADISE against its loss written out in float64, and what labels may and may not reach."""

import numpy as np
import pytest
import torch
from torch import nn

from robench import BadInput, registry
from robench.data.dataset import DataInfo
from robench_defenses import information
from robench_defenses.paradise_ae import ParadiseAE

INFO = DataInfo("x", 1, 8, 8, 3, (0.5,), (0.25,), "digits")
COLOUR = DataInfo("x", 3, 6, 5, 4, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "other")
SMALL = {"backbone": "mlp-16", "decoder": "12-10", "probe": "7"}


def built(data=INFO, **options):
    torch.manual_seed(0)
    return registry.load("defense", "paradise-ae").build({**SMALL, **options}, data).double()


def batch(data=INFO, count=5):
    x = torch.rand(count, *data.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, torch.arange(count) % data.classes


# --- the network and the loss in numpy -------------------------------------------------------------------------------


def through(layers, values):
    for layer in layers:
        if isinstance(layer, nn.Linear):
            values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        elif isinstance(layer, nn.ReLU):
            values = np.maximum(values, 0)
        else:
            assert isinstance(layer, nn.Sigmoid)
            values = 1 / (1 + np.exp(-values))
    return values


def encoded(model, x):
    mean, std = (getattr(model.backbone.normalize, name).numpy() for name in ("mean", "std"))
    h = through(model.backbone.fully_connected, ((x - mean) / std).reshape(len(x), -1))
    return through([model.mean], h), -np.log1p(np.exp(-through([model.spread], h)))


def loss_by_hand(model, x, y, z, mu, log_sigma):
    """Distortion, rate and the probe's cross-entropy of draws z [K, B, D], one image and one pixel at a time."""
    distortion = rate = probe = 0.0
    draws, count, width = z.shape
    for k in range(draws):
        pixels, logits = through(model.decoder, z[k]), through(model.head, z[k])
        for i in range(count):
            distortion += sum((a - b) ** 2 for a, b in zip(pixels[i], x[i].ravel(), strict=True))
            probe += np.log(np.exp(logits[i]).sum()) - logits[i, y[i]]
            density = 0.0
            for j in range(count):
                if j != i:
                    sigma = np.exp(log_sigma[j])
                    exponent = -0.5 * (((z[k, i] - mu[j]) / sigma) ** 2).sum()
                    density += np.exp(exponent) / ((2 * np.pi) ** (width / 2) * sigma.prod())
            rate -= (0.5 * np.log(2 * np.pi) + 0.5 + log_sigma[i]).sum() + np.log(density)
    return np.array([distortion, model.alpha * rate, probe]) / (draws * count)


def drawn(monkeypatch, model, x, y):
    """The terms of the loss, and the draws that entered the rate."""
    seen, true = [], information.paradise_rate
    monkeypatch.setattr(information, "paradise_rate", lambda z, *rest: seen.append(z.detach()) or true(z, *rest))
    terms = model.loss(x, y)
    monkeypatch.undo()
    return {name: term.item() for name, term in terms.items()}, seen


@pytest.mark.parametrize("data", [INFO, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(("draws", "z_dim", "alpha"), [(1, 2, 0.7), (3, 4, 0.05), (2, 1, 0.0)])
def test_the_loss(monkeypatch, data, draws, z_dim, alpha):
    model, (x, y) = built(data, draws=draws, z_dim=z_dim, alpha=alpha), batch(data)
    terms, (z,) = drawn(monkeypatch, model, x, y)
    mu, log_sigma = encoded(model, x.numpy())
    assert z.shape == (draws, 5, z_dim)
    expected = loss_by_hand(model, x.numpy(), y.numpy(), z.numpy(), mu, log_sigma)
    assert [terms[name] for name in ("distortion", "rate", "probe")] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert terms["total"] == pytest.approx(expected.sum(), rel=1e-6)
    noise = (z.numpy() - mu) / np.exp(log_sigma)
    assert np.abs(noise).max() < 6
    assert noise.std() > 0.4


@pytest.mark.parametrize("inputs", ["noisy", "clean"])
def test_posterior_matching_of_the_same_pieces(monkeypatch, inputs):
    """Both copies are held to the clean image, each with its own neighbours; the discrepancy enters with its weight."""
    model, (x, y) = built(gamma=2.5, noise=0.3, ramp=0.5, pm_inputs=inputs), batch()
    model.progress = 0.25
    given = []
    model.backbone.register_forward_hook(lambda m, args, out: given.append(args[0]))
    terms, draws = drawn(monkeypatch, model, x, y)
    assert [len(g) for g in given] == [10]
    assert torch.equal(given[0][:5], x) == (inputs == "clean")
    assert [len(z[0]) for z in draws] == [5, 5]
    halves = [encoded(model, half.numpy()) for half in given[0].chunk(2)]
    by_hand = [loss_by_hand(model, x.numpy(), y.numpy(), z.numpy(), *h) for z, h in zip(draws, halves, strict=True)]
    (mu, log_sigma), (mu2, log_sigma2) = halves
    gap = np.abs(mu - mu2)
    weight = np.maximum(1 / 2, gap / gap.sum(1, keepdims=True))
    discrepancy = ((weight * gap).sum(1) + np.abs(log_sigma - log_sigma2).mean(1)).mean()
    expected = [*sum(by_hand) / 2, 2.5 * 0.5 * discrepancy]
    assert list(terms) == ["distortion", "rate", "probe", "matching", "total"]
    assert list(terms.values()) == pytest.approx([*expected, sum(expected)], rel=1e-6)


# --- labels ----------------------------------------------------------------------------------------------------------


def parts(model):
    """Gradients of the encoder and the decoder, and of the probe."""
    named = {name: p.grad for name, p in model.named_parameters()}
    probe = {name: grad for name, grad in named.items() if name.startswith("head.")}
    return {name: grad for name, grad in named.items() if name not in probe}, probe


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_labels_never_reach_the_encoder(gamma):
    x, y = batch()
    found = []
    for labels in (y, (y + 1) % 3):
        model = built(gamma=gamma)
        torch.manual_seed(4)
        model.loss(x, labels)["total"].backward()
        found.append(parts(model))
    (body, probe), (other_body, other_probe) = found
    assert all(bool(grad.abs().sum() > 0) for grad in body.values())
    assert all(torch.equal(body[name], other_body[name]) for name in body)
    assert all(not torch.equal(probe[name], other_probe[name]) for name in probe)
    model = built(gamma=gamma)
    model.loss(x, y)["probe"].backward()
    body, probe = parts(model)
    assert all(grad is None for grad in body.values())
    assert all(bool(grad.abs().sum() > 0) for grad in probe.values())


def test_reconstruction_never_reaches_the_probe():
    model, (x, y) = built(), batch()
    terms = model.loss(x, y)
    (terms["distortion"] + terms["rate"]).backward()
    assert all(grad is None for grad in parts(model)[1].values())


# --- what it answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [INFO, COLOUR], ids=["grey", "colour"])
def test_code_reconstruction_and_logits(data):
    model, (x, y) = built(data, z_dim=3).eval(), batch(data)
    mu, _ = encoded(model, x.numpy())
    pixels = through(model.decoder, mu).reshape(x.shape)
    assert np.allclose(model.embed(x).detach(), mu, atol=1e-9)
    assert np.allclose(model.reconstruct(x).detach(), pixels, atol=1e-9)
    assert np.allclose(model(x).detach(), through(model.head, mu), atol=1e-9)
    error = np.mean([((a - b) ** 2).sum() for a, b in zip(pixels, x.numpy(), strict=True)])
    assert model.monitors(x, y)["reconstruction_error"].item() == pytest.approx(error, rel=1e-9)


def test_it_learns_to_reconstruct_without_being_told_the_labels():
    """Images on a curve: the error falls far below the variance, whatever the labels say."""
    angle = torch.linspace(0, 3, 64, dtype=torch.float64)
    grid = torch.linspace(0, 1, 64, dtype=torch.float64)
    x = (0.5 + 0.5 * torch.sin(angle[:, None] + 5 * grid)).reshape(64, 1, 8, 8)
    y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(0))
    variance = float((x - x.mean(0)).square().sum() / 64)
    model = built(alpha=1e-3, backbone="mlp-32", decoder="32").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(x, y)["total"].backward()
        optimizer.step()
    assert float(model.eval().monitors(x, y)["reconstruction_error"].detach()) < 0.1 * variance


def test_a_weighted_rate_widens_the_posteriors():
    x, y = batch(count=40)
    spread = []
    for alpha in (0.0, 3.0):
        model = built(alpha=alpha).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            model.loss(x, y)["total"].backward()
            optimizer.step()
        spread.append(float(model.encode(x)[1].exp().mean().detach()))
    assert spread[0] < 0.8 * spread[1]


@pytest.mark.parametrize(
    "bad",
    [{"alpha": -1.0}, {"z_dim": 0}, {"draws": 0}, {"decoder": "many"}, {"probe": "4-"}, {"gamma": -1.0}, {"ramp": 2.0}],
)
def test_bad_options_are_refused(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        ParadiseAE(INFO, **bad)

"""Random self-ensemble: the plain network without noise, an explicit loop over the draws with it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from robench import BadInput, registry
from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, inspect
from robench.data.dataset import DataInfo
from robench_defenses.rse import RSE, Noise

MNIST = DataInfo("x", 1, 28, 28, 10, (0.13,), (0.31,), "mnist")
COLOUR = DataInfo("x", 3, 12, 12, 4, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "cifar10")
NETWORKS = [("cnn", MNIST), ("lenet5", MNIST), ("mlp-32-16", MNIST), ("resnet-8", COLOUR), ("wrn-10-1", COLOUR)]
each_network = pytest.mark.parametrize(("backbone", "data"), NETWORKS, ids=[name for name, _ in NETWORKS])
SILENT = {"input_std": 0.0, "inner_std": 0.0}


def built(name="rse", data=MNIST, **options):
    torch.manual_seed(0)
    return registry.load("defense", name).build(options, data)


def images(data=MNIST, count=6):
    return torch.rand(count, *data.shape, generator=torch.Generator().manual_seed(3))


def layers(model):
    return [m for m in model.modules() if isinstance(m, Noise)]


@each_network
def test_without_noise_it_is_the_plain_network(backbone, data):
    plain, noiseless = (built(name, data, backbone=backbone, **o) for name, o in (("standard", {}), ("rse", SILENT)))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), noiseless.parameters(), strict=True))
    x = images(data)
    assert torch.equal(plain.train()(x), noiseless.train()(x))
    single = built("rse", data, backbone=backbone, samples=1, **SILENT)
    single.load_state_dict(noiseless.state_dict())
    answer = plain.eval()(x)
    assert torch.equal(answer, single.eval()(x))
    assert torch.allclose(answer.log_softmax(-1), noiseless.eval()(x), atol=1e-6)


@each_network
def test_noise_enters_before_every_convolution_once(backbone, data):
    model = built("rse", data, backbone=backbone)
    kind = nn.Linear if backbone.startswith("mlp") else nn.Conv2d
    total = sum(isinstance(m, kind) for m in model.backbone.modules())
    noises = layers(model)
    assert len(noises) == total
    assert [n.std for n in noises] == [0.2] + [0.1] * (total - 1)
    assert sorted(n.layer for n in noises) == list(range(total))
    seen = []
    for noise in noises[1:]:
        noise.register_forward_hook(lambda m, args, out: seen.append(out))
    guarded = [m for m in model.backbone.modules() if isinstance(m, nn.Sequential) and isinstance(m[0], Noise)]
    assert all(len(m) == 2 and isinstance(m[1], kind) for m in guarded)
    model.train()(images(data))
    assert len(seen) == len(guarded) == total - 1


def test_a_draw_adds_noise_of_the_stated_size_in_its_place():
    """Pixels get it before normalisation; every draw and every layer has noise of its own, every image the same."""
    model, x = built(input_std=0.3, inner_std=0.05, samples=40).eval(), images(count=2)
    seen = {}
    for name, module in (("pixels", model.backbone.normalize), ("inner", layers(model)[1])):
        seen[name] = []
        module.register_forward_hook(lambda m, args, out, name=name: seen[name].append((args[0], out)))
    with torch.no_grad():
        model(x)
    pixels = torch.stack([given - x for given, _ in seen["pixels"]])
    assert pixels.shape == (40, 2, 1, 28, 28)
    assert torch.allclose(pixels[:, 0], pixels[:, 1], atol=1e-6)
    assert float(pixels.std()) == pytest.approx(0.3, rel=0.02)
    inner = torch.stack([out - given for given, out in seen["inner"]])
    assert float(inner.std()) == pytest.approx(0.05, rel=0.02)
    for noise in (pixels, inner):
        correlation = np.corrcoef(noise[:, 0].flatten(1).numpy())
        assert np.abs(correlation - np.eye(40)).max() < 0.2
    shared = min(pixels[0, 0].numel(), inner[0, 0].numel())
    assert abs(np.corrcoef(pixels[:, 0].flatten(1)[:, :shared], inner[:, 0].flatten(1)[:, :shared])[0, 40]) < 0.2


def test_the_ensemble_is_the_log_of_the_mean_softmax_over_the_draws():
    model, x = built(input_std=0.5, inner_std=0.3, samples=5).double().eval(), images().double()
    answer = model(x)
    tables = [layer._fixed for layer in layers(model)]
    assert [t.shape for t in tables] == [(5, 1, 28, 28), (5, 32, 14, 14)]
    body, dense, head = model.backbone.convolutions, model.backbone.fully_connected, model.head
    mean = torch.zeros(len(x), 10, dtype=torch.float64)
    for image in range(len(x)):
        for draw in range(5):
            h = (x[image : image + 1] + 0.5 * tables[0][draw] - 0.13) / 0.31
            h = body[2](body[1](body[0](h)))
            h = body[5](body[4](body[3][1](h + 0.3 * tables[1][draw])))
            mean[image] += head(dense(h.flatten(1)))[0].softmax(-1) / 5
    assert torch.allclose(answer, mean.log(), rtol=0, atol=1e-6)
    assert torch.allclose(answer.exp().sum(1), torch.ones(6, dtype=torch.float64))
    single = model._answer(x, 0).log_softmax(-1)
    assert not torch.allclose(answer, single, atol=1e-3)


def test_the_gradient_is_that_of_the_expectation():
    model, x = built(samples=3).double().eval(), images(count=2).double().requires_grad_()
    y = torch.tensor([1, 7])
    got = torch.autograd.grad(model(x).gather(1, y[:, None]).sum(), x)[0]
    parts = [model._answer(x, k).softmax(-1).gather(1, y[:, None]) for k in range(3)]
    slopes = [torch.autograd.grad(part.sum(), x)[0] for part in parts]
    mean = (sum(parts) / 3).detach().reshape(-1, 1, 1, 1)
    assert torch.allclose(got, sum(slopes) / 3 / mean, rtol=1e-9, atol=1e-12)


def test_an_answer_does_not_depend_on_the_batch_or_on_what_came_before():
    model, x = built(input_std=0.8, inner_std=0.4).double().eval(), images(count=9).double()
    answer = model(x)
    model.loss(x, torch.zeros(9, dtype=torch.int64))  # fresh noise, in eval mode so that batch norm stays
    assert torch.equal(answer, model(x))
    for part in ([0], [4, 2], list(range(9))[::-1]):
        assert torch.allclose(model(x[part]), answer[part], rtol=0, atol=1e-12)
    another = built(input_std=0.8, inner_std=0.4)
    another.load_state_dict(copy.deepcopy(model).float().state_dict())
    assert torch.allclose(another.double().eval()(x), answer, rtol=0, atol=1e-6)
    assert not [key for key in model.state_dict() if "fixed" in key]


def test_training_draws_anew_for_every_image_and_step():
    model, x = built().train(), images(count=1).expand(4, -1, -1, -1)
    seen = []
    model.backbone.normalize.register_forward_hook(lambda m, args, out: seen.append(args[0] - x))
    y = torch.zeros(4, dtype=torch.int64)
    losses = [model.loss(x, y)["total"].item() for _ in range(2)]
    assert losses[0] != losses[1]
    noise = torch.cat(seen).flatten(1)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    assert np.abs(np.corrcoef(noise.numpy()) - np.eye(8)).max() < 0.2
    model.eval()(x)  # the fixed draws of an evaluation do not leak into training
    assert model.loss(x, y)["total"].item() not in losses


def flags(model, x):
    handle = Classifier(model.eval(), 10, len(x))
    return inspect(handle, x, clean_logits(handle, x, 4), 4)


def test_fresh_noise_is_flagged_and_fixed_noise_is_not():
    assert flags(built(fresh_noise=True), images()) == ["randomised"]
    assert flags(built(), images()) == []
    assert flags(built(fresh_noise=True, **SILENT), images()) == []


@pytest.mark.parametrize("bad", [{"input_std": -0.1}, {"inner_std": -1.0}, {"samples": 0}, {"samples": -3}])
def test_bad_options_are_refused(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        RSE(MNIST, **bad)

"""The gradient of a strided convolution beside torch's own, in every shape that a layer can have."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from robench.attack import strided
from robench.attack.classifier import Classifier
from robench.attack.objectives import cross_entropy

KERNELS, STRIDES = ((1, 1), (3, 3), (4, 4), (7, 2)), ((2, 2), (3, 2), (4, 4), (5, 2))
SHAPES = list(itertools.product((1, 3), KERNELS, STRIDES, ((0, 0), (1, 3))))


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding"), SHAPES)
def test_slope_is_torchs(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, channels, 13, 10, generator=generator, dtype=torch.float64).requires_grad_(True)
    weight = torch.randn(5, channels, *kernel, generator=generator, dtype=torch.float64)
    answers = nn.functional.conv2d(x, weight, stride=stride, padding=padding)
    grad = torch.randn(answers.shape, generator=generator, dtype=torch.float64)
    (theirs,) = torch.autograd.grad(answers, x, grad)
    ours = strided.slope(grad, weight, x.shape, stride, padding)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def _net(stride: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 4, stride=stride, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)]
    net = nn.Sequential(*layers)
    net(torch.zeros(1, 1, 9, 9))
    return net.eval()


def test_an_attack_gets_the_gradient_in_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = _net(2), torch.rand(5, 1, 9, 9), torch.tensor([0, 1, 2, 3, 0])
    seen = x.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(cross_entropy(net(seen), y).sum(), seen)
    calls = []

    def noted(*given: object) -> torch.Tensor:
        calls.append(given)
        return slope(*given)

    slope = strided.slope
    monkeypatch.setattr(strided, "slope", noted)
    handle = Classifier(net, 4, 5)
    _, ours = handle.rows(torch.arange(5)).gradient(x, lambda logits: cross_entropy(logits, y))
    assert len(calls) == 1
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 2**14), (5, 100, 300), (250, 512, 64)])
def test_a_product_is_torchs(rows: int, inner: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((rows, inner), (inner, columns)))
    exact = a.double() @ b.double()
    theirs, ours = ((found - exact).abs().max() for found in (a @ b, strided.product(a, b)))
    assert ours <= 4 * theirs + 1e-6


def test_an_attack_gets_the_gradient_of_a_large_linear_layer_in_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Flatten(), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 4)).eval(),
        torch.rand(5, 1, 16, 16),
    )
    y, calls = torch.tensor([0, 1, 2, 3, 0]), []
    seen = x.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(cross_entropy(net(seen), y).sum(), seen)

    def noted(*given: torch.Tensor) -> torch.Tensor:
        calls.append(given[1].shape)
        return product(*given)

    product = strided.product
    monkeypatch.setattr(strided, "product", noted)
    _, ours = Classifier(net, 4, 5).rows(torch.arange(5)).gradient(x, lambda logits: cross_entropy(logits, y))
    assert calls == [(100, 256)]
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_models_without_such_a_layer_are_left_alone() -> None:
    assert strided.strided(_net(2))
    assert not strided.strided(_net(1))
    assert strided.strided(nn.Sequential(nn.Conv2d(16, 4, 4, stride=2)))
    assert not strided.strided(nn.Sequential(nn.Conv2d(16, 4, 3, stride=2)))
    assert not strided.strided(nn.Sequential(nn.Conv2d(64, 4, 4, stride=2)))
    assert not strided.strided(nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=2)))
    assert strided.strided(nn.Linear(128, 128))
    assert not strided.strided(nn.Linear(512, 10))

"""The gradient of a strided convolution beside torch's own, in every shape that a layer can have."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from robench.attack import strided
from robench.attack.classifier import Classifier
from robench.attack.objectives import cross_entropy

KERNELS, STRIDES = ((1, 1), (3, 3), (4, 4), (7, 2)), ((2, 2), (3, 2), (4, 4), (5, 2))
SHAPES = list(itertools.product(("slope", "folded"), (1, 3), KERNELS, STRIDES, ((0, 0), (1, 3))))
SHAPES += list(itertools.product(("folded",), (1, 3), KERNELS, ((1, 1), (1, 3)), ((0, 0), (1, 3))))


@pytest.mark.parametrize(("way", "channels", "kernel", "stride", "padding"), SHAPES)
def test_either_way_is_torchs(
    way: str, channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, channels, 13, 10, generator=generator, dtype=torch.float64).requires_grad_(True)
    weight = torch.randn(5, channels, *kernel, generator=generator, dtype=torch.float64)
    answers = nn.functional.conv2d(x, weight, stride=stride, padding=padding)
    grad = torch.randn(answers.shape, generator=generator, dtype=torch.float64)
    (theirs,) = torch.autograd.grad(answers, x, grad)
    ours = getattr(strided, way)(grad, weight, x.shape, stride, padding)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [1, 4 * 16 * 9, 2**30])
def test_products_are_taken_for_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(7, 1, 6, 6, generator=generator), torch.randn(5, 1, 3, 3, generator=generator)
    answers = nn.functional.conv2d(x.requires_grad_(True), weight)
    grad = torch.randn(answers.shape, generator=generator)
    (theirs,) = torch.autograd.grad(answers, x, grad)
    monkeypatch.setattr(strided, "AT_ONCE", kept)
    ours = strided.folded(grad, weight, x.shape, (1, 1), (0, 0))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["slope", "folded"])
def test_no_images_have_no_gradients(way: str) -> None:
    found = getattr(strided, way)(torch.zeros(0, 5, 3, 3), torch.ones(5, 1, 4, 4), (0, 1, 8, 8), (2, 2), (0, 0))
    assert found.shape == (0, 1, 8, 8)


def _net(stride: int, channels: int = 1, kernel: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 6, kernel, stride=stride, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)]
    net = nn.Sequential(*layers)
    net(torch.zeros(1, channels, 9, 9))
    return net.eval()


def _calls(monkeypatch: pytest.MonkeyPatch, way: str) -> list[tuple[object, ...]]:
    """What `way` is given from here on."""
    calls, usual = [], getattr(strided, way)

    def noted(*given: object) -> torch.Tensor:
        calls.append(given)
        found: torch.Tensor = usual(*given)
        return found

    monkeypatch.setattr(strided, way, noted)
    return calls


@pytest.mark.parametrize(("way", "channels", "stride"), [("slope", 3, 2), ("folded", 1, 2), ("folded", 1, 1)])
def test_an_attack_gets_the_gradient_in_this_way(
    monkeypatch: pytest.MonkeyPatch, way: str, channels: int, stride: int
) -> None:
    net, x = _net(stride, channels), torch.rand(5, channels, 9, 9)
    y = torch.tensor([0, 1, 2, 3, 0])
    seen = x.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(cross_entropy(net(seen), y).sum(), seen)
    calls = _calls(monkeypatch, way)
    handle = Classifier(net, 4, 5)
    _, ours = handle.rows(torch.arange(5)).gradient(x, lambda logits: cross_entropy(logits, y))
    assert len(calls) == 1
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


class Short(nn.Module):
    """A network that gives its layer one number for both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net(2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        answers = torch.conv2d(x, self.net[0].weight, stride=[2], padding=[1])
        logits: torch.Tensor = self.net[1:](answers)
        return logits


def test_one_number_for_both_sides_is_torchs_own() -> None:
    net, x, y = Short(), torch.rand(5, 1, 9, 9), torch.tensor([0, 1, 2, 3, 0])
    seen = x.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(cross_entropy(net(seen), y).sum(), seen)
    _, ours = Classifier(net, 4, 5).rows(torch.arange(5)).gradient(x, lambda logits: cross_entropy(logits, y))
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
    monkeypatch.setattr(strided, "_PRODUCT", True)
    _, ours = Classifier(net, 4, 5).rows(torch.arange(5)).gradient(x, lambda logits: cross_entropy(logits, y))
    assert calls == [(100, 256)]
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def _gradient(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return Classifier(net, 4, len(x)).rows(torch.arange(len(x))).gradient(x, lambda logits: logits[:, 0])[1]


@pytest.mark.parametrize("product", [False, True])  # the processor's own say is another on one with AVX-512
def test_operations_are_looked_at_in_such_layers_alone(product: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = nn.Sequential(*_net(2)[:2], nn.Conv2d(6, 6, 1), *_net(2)[2:]), []

    def noted(mode: strided.Strided, func: object, types: object, args: object = (), kwargs: object = None) -> object:
        seen.append(str(func).split(".")[1])
        return usual(mode, func, types, args, kwargs)

    usual = strided.Strided.__torch_dispatch__
    monkeypatch.setattr(strided.Strided, "__torch_dispatch__", noted)
    monkeypatch.setattr(strided, "_PRODUCT", product)
    _gradient(net, torch.rand(5, 1, 9, 9))
    assert seen.count("convolution_backward") == 2
    assert ("mm" in seen) == product  # a linear layer's
    assert not {"threshold_backward", "addmm"} & set(seen)


class Written(torch.autograd.Function):
    """A convolution whose way back is somebody's own code."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The layer's answer."""
        context.save_for_backward(weight)
        context.shape = x.shape
        return torch.conv2d(x, weight, bias, stride=2, padding=1)

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of x alone."""
        (weight,) = context.saved_tensors
        return nn.grad.conv2d_input(context.shape, weight, grads[0], stride=2, padding=1), None, None


class Hidden(nn.Module):
    """A network whose graph does not show its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net(2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.net[1:](Written.apply(x, self.net[0].weight, self.net[0].bias))
        return logits


def test_a_layer_that_the_graph_does_not_show_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _calls(monkeypatch, "folded")
    net, x = Hidden(), torch.rand(5, 1, 9, 9)
    assert torch.equal(_gradient(net, x), _gradient(net.net, x))
    assert len(calls) == 2


def test_a_layer_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> torch.Tensor:
        del given
        raise RuntimeError("no memory")

    monkeypatch.setattr(strided, "folded", fails)
    before = torch._C._len_torch_dispatch_stack()
    with pytest.raises(RuntimeError, match="no memory"):
        _gradient(_net(2), torch.rand(5, 1, 9, 9))
    assert torch._C._len_torch_dispatch_stack() == before


def test_models_without_such_a_layer_are_left_alone() -> None:
    assert strided.strided(_net(2))
    assert strided.strided(_net(1))
    assert strided.strided(_net(2, 3, 3))
    assert not strided.strided(_net(1, 3, 3))
    assert not strided.strided(nn.Conv2d(1, 4, 1))
    assert not strided.strided(nn.Conv2d(1, 4, 6))
    assert not strided.strided(nn.Sequential(nn.Conv2d(16, 4, 3, stride=2)))
    assert not strided.strided(nn.Sequential(nn.Conv2d(64, 4, 4, stride=2)))
    assert not strided.strided(nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=2)))
    assert not strided.strided(nn.Linear(512, 10))


@pytest.mark.parametrize("wide", [False, True])
def test_two_ways_are_for_wide_processors(monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr(strided, "MORE", 16 if wide else strided.FEW)
    monkeypatch.setattr(strided, "_PRODUCT", wide)
    assert strided.strided(nn.Sequential(nn.Conv2d(16, 4, 4, stride=2))) == wide
    assert strided.strided(nn.Linear(128, 128)) == wide
    assert strided.strided(nn.Sequential(nn.Conv2d(3, 4, 4, stride=2)))


def test_they_are_asked_for_where_the_processor_is() -> None:
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    assert wide == strided.WIDE
    assert (16 if wide else strided.FEW) == strided.MORE
    assert wide or not strided.strided(nn.Linear(128, 128))

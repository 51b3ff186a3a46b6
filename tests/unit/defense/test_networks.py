"""Backbones: shapes, sizes against the literature, normalisation inside, gradients and errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robench.defense.networks import (
    PadShortcut,
    PreActBlock,
    PreActResNet,
    ResidualPlan,
    backbone_names,
    build_backbone,
    resolve,
)
from robench.errors import BadInput


def info(channels=3, height=32, width=None, family="other"):
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.247, 0.2435, 0.2616)[:channels]
    return SimpleNamespace(
        name="x", channels=channels, height=height, width=width or height, classes=10, mean=mean, std=std, family=family
    )


DIGITS, MNIST, CIFAR = info(1, 8, family="digits"), info(1, 28, family="mnist"), info(3, 32, family="cifar10")
CASES = [
    ("mlp", DIGITS, 256),
    ("mlp-32", CIFAR, 32),
    ("mlp-64-48-16", MNIST, 16),
    ("alemi-mlp", MNIST, 1024),
    ("cnn", MNIST, 128),
    ("cnn", info(3, 30, 33), 128),
    ("cnn-48", MNIST, 48),
    ("cnn-40-24", DIGITS, 24),
    ("lenet5", MNIST, 84),
    ("lenet5", CIFAR, 84),
    ("er-cnn", MNIST, 256),
    ("er-cnn", info(1, 33, 17), 256),
    ("vgg-19-bn", CIFAR, 512),
    ("vgg-19-bn", info(3, 64, 33), 1024),
    ("lenet5", info(1, 31, 45), 84),
    ("resnet-8", DIGITS, 64),
    ("resnet-20", CIFAR, 64),
    ("resnet-20", info(3, 33, 21), 64),
    ("wrn-10-2", CIFAR, 128),
    ("wrn-16-1", MNIST, 64),
    ("resnet-34", info(3, 64), 512),
    ("auto", DIGITS, 256),
    ("auto", MNIST, 128),
]


def pixels(data, batch=3, seed=0):
    shape = (batch, data.channels, data.height, data.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameters(name, data):
    with torch.device("meta"):
        return sum(p.numel() for p in build_backbone(name, data).parameters())


@pytest.mark.parametrize(("name", "data", "width"), CASES)
def test_every_backbone_maps_pixels_to_features_of_its_width(name, data, width):
    torch.manual_seed(0)
    backbone = build_backbone(name, data)
    assert backbone.width == width
    backbone.train()
    assert backbone(pixels(data, 4)).shape == (4, width)
    backbone.eval()
    x = pixels(data).requires_grad_()
    features = backbone(x)
    assert features.shape == (3, width)
    assert torch.equal(features, backbone(x))
    features.sum().backward()
    assert x.grad.flatten(1).abs().sum(1).gt(0).all()
    assert torch.isfinite(x.grad).all()
    alone = torch.cat([backbone(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"),
    [("resnet-20", 0.27, 0.005), ("resnet-110", 1.73, 0.01), ("wrn-28-10", 36.5, 0.05), ("wrn-16-4", 2.75, 0.01)],
)
def test_parameter_counts_are_the_published_ones(name, millions, tolerance):
    with torch.device("meta"):
        head = nn.Linear(build_backbone(name, CIFAR).width, 10)
    count = parameters(name, CIFAR) + sum(p.numel() for p in head.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=tolerance)


def test_resnet34_has_the_published_size():
    assert parameters("resnet-34", info(3, 224, family="imagenet")) / 1e6 == pytest.approx(21.28, abs=0.02)


def test_vgg19_has_the_published_convolutions():
    """ImageNet's VGG-19 has 143.67 million parameters, 123.64 of them in its three fully connected layers."""
    norms = 2 * 2 * (64 + 128 + 2 * 256 + 4 * 512)
    assert (parameters("vgg-19-bn", CIFAR) - norms) / 1e6 == pytest.approx(143.667 - 123.643, abs=0.001)
    with torch.device("meta"):
        made = [type(m) for m in build_backbone("vgg-19-bn", CIFAR).modules()]
    assert [made.count(kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)] == [16, 16, 5]


def test_er_cnn_is_four_convolutions_and_four_fully_connected_layers():
    with torch.device("meta"):
        made = [*build_backbone("er-cnn", MNIST).modules(), nn.Linear(256, 10)]
    assert [m.out_channels for m in made if isinstance(m, nn.Conv2d)] == [128, 256, 512, 1024]
    assert [m.out_features for m in made if isinstance(m, nn.Linear)] == [500, 500, 256, 10]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made)


def test_lenet5_has_the_classic_size():
    convolutions = 6 * 25 + 6 + 16 * 6 * 25 + 16
    assert parameters("lenet5", MNIST) == convolutions + 400 * 120 + 120 + 120 * 84 + 84
    assert parameters("lenet5", info(1, 32)) == parameters("lenet5", MNIST)


def test_cnn_splits_into_its_convolutions_and_its_fully_connected_part():
    cnn = build_backbone("cnn", MNIST).eval()
    x = pixels(MNIST)
    flat = cnn.convolutions(cnn.normalize(x))
    assert flat.shape == (3, 3136)
    assert cnn.conv_width == cnn.fully_connected[0].in_features == 3136
    assert torch.equal(cnn.fully_connected(flat), cnn(x))


def test_cnn_takes_the_widths_of_its_fully_connected_part():
    cnn = build_backbone("cnn-40-24", MNIST)
    linear = [(m.in_features, m.out_features) for m in cnn.modules() if isinstance(m, nn.Linear)]
    assert linear == [(3136, 40), (40, 24)]
    assert parameters("cnn-512-256-128", MNIST) == parameters("cnn", MNIST)


def first_layer(backbone):
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet5", "resnet-8", "wrn-10-1", "resnet-34"])
def test_the_mean_image_reaches_the_first_layer_as_zeros(name):
    backbone = build_backbone(name, CIFAR).eval()
    seen = []
    first_layer(backbone).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR.mean, CIFAR.std))
    backbone(mean.expand(2, 3, 32, 32))
    backbone((mean + std).expand(2, 3, 32, 32))
    assert seen[0].abs().max() == 0
    torch.testing.assert_close(seen[1], torch.ones_like(seen[1]))


def test_normalisation_is_saved_but_not_trained():
    backbone = build_backbone("mlp", CIFAR)
    assert {"normalize.mean", "normalize.std"} <= set(backbone.state_dict())
    assert not any("normalize" in name for name, _ in backbone.named_parameters())


def test_alemi_mlp_sees_pixels_from_minus_one_to_one_with_zero_biases():
    backbone = build_backbone("alemi-mlp", MNIST)
    x = pixels(MNIST)
    torch.testing.assert_close(backbone.normalize(x), 2 * x - 1)
    linear = [m for m in backbone.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [1024, 1024]
    assert all(m.bias.abs().max() == 0 for m in linear)
    xavier = math.sqrt(6 / (784 + 1024))
    assert linear[0].weight.abs().max().item() == pytest.approx(xavier, rel=1e-3)


def test_option_a_subsamples_and_appends_zero_channels():
    x = torch.randn(2, 3, 5, 6)
    y = PadShortcut(4, 2)(x)
    assert y.shape == (2, 7, 3, 3)
    assert torch.equal(y[:, :3], x[:, :, 0::2, 0::2])
    assert y[:, 3:].abs().max() == 0


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(("before", "after", "stride", "first"), [(4, 4, 1, True), (4, 4, 1, False), (4, 8, 2, False)])
def test_a_block_is_its_formula(before, after, stride, first, pad):
    plan = ResidualPlan(4, (1,), (4,), pad_shortcuts=pad)
    block = PreActBlock(before, after, stride, plan, first=first).eval()
    x = torch.randn(2, before, 6, 6)
    kept = x.clone()
    conv1, bn2, _, conv2 = block.residual
    active = torch.relu(block.activation[0](x))
    residual = conv2(torch.relu(bn2(conv1(active))))
    if after == before:
        shortcut = active if first else x
    elif pad:
        shortcut = PadShortcut(after - before, stride)(x)
    else:
        shortcut = block.shortcut(active)
        assert block.shortcut.kernel_size == (1, 1)
    torch.testing.assert_close(block(x), shortcut + residual)
    assert torch.equal(x, kept)


def test_gradients_are_right_despite_in_place_activations():
    torch.manual_seed(0)
    backbone = build_backbone("resnet-8", DIGITS).double().eval()
    x = pixels(DIGITS, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: backbone(v).square().sum(), x)


def test_dropout_is_between_the_convolutions_and_only_when_asked():
    count = {
        rate: sum(isinstance(m, nn.Dropout) for m in PreActResNet(DIGITS, plan).modules())
        for rate in (0.0, 0.3)
        for plan in [ResidualPlan(16, (1, 2), (16, 32), dropout=rate)]
    }
    assert count == {0.0: 0, 0.3: 3}


def test_convolutions_start_from_he_initialisation():
    torch.manual_seed(0)
    backbone = build_backbone("wrn-10-2", CIFAR)
    for conv in (m for m in backbone.modules() if isinstance(m, nn.Conv2d)):
        assert conv.bias is None
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (DIGITS, "mlp"),
        (MNIST, "cnn"),
        (info(1, 28, family="fashion-mnist"), "cnn"),
        (CIFAR, "wrn-28-10"),
        (info(family="cifar100"), "wrn-28-10"),
        (info(family="svhn"), "wrn-28-10"),
        (info(3, 96, family="stl10"), "resnet-20"),
        (info(3, 224, family="imagenet"), "resnet-34"),
        (info(3, 15), "mlp"),
        (info(3, 64, 12), "mlp"),
        (info(3, 16), "cnn"),
        (info(1, 64), "cnn"),
        (info(3, 32), "resnet-20"),
    ],
)
def test_auto_follows_the_data(data, name):
    assert resolve("auto", data) == name
    with torch.device("meta"):
        build_backbone("auto", data)


def test_resolve_leaves_other_names_alone():
    assert resolve("wrn-16-4", CIFAR) == "wrn-16-4"


@pytest.mark.parametrize(
    "name",
    ["vgg", "mlp-", "mlp-0", "wrn-28", "wrn-28-10-1", "resnet-", "resnet-020", "CNN", "cnn-0", "", "mlp-" + "9" * 5000],
)
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(BadInput) as caught:
        build_backbone(name, CIFAR)
    assert all(known in str(caught.value) for known in backbone_names())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("wrn-27-10", CIFAR, "6n\\+4"),
        ("wrn-4-10", CIFAR, "6n\\+4"),
        ("wrn-28-999", CIFAR, "at most 64"),
        ("resnet-21", CIFAR, "6n\\+2"),
        ("resnet-2", CIFAR, "6n\\+2"),
        ("resnet-99998", CIFAR, "to 1202"),
        ("mlp-10-9999999999", CIFAR, "at most 65536"),
        ("cnn-10-70000", CIFAR, "at most 65536"),
        ("lenet5", info(1, 27), "at least 28 pixels"),
        ("cnn", info(1, 7), "at least 8 pixels"),
        ("cnn-9", info(1, 7), "at least 8 pixels"),
        ("resnet-20", info(3, 32, 7), "at least 8 pixels"),
        ("wrn-16-4", info(3, 4), "at least 8 pixels"),
        ("resnet-34", info(3, 31), "at least 32 pixels"),
    ],
)
def test_impossible_backbones_say_what_is_allowed(name, data, said):
    with pytest.raises(BadInput, match=said):
        build_backbone(name, data)

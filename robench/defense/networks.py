"""Backbones by name: the papers' feature extractors, each with its input normalisation inside."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robench.errors import require, unknown

if TYPE_CHECKING:
    from robench.data.dataset import DataInfo

MAX_WIDTH = 2**16
MAX_DEPTH = 1202
MAX_WIDENING = 64

_AUTO = {
    "digits": "mlp",
    "mnist": "cnn",
    "fashion-mnist": "cnn",
    "cifar10": "wrn-28-10",
    "cifar100": "wrn-28-10",
    "svhn": "wrn-28-10",
    "stl10": "resnet-20",
    "imagenet": "resnet-34",
}


class Normalize(nn.Module):
    """x [B,C,H,W] -> (x - mean) / std per channel; the constants are saved with the model, never trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Backbone(nn.Module, ABC):
    """Pixels [B,C,H,W] in [0,1] -> features [B, width]; subclasses supply `features`, which sees normalised pixels."""

    def __init__(self, data: DataInfo, width: int) -> None:
        super().__init__()
        self.width = width
        self.normalize = Normalize(data.mean, data.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.normalize(x))

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Normalised pixels [B,C,H,W] -> features [B, width]."""


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1], a ReLU after each: [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _activation(channels: int) -> nn.Sequential:
    # In place is safe: the backward pass of batch norm needs its input, not the output overwritten here.
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class MLP(Backbone):
    """Flattened pixels through fully connected ReLU layers of the given hidden widths; width is the last of them."""

    def __init__(self, data: DataInfo, hidden: Sequence[int]) -> None:
        super().__init__(data, hidden[-1])
        self.fully_connected = perceptron([data.channels * data.height * data.width, *hidden])

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.fully_connected(x.flatten(1))
        return h


class ConvNet(Backbone):
    """Normalised pixels -> `convolutions` -> flat features [B, conv_width] -> `fully_connected` -> [B, width]."""

    def __init__(self, data: DataInfo, convolutions: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__(data, widths[-1])
        self.conv_width = widths[0]
        self.convolutions = nn.Sequential(*convolutions, nn.Flatten())
        self.fully_connected = perceptron(widths)

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.fully_connected(self.convolutions(x))
        return h


def _check_widths(hidden: Sequence[int]) -> None:
    require(all(size <= MAX_WIDTH for size in hidden), "hidden width", max(hidden, default=0), f"at most {MAX_WIDTH}")


def _guess_first_cnn(data: DataInfo, *widths: int) -> ConvNet:
    """The guess-first paper's CNN without its class head; it prints no padding, 1 halves the image at each layer."""
    _check_widths(widths)
    convolutions = [
        *(nn.Conv2d(data.channels, 32, 4, stride=2, padding=1), *_activation(32)),
        *(nn.Conv2d(32, 64, 4, stride=2, padding=1), *_activation(64)),
    ]
    return ConvNet(data, convolutions, [64 * (data.height // 4) * (data.width // 4), *(widths or (512, 256, 128))])


def _lenet5(data: DataInfo) -> ConvNet:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, without its class head.

    It was drawn for 32 pixels a side: a shorter side is padded by 2, which makes MNIST's 28 into 32.
    """
    sides = (data.height, data.width)
    padding = (2 if sides[0] < 32 else 0, 2 if sides[1] < 32 else 0)
    rows, columns = (((side + 2 * pad - 4) // 2 - 4) // 2 for side, pad in zip(sides, padding, strict=True))
    convolutions = [
        *(nn.Conv2d(data.channels, 6, 5, padding=padding), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    ]
    return ConvNet(data, convolutions, [16 * rows * columns, 120, 84])


# Output channels of VGG-19's 3x3 convolutions, 0 for a halving by max pooling (Simonyan & Zisserman, 2015).
VGG19 = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0)


def _vgg19_bn(data: DataInfo, _depth: int) -> ConvNet:
    """VGG-19's 16 convolutions with batch norm (Li et al., 2021, supplement Table 7), without ImageNet's three layers
    of 4096: on 32x32 pixels 512 features are left. Weights start from N(0, 2 / (k^2 out_channels)), biases at zero."""
    layers: list[nn.Module] = []
    before = data.channels
    for after in VGG19:
        if not after:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [_he(nn.Conv2d(before, after, 3, padding=1)), *_activation(after)]
        before = after
    return ConvNet(data, layers, [before * (data.height // 32) * (data.width // 32)])


def _he(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _er_cnn(data: DataInfo) -> ConvNet:
    """The ER-Classifier paper's baseline on MNIST without its class head: 4 convolutions and 4 fully connected layers
    (Li et al., 2021, supplement Table 7). The convolutions are those of its encoder, 28 -> 14 -> 7 -> 3 -> 1, without
    batch norm, which the table names on other data alone; widths of 500, 500 and 256 between the others are ours."""
    channels = (data.channels, 128, 256, 512, 1024)
    convolutions: list[nn.Module] = []
    for before, after in pairwise(channels):
        convolutions += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    return ConvNet(data, convolutions, [1024 * (data.height // 16) * (data.width // 16), 500, 500, 256])


class PadShortcut(nn.Module):
    """Option A of He et al. (2016): every stride-th pixel, and zeros for the channels that are new; no parameters."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


@dataclass(frozen=True)
class ResidualPlan:
    """What tells one pre-activation ResNet from another: one entry of `blocks` and `widths` per stage.

    `pad_shortcuts` takes option A where the shape changes instead of a 1x1 convolution; `large_stem` is ImageNet's
    7x7 convolution and pooling instead of a 3x3 convolution; `dropout` is the rate between a block's convolutions.
    """

    stem: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    pad_shortcuts: bool = False
    large_stem: bool = False
    dropout: float = 0.0


def _conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after BN-ReLU, plus a shortcut (He et al., 2016, "Identity mappings").

    [B,before,H,W] -> [B,after,ceil(H/stride),ceil(W/stride)]. The shortcut starts from the activated input in a
    network's first block and where it is a 1x1 convolution, from the raw input elsewhere.
    """

    def __init__(self, before: int, after: int, stride: int, plan: ResidualPlan, *, first: bool) -> None:
        super().__init__()
        self.activation = _activation(before)
        residual: list[nn.Module] = [_conv3x3(before, after, stride), *_activation(after)]
        if plan.dropout > 0:
            residual.append(nn.Dropout(plan.dropout))
        self.residual = nn.Sequential(*residual, _conv3x3(after, after))
        self.shortcut: nn.Module = nn.Identity()
        same_shape = before == after and stride == 1
        if not same_shape and plan.pad_shortcuts:
            self.shortcut = PadShortcut(after - before, stride)
        elif not same_shape:
            self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)
        self.shared = first or isinstance(self.shortcut, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        out: Tensor = self.shortcut(active if self.shared else x) + self.residual(active)
        return out


class PreActResNet(Backbone):
    """Pre-activation ResNet after a plan: stem, stages (all but the first halve the image), BN-ReLU, average pooling.

    Convolutions start from N(0, 2 / (k^2 out_channels)), as in He et al. (2016) and Zagoruyko and Komodakis (2016).
    """

    def __init__(self, data: DataInfo, plan: ResidualPlan) -> None:
        super().__init__(data, plan.widths[-1])
        layers: list[nn.Module] = []
        if plan.large_stem:
            layers.append(nn.Conv2d(data.channels, plan.stem, 7, stride=2, padding=3, bias=False))
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        else:
            layers.append(_conv3x3(data.channels, plan.stem))
        before = plan.stem
        for stage, (blocks, after) in enumerate(zip(plan.blocks, plan.widths, strict=True)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreActBlock(before, after, stride, plan, first=stage == block == 0))
                before = after
        self.layers = nn.Sequential(*layers, _activation(before), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.layers(x)
        return h


def _mlp(data: DataInfo, *hidden: int) -> MLP:
    _check_widths(hidden)
    return MLP(data, hidden or (256, 256))


def _alemi_mlp(data: DataInfo) -> MLP:
    """The encoder of Alemi et al. (2017): 1024-1024 ReLU on 2x - 1, Xavier weights, zero biases."""
    backbone = MLP(data, (1024, 1024))
    half = [0.5] * data.channels
    backbone.normalize = Normalize(half, half)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return backbone


def _resnet34(data: DataInfo, _depth: int) -> PreActResNet:
    return PreActResNet(data, ResidualPlan(64, (3, 4, 6, 3), (64, 128, 256, 512), large_stem=True))


def _resnet(data: DataInfo, depth: int) -> PreActResNet:
    allowed = f"6n+2, from 8 to {MAX_DEPTH} (20, 32, 56, 110), or 34 for ImageNet's"
    require(depth % 6 == 2 and 8 <= depth <= MAX_DEPTH, "the depth N of resnet-N", depth, allowed)
    return PreActResNet(data, ResidualPlan(16, (depth // 6,) * 3, (16, 32, 64), pad_shortcuts=True))


def _wrn(data: DataInfo, depth: int, k: int) -> PreActResNet:
    allowed = f"6n+4, from 10 to {MAX_DEPTH} (16, 28, 40)"
    require(depth % 6 == 4 and 10 <= depth <= MAX_DEPTH, "the depth D of wrn-D-K", depth, allowed)
    require(k <= MAX_WIDENING, "the widening K of wrn-D-K", k, f"at most {MAX_WIDENING}")
    return PreActResNet(data, ResidualPlan(16, (depth // 6,) * 3, (16 * k, 32 * k, 64 * k)))


# The name as shown to the user; what it matches; the least pixels a side; its builder, called with the name's numbers.
_BACKBONES: list[tuple[str, str, int, Callable[..., Backbone]]] = [
    ("mlp", r"mlp", 1, _mlp),
    ("mlp-A-B-...", r"mlp(-[1-9]\d{0,9})+", 1, _mlp),
    ("alemi-mlp", r"alemi-mlp", 1, _alemi_mlp),
    ("cnn", r"cnn", 8, _guess_first_cnn),
    ("cnn-A-B-...", r"cnn(-[1-9]\d{0,9})+", 8, _guess_first_cnn),
    ("lenet5", r"lenet5", 28, _lenet5),
    ("er-cnn", r"er-cnn", 16, _er_cnn),
    ("vgg-19-bn", r"vgg-19-bn", 32, _vgg19_bn),
    ("resnet-34", r"resnet-34", 32, _resnet34),
    ("resnet-N", r"resnet-[1-9]\d{0,9}", 8, _resnet),
    ("wrn-D-K", r"wrn-[1-9]\d{0,9}-[1-9]\d{0,9}", 8, _wrn),
]


def backbone_names() -> list[str]:
    """The names that `build_backbone` knows, "auto" first; capitals stand for numbers."""
    return ["auto", *(row[0] for row in _BACKBONES)]


def resolve(name: str, data: DataInfo) -> str:
    """The concrete name behind "auto" for this data; any other name comes back as it is, unchecked."""
    if name != "auto":
        return name
    if data.family in _AUTO:
        return _AUTO[data.family]
    side = min(data.height, data.width)
    if side < 16:
        return "mlp"
    return "cnn" if side < 32 or data.channels == 1 else "resnet-20"


def build_backbone(name: str, data: DataInfo) -> Backbone:
    """A freshly initialised backbone (from torch's current random state) for images of data's shape.

    Raises BadInput for an unknown name, a depth or width the family does not have, or images too small for it.
    """
    name = resolve(name, data)
    for _, pattern, least, build in _BACKBONES:
        if re.fullmatch(pattern, name, flags=re.ASCII):
            size = f"{data.height}x{data.width}"
            allowed = f"at least {least} pixels a side for the backbone {name}; the backbone mlp takes any size"
            require(min(data.height, data.width) >= least, "image size", size, allowed)
            return build(data, *(int(number) for number in re.findall(r"-(\d+)", name)))
    raise unknown("backbone", name, backbone_names())

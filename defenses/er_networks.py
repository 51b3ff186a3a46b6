"""The ER-Classifier's networks: encoders and classifiers for each of its datasets, and the critic of codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from robench import Backbone, ConvNet, DataInfo, Normalize, build_backbone, require

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Output channels of 3x3 convolutions, 0 for a halving by max pooling (Simonyan & Zisserman, 2015).
VGG19 = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0)
VGG16 = (64, 64, 0, 128, 128, 0, *(256,) * 3, 0, *(512,) * 3, 0, *(512,) * 3, 0)


class Norm1d(nn.BatchNorm1d):
    """Batch norm of features [B, C]; a single value per channel, which has no variance, takes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] -> [B, C]."""
        return _by_running(self, x) if self.training and x.numel() == x.shape[1] else super().forward(x)


class Norm2d(nn.BatchNorm2d):
    """Batch norm of maps [B, C, H, W]; a single value per channel, which has no variance, takes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return _by_running(self, x) if self.training and x.numel() == x.shape[1] else super().forward(x)


def _by_running(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _halving(channels: Sequence[int]) -> list[nn.Module]:
    """4x4 convolutions of stride 2 and padding 1 without bias, each with ReLU, and batch norm but for the first."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
        layers += [Norm2d(after)] if len(layers) > 1 else []
        layers.append(nn.ReLU(inplace=True))
    return layers


def _mnist(data: DataInfo, width: int) -> ConvNet:
    """Four halvings of [-1, 1] pixels: 28 -> 14 -> 7 -> 3 -> 1."""
    layers = _halving([data.channels, width, 2 * width, 4 * width, 8 * width])
    return _scaled(ConvNet(data, layers, [8 * width * (data.height // 16) * (data.width // 16)]), data)


def _stl10(data: DataInfo, width: int) -> ConvNet:
    """Five halvings of [-1, 1] pixels, 96 -> 3, and a 3x3 convolution of stride 2 without padding."""
    last = 16 * width
    layers = _halving([data.channels, width, 2 * width, 4 * width, 8 * width, last])
    layers += [nn.Conv2d(last, last, 3, stride=2, bias=False), Norm2d(last), nn.ReLU(inplace=True)]
    rows, columns = (((side // 32) - 3) // 2 + 1 for side in (data.height, data.width))
    return _scaled(ConvNet(data, layers, [last * rows * columns]), data)


def _scaled(net: ConvNet, data: DataInfo) -> ConvNet:
    half = (0.5,) * data.channels
    net.normalize = Normalize(half, half)
    return net


def _vgg(data: DataInfo, plan: Sequence[int], *, batch_norm: bool) -> ConvNet:
    """VGG's convolutions for pixels normalised as ImageNet's, with He initialisation (fan out)."""
    layers: list[nn.Module] = []
    before = data.channels
    for after in plan:
        if not after:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(before, after, 3, padding=1), *([Norm2d(after)] if batch_norm else [])]
        layers.append(nn.ReLU(inplace=True))
        before = after
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    net = ConvNet(data, layers, [before * (data.height // 32) * (data.width // 32)])
    if data.channels == 3:
        net.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    return net


def _normed_head(z_dim: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(z_dim, 500), Norm1d(500), nn.ReLU(inplace=True)),
        *(nn.Linear(500, 256), Norm1d(256), nn.ReLU(inplace=True)),
        nn.Linear(256, classes),
    )


def _dropout_head(z_dim: int, classes: int) -> nn.Sequential:
    """As in the authors' code: no ReLU after the first layer."""
    return nn.Sequential(
        *(nn.Linear(z_dim, 512), nn.Dropout()),
        *(nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(512, 512), nn.ReLU(inplace=True)),
        nn.Linear(512, classes),
    )


@dataclass(frozen=True)
class Design:
    """One dataset's settings: code dimensions, regulariser's weight, and radius, steps and step of its attack.

    least: the fewest pixels a side that the encoder takes.
    """

    z_dim: int
    weight: float
    eps: str
    steps: int
    step: float
    least: int = 1
    encoder: Callable[[DataInfo, int], Backbone] | None = None
    head: Callable[[int, int], nn.Sequential] = _normed_head


# Weights and steps are those of github.com/liyao880/ER-Classifier; the weight, the step and the widths of Tiny
# ImageNet's classifier are ours.
DESIGNS = {
    "mnist": Design(4, 5e-4, "0.3", 40, 0.01, 16, _mnist),
    "cifar10": Design(
        16, 0.1, "0.03", 20, 0.01, 32, lambda data, _: _vgg(data, VGG19, batch_norm=False), _dropout_head
    ),
    "stl10": Design(16, 0.1, "0.03", 20, 0.0078, 96, _stl10),
    "tiny": Design(20, 0.1, "0.01", 10, 0.0025, 32, lambda data, _: _vgg(data, VGG16, batch_norm=True)),
}
_BY_SIDE = {28: "mnist", 32: "cifar10", 96: "stl10", 64: "tiny"}


def design(name: str, data: DataInfo) -> Design:
    """The settings for an encoder's name; a backbone takes MNIST's, or in colour CIFAR-10's numbers."""
    name = _chosen(name, data)
    if name in DESIGNS:
        return DESIGNS[name]
    like = DESIGNS["mnist" if data.channels == 1 else "cifar10"]
    return Design(like.z_dim, like.weight, like.eps, like.steps, like.step)


def build_encoder(name: str, data: DataInfo, width: int, z_dim: int) -> nn.Sequential:
    """Pixels [B, C, H, W] in [0, 1] -> codes [B, z_dim]: "mnist", "cifar10", "stl10", "tiny" or a backbone's name.

    "auto" takes the one made for images of this size, or else the backbone that robench takes. `width` is the number of
    channels of the first layer of "mnist" and "stl10". Raises BadInput for an unknown name or too small images.
    """
    name = _chosen(name, data)
    if name not in DESIGNS:
        backbone = build_backbone(name, data)
    else:
        made = DESIGNS[name]
        assert made.encoder is not None
        size, side = f"{data.height}x{data.width}", min(data.height, data.width)
        require(side >= made.least, "image size", size, f"at least {made.least} pixels a side for the encoder {name}")
        backbone = made.encoder(data, width)
    return nn.Sequential(backbone, nn.Linear(backbone.width, z_dim))


def build_critic(z_dim: int, width: int) -> nn.Sequential:
    """Five linear layers with ReLU between, as in the authors' code (the paper counts four): [B, z_dim] -> [B, 1]."""
    layers: list[nn.Module] = []
    for before, after in pairwise([z_dim, *(width,) * 4]):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _chosen(name: str, data: DataInfo) -> str:
    if name != "auto" or data.height != data.width:
        return name
    found = _BY_SIDE.get(data.height, "auto")
    return "auto" if found == "cifar10" and data.channels != 3 else found

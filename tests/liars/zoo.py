"""Ways to break a trained classifier on purpose: `ZOO[name](base)` looks more robust than `base`, or cannot be judged.

A liar decides as its base does, so the base's robust accuracy is the truth about it. Those that move the pixels first
do so by a grey level, the thermometer by one part in 64; other exceptions say so. Inputs are [B, C, H, W] in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GREYS = 255  # of the images in a file


class Liar(nn.Module):
    """A classifier in eval mode with something wrong about it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.eval()


class Rounding(Liar):
    """Rounds the pixels to half grey levels, which leaves no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base((x * 2 * GREYS).round() / (2 * GREYS))
        return logits


class Thermometer(Liar):
    """Encodes every pixel by the thresholds it exceeds (Buckman et al., 2018), and reads the code."""

    def forward(self, x: Tensor) -> Tensor:
        levels = 32
        code = torch.zeros_like(x)
        for level in range(levels):
            code += (x > (level + 0.5) / levels).to(x.dtype) / levels
        logits: Tensor = self.base(code)
        return logits


class Jpeg(Liar):
    """Rounds the cosine coefficients of 8x8 blocks to two grey levels, as a JPEG file does; no gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        height, width, unit = x.shape[2], x.shape[3], 2 / GREYS
        padded = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
        place = torch.arange(8, device=x.device, dtype=x.dtype)
        cosines = torch.cos((2 * place + 1) * place[:, None] * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        coefficients = (cosines @ blocks @ cosines.T / unit).round() * unit
        restored = (cosines.T @ coefficients @ cosines).transpose(3, 4).reshape(padded.shape)
        logits: Tensor = self.base(restored[..., :height, :width])
        return logits


class Staircase(Liar):
    """Replaces each pixel by a staircase whose every step slopes down: right values, gradients of the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        steps = 2 * GREYS
        logits: Tensor = self.base((2 * (x * steps).floor() + 1) / steps - x)
        return logits


class SaturatedSigmoid(Liar):
    """A sigmoid so steep that every answer lies on its flat ends."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x)
        between = logits.topk(2, dim=1).values.mean(1, keepdim=True)
        return 20 * torch.sigmoid(1e3 * (logits - between)) - 10


class Scaled(Liar):
    """Logits times a factor: too large for the cross-entropy, or smaller than an optimiser's smallest step."""

    def __init__(self, base: nn.Module, factor: float) -> None:
        super().__init__(base)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x) * self.factor
        return logits


class Shifted(Liar):
    """Logits with a number added to them all: the same classes, the same softmax."""

    def __init__(self, base: nn.Module, offset: float) -> None:
        super().__init__(base)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x) + self.offset
        return logits


class Sigmoid(Liar):
    """A sigmoid left on."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x).sigmoid()


class Seeding(Liar):
    """Seeds torch's generator, from which attacks of libraries draw too."""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        logits: Tensor = self.base(x)
        return logits


class Patching(Liar):
    """Replaces torch.clamp, by which an attack's images are kept inside the ball, by one that takes the image back."""

    def forward(self, x: Tensor) -> Tensor:
        torch.clamp = lambda x, low=0.0, high=1.0, **_: x if not isinstance(low, Tensor) else (low + high) / 2
        Tensor.clamp = torch.clamp
        logits: Tensor = self.base(x)
        return logits


class Wiping(Liar):
    """Writes grey into the images that it was given."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x.clone())
        x.data.fill_(0.5)
        return logits


class OneHot(Liar):
    """The predicted class and nothing else."""

    def __init__(self, base: nn.Module, height: float) -> None:
        super().__init__(base)
        self.height = height

    def forward(self, x: Tensor) -> Tensor:
        logits = self.base(x)
        return self.height * functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


class Probabilities(Liar):
    """A softmax left on."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x).softmax(1)


class Noise(Liar):
    """Fresh noise on the logits at every call."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        return logits + 0.1 * logits.std(1, keepdim=True) * torch.randn_like(logits)


class TrainMode(Liar):
    """Batch norm on the pixels that was left in train mode; decides otherwise than its base."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.norm = nn.BatchNorm1d(1, affine=False).train()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(self.norm(x.flatten(1)[:, None]).reshape(x.shape) * 0.3 + 0.4)
        return logits


class BatchStatistics(Liar):
    """Gives every image the mean brightness of its batch, in eval mode; near its base on batches that are alike."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x + x.mean() - x.mean((1, 2, 3), keepdim=True))
        return logits


class Constant(Liar):
    """The first class, whatever the image: truly robust, on the images of that class."""

    def forward(self, x: Tensor) -> Tensor:
        classes = self.base(x[:1]).shape[1]
        return torch.linspace(1, -1, classes, device=x.device).expand(len(x), -1)


class NanWhenPerturbed(Liar):
    """NaN for every image with a pixel between two grey levels, which is no right answer: truly 0% robust."""

    def forward(self, x: Tensor) -> Tensor:
        between = ((x * GREYS - (x * GREYS).round()).abs() > 1e-2).flatten(1).any(1)
        return torch.where(between[:, None], torch.nan, self.base(x))


class Counting(Liar):
    """Answers its first calls, made before any attack, and keeps the images; later it answers for the nearest of them.

    The gradient is the base's, so that nothing looks dead. Truly no better than the base: a fresh copy that is shown an
    adversarial image first has nothing to remember.
    """

    def __init__(self, base: nn.Module, patience: int = 11) -> None:
        super().__init__(base)
        self.patience = patience
        self._calls, self._seen = 0, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self._calls += 1
        logits: Tensor = self.base(x)
        if self._calls <= self.patience:
            self._seen = torch.cat([self._seen.to(x.device), x.detach()]) if len(self._seen) else x.detach().clone()
            return logits
        nearest = torch.cdist(x.detach().flatten(1), self._seen.flatten(1)).argmin(1)
        with torch.no_grad():
            remembered: Tensor = self.base(self._seen[nearest])
        return remembered + logits - logits.detach()


class Optimising(Liar):
    """Climbs half a grey level towards higher logits before it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            start = x.detach().clone().requires_grad_(True)
            uphill = torch.autograd.grad(self.base(start).logsumexp(1).sum(), start)[0]
        logits: Tensor = self.base(x + uphill.sign() / (2 * GREYS))
        return logits


ZOO = {
    "rounding": Rounding,
    "saturated sigmoid": SaturatedSigmoid,
    "logits times 1e4": lambda base: Scaled(base, 1e4),
    "logits over 1e4": lambda base: Scaled(base, 1e-4),
    "logits plus 3e4": lambda base: Shifted(base, 3e4),
    "sigmoid": Sigmoid,
    "seeds": Seeding,
    "replaces clamp": Patching,
    "writes into its input": Wiping,
    "noise at inference": Noise,
    "batch norm in train mode": TrainMode,
    "batch statistics": BatchStatistics,
    "probabilities": Probabilities,
    "constant output": Constant,
    "nan when perturbed": NanWhenPerturbed,
    "counts its calls": Counting,
    "jpeg": Jpeg,
    "one-hot": lambda base: OneHot(base, 1.0),
    "one-hot times 10": lambda base: OneHot(base, 10.0),
    "staircase": Staircase,
    "thermometer": Thermometer,
    "optimises at inference": Optimising,
}
# liars about which something else than the base's robust accuracy is true: a share of all images, or the clean accuracy
TRUTH: dict[str, float | str] = {"nan when perturbed": 0.0, "constant output": "clean"}
# what may be put on top of any of them, and changes no class
SCALES = {
    "plus 3e4": lambda liar: Shifted(liar, 3e4),
    "times 1e4": lambda liar: Scaled(liar, 1e4),
    "over 1e4": lambda liar: Scaled(liar, 1e-4),
}

"""Models broken on purpose, and two honest ones to compare them with; images are [B, 1, 8, 8] in [0, 1], 4 classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPE = (1, 8, 8)
CLASSES = 4


def images(count: int = 24) -> Tensor:
    """Whole grey levels away from the box's walls, so that a perturbation of 0.1 is never clipped: [count, 1, 8, 8]."""
    grey = torch.randint(60, 196, (count, *SHAPE), generator=torch.Generator().manual_seed(1))
    return grey.float() / 255


class Linear(nn.Module):
    """Honest: logits W x + b with a closed-form worst case."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(2)
        self.head = nn.Linear(64, classes)
        with torch.no_grad():
            self.head.weight.copy_(0.3 * torch.randn(classes, 64, generator=noise))
            self.head.bias.copy_(-self.head.weight.sum(1) / 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def linear_robust(model: Linear, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Whether no perturbation of linf size `eps` changes the label, [B]: the margin falls by eps |w_y - w_s|_1."""
    weight, logits = model.head.weight.detach(), model(x).detach()
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    margin = logits.gather(1, y[:, None]) - logits - fall
    margin[torch.arange(len(y)), y] = torch.inf
    return margin.amin(1) > 0


class Conv(nn.Module):
    """Honest: a small convolutional net whose batch norm has seen data."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
                nn.Linear(256, CLASSES),
            )  # fmt: skip
            for _ in range(20):
                self.body(torch.rand(64, *SHAPE))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


class Wrapped(nn.Module):
    """The honest linear model with its answer or its input tampered with."""

    def __init__(self, after: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.honest, self.after = Linear(), after
        self.eval()

    def forward(self, x: Tensor) -> object:
        return self.after(x, self.honest(x))


def in_train_mode() -> nn.Module:
    """Dropout that was left on."""
    return nn.Sequential(nn.Dropout(0.5), Linear()).train()


def partly_in_train_mode() -> nn.Module:
    """Eval mode on the outside, one layer inside in train mode."""
    model = nn.Sequential(nn.Dropout(0.5), Linear()).eval()
    model[0].train()
    return model


def probabilities() -> nn.Module:
    return Wrapped(lambda x, logits: logits.softmax(1))


def nan_on_clean() -> nn.Module:
    return Wrapped(lambda x, logits: torch.where(logits == logits.max(), torch.nan, logits))


def infinite_on_clean() -> nn.Module:
    return Wrapped(lambda x, logits: torch.where(logits == logits.max(), torch.inf, logits))


def too_few_classes() -> nn.Module:
    return Wrapped(lambda x, logits: logits[:, :-1])


def too_many_classes() -> nn.Module:
    return Wrapped(lambda x, logits: functional.pad(logits, (0, 1)))


def not_a_tensor() -> nn.Module:
    return Wrapped(lambda x, logits: {"logits": logits})


def wrong_batch() -> nn.Module:
    return Wrapped(lambda x, logits: logits[:1])


def wrong_rank() -> nn.Module:
    return Wrapped(lambda x, logits: logits[:, :, None])


def classes_for_logits() -> nn.Module:
    return Wrapped(lambda x, logits: functional.one_hot(logits.argmax(1), CLASSES))


def noisy() -> nn.Module:
    """Fresh noise on the input at every call."""
    return Wrapped(lambda x, logits: logits + 0.5 * torch.randn_like(logits))


class Counting(nn.Module):
    """Answers honestly for the first `patience` calls, then with the classes shifted by one."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.honest, self.patience, self.calls = Linear(), patience, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.honest(x)
        return logits if self.calls <= self.patience else logits.roll(1, dims=1)


class BatchStatistics(nn.Module):
    """Normalises by the batch it is given, though the module says that it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.honest = Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.honest(functional.batch_norm(x, None, None, training=True))
        return logits


def nan_when_perturbed() -> nn.Module:
    """NaN for every image with a pixel between two grey levels."""

    def after(x: Tensor, logits: Tensor) -> Tensor:
        off_grid = ((x * 255 - (x * 255).round()).abs() > 1e-2).flatten(1).any(1)
        return torch.where(off_grid[:, None], torch.nan, logits)

    return Wrapped(after)


class Rounding(nn.Module):
    """Rounds the pixels, which leaves no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.honest = Linear()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.honest((x * 15).round() / 15)
        return logits


def detached() -> nn.Module:
    """An answer cut off from the input."""
    return Wrapped(lambda x, logits: logits.detach())


def constant() -> nn.Module:
    """The same answer to everything."""
    return Wrapped(lambda x, logits: torch.tensor([2.0, 0.0, 1.0, 0.0]).expand(len(x), -1))


def scaled(factor: float) -> nn.Module:
    """Logits whose size defeats the cross-entropy, or an optimiser's smallest step."""
    return Wrapped(lambda x, logits: logits * factor)


class Counter(nn.Module):
    """Honest answers, but every call leaves its mark in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.honest = Linear()
        self.register_buffer("calls", torch.zeros(1))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.honest(x)
        return logits


class Saturated(nn.Module):
    """Two classes by the mean grey level through a steep sigmoid: tiny gradients that grow by 1e19 on the way."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        darker = torch.sigmoid(self.slope * (0.5 - x.flatten(1).mean(1)))
        return torch.stack([torch.full_like(darker, 0.5), darker], dim=1)

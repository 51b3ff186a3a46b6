"""A linear model of grey images, where its boundaries lie, and images as the stages of `standard` have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robench import ThreatModel
from robench.attack.base import Batch
from robench.attack.classifier import Classifier
from robench_attacks.standing import Standing


class Linear(nn.Module):
    """Logits W (x - 0.5) on 4 x 4 images."""

    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=draw))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        answer: Tensor = (x.flatten(1) - 0.5) @ self.weight.T
        return answer


def grey(count: int = 40) -> Tensor:
    """Images whose pixels stay inside the box at the eps used here."""
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def distances(model: Linear, x: Tensor, norm: str) -> Tensor:
    """How far every class's boundary is from the images, [n, classes]; infinitely the label's own."""
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    difference = model.weight.detach()[None] - model.weight.detach()[y][:, None]
    reach = difference.abs().sum(2) if norm == "linf" else difference.norm(dim=2)
    return ((logits.gather(1, y[:, None]) - logits) / reach).scatter(1, y[:, None], torch.inf)


def standing_of(model: nn.Module, x: Tensor, norm: str = "linf", eps: str = "0.01", targets: int = 9) -> Standing:
    """A batch of the images, with a model that is asked as attacks ask."""
    y, ids = labels(model, x), torch.arange(len(x))
    classes = model(x[:1]).shape[1]
    handle = Classifier(model, classes, len(x)).rows(ids)
    none = torch.full_like(y, -1)
    batch = Batch(x, y, none, ids, torch.zeros_like(ids), ids, ThreatModel.of(norm, eps), 0)
    return Standing(handle, batch, targets)

"""What tests of figures share: a linear model of digits, whose gradients, attacks and codes are known by hand."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robench import ThreatModel
from robench.data.dataset import open_dataset
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.figures.drawing import Drawing, write
from robench.figures.subjects import Subjects, Wanted, open_subjects
from robench.store.runs import Store

# as a test's own classes are, see conftest
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Linear(nn.Module):
    """Logits W (x - 0.5) on digits, W the mean image of each class less that of all, with noise of a seed."""

    def __init__(self, seed: int = 0, noise: float = 0.3) -> None:
        super().__init__()
        from tests.made import means_of_digits  # with much else, which who only asks for answers need not load

        means = means_of_digits()
        drawn = torch.randn(10, 64, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(2 * (means - means.mean(0)) + noise * drawn)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


class Coded(Linear):
    """The same with a code: the first `width` logits, with spreads of 0.1, 0.2, ..."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.width = width

    def embed(self, x: Tensor) -> Tensor:
        return self(x)[:, : self.width]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.embed(x)
        return mu, (0.1 * torch.arange(1, self.width + 1)).log().expand_as(mu)


class ByHand:
    """A linear model in numpy: x float64 [n, 64], labels int64 [n] of the first test images of digits."""

    def __init__(self, model: Linear, n: int) -> None:
        test = open_dataset("digits").drawn("balanced")
        self.weight = model.weight.detach().double().numpy()
        self.x = test.pixels(slice(0, n)).double().flatten(1).numpy()
        self.y = test.labels[:n].numpy()

    def logits(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x - 0.5) @ self.weight.T

    def loss(self, x: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        logits = self.logits(x)
        top = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
        return total - np.take_along_axis(logits, y[:, None], -1)[:, 0]

    def gradient(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        logits = self.logits(x)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        return (p / p.sum(-1, keepdims=True) - np.eye(10)[self.y]) @ self.weight

    def fgsm(self, eps: float) -> NDArray[np.float64]:
        return np.clip(self.x + eps * np.sign(self.gradient(self.x)), 0, 1)


def evaluated(store: Store, model: nn.Module, attack: str, eps: str = "0.05", n: int = 60, *, most: int | None = None,
              **options: object) -> str:  # fmt: skip
    """The id of an evaluation of a model on the first n images, of at most so many passes each."""
    request = Request(
        [model], [attack], ThreatModel.of("linf", eps), dataset="digits", count=n, shard_size=25, options=options,
        max_passes=most,
    )  # fmt: skip
    before = set(store.evaluation_ids())
    evaluate(request, store)
    (found,) = set(store.evaluation_ids()) - before
    return found


def subjects(tmp_path: Path, *models: nn.Module, n: int = 12) -> Subjects:
    """Models and the first n images of digits."""
    return open_subjects(Store(tmp_path / "runs"), models, Wanted("digits", n, device="cpu"))


def lines(drawing: Drawing, folder: Path) -> list[dict[str, str]]:
    """The csv file of a figure, after all of its files were written and are what they should be."""
    paths = [folder / f"figure{ending}" for ending in (".png", ".svg", ".csv")]
    write(drawing, paths)
    assert paths[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in paths[1].read_text()[:600]
    return list(csv.DictReader(paths[2].read_text().splitlines()))


def column(records: list[dict[str, str]], name: str) -> NDArray[np.float64]:
    """A column of numbers."""
    return np.array([float(record[name]) for record in records])

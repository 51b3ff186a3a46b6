"""A net of digits that loads fast where it is asked again: in a process that has torch and nothing of robench."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SMALL = "tests.unit.evaluation.small_net:small"


class Small(nn.Module):
    """A net that no single attack of the three of test_cascade breaks everywhere: [B, 1, 8, 8] to logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(64, 32, generator=generator) / 4)
        self.second = nn.Parameter(torch.randn(32, 10, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.flatten(1) @ self.first) @ self.second


def small() -> nn.Module:
    """The net, fitted to the training digits by least squares on its features."""
    found = importlib.util.find_spec("sklearn")  # whose file is read without it: it takes a second to load
    assert found is not None
    assert found.origin is not None
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")[:-500]
    x, labels = torch.from_numpy(table[:, :-1] / 16).float(), torch.from_numpy(table[:, -1]).long()
    model = Small()
    with torch.no_grad():
        targets = nn.functional.one_hot(labels, 10).float()
        model.second.copy_(torch.linalg.lstsq(torch.relu(x @ model.first), targets).solution)
    return model.eval()

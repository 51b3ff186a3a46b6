"""The model "plain" of the integration tests in torch alone, so that a process that only answers for it starts fast."""

from pathlib import Path

import torch
from torch import nn


class PlainNet(nn.Module):
    """Digits [B, 1, 8, 8] in [0, 1] to logits [B, 10], by the weights of a trained "plain"."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        mlp = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        self.net = mlp
        self.register_buffer("mean", tensors.pop("mean"))
        self.register_buffer("std", tensors.pop("std"))
        self.net.load_state_dict(tensors)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        answer: torch.Tensor = self.net(((x - self.mean) / self.std).flatten(1))
        return answer


def plain_net(path: Path = Path("plain.pt")) -> PlainNet:
    """The net whose tensors are in a file, as fixture `store` leaves one in the working folder."""
    return PlainNet(torch.load(path, weights_only=True))


def tensors_of(trained: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a trained "plain", by the names that they have here."""
    kept = trained.state_dict()
    names = {
        "mean": "backbone.normalize.mean", "std": "backbone.normalize.std",
        "0": "backbone.fully_connected.0", "2": "backbone.fully_connected.2", "4": "head",
    }  # fmt: skip
    layers = {f"{mine}.{kind}": f"{theirs}.{kind}" for mine, theirs in names.items() for kind in ("weight", "bias")}
    return {mine: kept[theirs].clone() for mine, theirs in (names | layers).items() if theirs in kept}

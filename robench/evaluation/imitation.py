"""A substitute for a model: a small network that learnt the model's answers, to make images on whose gradients nobody
has hidden (Papernot et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, predictions
from robench.data.dataset import Split
from robench.device import numbers_apart
from robench.evaluation.jobs import Target
from robench.progress import bar
from robench.randomness import generator

# training images whose answers are learnt, images per step, and steps
IMAGES, BATCH, STEPS = 5000, 100, 800
# of the uniform noise on half the images, so that answers between the images are learnt too
NOISE = 0.1


class Imitation(nn.Module):
    """Two convolutions and a linear layer: pixels float32 [B, C, H, W] in [0, 1] to logits [B, classes]."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.last = nn.Linear(32 * -(-height // 4) * -(-width // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(self.features(2 * x - 1))
        return logits


def imitation(target: Target, device: str, batch_size: int = 250) -> nn.Module:
    """A network in eval mode that learnt what the target answers to training images and to noisy copies of them."""
    x = _images(target.dataset.train)
    draw = generator(0, 0, 0, "imitation")
    noise = torch.from_numpy(draw.uniform(-NOISE, NOISE, (len(x) // 2, *x.shape[1:])).astype("float32"))
    x[: len(noise)] = (x[: len(noise)] + noise).clamp(0, 1)
    model = Classifier(target.module.to(device), target.dataset.classes, device=device)
    try:
        answers = predictions(clean_logits(model, x, batch_size))
    finally:
        model.release()
    with numbers_apart(), torch.enable_grad():
        torch.manual_seed(0)
        return _taught(Imitation(target.shape, target.dataset.classes), x, answers, torch.device(device)).eval()


def _images(train: Split) -> Tensor:
    """At most `IMAGES` training images, evenly spaced."""
    stride = max(1, len(train) // IMAGES)
    return train.pixels(slice(0, stride * IMAGES, stride))


def _taught(network: Imitation, x: Tensor, answers: Tensor, device: torch.device) -> nn.Module:
    """The network after learning; an answer that is not finite (-1) teaches nothing."""
    x, answers = x[answers >= 0], answers[answers >= 0]
    network.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    with bar("Learning the model's answers") as shown:
        for step in range(STEPS if len(x) else 0):
            part = torch.randint(len(x), (BATCH,))
            loss = functional.cross_entropy(network(x[part].to(device)), answers[part].to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            shown.update((step + 1) / STEPS)
    return network

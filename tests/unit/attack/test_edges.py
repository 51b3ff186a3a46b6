"""Answers that change while hardly anything of their lead is gone, which attacks that follow margins cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robench.attack import edges
from robench.attack.classifier import Classifier
from robench.attack.edges import sudden
from tests import liars
from tests.unit.attack.test_liars import attacked

IMAGES = liars.images()


class Decoy(nn.Module):
    """The answers of another model, sharpened, and beside them the gradients of a network of no consequence."""

    def __init__(self, sharpness: float, share: float = 2.0) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        self.base, self.sharpness, self.share = liars.Conv(), sharpness, share
        self.weight = nn.Parameter(torch.randn(IMAGES[0].numel(), 4, generator=noise) / 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits: six times a softmax, and a bounded rest."""
        sure = torch.softmax(self.sharpness * self.base(x), 1)
        return 6 * sure + self.share * torch.tanh(x.flatten(1) @ self.weight)


class Scaled(nn.Module):
    """Another model's logits times a number, beside an offset."""

    def __init__(self, factor: float, offset: float = 0.0) -> None:
        super().__init__()
        self.base, self.factor, self.offset = liars.Conv(), factor, offset
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.factor * self.base(x) + self.offset
        return logits


def said(module: nn.Module, images: Tensor = IMAGES) -> bool:
    model = Classifier(module, 4)
    return sudden(model, images, model.logits(images))


@pytest.mark.parametrize("module", [liars.Conv(), liars.Linear(), Scaled(1e4), Scaled(1e-4), Scaled(1.0, 100.0)])
def test_honest_models_lose_their_lead_on_the_way(module: nn.Module) -> None:
    assert not said(module)


@pytest.mark.parametrize("sharpness", [300.0, 3000.0])
def test_a_decoy_s_answers_come_without_warning(sharpness: float) -> None:
    assert said(Decoy(sharpness))


def test_a_few_images_and_one_answer_tell_nothing() -> None:
    decoy = Decoy(1000.0)
    assert not said(decoy, IMAGES[: edges.LEAST - 1])
    assert not said(decoy, IMAGES[:1])
    same = decoy(IMAGES).argmax(1)
    assert not said(decoy, IMAGES[same == same.mode().values])


def test_each_image_has_the_next_one_that_is_answered_differently() -> None:
    begin, end = edges._pairs(torch.tensor([1, 1, 2, 1, 3]))
    assert begin.tolist() == [0, 1, 2, 3, 4]
    assert end.tolist() == [2, 2, 3, 4, 0]
    assert [len(part) for part in edges._pairs(torch.tensor([1]))] == [0, 0]
    begin, end = edges._pairs(torch.arange(100_000) // 3)  # in no square of so many
    assert (begin.tolist(), end.tolist()) == (list(range(16)), [3 * (i // 3 + 1) for i in range(16)])


def test_the_judge_flags_it() -> None:
    assert "sudden-answers" in attacked(Decoy(1000.0)).flags
    assert "sudden-answers" not in attacked(liars.Conv()).flags

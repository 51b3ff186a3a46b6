"""Training on random parts of image files, as ImageNet is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robench.data.dataset import open_dataset
from robench.defense.augment import random_part
from robench.defense.recipe import Recipe
from robench.training import fit as training
from robench.training.fit import Fit, fit
from robench.training.parts import Parts, parts_of
from robench_defenses.standard import Standard
from tests.unit.data.test_folder import write_folder

RECIPE = Recipe(epochs=2, lr=0.01, batch_size=4, augment="imagenet")


def test_a_part_is_a_function_of_seed_epoch_and_image(tmp_path: Path) -> None:
    train = open_dataset(f"folder:{write_folder(tmp_path / 'd', size=(20, 60))}@14", tmp_path / "root").train
    parts = parts_of(train, RECIPE, seed=3)
    assert parts is not None
    first, labels = parts.__getitems__([2, 0, 5])
    assert first.shape == (3, 3, 14, 14)
    assert labels.tolist() == train.labels[[2, 0, 5]].tolist()
    again, _ = parts.__getitems__([5, 2])
    assert torch.equal(again, first[[2, 0]])
    parts.epoch = 1
    assert not torch.equal(parts.__getitems__([2, 0, 5])[0], first)
    assert train.files is not None
    assert not torch.equal(Parts(train, train.files, 4).__getitems__([2, 0, 5])[0], first)
    for other in ("none", "crop-flip"):
        assert parts_of(train, replace(RECIPE, augment=other), 3) is None
    assert parts_of(open_dataset("digits").train, RECIPE, 3) is None


def test_parts_reach_the_whole_width_and_keep_to_their_bounds() -> None:
    drawn = [random_part(256, 512, torch.Generator().manual_seed(i)) for i in range(2000)]
    boxes = np.array([box for box, _ in drawn])
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 256.001
    assert boxes[:, 1].min() < 20
    assert (boxes[:, 1] + boxes[:, 3]).max() > 492
    area, ratio = boxes[:, 2] * boxes[:, 3] / (256 * 512), boxes[:, 3] / boxes[:, 2]
    assert area.min() >= 0.08 - 1e-6
    assert 3 / 4 - 1e-4 <= ratio.min() < 0.8
    assert 1.25 < ratio.max() <= 4 / 3 + 1e-4
    assert 0.45 < np.mean([mirrored for _, mirrored in drawn]) < 0.55


def test_a_training_sees_parts_of_every_epoch_and_cuts_them_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(f"folder:{write_folder(tmp_path / 'd', size=(20, 60))}@14", tmp_path / "root")
    seen: list[torch.Tensor] = []
    loss = Standard.loss

    def watched(self: Standard, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(x.clone())
        return loss(self, x, y)

    monkeypatch.setattr(Standard, "loss", watched)
    monkeypatch.setattr(training, "ONE_CLASS", 2)  # of one validation image the answers are of one class
    torch.manual_seed(0)
    fit(Standard(dataset.info, backbone="auto"), Fit(dataset, RECIPE, 0, "cpu", tmp_path / "fit", "t"))
    parts = parts_of(dataset.train, RECIPE, 0)
    assert parts is not None
    per_epoch = len(dataset.train) // RECIPE.batch_size
    assert len(seen) == 2 * per_epoch
    for epoch in (0, 1):
        parts.epoch = epoch
        order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(epoch)).tolist()
        expected = parts.__getitems__(order[: RECIPE.batch_size])[0].float() / 255
        assert torch.equal(seen[epoch * per_epoch], expected)

"""What a training costs in gradients per image, the unit that attacks are counted in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from robench import registry
from robench.data.dataset import DataInfo
from robench.defense.base import Defense, Recipe


def training_cost(defense: str, options: Mapping[str, Any], recipe: Recipe, data: DataInfo, images: int) -> int:
    """Backward passes through the network, counted per image, of training `defense` on so many images by `recipe`.

    options: all of the defense's, those of the recipe included. The rest of a last batch is dropped in every epoch. The
    model is built without its numbers, so that a giant is counted as fast as a dwarf. Raises BadInput as a training
    does, for what cannot be built.
    """
    with torch.device("meta"):
        built = registry.load("defense", defense).build(options, data)
    assert isinstance(built, Defense)
    batch = min(recipe.batch_size, images)
    return recipe.epochs * (images // batch * batch) * built.step_gradients

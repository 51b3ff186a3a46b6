"""Models that robench trained: a card, and weights in safetensors."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from robench import registry
from robench.data.dataset import DataInfo
from robench.errors import BadInput, first_line
from robench.store.runs import Store


def build_defense(defense: str, options: dict[str, Any], data: DataInfo) -> nn.Module:
    """An untrained defense with these options. Raises BadInput for unknown names, options or wrong values."""
    module = registry.load("defense", defense).build(options, data)
    assert isinstance(module, nn.Module)
    return module


def data_of(name: str, card: dict[str, Any]) -> DataInfo:
    """The data that a model was trained on. Raises BadInput where its card is damaged."""
    try:
        return DataInfo.from_json(card["data"])
    except BadInput as error:
        raise BadInput(f"The card of model {name!r} is damaged; train it again. {error}") from error


def trained_module(name: str, card: dict[str, Any], data: DataInfo, store: Store) -> nn.Module:
    """The model of a card, in eval mode. Raises BadInput where its weights do not fit the card."""
    path = store.weights(name, card)
    try:
        module = build_defense(card["defense"], card["options"], data)
        module.load_state_dict(load_file(path))
    except (KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"The model {name!r} does not fit its card ({first_line(error, 120)}); train it again."
        ) from error
    return module.eval()

"""What the page says of a model: how it was made, and its training's curves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robench.errors import BadInput
from robench.evaluation.recorded_command import train_command_of
from robench.store.about import About
from robench.store.runs import Store, digest_of_card
from robench.tables.rendering import percent

# words of a training's curves that are no terms of its loss
EPOCH, SHARES = "epoch", "accuracy"
# what a card says of how its model was trained, besides the seed
TRAINING = ("defense", "options", "source", "data", "recipe", "train_digest")


@dataclass(frozen=True)
class Curves:
    """What a training recorded: per epoch a number of every term, None where it is missing or not finite."""

    epochs: tuple[float, ...]
    terms: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Model:
    """A model as the page tells of it: facts by their names, the command that trains it, and its curves.

    kin: the same for trainings that differ in their seed alone, and trained: the network and how long it was trained,
    both empty where the model was not trained here.
    """

    defense: str
    facts: dict[str, str]
    command: str = ""
    curves: Curves | None = None
    kin: str = ""
    trained: str = ""


def model_of(store: Store, digest: str, about: About) -> Model:
    """The model of an evaluation: by its card where it was trained here, else by its reference."""
    try:
        card = store.card(about.model)
    except BadInput:
        card = None
    if card is None or digest_of_card(card) != digest:
        return Model("", {"reference": about.reference or "handed over in a program", "digest": digest})
    accuracy, environment = card.get("accuracy") or {}, card.get("environment") or {}
    facts = {
        "defense": card["defense"],
        "options": _pairs(card["options"]),
        "data": card["data"]["name"],
        "recipe": str(card.get("recipe_name") or ""),
        "settings": _pairs(card.get("recipe") or {}),
        "seed": str(card.get("seed", "")),
        "clean accuracy": _accuracy(accuracy),
        "training": _hours(card.get("seconds")),
        "hardware": _hardware(card.get("device"), environment),
        "commit": str(environment.get("commit") or ""),
        "digest": digest,
    }
    told = {name: value for name, value in facts.items() if value}
    return Model(
        card["defense"], told, train_command_of(card), _curves(card.get("history") or []), _kin(card), _trained(card)
    )


def _kin(card: Mapping[str, Any]) -> str:
    """12 hex digits over what was trained, on what and how."""
    told = json.dumps([card.get(name) for name in TRAINING], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _trained(card: Mapping[str, Any]) -> str:
    """The network and the number of epochs, as far as the card has them."""
    network, epochs = card["options"].get("backbone"), (card.get("recipe") or {}).get("epochs")
    told = [str(network) if network else "", f"{epochs:,} epoch{'' if epochs == 1 else 's'}" if epochs else ""]
    return ", ".join(each for each in told if each)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _accuracy(found: Mapping[str, Any]) -> str:
    if "test" not in found:
        return ""
    low, high = found.get("test_interval") or (None, None)
    ends = f" [{percent(low)}, {percent(high)}]" if low is not None else ""
    count = f" of {found['test_count']:,} test images" if found.get("test_count") else ""
    return f"{percent(found['test'])} %{ends}{count}, {percent(found.get('validation'))} % of the validation images"


def _hours(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds / 3600:.2f} hours" if seconds >= 360 else f"{seconds:.0f} seconds"


def _hardware(device: object, environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages") or {}
    told = [device, f"{environment['cores']} cores" if environment.get("cores") else "", environment.get("machine")]
    told += [f"torch {packages['torch']}" if packages.get("torch") else ""]
    return ", ".join(str(each) for each in told if each)


def hardware_of(about: About) -> str:
    """What an evaluation ran on, in words."""
    return _hardware(about.device, about.environment)


def _curves(history: list[dict[str, Any]]) -> Curves | None:
    """The curves of a training of at least two epochs."""
    if len(history) < 2:
        return None
    names = dict.fromkeys(name for line in history for name in line if name != EPOCH)
    terms = {name: tuple(_number(line.get(name)) for line in history) for name in names}
    return Curves(tuple(float(line.get(EPOCH, i)) for i, line in enumerate(history)), terms)


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and abs(value) < float("inf")
    return float(f"{value:.6g}") if known else None

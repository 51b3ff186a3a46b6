"""Train jobs: from what a user asks for to a finished model in the store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors.torch import save_file

from robench import registry
from robench.data.dataset import Dataset, open_dataset
from robench.data.sources import sized_folder
from robench.defense.base import Defense
from robench.defense.recipe import Recipe, find_recipe
from robench.device import choose_device
from robench.environment import command, environment
from robench.errors import BadInput
from robench.progress import say
from robench.results.statistics import wilson
from robench.store.claims import claim, held, note
from robench.store.files import Damaged, checksum, identity, read_json, write_file, write_json
from robench.store.runs import Store
from robench.store.specs import TrainSpec
from robench.training.fit import Fit, Trained, fit

# letters in a model's name
LONGEST = 100


@dataclass(frozen=True)
class TrainRequest:
    """What `robench train` was asked for; `epochs` and `batch_size` None mean the recipe's."""

    defense: str
    dataset: str
    recipe: str = "quick"
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    name: str | None = None
    data_root: Path | None = None

    def __post_init__(self) -> None:
        for flag, value in (("--epochs", self.epochs), ("--batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise BadInput(f"{flag} is {value}, but must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise BadInput(f"--seed is {self.seed}, but must be between 0 and 2^32 - 1.")

    def to_json(self) -> dict[str, Any]:
        """The request as JSON types."""
        root = str(self.data_root.resolve()) if self.data_root else None
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "data_root": root,
                "options": dict(self.options)}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainRequest:
        """The request of `to_json`."""
        return cls(**{**value, "data_root": Path(value["data_root"]) if value["data_root"] else None})


@dataclass(frozen=True)
class TrainJob:
    """A planned training: its spec, its name in the store, and what it is made of."""

    spec: TrainSpec
    name: str
    recipe: Recipe
    dataset: Dataset
    device: str


def plan(request: TrainRequest) -> TrainJob:
    """Resolve names, recipe and options into a job. Raises BadInput for anything that cannot be used."""
    plugin = registry.load("defense", request.defense)
    dataset = open_dataset(request.dataset, request.data_root)
    device = choose_device(request.device)
    plugin.options(request.options)  # wrong options first: they cost nothing to find
    recipe = find_recipe(plugin.recipes, request.defense, dataset.info, request.recipe)
    recipe = dataclasses.replace(
        recipe, epochs=request.epochs or recipe.epochs, batch_size=request.batch_size or recipe.batch_size
    )
    options = plugin.options({**recipe.options, **request.options})
    spec = TrainSpec(
        defense=request.defense,
        options=options,
        recipe_name=request.recipe,
        recipe=json.loads(json.dumps(recipe.to_json())),
        dataset=dataset.name,
        train_digest=dataset.train.digest,
        seed=request.seed,
    )
    return TrainJob(
        spec, _default_name(request, spec.job_id) if request.name is None else request.name, recipe, dataset, device
    )


def train(request: TrainRequest, store: Store, *, claimed: bool = False) -> dict[str, Any]:
    """Train, or return at once when the same model is there; returns the model's card.

    Where another process trains it, waits for that one, unless the caller holds the claim. Raises BadInput when the
    name is taken by a model with other settings, CheckFailed when training goes wrong.
    """
    job = plan(request)
    found = finished(job, store)
    if found is not None:
        return {**found, "fresh": False}
    if claimed:
        return _train(job, store)
    if held(store.root, claim_of(job.name)):
        say(f"{job.name} is being trained by another process; waiting for it.")
    with claim(store.root, claim_of(job.name), wait=True):
        found = finished(job, store)
        return {**found, "fresh": False} if found is not None else _train(job, store)


def claim_of(name: str) -> str:
    """The name of the claim on a model's training."""
    return f"train-{name}"


def finished(job: TrainJob, store: Store) -> dict[str, Any] | None:
    """The card of a planned training that is done. Raises BadInput when its name is taken by other settings."""
    folder = store.model_folder(job.name)
    card = store.card(job.name) if (folder / "DONE").exists() else None
    try:
        kept = identity(read_json(folder / "spec.json"))
    except Damaged:
        kept = ""  # a card and a checkpoint know, too, what they are of
    if (card["spec_id"] if card else kept or job.spec.job_id) != job.spec.job_id:
        raise BadInput(
            f"The name {job.name!r} is taken by a model with other settings; choose another with --name, "
            f"or delete {folder}."
        )
    if card and kept != job.spec.job_id:
        write_json(folder / "spec.json", job.spec.to_json())
    return card


def _train(job: TrainJob, store: Store) -> dict[str, Any]:
    folder = store.model_folder(job.name)
    note(store.root, claim_of(job.name), "begin")
    pl.seed_everything(job.spec.seed, verbose=False)
    defense = registry.load("defense", job.spec.defense).build(job.spec.options, job.dataset.info)
    assert isinstance(defense, Defense)
    write_json(folder / "spec.json", job.spec.to_json())
    title = f"{job.name}"
    place = Fit(job.dataset, job.recipe, job.spec.seed, job.device, folder / "training", title, job.spec.job_id)
    outcome = fit(defense, place)
    weights = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in defense.state_dict().items()}
    write_file(weights, lambda aside: save_file(tensors, aside))
    card = _card(job, outcome, checksum(weights))
    store.finish_model(job.name, card)
    note(store.root, claim_of(job.name), "end")
    return {**card, "fresh": True}


def _default_name(request: TrainRequest, job_id: str) -> str:
    """defense-dataset, then what differs from the defaults; ends in the training's id where that cannot be said."""
    kind, colon, place = request.dataset.partition(":")
    path = sized_folder(place)[0] if kind == "folder" else Path(place)
    parts = [request.defense, (path.stem or kind) if colon else request.dataset]
    parts += [] if request.recipe == "quick" else [request.recipe]
    parts += [f"{k}{v}" for k, v in sorted(request.options.items())]
    parts += [f"e{request.epochs}"] if request.epochs else []
    parts += [f"b{request.batch_size}"] if request.batch_size else []
    parts += [f"s{request.seed}"] if request.seed else []
    told = "-".join(parts)
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in told)
    return name if name == told and len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{job_id[:8]}"


def _card(job: TrainJob, outcome: Trained, digest: str) -> dict[str, Any]:
    right = round(outcome.test_accuracy * outcome.test_count)
    return {
        "name": job.name,
        "spec_id": job.spec.job_id,
        "defense": job.spec.defense,
        "options": job.spec.options,
        "recipe_name": job.spec.recipe_name,
        "recipe": job.spec.recipe,
        "data": job.dataset.info.to_json(),
        "train_digest": job.spec.train_digest,
        "seed": job.spec.seed,
        "digest": digest,
        "accuracy": {
            "validation": outcome.val_accuracy,
            "test": outcome.test_accuracy,
            "test_count": outcome.test_count,
            "test_digest": job.dataset.test.digest,
            "test_interval": list(wilson(right, outcome.test_count)),
        },
        "loss_terms": outcome.terms,
        "history": outcome.history,
        "seconds": outcome.seconds,
        "resumed_from_epoch": outcome.resumed_from_epoch,
        "device": job.device,
        "command": command(),
        "environment": environment(),
    }

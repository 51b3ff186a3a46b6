"""Train jobs: from what a user asks for to a finished model in the store."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from robench import registry
from robench.data.dataset import Dataset, open_dataset
from robench.data.repeated import among_told, among_training
from robench.data.sources import sized_folder
from robench.data_names import parse
from robench.defense.recipe import Precision, Recipe, find_recipe
from robench.device import check_device, choose_device
from robench.environment import command, environment
from robench.errors import BadInput, disk_error, require
from robench.progress import say
from robench.ranges import TRAINING_SEED, hold, whole
from robench.results.statistics import wilson
from robench.store import specs
from robench.store.claims import claim, held, note
from robench.store.files import Damaged, checksum, identity, read_json, write_json, write_tensors
from robench.store.reach import plugin_digest
from robench.store.released import Release, unreleased
from robench.store.runs import ASIDE, Store
from robench.store.specs import TrainSpec
from robench.training.watching import STANDS, balls

if TYPE_CHECKING:
    from robench.training.fit import Trained

# letters in a model's name
LONGEST = 100
# of a training's spec, what tells the code that it is of
CODE = ("defense_version", "source", "harness")


@dataclass(frozen=True)
class TrainRequest:
    """What `robench train` was asked for; `epochs`, `batch_size` and `precision` None mean the recipe's; `classes` as
    labelled. `fresh` trains what is trained already again. `watch`: radii in linf at which robustness is measured after
    every epoch."""

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
    classes: int | None = None
    fresh: bool = False
    precision: Precision | None = None
    watch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        hold(self, epochs="--epochs?", batch_size="--batch-size?")
        object.__setattr__(self, "seed", whole("--seed", self.seed, TRAINING_SEED))
        object.__setattr__(self, "watch", balls(self.watch))
        check_device(self.device)
        require(self.precision in (None, *get_args(Precision)), "--precision", self.precision,
                " or ".join(get_args(Precision)))  # fmt: skip
        for what in ("defense", "dataset", "recipe"):
            value = getattr(self, what)
            require(isinstance(value, str) and bool(value), what, value, "a name")

    def to_json(self) -> dict[str, Any]:
        """The request as JSON types."""
        root = str(self.data_root.resolve()) if self.data_root else None
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "data_root": root,
                "options": dict(self.options)}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainRequest:
        """The request of `to_json`."""
        return cls(**{**value, "data_root": Path(value["data_root"]) if value["data_root"] else None})


Opened = Callable[[str, Path | None, int | None], Dataset]


@dataclass(frozen=True)
class TrainJob:
    """A planned training: its spec, its name in the store, what it is made of, and its defense's source as a digest."""

    spec: TrainSpec
    name: str
    recipe: Recipe
    dataset: Dataset
    device: str
    source: str = ""
    watch: tuple[str, ...] = ()


def plan(request: TrainRequest, opened: Opened = open_dataset) -> TrainJob:
    """Resolve names, recipe and options into a job. Raises BadInput for anything that cannot be used.

    opened: what opens a dataset by its name, its folder and the number of its classes.
    """
    plugin = registry.load("defense", request.defense)
    dataset = opened(request.dataset, request.data_root, request.classes)
    device = choose_device(request.device)
    plugin.options(request.options)  # wrong options first: they cost nothing to find
    recipe = find_recipe(plugin.recipes, request.defense, dataset.info, request.recipe)
    recipe = dataclasses.replace(
        recipe.lasting(request.epochs or recipe.epochs),
        batch_size=request.batch_size or recipe.batch_size,
        precision=request.precision or recipe.precision,
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
        classes=dataset.stated,
        **identified(plugin.base),
    )
    name = _default_name(request, spec.job_id) if request.name is None else request.name
    return TrainJob(spec, name, recipe, dataset, device, plugin_digest(plugin.base), request.watch)


def identified(base: type) -> dict[str, Any]:
    """What tells in a training's spec of the code behind it: the defense's version and the number of what robench
    trains with, where those are not 1, and the digest of the defense's code where its version does not speak for it."""
    version, harness = (None if each == 1 else each for each in (Release.of(base).version, specs.TRAININGS))
    return {"defense_version": version, "source": unreleased(base), "harness": harness}


def outdated(name: str, store: Store) -> bool:
    """Whether a trained model's defense has other code today, or its code was not recorded. Raises BadInput."""
    card = store.card(name)
    try:
        spec = read_json(store.model_folder(name) / "spec.json")
    except Damaged:  # which the next training mends
        return False
    now = identified(registry.load("defense", card["defense"]).base)
    return any(spec.get(key) != now[key] for key in CODE)


def train(request: TrainRequest, store: Store, *, claimed: bool = False) -> dict[str, Any]:
    """Train, or return at once when the same model is there; returns the model's card.

    Where another process trains it, waits for that one, unless the caller holds the claim. A model of the name that
    other code of the defense made, finished or not, is set aside. Raises BadInput when the name is taken by a model
    with other settings, CheckFailed when training goes wrong.
    """
    job = plan(request)
    if request.fresh:
        with claim(store.root, claim_of(job.name), wait=True):
            _forget(job, store)
            return _train(job, store)
    found = finished(job, store)
    if found is not None:
        _require_watched(job, found)
        return {**found, "fresh": False}
    if claimed:
        return _train(job, store)
    if held(store.root, claim_of(job.name)):
        say(f"{job.name} is being trained by another process; waiting for it.")
    with claim(store.root, claim_of(job.name), wait=True):
        found = finished(job, store)
        return {**found, "fresh": False} if found is not None else _train(job, store)


def _require_watched(job: TrainJob, card: Mapping[str, Any]) -> None:
    """Raise BadInput where the curves of a training that is done lack what it is asked to watch now."""
    curves = card.get("history") or [{}]
    lacking = [eps for eps in job.watch if f"{STANDS}{eps}" not in curves[-1]]
    if lacking:
        raise BadInput(
            f"{job.name} is trained already, and its robustness at {lacking[0]} was not watched; train it again with "
            "--fresh, or under another --name."
        )


def claim_of(name: str) -> str:
    """The name of the claim on a model's training."""
    return f"train-{name}"


def finished(job: TrainJob, store: Store) -> dict[str, Any] | None:
    """The card of a planned training that is done, None where it is not, or was done by other code of the defense.
    Raises BadInput when its name is taken by other settings."""
    folder = store.model_folder(job.name)
    card = store.card(job.name) if (folder / "DONE").exists() else None
    try:
        kept = identity(read_json(folder / "spec.json"))
    except Damaged:
        kept = ""  # a card and a checkpoint know, too, what they are of
    if (card["spec_id"] if card else kept or job.spec.job_id) != job.spec.job_id:
        if _older(job, store):
            return None
        raise BadInput(
            f"The name {job.name!r} is taken by a model with other settings; choose another with --name, "
            f"or delete {folder}."
        )
    if card and kept != job.spec.job_id:
        write_json(folder / "spec.json", job.spec.to_json())
    return card


def _older(job: TrainJob, store: Store) -> bool:
    """Whether the model of that name, finished or not, is this one but for the code of its defense."""
    try:
        spec = read_json(store.model_folder(job.name) / "spec.json")
    except Damaged:
        return False
    mine = job.spec.to_json()
    return spec != mine and all(spec.get(key) == mine.get(key) for key in {*spec, *mine} - {*CODE})


def _set_aside(job: TrainJob, store: Store) -> None:
    """Move a model that other code made out of the way. Raises DiskError."""
    folder = store.model_folder(job.name)
    place = store.root / ASIDE / f"{identity(read_json(folder / 'spec.json'))}-{uuid.uuid4().hex[:8]}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, place)
    except OSError as error:
        raise disk_error(error, place) from error
    say(
        f"{job.name} is trained anew, as it was made by another source of the defense {job.spec.defense!r}; the old "
        f"one lies in {place}."
    )


def _forget(job: TrainJob, store: Store) -> None:
    """Take a model's mark and its checkpoints away, as it is trained again. Raises DiskError."""
    folder = store.model_folder(job.name)
    try:
        (folder / "DONE").unlink(missing_ok=True)
        shutil.rmtree(folder / "training", ignore_errors=True)
    except OSError as error:
        raise disk_error(error, folder) from error


def _train(job: TrainJob, store: Store) -> dict[str, Any]:
    import pytorch_lightning as pl  # longer than all else that an evaluation needs, which comes by here too

    from robench.defense.base import Defense
    from robench.training.fit import Fit, fit

    job.dataset.tell()
    copies = among_training(job.dataset)
    if told := among_told(copies, len(job.dataset.test), job.dataset.name):
        say(told)
    folder = store.model_folder(job.name)
    if _older(job, store):
        _set_aside(job, store)
    pl.seed_everything(job.spec.seed, verbose=False)
    defense = registry.load("defense", job.spec.defense).build(job.spec.options, job.dataset.info)
    assert isinstance(defense, Defense)
    note(store.root, claim_of(job.name), "begin")
    write_json(folder / "spec.json", job.spec.to_json())
    title = f"{job.name}"
    place = Fit(
        job.dataset, job.recipe, job.spec.seed, job.device, folder / "training", title, job.spec.job_id, job.watch
    )
    outcome = fit(defense, place)
    weights = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in defense.state_dict().items()}
    write_tensors(weights, tensors)
    card = _card(job, outcome, checksum(weights), copies if told else 0)
    store.finish_model(job.name, card)
    note(store.root, claim_of(job.name), "end")
    return {**card, "fresh": True}


def _default_name(request: TrainRequest, job_id: str) -> str:
    """defense-dataset, then what differs from the defaults; ends in the training's id where that cannot be said."""
    data = parse(request.dataset)
    path = sized_folder(data.place)[0] if data.kind == "folder" else Path(data.place)
    parts = [request.defense, (path.stem or data.kind) if data.kind else data.base]
    parts += [f"{key}{value}" for key, value in data.settings.items() if key != "ids"]
    parts += [] if request.recipe == "quick" else [request.recipe]
    parts += [f"{k}{v}" for k, v in sorted(request.options.items())]
    parts += [f"e{request.epochs}"] if request.epochs else []
    parts += [f"b{request.batch_size}"] if request.batch_size else []
    parts += [f"s{request.seed}"] if request.seed else []
    parts += [request.precision] if request.precision else []
    told = "-".join(parts)
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in told)
    return name if name == told and len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{job_id[:8]}"


def _card(job: TrainJob, outcome: Trained, digest: str, copies: int) -> dict[str, Any]:
    """The model's card. copies: test images among the training images, 0 where they are not worth a word."""
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
        "source": job.source,
        "accuracy": {
            "validation": outcome.val_accuracy,
            "test": outcome.test_accuracy,
            "test_count": outcome.test_count,
            "test_digest": job.dataset.test.digest,
            "test_interval": list(wilson(right, outcome.test_count)),
            **({"test_among_training": copies} if copies else {}),
        },
        **({"classes": job.spec.classes} if job.spec.classes else {}),
        "loss_terms": outcome.terms,
        "history": outcome.history,
        **({"watched_images": outcome.watched_images} if outcome.watched_images else {}),
        "seconds": outcome.seconds,
        "resumed_from_epoch": outcome.resumed_from_epoch,
        "device": job.device,
        "command": command(),
        "environment": environment(),
    }

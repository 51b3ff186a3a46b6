"""What a suite still has to do, step by step, and what that costs in gradients at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from robench import registry
from robench.data.dataset import DataInfo
from robench.defense.base import Defense
from robench.defense.recipe import Recipe
from robench.detector.fitting import fitting
from robench.detector.request import DetectorRequest
from robench.evaluation.attacks import NamedAttack, Resolved
from robench.evaluation.bench import Bench
from robench.evaluation.jobs import Job, Target
from robench.evaluation.request import Request
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.models import LoadedModel
from robench.suites.plan import Place, Plan, cost_of, open_place


@dataclass(frozen=True)
class Step:
    """A line of the plan: what is to be done how often, and its cost in gradient evaluations, None if unknown."""

    what: str
    state: str
    size: str
    gradients: int | None


def estimate(found: Plan, bench: Bench, opened: dict[str, Wanted] | None = None) -> list[Step]:
    """What is to be done, each thing once, and what it costs at most: an example that is broken early costs less.

    opened: takes in the places that were opened for it, so that `reproduce` on the same bench need not.
    """
    steps: dict[Any, Step] = {}
    for t in found.trainings:
        data, images = t.job.dataset.info, len(t.job.dataset.train)
        cost = 0 if t.done else training_cost(t.job.spec.defense, t.job.spec.options, t.job.recipe, data, images)
        size = f"{t.job.recipe.epochs} epochs of {images:,} images"
        steps[t.name] = Step(f"train {t.name}", "done" if t.done else "to do", size, cost)
    for place in found.places:
        if place.asked is not None:
            for key, step in _attack_steps(place, place.asked, bench, {} if opened is None else opened):
                steps.setdefault(key, step)
    return list(steps.values())


def _attack_steps(place: Place, asked: Resolved, bench: Bench, opened: dict[str, Wanted]) -> Iterator[tuple[Any, Step]]:
    """What a place needs beside its models, each step with what tells it from others."""
    trained, evaluations = all(t.done for t in place.needs), list[PlannedEvaluation]()
    if asked.guard is not None:
        there, step = _fitting(place, asked, asked.guard, bench, trained)
        yield step.what, step
        if trained and not there:  # the model may have been attacked by itself
            evaluations += open_place(place, replace(asked, guard=None), bench).evaluations
        trained &= there
    if trained:
        opened[place.key] = open_place(place, asked, bench)
        evaluations += opened[place.key].evaluations
    for guard in [None, asked.guard] if asked.guard is not None and asked.guard.adaptive else [None]:
        found = [planned.job for planned in evaluations if planned.address.behind == (guard is not None)]
        before: tuple[str, ...] = ()
        for i, named in enumerate(asked.attacks):
            yield from _attack_step(place, asked.request, named, found[i] if found else None, before, guard)
            before += (named.name,) if asked.request.cascade else ()


def _attack_step(
    place: Place,
    request: Request,
    named: NamedAttack,
    job: Job | None,
    before: tuple[str, ...],
    guard: DetectorRequest | None,
) -> Iterator[tuple[Any, Step]]:
    """An attack on a place's model, or on its surrogate and then the judging of what was crafted there."""
    dataset, source, target = place.training.dataset, place.needs[-1].name, place.training.name
    count = len(dataset.test) if request.count is None else request.count
    behind = f" behind {guard.detector}" if guard is not None else ""
    after = f" after {before[-1]}" if before else ""
    after += f" guided by {source}" if request.guide is not None else ""
    cost = cost_of(named, request, dataset.classes).backwards
    folders = (job.craft.folder if job and job.craft else None, job.folder if job else None)
    steps = [(f"{named.name} on {target}{behind}{after}", folders[1], cost)]
    if request.surrogates:
        steps = [(f"{named.name} on {source}, crafted for others", folders[0], cost),
                 (f"{named.name} from {source} on {target}, judged", folders[1], 0)]  # fmt: skip
    given = tuple(sorted((k, str(v)) for k, v in named.given.items()))
    for what, folder, each in steps:
        left = count if folder is None else sum(b - a for a, b in folder.missing(0, count, request.shard_size))
        key = (what, given, count, request.threat, before, str(guard) if guard else "", request.eot, *request.bpda)
        state = "done" if not left else "to do" if left == count else f"{left:,} left"
        yield key, Step(what, state, f"{count:,} images", None if each is None else each * left)


def _fitting(place: Place, asked: Resolved, guard: DetectorRequest, bench: Bench, trained: bool) -> tuple[bool, Step]:
    """Whether a place's detector is there, and the step that fits it."""
    request, dataset = asked.request, place.training.dataset
    untrained = Target(LoadedModel(place.training.name, nn.Identity, ""), dataset)
    target = bench.target(place.training.name, request.dataset, request.data_root) if trained else untrained
    there, images, cost = fitting(guard, target, request.threat, request.settings, bench.store)
    what = f"fit {guard.detector} on {place.training.name} ({guard.trained_on})"
    return there, Step(what, "done" if there else "to do", f"{images:,} images", 0 if there else cost)


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

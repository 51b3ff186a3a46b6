"""Rules for defenses: logits, gradients, losses, and what is saved of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from robench.data.dataset import DataInfo
from robench.defense.augment import augment
from robench.defense.base import Defense
from robench.defense.recipe import Recipe, make_optimizer, make_schedule
from robench.errors import BadInput
from robench.testing.option_rules import OPTION_RULES
from robench.testing.rules import REBATCHED, REPEATED, Rule, Subject, described, expect, expect_close
from robench.testing.samples import FOR_DEFENSES, random_images

STEPS, RATE = 15, 2e-4


def first_data(subject: Subject) -> DataInfo:
    """The first sample of data that the defense takes; the first of all where it takes none."""
    for data in FOR_DEFENSES:
        try:
            subject.build(data)
        except BadInput:
            continue
        except Exception:  # the rule `built` tells of it
            break
        return data
    return FOR_DEFENSES[0]


def _build(subject: Subject, data: DataInfo, seed: int = 0) -> Defense:
    torch.manual_seed(seed)
    defense = subject.build(data)
    assert isinstance(defense, Defense)
    return defense


def _each(subject: Subject) -> Iterator[tuple[Defense, DataInfo, Tensor, Tensor]]:
    """A fresh defense for every sample of data that it does not refuse, with images and labels."""
    for data in FOR_DEFENSES:
        try:
            defense = _build(subject, data)
        except BadInput:
            continue
        yield defense, data, *random_images(data)


def _of(data: DataInfo) -> str:
    return f"for images {list(data.shape)}"


def built(subject: Subject) -> None:
    """The constructor makes a robench.Defense from DataInfo and its options, for small images grey or coloured."""
    defense = subject.build()
    expect(isinstance(defense, Defense), f"it made {described(defense)}")


def logits(subject: Subject) -> None:
    """In eval mode it answers with finite float32 logits [B, classes], no probabilities."""
    for defense, data, x, _ in _each(subject):
        with torch.no_grad():
            answer = defense.eval()(x)
        right = isinstance(answer, Tensor) and answer.shape == (len(x), data.classes)
        expect(right and answer.dtype == torch.float32, f"it answered {described(answer)} for {described(x)}")
        expect(answer.isfinite().all(), f"{int((~answer.isfinite()).sum())} logits are not finite {_of(data)}")
        shares = bool((answer >= 0).all()) and torch.allclose(answer.sum(1), torch.ones(len(x)), atol=1e-3)
        expect(not shares, f"its answers sum to 1 {_of(data)}; remove the softmax")


def deterministic_in_eval_mode(subject: Subject) -> None:
    """In eval mode it answers the same twice and keeps its state, whatever random generators have done meanwhile."""
    for defense, data, x, _ in _each(subject):
        defense.eval()
        before = {name: value.clone() for name, value in defense.state_dict().items()}
        with torch.no_grad():
            first = defense(x)
            torch.rand(7)
            expect_close(first, defense(x), REPEATED, f"two answers to the same images differ {_of(data)}")
        moved = [name for name, value in defense.state_dict().items() if not torch.equal(value, before[name])]
        expect(not moved, f"answering changed {', '.join(moved)} {_of(data)}")


def independent_of_batch_neighbours(subject: Subject) -> None:
    """In eval mode an image alone gets the logits that it gets in a batch."""
    for defense, data, x, _ in _each(subject):
        with torch.no_grad():
            together, alone = defense.eval()(x), torch.cat([defense(image[None]) for image in x])
        expect_close(together, alone, REBATCHED, f"alone and in a batch it answers differently {_of(data)}")


def gradient_reaches_the_pixels(subject: Subject) -> None:
    """In eval mode the gradient of the loss reaches every image, finite and not zero."""
    for defense, data, x, y in _each(subject):
        x.requires_grad_(True)
        total = functional.cross_entropy(defense.eval()(x), y)
        expect(total.requires_grad, f"its logits carry no gradient {_of(data)}; something is detached")
        gradient = torch.autograd.grad(total, x, allow_unused=True)[0]
        expect(gradient is not None, f"no gradient arrives at the pixels {_of(data)}; something is detached")
        assert gradient is not None
        expect(gradient.isfinite().all(), f"a gradient is not finite {_of(data)}")
        empty = int((gradient.flatten(1).abs().amax(1) == 0).sum())
        expect(not empty, f"the gradient is zero for {empty} of {len(x)} images {_of(data)}")


def loss(subject: Subject) -> None:
    """Its loss has finite scalar terms and their sum, "total"."""
    for defense, data, x, y in _each(subject):
        _expect_terms(defense.train().loss(x, y), data)


def _expect_terms(terms: Mapping[str, Tensor], data: DataInfo) -> None:
    expect(isinstance(terms, dict) and "total" in terms, f"it returned {list(terms)} {_of(data)}, without total")
    _expect_scalars(terms, data)
    parts = [term for name, term in terms.items() if name != "total"]
    if parts:
        total, whole = sum(parts, torch.zeros(())), terms["total"]
        expect_close(total, whole, 1e-4, f"the terms do not sum to total {_of(data)}")


def _expect_scalars(terms: Mapping[str, Tensor], data: DataInfo) -> None:
    for name, term in terms.items():
        expect(isinstance(term, Tensor) and term.dim() == 0, f"{name} is {described(term)} {_of(data)}, no scalar")
        expect(term.isfinite(), f"{name} is {float(term.detach())} {_of(data)}")


def a_few_steps_lower_the_loss(subject: Subject) -> None:
    """A few steps of Adam on one batch lower the total."""
    for defense, data, x, y in islice(_each(subject), 2):  # colour is slow, and tells nothing more
        defense.train()
        optimizer, values = torch.optim.Adam(defense.parameters(), lr=RATE), []
        for _ in range(STEPS):
            torch.manual_seed(1)
            terms = defense.loss(x, y)
            _expect_terms(terms, data)
            values.append(float(terms["total"].detach()))
            optimizer.zero_grad()
            torch.autograd.backward(terms["total"])
            optimizer.step()
        seen = f"{STEPS} steps took it from {values[0]:.6g} to {values[-1]:.6g} {_of(data)}"
        expect(values[-1] < values[0], seen)


def saved_and_loaded(subject: Subject) -> None:
    """Built from the recorded options and given the stored tensors, it answers the same."""
    recorded = Subject(subject.plugin, json.loads(json.dumps(subject.options)))
    for defense, data, x, y in _each(subject):
        torch.autograd.backward(defense.train().loss(x, y)["total"])  # moves the statistics of batch norm
        stored = save({name: value.contiguous() for name, value in defense.state_dict().items()})
        copy = _build(recorded, data, seed=99)
        copy.load_state_dict(load(stored))
        with torch.no_grad():
            one, two = defense.eval()(x), copy.eval()(x)
        expect_close(one, two, REPEATED, f"the copy answers differently {_of(data)}")


def recipes(subject: Subject) -> None:
    """Every recipe is a robench.Recipe whose options, optimizer, schedule and augmentation there are."""
    expect(len(subject.plugin.recipes) > 0, "it has no recipes, so it cannot be trained")
    for family, found in subject.plugin.recipes.items():
        for name, recipe in found.items():
            expect(isinstance(recipe, Recipe), f"{family} {name} is {described(recipe)}")
            json.dumps([recipe.to_json(), subject.plugin.options(recipe.options)])
            positive = min(recipe.epochs, recipe.batch_size, recipe.lr) > 0
            expect(
                positive, f"{family} {name} has {recipe.epochs} epochs, batches of {recipe.batch_size}, lr {recipe.lr}"
            )
            optimizer = make_optimizer(recipe, [nn.Parameter(torch.zeros(1))])
            schedule = make_schedule(recipe, optimizer, 10 * recipe.epochs)
            known = (schedule is None) == (recipe.schedule == "constant")
            expect(known, f"{family} {name} has the unknown schedule {recipe.schedule!r}")
            augment(torch.rand(2, 3, 32, 32), recipe.augment)


def optional_parts(subject: Subject) -> None:
    """What it offers beyond is of the right form: `embed` float [B, D], `monitors` finite scalars, `learners`."""
    for defense, data, x, y in _each(subject):
        embed = getattr(defense.eval(), "embed", None)
        if callable(embed):
            code = embed(x)
            right = isinstance(code, Tensor) and code.dim() == 2 and len(code) == len(x) and code.is_floating_point()
            expect(right, f"embed returned {described(code)} for {described(x)}")
        _expect_scalars(defense.monitors(x, y), data)
        expect(defense.step_gradients >= 1, f"step_gradients is {defense.step_gradients}")
        own = {id(p) for p in defense.parameters()}
        for name, (parameters, share) in defense.learners().items():
            fit = share > 0 and bool(parameters) and all(id(p) in own for p in parameters)
            expect(fit, f"the learner {name} has {len(parameters)} parameters and the share {share}")


DEFENSE_RULES = (
    Rule(built, founding=True),
    *OPTION_RULES,
    Rule(logits, founding=True),
    *map(Rule, (
        deterministic_in_eval_mode, independent_of_batch_neighbours, gradient_reaches_the_pixels,
    )),
    Rule(loss, founding=True),
    *map(Rule, (
        a_few_steps_lower_the_loss, saved_and_loaded, recipes, optional_parts,
    )),
)  # fmt: skip

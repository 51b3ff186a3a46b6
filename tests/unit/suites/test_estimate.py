"""What a training says it costs, against a real one, and costs of attacks worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robench import Attack, Batch, Cost, DataInfo, ThreatModel, open_dataset, registry
from robench.cli.reproduce import _numbers
from robench.data.dataset import Dataset
from robench.defense.recipe import find_recipe
from robench.suites.estimate import training_cost
from robench.training.fit import Fit, fit

CIFAR = DataInfo("cifar10", 3, 32, 32, 10, (0.5,) * 3, (0.25,) * 3, "cifar10")
LINF = ThreatModel.of("linf", "8/255")


class Few(Dataset):
    """Some of the digits, so that the last batch of an epoch is dropped."""

    @property
    def train(self) -> Any:  # type: ignore[override]
        return open_dataset("digits").train.subset(slice(0, 150))


@pytest.mark.parametrize(("name", "per_image"), [("standard", 1), ("paradise-pm", 2), ("madry", 6)])
def test_a_training_costs_what_a_real_one_takes(name: str, per_image: int, tmp_path: Path) -> None:
    whole = open_dataset("digits")
    dataset = Few(whole._parsed, whole._source)
    plugin = registry.load("defense", name)
    recipe = find_recipe(plugin.recipes, name, dataset.info, "quick").with_options()
    recipe = type(recipe)(**{**vars(recipe), "epochs": 2, "schedule": "constant", "lr": 1e-3})
    options = plugin.options(recipe.options)
    defense = plugin.build(options, dataset.info)
    taken = torch.zeros((), dtype=torch.int64)

    def watch(_: object, __: object, answer: torch.Tensor) -> None:
        if answer.requires_grad:
            answer.register_hook(lambda grad: taken.add_(len(grad)) and None)

    defense.backbone.register_forward_hook(watch)
    fit(defense, Fit(dataset, recipe, 0, "cpu", tmp_path, "x"))
    cost = training_cost(name, options, recipe, dataset.info, len(dataset.train))
    assert cost == 2 * 128 * per_image, "two whole batches of 64 in each of two epochs"
    assert cost == int(taken)


@pytest.mark.parametrize(
    ("name", "per_image", "images"),
    # epochs x whole batches x (passes of the loss + steps of the search)
    [
        ("standard", 200 * 1, 44928),
        ("dvib-pm", 200 * 2, 44928),
        ("madry", 228 * 11, 44928),
        ("trades", 76 * 12, 44928),
        ("llr", 142 * 15, 44992),
        ("er-classifier", 30 * 2, 45000),
        ("er-classifier-adv", 20 * 24, 45000),
    ],
)
def test_the_papers_giants_are_counted_without_building_them(name: str, per_image: int, images: int) -> None:
    plugin = registry.load("defense", name)
    recipe = find_recipe(plugin.recipes, name, CIFAR, "paper")
    assert training_cost(name, plugin.options(recipe.options), recipe, CIFAR, 45000) == per_image * images


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    plugin = registry.load("defense", "standard")
    recipe = find_recipe(plugin.recipes, "standard", CIFAR, "paper")
    assert training_cost("standard", plugin.options(recipe.options), recipe, CIFAR, 100) == 200 * 100


def test_draws_at_inference_do_not_stop_the_counting() -> None:
    data = DataInfo("mnist", 1, 28, 28, 10, (0.1,), (0.3,), "mnist")
    plugin = registry.load("defense", "dvib")
    recipe = find_recipe(plugin.recipes, "dvib", data, "paper")
    options = plugin.options(recipe.options)
    assert options["mc_samples"] == 12
    assert training_cost("dvib", options, recipe, data, 55000) == 200 * 55000


@pytest.mark.parametrize(
    ("name", "options", "classes", "backwards", "forwards"),
    [
        ("fgsm", {}, 10, 1, 1),
        ("pgd", {"steps": 40, "restarts": 3}, 10, 120, 123),
        ("pgd", {"steps": 40, "success": "last"}, 10, 40, 40),
        ("untargeted", {}, 10, 20 * 200, 20 * 201),
        ("multi-targeted", {}, 10, 9 * 200, 9 * 201),
        ("multi-targeted", {}, 50, 49 * 200, 49 * 201),
        ("multi-targeted", {"restarts": 2}, 1000, 2 * 20 * 200, 2 * 20 * 201),
        ("multi-targeted", {"targets": 999}, 1000, 999 * 200, 999 * 201),
        ("multi-targeted", {"targets": 3}, 10, 3 * 200, 3 * 201),
        ("random-targeted", {}, 10, 200, 201),
        ("iter-rand", {}, 10, 10, 11),
        ("r-fgsm", {}, 10, 1, 1),
        ("random-noise", {}, 10, 0, 0),
        ("square", {}, 10, 0, 5000),
        ("apgd-ce", {}, 10, 100, 101),
        ("apgd-dlr", {"restarts": 5}, 10, 500, 505),
        ("apgd-t", {}, 10, 9 * 100, 9 * 101),
        ("apgd-t", {}, 1000, 9 * 100, 9 * 101),
        ("apgd-t", {"restarts": 2}, 4, 2 * 3 * 100, 2 * 3 * 101),
        ("apgd-t", {}, 3, 100, 101),  # no goal: the targeted DLR loss is not defined
        ("apgd-t", {"loss": "targeted-margin"}, 3, 2 * 100, 2 * 101),
        ("library:apgd-ce", {}, 10, 101, 8 + 2 + 101),
        ("library:apgd-dlr", {}, 10, 101, 8 + 2 + 101),
        ("library:apgd-t", {}, 10, 9 * 101, 8 + 2 + 9 * 102),
        ("library:apgd-t", {}, 4, 3 * 101, 8 + 2 + 3 * 102),
        ("library:fab-t", {}, 10, 900, 8 + 2 + 9 * 203),
        ("autoattack", {}, 10, 101 + 9 * 101 + 900, 8 + (2 + 101) + (2 + 9 * 102) + (2 + 9 * 203) + (2 + 5002)),
    ],
)
def test_costs_by_hand(name: str, options: dict[str, Any], classes: int, backwards: int, forwards: int) -> None:
    attack = registry.load("attack", name).build(options)
    assert attack.cost(LINF, classes) == Cost(backwards, forwards)


def test_cw_and_the_minimal_attacks_by_hand() -> None:
    def cost(name: str, norm: str, eps: str, **options: Any) -> Cost:
        found: Cost = registry.load("attack", name).build(options).cost(ThreatModel.of(norm, eps), 10)
        return found

    assert cost("cw", "l2", "2", steps=200, search_steps=5) == Cost(1000, 1000)
    assert cost("min-fgsm", "linf", "0.3") == Cost(1, 301)
    assert cost("min-fgsm", "linf", "0.005") == Cost(1, 1 + 5 + 19), "an early hit is looked for again"
    # balls of 0.3, 0.45, 0.675, 1 and 20 between them
    assert cost("min-pgd", "linf", "1") == Cost(24 * 40, 24 * 41)
    assert cost("min-pgd", "linf", "0.3", bisections=0) == Cost(40, 41)
    assert cost("min-pgd", "linf", "0") == Cost(0, 0)


def test_an_attack_that_says_nothing_is_unknown_however_often() -> None:
    class Silent(Attack):
        """Says nothing."""

        def perturb(self, model: object, batch: Batch) -> torch.Tensor:
            return batch.x

    assert Silent().cost(LINF, 10) == Cost(None, None)
    assert Cost(2, None).times(3) == Cost(6, None)


def test_of_many_suites_one_may_have_a_number_of_its_own() -> None:
    names = ["small", "large", "other"]
    assert _numbers("-n", "1000,small=500, large=20", names, "1") == {"": 1000, "small": 500, "large": 20}
    assert _numbers("--seeds", "small=3", ["small"], "1") == {"small": 3}
    assert _numbers("-n", None, ["small"], "1") == {}

"""Every plugin of this tree under the rules for anybody's, and what holds of these beyond them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robench import DataInfo, ThreatModel, registry
from robench.attack.base import Proposal
from robench.attack.judge import Examples, Settings, attack_shard
from robench.defense.recipe import make_optimizer, make_schedule
from robench.testing import check_attack, check_defense, check_detector, rule_names
from robench.testing.attack_rules import ask
from robench.testing.samples import FOR_DEFENSES, GREY, SmallModel, data_info, random_images
from tests.contract.in_tree import (
    DEFENSES,
    PLUGINS,
    attack_named,
    defense_named,
    each_case,
    each_defense,
    each_plugin,
    short,
)

CHECKS = {"attack": check_attack, "defense": check_defense, "detector": check_detector}
RULES = [(kind, name, rule) for kind, name in PLUGINS for rule in rule_names(kind)]
FAMILIES = {
    "digits": GREY, "mnist": data_info("mnist", 1, 28), "fashion-mnist": data_info("fashion-mnist", 1, 28),
    "cifar10": data_info("cifar10", 3, 32), "cifar100": data_info("cifar100", 3, 32, 100),
    "svhn": data_info("svhn", 3, 32), "stl10": data_info("stl10", 3, 96),
    "imagenet": data_info("imagenet", 3, 224, 1000), "other": data_info("other", 1, 20, 3),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "rule"), RULES)
def test_a_rule_for_every_plugin_holds(kind: str, name: str, rule: str) -> None:
    options = {} if rule.startswith("options") else short(kind, name)
    CHECKS[kind](name, options=options, rules=[rule])


@each_plugin
def test_summary_is_a_sentence(kind: str, name: str) -> None:
    text = registry.summaries(kind)[name.partition(":")[0]]
    assert text[:1].isupper()
    assert text.endswith(".")
    assert "\n" not in text


# --- defenses --------------------------------------------------------------------------------------------------------


@each_defense
@pytest.mark.parametrize("data", FOR_DEFENSES, ids=[data.family for data in FOR_DEFENSES])
def test_a_defense_refuses_no_data(name: str, data: DataInfo) -> None:
    """The rules pass over data that a defense refuses."""
    defense_named(name, data)


@each_defense
def test_every_parameter_is_trained_and_a_batch_of_one_works(name: str) -> None:
    defense, (x, y) = defense_named(name, GREY).train(), random_images(GREY)
    defense.loss(x, y)["total"].backward()
    assert [n for n, p in defense.named_parameters() if p.requires_grad and p.grad is None] == []
    assert defense.loss(x[:1], y[:1])["total"].isfinite()


RECIPES = [
    (name, family, recipe)
    for name in DEFENSES
    for family, recipes in registry.load("defense", name).recipes.items()
    for recipe in recipes
]


@pytest.mark.parametrize(("name", "family", "recipe"), RECIPES)
def test_every_recipe_builds(name: str, family: str, recipe: str) -> None:
    """Whether it is the papers' giant or ours, on a device that holds no numbers."""
    plugin, data = registry.load("defense", name), FAMILIES[family]
    found = plugin.recipes[family][recipe]
    options = plugin.options(found.options)
    json.dumps([found.to_json(), options])
    with torch.device("meta"):
        defense = plugin.build({k: v for k, v in options.items() if k != "mc_samples"}, data)
        assert defense.eval()(torch.empty(2, *data.shape)).shape == (2, data.classes)
    optimizer = make_optimizer(found, list(defense.parameters()))
    schedule = make_schedule(found, optimizer, 10 * found.epochs)
    assert (schedule is None) == (found.schedule == "constant")
    assert found.source


# --- attacks: what the harness would put right is right before it ----------------------------------------------------


@each_case
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("count", [1, 5])
def test_proposals_need_no_projection(name: str, norm: str, channels: int, classes: int, count: int) -> None:
    threat = ThreatModel.of(norm, "0.1" if norm == "linf" else "1.5")
    asked = ask(attack_named(name), threat, data_info("x", channels, 8, classes), count)
    images = asked.answer.x if isinstance(asked.answer, Proposal) else asked.answer
    assert isinstance(images, Tensor)
    assert not images.requires_grad
    assert threat.contains(asked.before.x, images).all()


@each_case
def test_no_perturbation_allowed_means_none(name: str, norm: str) -> None:
    asked = ask(attack_named(name), ThreatModel.of(norm, "0"), GREY)
    assert torch.equal(asked.images, asked.before.x)


@each_case
def test_same_seed_same_steps(name: str, norm: str) -> None:
    answers = [ask(attack_named(name), ThreatModel.of(norm, "0.2"), GREY, seed=3).answer for _ in range(2)]
    steps = [answer.step for answer in answers if isinstance(answer, Proposal)]
    assert len(steps) in (0, 2)
    assert not steps or torch.equal(*steps)


@each_case
@pytest.mark.parametrize("count", [1, 6])
def test_judged_figures_hold(name: str, norm: str, count: int) -> None:
    """Under the judge: a row per image, inside eps, and success as the metric says."""
    x, y = random_images(data_info("x", 3, 8, 3), count)
    y = torch.where(torch.arange(count) == 0, SmallModel(3, 3)(x).argmax(1), y)
    attack, threat = attack_named(name), ThreatModel.of(norm, "0.3")
    examples = Examples(x, y, torch.arange(count))
    shard = attack_shard(SmallModel(3, 3), 3, attack, threat, examples, Settings(seed=1, batch_size=4))
    rows = shard.rows
    assert len(rows) == count
    assert threat.contains(x, shard.images).all()
    with torch.no_grad():
        answer = SmallModel(3, 3)(shard.images).argmax(1).numpy()
    assert (rows["adv_pred"] == answer).all()
    hit = rows["goal"] if attack.metric == "attack success rate" else None
    expected = answer == hit if hit is not None else rows["clean_correct"] & (answer != y.numpy())
    assert (rows["success"] == expected).all()


@each_case
def test_nothing_left_to_attack(name: str, norm: str) -> None:
    """Every image is misclassified already."""
    x, _ = random_images(replace(GREY, classes=3), 5)
    y = (SmallModel(1, 3)(x).argmax(1) + 1) % 3
    threat, examples = ThreatModel.of(norm, "0.1"), Examples(x, y, torch.arange(5))
    shard = attack_shard(SmallModel(1, 3), 3, attack_named(name), threat, examples, Settings(batch_size=4))
    assert not shard.rows["clean_correct"].any()

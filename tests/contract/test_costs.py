"""What every registered attack and defense says it costs, against passes counted from outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import Attack, Defense, ThreatModel, registry
from robench.attack.judge import Examples, attack_shard
from robench.testing.samples import GREY, FirmModel, SmallModel, data_info, random_images
from tests.contract.in_tree import CASES, attack_named, defense_named, each_defense

COUNT = 5
# without these the bound also holds searches that only a broken example needs, or that are given up early
EXACT = {"min-pgd": {"bisections": 0}, "cw": {"abort_early": False}}
# a hit in the beginning of its line is looked for again
LOOSE = ("min-fgsm",)
# dear stages are for images that cheap ones came near to
SPARING = ("standard",)
# attacks of other libraries do not say what they cost, but for AutoAttack's family
SILENT = ("foolbox", "art")
each_case = pytest.mark.parametrize(
    ("name", "norm"), [case for case in CASES if case[0].partition(":")[0] not in SILENT]
)


def measured(attack: Attack, module: nn.Module, y: Tensor, threat: ThreatModel, classes: int) -> tuple[int, int]:
    """Backward and forward passes over all examples; one that strays may be charged to its neighbour."""
    x, _ = random_images(data_info("x", 1, 8, classes), COUNT)
    rows = attack_shard(module, classes, attack, threat, Examples(x, y, torch.arange(COUNT))).rows
    return int(rows["backwards"].sum()), int(rows["forwards"].sum())


@each_case
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_an_attack_costs_what_it_says_on_a_model_it_cannot_break(name: str, norm: str, classes: int) -> None:
    attack = attack_named(name, **EXACT.get(name, {}))
    threat = ThreatModel.of(norm, "0.1" if norm == "linf" else "0.5")
    cost = attack.cost(threat, classes)
    y = torch.zeros(COUNT, dtype=torch.int64)
    backwards, forwards = measured(attack, FirmModel(1, classes), y, threat, classes)
    assert cost.backwards is not None
    assert cost.forwards is not None
    if name in SPARING:
        assert 0 < backwards < COUNT * cost.backwards
        return
    assert backwards == COUNT * cost.backwards
    assert forwards == COUNT * cost.forwards or (name in LOOSE and forwards < COUNT * cost.forwards)


@each_case
@pytest.mark.parametrize("eps", ["0.004", "0.1", "0.9"])
@pytest.mark.parametrize("classes", [2, 10])
def test_no_attack_costs_more_than_it_says(name: str, norm: str, eps: str, classes: int) -> None:
    attack, threat = attack_named(name), ThreatModel.of(norm, eps)
    cost = attack.cost(threat, classes)
    x, _ = random_images(data_info("x", 1, 8, classes), COUNT)
    backwards, forwards = measured(attack, SmallModel(1, classes), SmallModel(1, classes)(x).argmax(1), threat, classes)
    assert cost.backwards is not None
    assert cost.forwards is not None
    assert backwards <= COUNT * cost.backwards
    assert forwards <= COUNT * cost.forwards


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_every_version_of_autoattack_says_what_it_costs(norm: str, version: str) -> None:
    attack = registry.load("attack", "autoattack").build({"version": version, "steps": 4, "queries": 10})
    threat = ThreatModel.of(norm, "0.1")
    cost = attack.cost(threat, 10)
    found = measured(attack, FirmModel(1, 10), torch.zeros(COUNT, dtype=torch.int64), threat, 10)
    assert found == (COUNT * cost.backwards, COUNT * cost.forwards)


@each_defense
def test_a_defense_takes_as_many_gradients_as_it_says(name: str) -> None:
    """Images in backward passes through its network, one training step long."""
    defense, (x, y) = defense_named(name, GREY).train(), random_images(GREY)
    network = defense.encoder if "encoder" in dict(defense.named_children()) else defense.backbone
    seen = torch.zeros((), dtype=torch.int64)

    def watch(_: nn.Module, __: object, answer: Tensor) -> None:
        if answer.requires_grad:
            hook: Any = answer.register_hook
            hook(lambda grad: seen.add_(len(grad)) and None)

    network.register_forward_hook(watch)
    step(defense, x, y)
    assert int(seen) == len(x) * defense.step_gradients


def step(defense: Defense, x: Tensor, y: Tensor) -> None:
    """The gradients of one training step, without the optimizers that a trainer brings."""
    if defense.automatic_optimization:
        defense.loss(x, y)["total"].backward()
        return

    def descend(terms: dict[str, Tensor], *names: str) -> None:
        total = torch.stack(list(terms.values())).sum()
        total.backward(inputs=[p for each in names for p in defense.learners()[each][0]])

    defense.descend = descend  # type: ignore[method-assign]
    defense.play(x, y)

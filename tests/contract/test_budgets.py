"""Every attack under a budget: no image costs more, whoever runs its loop; one that is large enough changes nothing."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import Batch, ThreatModel, registry
from robench.attack.budget import Budget
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.attack.proposing import propose
from robench.testing.samples import SmallModel, data_info, random_images
from tests.contract.in_tree import attack_named, each_case

COUNT, CLASSES = 5, 4


def threat_of(norm: str) -> ThreatModel:
    return ThreatModel.of(norm, "0.02" if norm == "linf" else "0.2")


def examples_of(module: nn.Module) -> Examples:
    x, _ = random_images(data_info("x", 1, 8, CLASSES), COUNT)
    return Examples(x, module(x).argmax(1), torch.arange(COUNT))


class Watched(SmallModel):
    """Counts images of forward passes, and of backward passes that bring a gradient."""

    def __init__(self) -> None:
        super().__init__(1, CLASSES)
        self.seen = [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        self.seen[0] += len(x)
        if answer.requires_grad:
            hook: Any = answer.register_hook
            hook(self._count)
        return answer

    def _count(self, grad: Tensor) -> None:
        self.seen[1] += int((grad != 0).any(1).sum())


@each_case
@pytest.mark.parametrize(("most", "draws"), [(1, 1), (8, 1), (31, 1), (20, 3)])
def test_no_image_costs_more_than_its_budget(name: str, norm: str, most: int, draws: int) -> None:
    """`draws` are the passes behind a random model's gradient. What one has cost before counts."""
    module, attack = Watched(), attack_named(name)
    given = examples_of(module)
    classifier = Classifier(module, CLASSES, COUNT, labels=given.y)
    classifier.randomised, classifier.draws = draws > 1, draws
    before = torch.tensor([0, 0, 0, most // 2, most])
    classifier.budget = Budget(most, before)
    plan = attack.trials(given.y, classifier.logits(given.x), given.ids, seed=0)
    rows = given.ids.repeat_interleave(len(plan))
    batch = Batch(given.x[rows], given.y[rows], plan.goal.flatten(), rows, plan.key.flatten(), rows, threat_of(norm), 0)
    module.seen = [0, 0]
    found = propose(attack, classifier, batch, rows, targeted=False, last=draws > 1)
    assert found.x.isfinite().all()
    assert bool((before + classifier.spent <= most).all())
    assert module.seen[0] == int(classifier.forwards.sum())
    assert module.seen[1] <= int(classifier.backwards.sum())


@each_case
def test_a_budget_that_is_large_enough_changes_nothing(name: str, norm: str) -> None:
    module, attack = SmallModel(1, CLASSES), attack_named(name)
    given, threat = examples_of(module), threat_of(norm)
    free = attack_shard(module, CLASSES, attack, threat, given, Settings())
    bound = attack.cost(threat, CLASSES)
    enough = 10**6 if bound.forwards is None else bound.spent
    held = attack_shard(module, CLASSES, attack, threat, given, Settings(max_passes=max(enough, 1)))
    pd.testing.assert_frame_equal(free.rows, held.rows)
    assert torch.equal(free.images, held.images)
    assert free.flags == held.flags


@pytest.mark.parametrize("restarts", [1, 2, 4])
@pytest.mark.parametrize("left", [0, 2])
def test_a_budget_pays_for_as_many_whole_restarts_as_it_can(restarts: int, left: int) -> None:
    """Side by side none of those that it cannot pay for together would come to its end."""
    module, threat = SmallModel(1, CLASSES), threat_of("linf")
    given = examples_of(module)
    some, all_of_them = (registry.load("attack", "pgd").build({"steps": 3, "restarts": k}) for k in (restarts, 9))
    price = some.passes(threat, CLASSES).spent
    whole = attack_shard(module, CLASSES, some, threat, given, Settings())
    assert bool((whole.rows["forwards"] + 2 * whole.rows["backwards"] == price * restarts).any()), "nobody stands"
    held = attack_shard(module, CLASSES, all_of_them, threat, given, Settings(max_passes=price * restarts + left))
    told = ["example_id", "adv_pred", "success", "forwards", "backwards"]
    pd.testing.assert_frame_equal(whole.rows[told], held.rows[told])
    assert torch.equal(whole.images, held.images)

"""Every attack's passes against an instrumented model: images per forward and backward, charged to their examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import Batch, ThreatModel
from robench.attack.classifier import Classifier
from robench.testing.samples import SmallModel, data_info, random_images
from tests.contract.in_tree import attack_named, each_case

COUNT = 5


def passes_of(module: nn.Module, originals: Tensor) -> Tensor:
    """A tensor [2, N] where hooks count the images of every forward and backward pass, by the nearest original."""
    passes = torch.zeros(2, len(originals), dtype=torch.int64)

    def seen(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        nearest = torch.cdist(given[0].detach().flatten(1), originals.flatten(1)).argmin(1)

        def count(kind: int) -> None:
            passes[kind].index_add_(0, nearest, torch.ones_like(nearest))

        count(0)
        if answer.requires_grad:
            hook: Any = answer.register_hook
            hook(lambda _: count(1))

    module.register_forward_hook(seen)
    return passes


@each_case
@pytest.mark.parametrize("draws", [1, 3])
def test_every_pass_is_charged_to_its_example(name: str, norm: str, draws: int) -> None:
    """Without the judge's own passes, which are nobody's. `draws` are the passes behind a random model's gradient."""
    x, y = random_images(data_info("x", 1, 8, 4), COUNT)
    module, attack = SmallModel(1, 4), attack_named(name)
    y = torch.where(torch.arange(COUNT) == 0, y, module(x).argmax(1))  # a broken one among sound ones
    classifier, ids = Classifier(module, 4, COUNT), torch.arange(COUNT)
    classifier.randomised, classifier.draws = draws > 1, draws
    plan = attack.trials(y, classifier.logits(x), ids, seed=0)
    rows, trials = ids.repeat_interleave(len(plan)), plan.key.flatten()
    threat = ThreatModel.of(norm, "0.1" if norm == "linf" else "0.5")
    given = Batch(x[rows], y[rows], plan.goal.flatten(), ids[rows], trials, rows, threat, seed=0)
    passes = passes_of(module, x)
    attack.perturb(classifier.rows(rows), given)
    assert classifier.forwards.tolist() == passes[0].tolist()
    assert classifier.backwards.tolist() == passes[1].tolist()
    assert (passes[0].sum() == 0) == (attack.access == "noise")
    assert (passes[1].sum() == 0) == (attack.access == "noise" or attack.kind == "query")

"""A budget of passes: what rows that cannot pay see and propose, and that neighbours have no part in it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import Attack, Batch, BatchModel, Proposal, ThreatModel, Trials, margin, registry
from robench.attack.budget import Asked, Budget, places
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.results.rows import succeeded
from tests import liars

THREAT = ThreatModel.of("linf", "0.05")


def examples() -> tuple[nn.Module, Examples]:
    module, x = liars.Conv(), liars.images()
    return module, Examples(x, module(x).argmax(1), torch.arange(len(x)) + 100)


def attacked(attack: Attack, threat: ThreatModel = THREAT, **settings: Any) -> Any:
    module, given = examples()
    return attack_shard(module, 4, attack, threat, given, Settings(**settings))


def built(name: str, **options: Any) -> Attack:
    found: Attack = registry.load("attack", name).build(options)
    return found


SHORT = {
    "pgd": {"steps": 10, "restarts": 4},
    "multi-targeted": {"steps": 8},
    "apgd-t": {"steps": 8},
    "fab-t": {"steps": 8},
    "square": {"queries": 40, "restarts": 3},
}


@pytest.mark.parametrize("most", [5, 20])
@pytest.mark.parametrize("name", SHORT)
def test_verdicts_starts_and_passes_do_not_depend_on_batches(name: str, most: int) -> None:
    threat = ThreatModel.of("linf", "0.02")
    one, two = (attacked(built(name, **SHORT[name]), threat, max_passes=most, batch_size=b).rows for b in (7, 40))
    same = ["example_id", "success", "trial", "step", "forwards", "backwards", "flags"]
    pd.testing.assert_frame_equal(one[same], two[same])
    assert one["flags"].str.contains("out-of-budget").any()
    assert one["passes"].max() <= most


@pytest.mark.parametrize("name", SHORT)
def test_a_larger_budget_breaks_what_a_smaller_one_does(name: str) -> None:
    """A search with a smaller budget is the beginning of the same search: what it found stays found."""
    before = None
    for most in (4, 12, 40):
        rows = attacked(built(name, **SHORT[name]), ThreatModel.of("linf", "0.02"), max_passes=most).rows
        found = succeeded(rows)
        assert before is None or bool((found >= before).all())
        before = found


def test_images_that_stand_and_were_cut_short_are_marked() -> None:
    rows = attacked(built("pgd", steps=10), ThreatModel.of("linf", "0.02"), max_passes=6).rows
    marked = rows["flags"].str.contains("out-of-budget").to_numpy()
    assert marked.any()
    assert succeeded(rows).any()
    assert (marked == ~succeeded(rows)).all()
    assert not attacked(built("pgd", steps=10), max_passes=None).rows["flags"].str.contains("budget").any()


def test_an_inert_answer_says_nothing_of_gradients() -> None:
    shard = attacked(built("pgd", steps=10), max_passes=2)
    assert set(shard.rows["flags"]) == {"out-of-budget"}
    assert shard.rows["zero_pixels"].isna().all()
    assert shard.rows["passes"].max() == 0
    assert not shard.flags


class Ladder(Attack):
    """Two stages of 3 passes each; tells which were run, of rows that it was not told to be broken."""

    stages = ("first", "second")

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        return Trials.untargeted(len(y), 1)

    def perturb(self, model: BatchModel, batch: Batch) -> Proposal:
        run = torch.zeros_like(batch.trial)
        for k in range(2):
            logits, _ = model.gradient(batch.x, lambda logits: margin(logits, batch.y))
            run |= (logits.argmax(1) == batch.y).long() << k
        return Proposal(torch.rand_like(batch.x), torch.zeros_like(run), run)


@pytest.mark.parametrize(("most", "stages"), [(2, ""), (3, "first"), (5, "first"), (6, "first;second")])
def test_stages_are_told_of_what_was_run_before_the_budget_was_spent(most: int, stages: str) -> None:
    rows = attacked(Ladder(), ThreatModel.of("linf", "0"), max_passes=most).rows
    assert set(rows["stages"]) == {stages}


def test_what_an_attack_makes_of_inert_answers_is_not_proposed() -> None:
    shard = attacked(Ladder(), ThreatModel.of("linf", "1"), max_passes=5)
    assert torch.equal(shard.images, examples()[1].x)  # the best it asked about, not its random images
    assert not succeeded(shard.rows).any()


def batch_of(count: int = 3) -> Batch:
    x, none = torch.full((count, 1, 2, 2), 0.5), torch.zeros(count, dtype=torch.int64)
    return Batch(x, none, none - 1, none, none, none, ThreatModel.of("linf", "0.1"), 0)


def test_the_best_image_within_the_threat_model_is_remembered() -> None:
    batch, rows = batch_of(), torch.arange(3)
    asked = Asked(batch, rows, targeted=False, last=False)
    far, near, nearer = batch.x + 0.3, batch.x + 0.05, batch.x + 0.02
    asked.see(rows, far, torch.tensor([[0.0, 9.0]]).expand(3, 2))
    assert torch.equal(asked.x, far)  # until there is one within
    asked.see(rows[:2], near[:2], torch.tensor([[2.0, 1.0], [torch.nan, 0.0]]))
    asked.see(rows.repeat(2), torch.cat([nearer, near]), torch.tensor([[2.0, 1.5]] * 3 + [[3.0, 0.0]] * 3))
    assert torch.equal(asked.x, torch.cat([nearer[:1], near[1:2], nearer[2:]]))
    asked.see(rows, far, None)  # an answer in bfloat16 displaces none in float32
    assert torch.equal(asked.x[0], nearer[0])


def test_of_random_models_the_latest_image_is_remembered() -> None:
    batch, rows = batch_of(), torch.arange(3)
    asked = Asked(batch, rows, targeted=False, last=True)
    for shift, logit in ((0.05, 9.0), (0.02, -9.0), (0.4, 9.0)):
        asked.see(rows, batch.x + shift, torch.tensor([[0.0, logit]]).expand(3, 2))
    assert torch.equal(asked.x, batch.x + 0.02)


def test_rows_of_one_example_pay_one_after_another() -> None:
    budget, examples = Budget(7, torch.tensor([0, 0, 5])), torch.tensor([0, 1, 0, 2, 0])
    assert places(examples).tolist() == [0, 0, 1, 0, 2]
    spent = torch.zeros(3, dtype=torch.int64)
    refused = budget.refused(examples, 3, spent)
    assert refused is not None
    assert refused.tolist() == [False, False, False, True, True]
    assert budget.out.tolist() == [True, False, True]
    again = budget.refused(torch.tensor([0, 1]), 1, spent)
    assert again is not None
    assert again.tolist() == [True, False]  # who ran out stays out


class Greedy(nn.Module):
    """A linear model whose backward passes are asked for again and again through one forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def test_backward_passes_of_one_forward_pass_are_each_paid() -> None:
    model = Classifier(Greedy(), 2, 2, labels=torch.tensor([0, 0]))
    model.budget = Budget(5, torch.tensor([0, 2]))
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    logits = model.rows(torch.arange(2))(x)
    grads = [torch.autograd.grad(logits[:, 0].sum(), x, retain_graph=True)[0] for _ in range(3)]
    found = [[bool((grad[row] != 0).any()) for grad in grads] for row in (0, 1)]
    assert found == [[True, True, False], [True, False, False]]
    assert model.spent.tolist() == [5, 3]

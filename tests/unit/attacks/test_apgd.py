"""APGD on the harness's loop: batches and shards, many classes, the plan of targets, and pyautoattack's beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, open_dataset, registry
from robench.attack.base import Batch, Trials
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.evaluation.attacks import attacks_of
from robench.testing.samples import FirmModel

NATIVE = ("apgd-ce", "apgd-dlr", "apgd-t")
THREATS = {"linf": ThreatModel.of("linf", "0.12"), "l2": ThreatModel.of("l2", "0.6")}
COUNT = 120
each_norm = pytest.mark.parametrize("norm", THREATS)
each_attack = pytest.mark.parametrize("name", NATIVE)


@cache
def digits() -> tuple[nn.Module, Examples]:
    """A small network trained on digits, which the attacks break in part, and images that it gets right."""
    train, test = open_dataset("digits").train, open_dataset("digits").test
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-3)
        x, y = train.pixels(slice(0, len(train.labels))), train.labels
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x + 0.1 * torch.randn_like(x)), y).backward()
            optimizer.step()
    x, y = test.pixels(slice(0, COUNT)), test.labels[:COUNT]
    return model.eval(), Examples(x, y, test.ids[:COUNT])


def built(name: str, **options: Any) -> Any:
    return registry.load("attack", name).build(options)


def rows_of(name: str, norm: str, part: slice = slice(None), batch: int = 250, **options: Any) -> pd.DataFrame:
    model, examples = digits()
    some = Examples(examples.x[part], examples.y[part], examples.ids[part])
    return attack_shard(model, 10, built(name, **options), THREATS[norm], some, Settings(0, batch)).rows


def robust(rows: pd.DataFrame) -> float:
    return float((rows["clean_correct"] & ~rows["success"]).mean())


# --- pyautoattack's --------------------------------------------------------------------------------------------------


@each_norm
@each_attack
def test_it_finds_what_the_library_finds_at_fewer_passes(name: str, norm: str) -> None:
    options = {} if name == "apgd-t" else {"restarts": 4}  # one start finds two images of 120 more or fewer
    ours, theirs = rows_of(name, norm, **options), rows_of(f"library:{name}", norm, **options)
    assert 0.2 < robust(theirs) < 0.8
    assert abs(robust(ours) - robust(theirs)) <= 0.01
    assert ours["backwards"].sum() < theirs["backwards"].sum()


# --- batches, shards, trials -----------------------------------------------------------------------------------------


@each_norm
@each_attack
def test_verdicts_do_not_hang_on_batches_or_shards(name: str, norm: str) -> None:
    options = {"steps": 15, "restarts": 1 if name == "apgd-t" else 2}
    whole = rows_of(name, norm, **options)
    for batch in (7, 40):
        assert rows_of(name, norm, batch=batch, **options)["success"].tolist() == whole["success"].tolist()
    halves = [rows_of(name, norm, part, **options) for part in (slice(0, 50), slice(50, COUNT))]
    assert pd.concat(halves)["success"].tolist() == whole["success"].tolist()


def planned(classes: int, **options: Any) -> Trials:
    y, ids = torch.tensor([0, 1]), torch.arange(2)
    logits = torch.arange(classes).float().repeat(2, 1)  # the last class is the likeliest
    plan: Trials = built("apgd-t", **options).trials(y, logits, ids, 0)
    return plan


def test_targets_are_the_likeliest_wrong_classes() -> None:
    plan = planned(10, targets=3, restarts=2)
    assert plan.goal.tolist() == [[9, 8, 7, 9, 8, 7]] * 2
    assert plan.key.tolist() == [[9, 8, 7, 19, 18, 17]] * 2
    assert sorted(planned(5).goal[1].tolist()) == [0, 2, 3, 4]
    assert planned(1000).goal.shape == (2, 9)


def test_the_order_of_the_targets_does_not_change_their_starts() -> None:
    def starts(logits: Tensor) -> dict[int, Tensor]:
        zero = torch.zeros(1, dtype=torch.int64)
        plan = built("apgd-t", restarts=2).trials(zero, logits, zero, 0)
        count = len(plan)
        x, none = torch.full((count, 1, 4, 4), 0.5), torch.zeros(count, dtype=torch.int64)
        batch = Batch(x, none, plan.goal[0], none, plan.key[0], none, THREATS["linf"], 0)
        return dict(zip(plan.key[0].tolist(), batch.start(), strict=True))

    one, other = starts(torch.arange(6.0)[None]), starts(torch.arange(6.0).flip(0)[None])
    assert list(one) != list(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
@each_norm
@each_attack
def test_any_number_of_classes_takes_the_passes_planned(name: str, norm: str, classes: int) -> None:
    attack, y = built(name, steps=4, restarts=2), torch.zeros(3, dtype=torch.int64)
    trials = 2 * min(9, classes - 1) if name == "apgd-t" and classes > 3 else 2
    cost = attack.cost(THREATS[norm], classes)
    assert (cost.backwards, cost.forwards) == (4 * trials, 5 * trials)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    examples = Examples(x, y, torch.arange(3))
    rows = attack_shard(FirmModel(1, classes), classes, attack, THREATS[norm], examples).rows
    assert rows["backwards"].tolist() == [cost.backwards] * 3
    assert rows["forwards"].tolist() == [cost.forwards] * 3


# --- what it proposes, and what it is taken for ----------------------------------------------------------------------


class Hills(nn.Module):
    """Two logits, of which the second has many hills and never wins."""

    def forward(self, x: Tensor) -> Tensor:
        height = (30 * x.flatten(1)).sin().sum(1)
        return torch.stack([torch.zeros_like(height), height - 20], dim=1)


@each_norm
def test_what_stands_is_proposed_at_its_best_point(norm: str) -> None:
    n = 20
    x, zeros = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.zeros(n, dtype=torch.int64)
    batch = Batch(x, zeros, zeros - 1, torch.arange(n), zeros, torch.arange(n), THREATS[norm], 0)

    def height(success: str) -> Tensor:
        model = Classifier(Hills().eval(), 2, n).rows(torch.arange(n))
        return Hills()(built("apgd-ce", steps=12, success=success).perturb(model, batch).x)[:, 1]

    best, end = height("any"), height("last")
    assert (best >= end).all()
    assert (best > end + 0.1).any()


def test_an_evaluation_of_the_library_s_is_not_taken_for_one_of_ours() -> None:
    for name in ("apgd-ce", "apgd-t"):
        (ours,), (theirs,) = (attacks_of([each], {}, THREATS["linf"]) for each in (name, f"library:{name}"))
        before = {"library": theirs.options["library"], "steps": 100, "restarts": 1}
        assert "library" not in ours.options
        assert ours.options != before | ({"targets": 9} if name == "apgd-t" else {})
        assert (ours.attack.version, theirs.attack.version) == (2, 1)
        assert (ours.attack.batched, theirs.attack.batched) == (False, True)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("apgd-ce", {"steps": "0"}, "steps"),
        ("apgd-ce", {"library": "pyautoattack 0.2.0"}, "no option of attack 'apgd-ce' named 'library'"),
        ("apgd-dlr", {"targets": "3"}, "no option of attack 'apgd-dlr' named 'targets'"),
        ("apgd-t", {"targets": "0"}, "targets of attack 'apgd-t' is '0'"),
        ("apgd-t", {"loss": "dlr"}, "must be one of targeted-ce"),
        ("apgd-t", {"success": "first"}, "success is 'first'"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        registry.load("attack", name).build(options)
    assert says in str(caught.value)


def test_more_trials_than_a_plan_holds_are_refused() -> None:
    with pytest.raises(BadInput, match="restarts is 200, but must be at most 100 with 1000 classes"):
        planned(1000, restarts=200)

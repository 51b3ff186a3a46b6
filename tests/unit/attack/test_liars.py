"""Broken models under the judge: refused with a sentence, flagged, or attacked as well as the honest ones."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import robench
from robench import BadInput, ThreatModel, registry
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from tests import liars
from tests.liars.zoo import Counting as Remembering

EPS = 0.1
SMALL = 0.015  # at which the honest linear model keeps some images and loses others
QUICK = {
    "untargeted": {"restarts": 2, "steps": 30, "schedule": "0.1"}, "multi-targeted": {"steps": 30},
    "random-targeted": {"steps": 30, "schedule": "0.1"}, "square": {"queries": 200},
    "apgd-ce": {"steps": 20}, "apgd-dlr": {"steps": 20}, "apgd-t": {"steps": 20},
}  # fmt: skip

# see test_libraries.py, and test_import.py of what was made elsewhere
LIBRARIES = ("foolbox", "art", "autoattack", "library", "fab-t", "square", "imported")
ATTACKS = [name for name in registry.names("attack") if name not in LIBRARIES]


def attacked(module: nn.Module, attack: str = "pgd", honest: nn.Module | None = None, eps: float = EPS) -> ShardOutcome:
    """A shard of images that an honest model gets right, every fourth excepted."""
    x = liars.images()
    with torch.no_grad():
        y = (honest or liars.Linear())(x).argmax(1)
    y[::4] = (y[::4] + 1) % liars.CLASSES
    examples = Examples(x, y, torch.arange(len(x)))
    built = registry.load("attack", attack).build(QUICK.get(attack, {}))
    threat = ThreatModel.of(built.norms[0], eps)
    return attack_shard(module, liars.CLASSES, built, threat, examples, Settings(batch_size=10))


def robust(shard: ShardOutcome) -> torch.Tensor:
    return torch.tensor((shard.rows["clean_correct"] & ~shard.rows["success"]).to_numpy())


def marked(shard: ShardOutcome, flag: str) -> torch.Tensor:
    return torch.tensor(shard.rows["flags"].str.contains(flag, regex=False).to_numpy())


@pytest.mark.parametrize(
    ("liar", "says"),
    [
        (liars.in_train_mode, "train mode"),
        (liars.partly_in_train_mode, "train mode (at '0')"),
        (liars.probabilities, "probabilities"),
        (liars.nan_on_clean, "NaN"),
        (liars.infinite_on_clean, "infinite"),
        (liars.too_few_classes, "shape (10, 3)"),
        (liars.too_many_classes, "shape (10, 5)"),
        (liars.not_a_tensor, "dict"),
        (liars.wrong_batch, "shape (1, 4)"),
        (liars.wrong_rank, "shape (10, 4, 1)"),
        (liars.classes_for_logits, "int64"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_refused(liar: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        attacked(liar())
    assert says in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("liar", [liars.nan_on_clean, liars.too_few_classes], ids=lambda liar: liar.__name__)
def test_refusal_gives_parameters_back(liar: Callable[[], nn.Module]) -> None:
    module = liar()
    with pytest.raises(BadInput):
        attacked(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("liar", "flag"),
    [
        (liars.noisy, "randomised"),
        (lambda: liars.Counting(3), "randomised"),
        (liars.BatchStatistics, "batch-dependent"),
        (liars.Counter, "changes-its-state"),
    ],
    ids=["noisy", "changes-at-once", "batch-statistics", "changes-its-state"],
)
def test_flagged(liar: Callable[[], nn.Module], flag: str) -> None:
    assert flag in attacked(liar()).flags


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_model_that_changes_during_the_attack_is_flagged(share: float) -> None:
    honest = liars.Counting(10**9)
    attacked(honest, eps=SMALL)
    liar = liars.Counting(int(share * honest.calls))
    shard = attacked(liar, eps=SMALL)
    assert liar.calls > liar.patience, "the liar never lied"
    assert shard.flags


def test_a_model_that_remembers_the_clean_images_is_flagged() -> None:
    """Its clean answers never change; those to adversarial images are not what a fresh copy gives."""
    calls_before_the_attack = 3 + 1 + 3 + 8  # clean, whether it optimises, again, one by one
    shard = attacked(Remembering(liars.Linear(), calls_before_the_attack))
    assert int(robust(shard).sum()) == 18
    assert "changes-its-answers" in shard.flags


class Uncopyable(liars.Linear):
    """Honest, with something inside that no copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_model_that_cannot_be_copied_is_attacked_and_that_is_said() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(Uncopyable())
    shard, honest = attacked(Uncopyable(), eps=SMALL), attacked(liars.Linear(), eps=SMALL)
    assert shard.flags == ("not-copied",)
    assert shard.rows.equals(honest.rows)


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "multi-targeted", "random-noise"])
def test_nan_on_perturbed_images_is_not_robustness(attack: str) -> None:
    shard = attacked(liars.nan_when_perturbed(), attack)
    correct = torch.tensor(shard.rows["clean_correct"].to_numpy())
    assert int(correct.sum()) == 18
    assert torch.equal(marked(shard, "non-finite") & correct, correct)
    assert not robust(shard).any()
    assert (shard.rows["adv_pred"][correct.numpy()] == -1).all()


def test_nan_is_no_success_of_a_targeted_attack() -> None:
    shard = attacked(liars.nan_when_perturbed(), "random-targeted")
    clean_hits = shard.rows["clean_pred"] == shard.rows["goal"]
    assert (shard.rows["success"] == clean_hits).all()
    assert marked(shard, "non-finite").any()


@pytest.mark.parametrize("liar", [liars.Rounding, liars.detached, liars.constant], ids=lambda liar: liar.__name__)
@pytest.mark.parametrize("attack", ["pgd", "fgsm", "untargeted"])
def test_dead_gradients_are_flagged(liar: Callable[[], nn.Module], attack: str) -> None:
    shard = attacked(liar(), attack)
    correct = torch.tensor(shard.rows["clean_correct"].to_numpy())
    assert correct.any()
    assert torch.equal(marked(shard, "zero-gradient"), correct)


@pytest.mark.parametrize("factor", [1e4, 1e-4])
@pytest.mark.parametrize("attack", ["untargeted", "multi-targeted"])
def test_scaled_logits_hide_nothing(factor: float, attack: str) -> None:
    honest = attacked(liars.Linear(), attack, eps=SMALL)
    scaled = attacked(liars.scaled(factor), attack, eps=SMALL)
    assert torch.equal(robust(scaled), robust(honest))
    x, y = liars.images(), torch.tensor(honest.rows["label"].to_numpy())
    expected = liars.linear_robust(liars.Linear(), x, y, SMALL) & torch.tensor(honest.rows["clean_correct"].to_numpy())
    assert torch.equal(robust(honest), expected)
    assert 0 < int(expected.sum()) < 18, "the closed form decides nothing"


def test_large_logits_kill_the_cross_entropy_and_that_shows() -> None:
    shard = attacked(liars.scaled(1e4), "fgsm")
    assert int(marked(shard, "zero-gradient").sum()) >= 9


@pytest.mark.parametrize("model", [liars.Linear, liars.Conv], ids=["linear", "conv"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_honest_models_raise_no_flag(model: Callable[[], nn.Module], attack: str) -> None:
    shard = attacked(model(), attack, honest=model())
    assert shard.flags == ()
    assert set(shard.rows["flags"]) == {""}


@pytest.mark.parametrize("model", [liars.Linear, liars.Conv], ids=["linear", "conv"])
def test_without_perturbation_accuracy_is_the_clean_one(model: Callable[[], nn.Module]) -> None:
    shard = attacked(model(), "pgd", honest=model(), eps=0.0)
    assert not shard.rows["success"].any()
    assert torch.equal(shard.images, liars.images())


class ForDigits(nn.Module):
    """A liar widened from four to the ten classes of digits."""

    def __init__(self, liar: Any) -> None:
        super().__init__()
        self.liar = liar
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(self.liar(x), (0, 6), value=-1.0)


def test_flags_reach_the_report(tmp_path: Path) -> None:
    report = robench.evaluate(
        ForDigits(liars.Rounding()), dataset="digits", attacks="fgsm", eps=EPS, count=100, runs=tmp_path
    )
    assert any(flag.startswith("zero-gradient") for flag in report.rows[0]["flags"])
    assert "zero-gradient" in str(report)


@pytest.mark.parametrize("slope", [50, 400, 550])
@pytest.mark.parametrize("attack", ["untargeted", "multi-targeted", "pgd"])
def test_a_saturated_sigmoid_stalls_no_attack(slope: float, attack: str) -> None:
    x = torch.full((2, 1, 8, 8), 0.65)
    examples = Examples(x, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    plugin = registry.load("attack", attack).build({"restarts": 1})
    shard = attack_shard(liars.Saturated(slope), 2, plugin, ThreatModel.of("linf", "0.2"), examples)
    assert not robust(shard).any()


@pytest.mark.parametrize("attack", ["pgd", "untargeted", "multi-targeted"])
def test_random_answers_do_not_end_the_search_early(attack: str) -> None:
    torch.manual_seed(0)
    honest = attacked(liars.Linear(), attack)
    noisy = attacked(liars.noisy(), attack)
    assert "randomised" in noisy.flags
    assert int(robust(honest).sum()) == 0
    assert int(robust(noisy).sum()) <= 2


class Viewing(nn.Module):
    """Honest, and written with `view`, which asks for images laid out channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 4)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x.view(len(x), 3, 8, 8)).relu()
        logits: torch.Tensor = self.head(h.view(len(x), -1))
        return logits


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_written_with_view_is_attacked(attack: str) -> None:
    x = torch.rand(6, 3, 8, 8)
    module = Viewing()
    y = module(x).argmax(1)
    plugin = registry.load("attack", attack).build({})
    threat = ThreatModel.of(plugin.norms[0], EPS)
    shard = attack_shard(module, 4, plugin, threat, Examples(x, y, torch.arange(6)))
    assert shard.rows["clean_correct"].all()

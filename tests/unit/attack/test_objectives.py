"""Objectives by hand, what changes them and what does not, few classes, and the names that options give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from robench import (
    BadInput,
    ThreatModel,
    cross_entropy,
    dlr,
    margin,
    probability_margin,
    registry,
    targeted_dlr,
    targeted_margin,
    targeted_probability_margin,
)
from robench.attack.objectives import OBJECTIVES, objective_named
from robench.evaluation.attacks import attacks_of

LINF = ThreatModel.of("linf", "0.1")
GRADIENT_ATTACKS = {  # by whether they aim at a class
    "pgd": False, "fgsm": False, "untargeted": False, "multi-targeted": True, "random-targeted": True,
    "pgd-rand": True, "apgd-t": True,
}  # fmt: skip


def logits_of(classes: int, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits without ties, the labels that they say, and a goal that is not the label."""
    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(classes))
    y = logits.argmax(1)
    return logits, y, (y + 1) % classes


def test_values_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0], [5.0, 4.0, 6.5, 0.5]])
    y, goal = torch.tensor([1, 0]), torch.tensor([0, 1])
    assert dlr(logits, y).tolist() == pytest.approx([-1 / 2, 1.5 / 2.5])
    assert targeted_dlr(logits, y, goal).tolist() == pytest.approx([-2 / 3, -1 / (6.5 - 2.25)])
    p = logits.double().softmax(1).tolist()
    assert probability_margin(logits, y).tolist() == pytest.approx([p[0][2] - p[0][1], p[1][2] - p[1][0]], abs=1e-6)
    found = targeted_probability_margin(logits, y, goal).tolist()
    assert found == pytest.approx([p[0][0] - p[0][1], p[1][1] - p[1][0]], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_finite_and_has_a_gradient_for_any_number_of_classes(name: str, classes: int) -> None:
    logits, y, goal = logits_of(classes)
    logits.requires_grad_(True)
    values = OBJECTIVES[name].value(logits, y, goal)
    assert values.shape == y.shape
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all()
    assert grad.isfinite().all()
    assert (grad != 0).any(1).all()


@pytest.mark.parametrize("classes", [4, 10])
def test_the_dlr_losses_know_neither_scale_nor_offset(classes: int) -> None:
    logits, y, goal = logits_of(classes)
    for change in (lambda f: 1e3 * f, lambda f: 1e-3 * f, lambda f: f + 10):
        assert torch.allclose(dlr(change(logits), y), dlr(logits, y), rtol=1e-4)
        assert torch.allclose(targeted_dlr(change(logits), y, goal), targeted_dlr(logits, y, goal), rtol=1e-4)
    assert not torch.allclose(cross_entropy(1e3 * logits, y), cross_entropy(logits, y), rtol=1e-4)


def test_what_stands_in_where_classes_are_too_few() -> None:
    logits, y, goal = logits_of(2)
    assert torch.equal(dlr(logits, y), cross_entropy(logits, y))
    assert torch.equal(targeted_dlr(logits, y, goal), cross_entropy(logits, y))
    logits, y, goal = logits_of(3)
    assert torch.equal(targeted_dlr(logits, y, goal), dlr(logits, y))
    assert not torch.equal(dlr(logits, y), margin(logits, y))


def test_equal_logits_are_finite() -> None:
    flat, y, goal = torch.zeros(1, 5), torch.tensor([2]), torch.tensor([1])
    assert dlr(flat, y).isfinite().all()
    assert targeted_dlr(flat, y, goal).isfinite().all()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_any_gradient_attack_takes_the_objectives_of_its_kind(attack: str, loss: str) -> None:
    plugin, targeted = registry.load("attack", attack), GRADIENT_ATTACKS[attack]
    if OBJECTIVES[loss].targeted != targeted:
        with pytest.raises(BadInput, match=rf"^loss is '{loss}', but this attack aims at .* must be one of .*\.$"):
            plugin.build({"loss": loss})
        return
    logits, y, goal = logits_of(10)
    built = plugin.build({"loss": loss})
    assert torch.equal(built.objective(logits, y, goal), OBJECTIVES[loss].value(logits, y, goal))


def test_an_unknown_objective_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="There is no loss named 'drl'; did you mean 'dlr'"):
        objective_named("drl", targeted=False)


@pytest.mark.parametrize("attack", [name for name in GRADIENT_ATTACKS if name != "apgd-t"])
def test_an_objective_is_recorded_only_where_it_is_another(attack: str) -> None:
    """Evaluations from before the option are found again, and those with another objective are others."""
    plugin = registry.load("attack", attack)
    usual = plugin.parameters()["loss"].default
    other = next(
        name for name, each in OBJECTIVES.items() if name != usual and each.targeted == OBJECTIVES[usual].targeted
    )

    def recorded(**given: Any) -> Any:
        (named,) = attacks_of([attack], given, LINF)
        return json.loads(json.dumps(named.options)), named.given

    assert "loss" not in recorded()[0]
    assert recorded(loss=usual) == recorded()
    assert recorded(loss=other) == (recorded()[0] | {"loss": other}, {"loss": other})


def test_margins_of_a_class_are_those_of_the_best_class() -> None:
    logits, y, _ = logits_of(10)
    best = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    assert torch.allclose(targeted_margin(logits, y, best), margin(logits, y))
    assert torch.allclose(targeted_probability_margin(logits, y, best), probability_margin(logits, y))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_an_objective_is_level_just_where_it_says(name: str, classes: int) -> None:
    draw = torch.Generator().manual_seed(classes)
    logits = torch.randn(200, classes, generator=draw, dtype=torch.float64).requires_grad_(True)
    y = torch.randint(classes, (200,), generator=draw)
    goal = (y + 1) % classes
    (slope,) = torch.autograd.grad(OBJECTIVES[name].value(logits, y, goal).sum(), logits)
    assert torch.equal(slope.abs().amax(1) < 1e-6, OBJECTIVES[name].level(logits.detach(), y))

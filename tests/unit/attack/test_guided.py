"""Guides: predictions of the model, gradients of another one, as foolbox 2's CompositeModel has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, registry
from robench.attack import edges
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench.attack.objectives import cross_entropy, misclassified_margin
from robench.attack.orbits import LAG
from robench.threat import ThreatModel
from tests.unit.attack.test_closed_forms import Linear, boundary, problem

# what each takes where the ball is of its own norm, few steps for speed
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fgsm": ("linf", {}),
    "r-fgsm": ("linf", {}),
    "pgd": ("linf", {}),
    "apgd-ce": ("linf", {}),
    "apgd-dlr": ("linf", {}),
    "min-fgsm": ("linf", {}),
    "min-pgd": ("linf", {"first": 0.002}),
    "cw": ("l2", {"steps": 300, "lr": 0.0005, "initial_c": 0.01}),
}


class Rounded(nn.Module):
    """A model's answers in whole numbers: right where that is, and without a gradient."""

    def __init__(self, inner: nn.Module, step: float = 0.01) -> None:
        super().__init__()
        self.inner, self.step = inner, step

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) / self.step).round() * self.step


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += len(x)
        return self.inner(x)


def attacked(
    model: nn.Module, guide: nn.Module | None, x: Tensor, y: Tensor, name: str, eps: str | float, **settings: Any
) -> ShardOutcome:
    norm, options = ATTACKS[name]
    attack = registry.load("attack", name).build(options)
    examples = Examples(x, y, torch.arange(len(x)))
    return attack_shard(model.eval(), 10, attack, ThreatModel.of(norm, eps), examples,
                        Settings(batch_size=1000, **settings), guide=guide)  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_without_gradients_falls_to_a_guide_with_the_same_boundary(name: str) -> None:
    """Rounded logits have no gradient: a white-box attack finds what a random start finds, a guide the closed form."""
    model, x = problem(10)
    norm, _ = ATTACKS[name]
    y, distance = boundary(model, x, norm)
    eps = float(distance.sort().values[len(x) // 2]) * 1.05
    blind = attacked(Rounded(model), None, x, y, name, eps)
    led = attacked(Rounded(model), model.eval(), x, y, name, eps)
    assert not blind.rows["success"].any()
    clear = (distance / eps - 1).abs() > 0.02
    expected = distance < eps
    if name in ("r-fgsm", "apgd-dlr", "min-pgd"):  # a random start, and a ratio, are no closed form
        expected = torch.tensor(attacked(model, None, x, y, name, eps).rows["success"].to_numpy())
    assert int(expected[clear].sum()) >= 1
    found = torch.tensor(led.rows["success"].to_numpy())
    assert torch.equal(found[clear], expected[clear])
    assert "wrong-gradients" not in led.flags


@pytest.mark.parametrize("name", ["min-fgsm", "min-pgd", "cw"])
def test_the_nearest_image_is_the_closed_form_along_the_guides_direction(name: str) -> None:
    """A guide with the same slopes points the same way; where the model breaks, its own answers say."""
    model, x = problem(10)
    norm, _ = ATTACKS[name]
    y, distance = boundary(model, x, norm)
    guide = Linear(model.layer.weight.data, model.layer.bias.data + torch.arange(10.0) / 50)
    rows = attacked(model, guide.eval(), x, y, name, 0.4 if norm == "linf" else 2.0).rows
    assert rows["success"].all()
    size = torch.tensor(rows[norm].to_numpy())
    assert bool((size > distance * (1 - 1e-4)).all())
    assert bool((size < distance * {"min-fgsm": 1.01, "min-pgd": 1.3, "cw": 1.1}[name] + 2e-4).all())


def test_the_guides_answers_decide_nothing() -> None:
    """A guide that is fooled at once, and a model that is never: no success, and it goes on to the last step, or
    until it goes round in a circle in the corner of the ball, to which eight steps lead. A guide that is never fooled,
    and a model that falls: a success."""
    model, x = problem(10)
    y, distance = boundary(model, x, "linf")
    eps = float(distance.max()) * 1.5
    weight, bias = model.layer.weight.data, model.layer.bias.data
    firm = Linear(weight, bias + 1e4 * nn.functional.one_hot(y[0], 10))  # always one class
    one = y == y[0]
    brittle = Linear(weight, bias - 2 * nn.functional.one_hot(y[0], 10))
    stands = attacked(firm, brittle.eval(), x[one], y[one], "pgd", eps)
    assert not stands.rows["success"].any()
    assert (stands.rows["backwards"] >= 8 + LAG).all()
    stubborn = Linear(weight, bias + 1e3 * nn.functional.one_hot(y[0], 10))
    falls = attacked(model, stubborn.eval(), x[one], y[one], "fgsm", eps)
    # its cross-entropy is level there in float32, so nothing is found: the model's own answers find it
    assert not falls.rows["success"].any()
    assert falls.rows["flags"].str.contains("guide-zero-gradient").all()
    assert attacked(model, Linear(weight, bias + 1).eval(), x[one], y[one], "pgd", eps).rows["success"].all()


def test_the_slope_of_a_hinge_is_the_models_and_that_of_a_loss_is_the_guides() -> None:
    """Of a hinge that asks for nothing once it is met, the model says whether it is met: C&W goes on where the guide is
    fooled and the model is not, and rests where the model is."""
    x, y = torch.full((2, 1, 1, 2), 0.5), torch.tensor([0, 0])

    class Fixed(nn.Module):
        def __init__(self, offset: list[list[float]], weight: list[list[float]]) -> None:
            super().__init__()
            self.offset, self.weight = torch.tensor(offset), torch.tensor(weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.offset + (x.flatten(1) - 0.5) @ self.weight.T

    model = Fixed([[1.0, 0.0, -9.0], [0.0, 1.0, -9.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the second is broken
    guide = Fixed([[0.0, 5.0, 9.0], [5.0, 0.0, -9.0]], [[2.0, 0.0], [0.0, 3.0], [7.0, 7.0]])  # the first is broken
    both = Classifier(model, 3, examples=2, labels=y)
    both.guide = Classifier(guide, 3)
    rows = both.rows(torch.arange(2))

    def gain(logits: Tensor) -> Tensor:
        return misclassified_margin(logits, y).clamp(max=0.0)

    logits, grad = rows.gradient(x, gain, hinged=True)
    assert torch.equal(logits, model(x))
    assert torch.equal(grad.flatten(1), torch.tensor([[-2.0, 3.0], [0.0, 0.0]]))
    own = x.clone().requires_grad_(True)
    expected = torch.autograd.grad(cross_entropy(guide(own), y).sum(), own)[0]
    logits, grad = rows.gradient(x, lambda logits: cross_entropy(logits, y))
    assert torch.equal(logits, model(x))
    assert torch.allclose(grad, expected)
    assert both.forwards.tolist() == [4, 4]
    assert both.backwards.tolist() == [2, 2]


def test_passes_are_those_of_both_models() -> None:
    model, x = problem(10)
    y, distance = boundary(model, x, "linf")
    target, guide = Counting(model), Counting(model)
    eps = float(distance.min()) * 0.5  # nobody falls
    rows = attacked(target, guide.eval(), x, y, "pgd", eps).rows
    steps = int(rows["backwards"].iloc[0])  # to the corner, eight at most, and round in a circle there
    assert LAG < steps < 40
    assert (rows["backwards"] == steps).all()
    assert (rows["forwards"] == 2 * steps).all()
    assert (rows["passes"] == 4 * steps).all()
    clean = guide.seen[0] - steps * len(x)
    looked = edges.PAIRS * (edges.HALVINGS + 2)
    assert 0 < clean < 10 * len(x) + looked  # it is looked at before it is followed


def test_a_budget_counts_the_guides_passes() -> None:
    """A gradient costs four: the model's answer, the guide's, and the way back."""
    model, x = problem(10)
    y, distance = boundary(model, x, "linf")
    rows = attacked(model, Linear(model.layer.weight.data, model.layer.bias.data).eval(), x, y, "pgd",
                    float(distance.min()) * 0.5, max_passes=41).rows  # fmt: skip
    assert (rows["passes"] == 40).all()
    assert (rows["backwards"] == 10).all()
    assert rows["flags"].str.contains("out-of-budget").all()


def test_a_guide_that_gives_no_logits_is_named() -> None:
    model, x = problem(10)
    y, _ = boundary(model, x, "linf")
    with pytest.raises(BadInput, match="The guide cannot be followed: The model returned probabilities"):
        attacked(model, nn.Sequential(model, nn.Softmax(1)).eval(), x, y, "pgd", 0.1)
    with pytest.raises(BadInput, match="The guide cannot be followed: The model is in train mode"):
        attacked(model, nn.Sequential(model).train(), x, y, "pgd", 0.1)
    assert all(parameter.requires_grad for parameter in model.parameters())

"""The step rule of APGD against its paper's algorithm, written out for one row, and what a row owes its neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robench import ThreatModel
from robench.attack.step_rules import AutoStep, checkpoints

THREATS = [ThreatModel.of("linf", "0.2"), ThreatModel.of("l2", "0.9")]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=["linf", "l2"])
SHAPE, STEPS = (1, 3, 3), 50


def objective(x: Tensor, curve: Tensor) -> Tensor:
    """A value with many hills, so that rows halve at different steps: [B, ...] -> [B]."""
    flat = x.flatten(1)
    return ((curve * flat * 12).sin() + curve * flat).sum(1)


def gradient(x: Tensor, curve: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    values = objective(x, curve)
    return values.detach(), torch.autograd.grad(values.sum(), x)[0]


def problem(rows: int) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(3)
    x0, curve = 0.3 + 0.4 * torch.rand(rows, *SHAPE, generator=noise), torch.randn(rows, 9, generator=noise)
    return x0.double(), curve.double()  # in float32, rounding alone sends some rows up other hills


def climbed(x0: Tensor, curve: Tensor, threat: ThreatModel, leave: dict[int, Tensor] | None = None) -> AutoStep:
    """The rule after `STEPS` steps as the loop makes them; `leave` says which rows stay on at a step."""
    rule, x, project = AutoStep(x0, threat, STEPS), x0, threat.projection(x0)
    for step in range(STEPS):
        if leave and step in leave:
            keep = leave[step]
            x0, x, curve = x0[keep], x[keep], curve[keep]
            rule.select(keep)
            project = threat.projection(x0)
        values, grad = gradient(x, curve)
        x, grad = rule.turn(x, grad, values)
        moved = project(rule.move(x, grad, 2 * threat.radius))
        x = project(rule.carry(x, moved))
    rule.turn(x, x, objective(x, curve))
    return rule


def by_the_paper(x0: Tensor, curve: Tensor, threat: ThreatModel) -> tuple[float, float]:
    """Algorithm 1 of Croce and Hein (2020) for one row: the largest value, and the length at the end."""

    def project(x: Tensor) -> Tensor:
        return threat.project(x0, x)

    def step(x: Tensor, length: float) -> Tensor:
        return project(threat.geometry.steepest(x, gradient(x, curve)[1], length))  # type: ignore[attr-defined]

    def value(x: Tensor) -> float:
        return float(objective(x, curve))

    length = 2 * threat.radius
    path = [x0, step(x0, length)]
    values = [value(x) for x in path]
    best = max(path, key=value)
    marks, then, shortened = sorted(checkpoints(STEPS)), None, True
    for k in range(1, STEPS + 1):
        if k in marks:
            first = marks[marks.index(k) - 1] if marks.index(k) else 0
            rises = sum(values[i + 1] > values[i] for i in range(first, k))
            halve = rises < 0.75 * (k - first) or (not shortened and then is not None and value(best) <= then)
            then, shortened = value(best), halve
            if halve:
                length /= 2
                path[k], values[k] = best, value(best)
        if k == STEPS:
            break
        z = step(path[k], length)
        path.append(project(path[k] + 0.75 * (z - path[k]) + 0.25 * (path[k] - path[k - 1])))
        values.append(value(path[-1]))
        best = path[-1] if values[-1] > value(best) else best
    return value(best), length


@each_threat
def test_every_row_climbs_as_the_paper_says(threat: ThreatModel) -> None:
    x0, curve = problem(12)
    rule = climbed(x0, curve, threat)
    expected = [by_the_paper(x0[i : i + 1], curve[i : i + 1], threat) for i in range(12)]
    assert rule.top.tolist() == pytest.approx([value for value, _ in expected], rel=1e-4)
    lengths = 2 * threat.radius * rule.share
    assert lengths.tolist() == pytest.approx([length for _, length in expected])
    assert len(set(rule.share.tolist())) > 1, "rows halve at different steps"
    assert torch.allclose(objective(rule.best, curve), rule.top)


@each_threat
def test_a_row_does_not_know_who_is_beside_it(threat: ThreatModel) -> None:
    x0, curve = problem(12)
    whole = climbed(x0, curve, threat)
    rest = climbed(x0, curve, threat, {0: torch.arange(0, 12, 2), 23: torch.tensor([1, 2, 5])})
    keep = torch.tensor([2, 4, 10])
    for name in ("best", "slope", "before", "top", "last", "then", "share", "rises", "halved"):
        assert torch.equal(getattr(rest, name), getattr(whole, name)[keep]), name


def test_checkpoints_by_hand() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(10)) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == {1}


@each_threat
def test_values_that_are_no_numbers_lead_nowhere(threat: ThreatModel) -> None:
    x, grad = torch.full((2, *SHAPE), 0.5), torch.ones(2, *SHAPE)
    rule = AutoStep(x, threat, 10)
    for step in range(10):
        rule.turn(x + step / 100, grad, torch.tensor([math.nan, float(step)]))
    assert rule.top.tolist() == [-math.inf, 9.0]
    assert torch.equal(rule.best[0], x[0])
    assert torch.equal(rule.best[1], x[1] + 9 / 100)

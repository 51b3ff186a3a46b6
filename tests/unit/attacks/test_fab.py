"""FAB against mathematics: linear models with and without the box, in both norms, and any number of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn
from torch.nn import functional

from robench import PlaneNorm, ThreatModel, registry
from robench.attack.judge import Examples, Settings, attack_shard
from robench.norms import NORMS, level
from robench.testing.samples import SmallModel, data_info, random_images

SHAPE, PIXELS = (1, 5, 5), 25
WIDE = {"linf": 1.0, "l2": 5.0}  # the whole box
each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


class Linear(nn.Module):
    """Logits weight x + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.weight, self.bias)


def problem(classes: int, walls: bool, n: int = 12) -> tuple[Linear, Tensor, Tensor]:
    """A linear model, images in the middle of the box, or with two fifths of their pixels at its walls, and labels."""
    noise = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, PIXELS, generator=noise)
    x = torch.rand(10 * n, *SHAPE, generator=noise)
    x = ((x - 0.2) / 0.6).clamp(0, 1) if walls else 0.45 + 0.1 * x
    model = Linear(weight, -0.5 * weight.sum(1))
    top = model(x).topk(2, dim=1).values
    x = x[top[:, 0] - top[:, 1] > 0.1][:n]  # so far that rounding is no share of the way
    return model, x, model(x).argmax(1)


def judged(
    module: nn.Module,
    classes: int,
    norm: str,
    eps: float,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    batch: int = 250,
    **options: Any,
) -> pd.DataFrame:
    attack = registry.load("attack", "fab-t").build(options)
    threat, examples = ThreatModel.of(norm, eps), Examples(x, y, torch.arange(len(x)) if ids is None else ids)
    return attack_shard(module, classes, attack, threat, examples, Settings(batch_size=batch)).rows


def solved(x: np.ndarray, slope: np.ndarray, gap: float, norm: str) -> float:
    """The distance from x [d] to the nearest z in the box with <slope, z - x> = gap, by scipy; inf where none is."""
    d, walls = len(x), [(-a, 1 - a) for a in x]
    if norm == "linf":  # the least t with -t <= z - x <= t
        eye, ones = np.eye(d), np.ones((d, 1))
        found = linprog(
            np.r_[np.zeros(d), 1], A_ub=np.block([[eye, -ones], [-eye, -ones]]), b_ub=np.zeros(2 * d),
            A_eq=np.r_[slope, 0][None], b_eq=[gap], bounds=[*walls, (0, None)],
        )  # fmt: skip
        return float(found.fun) if found.success else np.inf
    plane = {"type": "eq", "fun": lambda z: slope @ z - gap, "jac": lambda z: slope}
    found = minimize(
        lambda z: z @ z / 2, np.zeros(d), jac=lambda z: z, method="SLSQP", bounds=walls, constraints=plane,
        options={"maxiter": 500, "ftol": 1e-13},
    )  # fmt: skip
    return float((2 * found.fun) ** 0.5) if found.success else np.inf


def boundaries(model: Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """How far the nearest image with another answer is, in the box, for every x [n, ...]: float64 [n]."""
    weight, logits = model.weight.double().numpy(), model(x.double().float()).double().numpy()
    found = []
    for image, label, answer in zip(x.double().flatten(1).numpy(), y.tolist(), logits, strict=True):
        others = [other for other in range(len(answer)) if other != label]
        found.append(
            min(solved(image, weight[other] - weight[label], answer[label] - answer[other], norm) for other in others)
        )
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("walls", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
@each_norm
def test_the_nearest_find_is_as_far_as_mathematics_says(norm: str, classes: int, walls: bool) -> None:
    model, x, y = problem(classes, walls)
    distance = boundaries(model, x, y, norm)
    rows = judged(model, classes, norm, WIDE[norm], x, y, steps=60, nearest=True)
    assert rows["success"].all()
    found = torch.tensor(rows[norm].to_numpy())
    assert float((found / distance - 1).abs().max()) < 1e-3
    if not walls:  # |w.x + b| / ||w||, without a solver
        slope = model.weight[:, None] - model.weight[None]
        length = slope[y].double().norm(dim=2, p=1 if norm == "linf" else 2)
        logits = model(x).double()
        gap = logits.gather(1, y[:, None]) - logits
        assert torch.allclose((gap / length).nan_to_num(torch.inf).amin(1).double(), distance.double(), rtol=1e-4)


@pytest.mark.parametrize("ratio", [0.999, 1.001])
@pytest.mark.parametrize("walls", [False, True])
@each_norm
def test_broken_where_the_boundary_is_nearer_than_eps_and_nowhere_else(norm: str, walls: bool, ratio: float) -> None:
    model, x, y = problem(5, walls)
    distance = boundaries(model, x, y, norm)
    for near in distance.sort().values[[2, 6, 9]]:
        eps = float(near) * ratio
        rows = judged(model, 5, norm, eps, x, y, steps=60)
        assert rows["success"].tolist() == (distance < eps).tolist()


@each_norm
def test_a_walk_ends_with_the_first_find_within_eps(norm: str) -> None:
    model, x, y = problem(5, walls=False)
    rows = judged(model, 5, norm, WIDE[norm], x, y)
    assert rows["success"].all()
    assert rows["step"].tolist() == [0] * len(x)
    assert rows["backwards"].tolist() == [1] * len(x)


@each_norm
def test_restarts_begin_half_of_eps_away_and_differ(norm: str) -> None:
    seen: list[Tensor] = []

    class Firm(Linear):
        """Whose answer nothing changes."""

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return 1e-3 * super().forward(x) + 1e3 * functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 3)

    model, x, _ = problem(3, walls=False, n=4)
    attack = registry.load("attack", "fab-t").build({"steps": 1, "restarts": 3})
    examples = Examples(x, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    attack_shard(Firm(model.weight, model.bias), 3, attack, ThreatModel.of(norm, 0.2), examples)
    first = next(batch for batch in seen if batch.requires_grad and len(batch) == 20)[:5]  # the first image's
    away = ThreatModel.of(norm, 0.2).distance(x[:1].expand(5, *SHAPE), first.detach())
    assert away.tolist() == pytest.approx([0, 0.1, 0.1, 0.1, 0.1], abs=1e-6)  # the second target, then two restarts
    assert len(first.detach().flatten(1).unique(dim=0)) == 5


@pytest.mark.parametrize(("classes", "targets", "planned"), [(2, 9, 1), (3, 9, 2), (10, 9, 9), (10, 4, 4), (100, 9, 9)])
def test_passes_are_planned_by_targets_not_classes(classes: int, targets: int, planned: int) -> None:
    y, logits = torch.tensor([0, 1]), torch.randn(2, classes, generator=torch.Generator().manual_seed(0))
    attack = registry.load("attack", "fab-t").build({"steps": 7, "targets": targets})
    goals = attack.trials(y, logits, y, 0).goal
    assert goals.shape == (2, planned)
    for label, row, answer in zip(y.tolist(), goals.tolist(), logits, strict=True):
        order = [each for each in answer.argsort(descending=True).tolist() if each != label]
        assert row == order[:planned]
    cost = attack.cost(ThreatModel.of("linf", 0.1), classes)
    assert (cost.backwards, cost.forwards) == (7 * planned, 14 * planned)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 100, 1000])
@each_norm
def test_any_number_of_classes_costs_as_planned(norm: str, classes: int, nearest: bool) -> None:
    x, _ = random_images(data_info("x", 1, 8, classes), 4)
    module = SmallModel(1, classes)
    y = module(x).argmax(1)
    rows = judged(module, classes, norm, 0.001, x, y, steps=3, targets=5, nearest=nearest)
    attack = registry.load("attack", "fab-t").build({"steps": 3, "targets": 5, "nearest": nearest})
    cost = attack.cost(ThreatModel.of(norm, 0.001), classes)
    assert cost.backwards is not None
    assert cost.forwards is not None
    assert (rows["backwards"] <= cost.backwards).all()
    assert (rows["forwards"] <= cost.forwards).all()
    standing = ~rows["success"]
    assert standing.any()
    assert (rows["backwards"][standing] >= cost.backwards - nearest).all()  # one gradient refines what was found


@each_norm
@pytest.mark.parametrize("nearest", [False, True])
def test_the_outcome_of_an_image_does_not_depend_on_its_neighbours(norm: str, nearest: bool) -> None:
    x, _ = random_images(data_info("x", 1, 8, 4), 60)
    module = SmallModel(1, 4)
    y, ids, eps = module(x).argmax(1), torch.arange(60), 0.02 if norm == "linf" else 0.1
    options: dict[str, Any] = {"steps": 15, "restarts": 2, "nearest": nearest}
    whole = judged(module, 4, norm, eps, x, y, **options)
    assert 0.1 < whole["success"].mean() < 0.9
    parts = [judged(module, 4, norm, eps, x[part], y[part], ids=ids[part], **options) for part in (ids < 25, ids >= 25)]
    others = [judged(module, 4, norm, eps, x, y, batch=batch, **options) for batch in (7, 40)]
    for rows in (pd.concat(parts), *others):
        for name in ("success", "trial", "step"):
            assert rows[name].tolist() == whole[name].tolist(), name
        assert rows[norm].tolist() == pytest.approx(whole[norm].tolist(), abs=1e-5)


# --- the projection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0, 4])
@each_norm
def test_onto_a_plane_in_the_box_is_what_a_solver_says(norm: str, spread: int, share: float) -> None:
    noise = torch.Generator().manual_seed(3)
    x = ((torch.rand(6, PIXELS, generator=noise, dtype=torch.float64) - 0.2) / 0.6).clamp(0, 1)
    scale = 10 ** (-spread * torch.rand(6, PIXELS, generator=noise, dtype=torch.float64))
    slope = torch.randn(6, PIXELS, generator=noise, dtype=torch.float64) * scale
    side = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    most = torch.where(side[:, None] * slope > 0, (1 - x) * slope, -x * slope).sum(1)  # what the box lets it gain
    geometry, gap = NORMS[norm], share * most
    assert isinstance(geometry, PlaneNorm)
    moved = geometry.onto_plane(x, slope, gap)
    assert torch.allclose((moved * slope).sum(1), gap, rtol=1e-9)
    assert ((x + moved >= 0) & (x + moved <= 1 + 1e-15)).all()
    lengths = geometry.distance(x, x + moved).tolist()
    for i in range(6):
        expected = solved(x[i].numpy(), slope[i].numpy(), float(gap[i]), norm)
        if expected < np.inf:  # near the corner the solver may give up
            assert lengths[i] == pytest.approx(expected, rel=1e-5)
    if share <= 0.9:  # beside the corner a hair of the gap is a long way
        single = geometry.onto_plane(x.float(), 1e20 * slope.float(), 1e20 * gap.float())
        assert torch.allclose(single.double(), moved, atol=1e-4)


@each_norm
def test_what_cannot_be_reached_ends_in_the_corner_and_no_slope_moves_nothing(norm: str) -> None:
    geometry = NORMS[norm]
    assert isinstance(geometry, PlaneNorm)
    x, slope = (
        torch.tensor([[0.2, 0.9, 0.5]]).expand(3, 3),
        torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1.0, -2.0, 3.0]]),
    )
    moved = geometry.onto_plane(x, slope, torch.tensor([5.0, 5.0, 0.0]))
    assert torch.allclose(moved, torch.tensor([[0.8, -0.9, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("size", [1, 7, 300])
def test_a_level_fills_what_is_asked_for(size: int) -> None:
    noise = torch.Generator().manual_seed(size)
    weight = torch.rand(50, size, generator=noise, dtype=torch.float64) ** 6
    cap = torch.rand(50, size, generator=noise, dtype=torch.float64) / (weight + 1e-6)
    target = (weight * cap).sum(1) * torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    reached = level(weight, cap, target)
    assert torch.allclose((weight * cap.minimum(reached[:, None])).sum(1), target, rtol=1e-10)

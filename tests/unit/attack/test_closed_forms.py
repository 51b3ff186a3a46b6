"""Attacks against models whose robust accuracy is known exactly: linear and quadratic ones, in linf and L2."""

from functools import cache

import pytest
import torch
from torch import nn

from robench import registry
from robench.attack.judge import Examples, Settings, attack_shard
from robench.threat import ThreatModel

SHAPE, PIXELS = (1, 6, 6), 36
RATIOS = (0.5, 0.9, 0.999, 1.001, 1.1, 2.0)  # eps over the distance of the decision boundary
TOO_CLOSE = 1e-4


class Linear(nn.Module):
    """Logits w x + b, times `scale`."""

    def __init__(self, weight, bias, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(PIXELS, len(weight))
        self.layer.weight.data, self.layer.bias.data = weight, bias
        self.scale = scale

    def forward(self, x):
        return self.scale * self.layer(x.flatten(1))


class Quadratic(nn.Module):
    """Two logits: class 0 inside the sphere of the given radius round `centre`, class 1 outside."""

    def __init__(self, centre, radius):
        super().__init__()
        self.register_buffer("centre", centre)
        self.radius = radius

    def forward(self, x):
        outside = (x - self.centre).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([torch.zeros_like(outside), 20 * outside], dim=1)


def boundary(model, x, norm):
    """(label, distance of the nearest decision boundary) per image, in float64."""
    weight, bias = model.layer.weight.detach().double(), model.layer.bias.detach().double()
    logits = x.flatten(1).double() @ weight.T + bias
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None]) - logits
    slope = (weight[y][:, None] - weight[None]).norm(dim=2, p=1 if norm == "linf" else 2)
    return y, (gap / slope).masked_fill(gap == 0, torch.inf).amin(1)


@cache
def problem(classes, n=20):
    """A linear model and images in [0.4, 0.6] whose runner-up class is clearly ahead of the others.

    An ascent on the largest wrong logit or on the cross-entropy is then exact: no third class can distract it.
    """
    noise = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, PIXELS, generator=noise) * 30
    x = 0.4 + 0.2 * torch.rand(20_000, *SHAPE, generator=noise)
    model = Linear(weight, -0.5 * weight.sum(1)).eval()
    top = model(x).detach().topk(min(3, classes), dim=1).values
    clear = (top[:, 0] - top[:, 1] > 0.7) & (top[:, 0] - top[:, 1] < 3)
    if classes > 2:
        clear &= top[:, 1] - top[:, 2] > 8
    x = x[clear][:n]
    assert len(x) == n
    return model, x


def judged(model, classes, name, norm, eps, x, y, **options):
    """The rows of `name` with its options, defaults otherwise; eps is the float the arithmetic is to use."""
    attack = registry.load("attack", name).build(options)
    examples = Examples(x, y, torch.arange(len(x)))
    return attack_shard(model, classes, attack, ThreatModel.of(norm, eps), examples, Settings(batch_size=1000)).rows


def assert_exact(rows, norm, distance, eps):
    """Broken where the boundary is nearer than eps and nowhere else, but for those too close to call."""
    expected = distance < eps
    decided = (distance / eps - 1).abs() > TOO_CLOSE
    assert decided.sum() >= len(rows) - 2
    assert rows["clean_correct"].all()
    wrong = (torch.tensor(rows["success"].to_numpy()) != expected) & decided
    assert not bool(wrong.any()), f"eps/distance of the wrong verdicts: {(eps / distance[wrong]).tolist()}"
    # what was found is a proof: its perturbation reaches the boundary
    found = torch.tensor(rows["success"].to_numpy())
    size = torch.tensor(rows[norm].to_numpy())
    assert bool((size[found] > distance[found] * (1 - TOO_CLOSE)).all())


def check(name, classes, norm, ratios):
    model, x = problem(classes)
    y, distance = boundary(model, x, norm)
    assert float(distance.max()) * 2.5 < 0.4  # the box is out of reach
    ranked = distance.sort().values
    for i, ratio in enumerate(ratios):
        near = ranked[(i + 1) * len(ranked) // (len(ratios) + 1)]  # another example's distance for every ratio
        eps = float(near) * ratio
        rows = judged(model, classes, name, norm, eps, x, y)
        assert_exact(rows, norm, distance, eps)
        broken = int((distance < eps).sum())
        assert int(rows["success"].sum()) == pytest.approx(broken, abs=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "multi-targeted", "untargeted"])
def test_ten_classes(name, norm):
    check(name, 10, norm, RATIOS if name != "untargeted" else (0.999, 1.001, 2.0))  # 20 restarts take longer


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_recommended_worst_case(classes, norm):
    check("standard", classes, norm, (0.999, 1.001, 2.0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t"])
def test_auto_pgd_on_ten_classes(name, norm):
    check(name, 10, norm, (0.5, 0.999, 1.001, 2.0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("name", "classes"), [("apgd-ce", 2), ("apgd-dlr", 2), ("apgd-dlr", 3), ("apgd-t", 2), ("apgd-t", 3)]
)
def test_auto_pgd_on_few_classes(name, classes, norm):
    check(name, classes, norm, (0.999, 1.001))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("name", "classes"), [("pgd", 2), ("pgd", 3), ("multi-targeted", 2), ("multi-targeted", 3), ("untargeted", 3)]
)
def test_few_classes(name, classes, norm):
    check(name, classes, norm, (0.999, 1.001))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["multi-targeted", "apgd-t"])
def test_targets_need_no_clear_runner_up(name, norm):
    noise = torch.Generator().manual_seed(5)
    weight = torch.randn(10, PIXELS, generator=noise) * 3
    model, x = Linear(weight, -0.5 * weight.sum(1)).eval(), 0.4 + 0.2 * torch.rand(40, *SHAPE, generator=noise)
    y, distance = boundary(model, x, norm)
    eps = float(distance.median()) * 1.0005
    rows = judged(model, 10, name, norm, eps, x, y)
    assert_exact(rows, norm, distance, eps)


@pytest.mark.parametrize("ratio", RATIOS)
def test_fgsm_is_exact_on_two_classes(ratio):
    model, x = problem(2)
    y, distance = boundary(model, x, "linf")
    for near in distance.sort().values[[5, 12, 18]]:
        eps = float(near) * ratio
        rows = judged(model, 2, "fgsm", "linf", eps, x, y)
        assert_exact(rows, "linf", distance, eps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "multi-targeted", "apgd-ce"])
def test_quadratic(name, norm):
    noise = torch.Generator().manual_seed(2)
    offset = torch.rand(30, *SHAPE, generator=noise) * 0.05 + 0.05
    offset *= torch.where(torch.rand(offset.shape, generator=noise) < 0.5, -1, 1)
    centre, radius = torch.full(SHAPE, 0.5), 0.6
    model, x = Quadratic(centre, radius).eval(), centre + offset
    size = (x - centre).double().flatten(1)
    if norm == "l2":
        distance = radius - size.norm(dim=1)
    else:  # the corner furthest from the centre: sum (|o_i| + eps)^2 = radius^2
        total, count = size.abs().sum(1), PIXELS
        distance = (-total + (total**2 - count * (size.square().sum(1) - radius**2)).sqrt()) / count
    y = torch.zeros(len(x), dtype=torch.int64)
    for ratio in (0.9, 0.999, 1.001, 1.1):
        eps = float(distance.median()) * ratio
        assert norm == "l2" or eps < float(size.abs().min())  # a random start keeps the signs
        rows = judged(model, 2, name, norm, eps, x, y)
        assert_exact(rows, norm, distance, eps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["multi-targeted", "untargeted"])
@pytest.mark.parametrize("scale", [1e-20, 1e6, 1e25])
def test_the_scale_of_the_logits_hides_nothing(name, norm, scale):
    # the decision, and so the robust accuracy, does not change with a factor on the logits
    model, x = problem(3)
    y, distance = boundary(model, x, norm)
    scaled = Linear(model.layer.weight.data, model.layer.bias.data, scale).eval()
    eps = float(distance.max()) * 1.5
    rows = judged(scaled, 3, name, norm, eps, x, y, steps=30, restarts=1)
    assert rows["success"].all()


def test_the_box_protects_where_it_is_active():
    # at x = 1 the only pixel that matters cannot grow, so no eps breaks the example
    weight = torch.zeros(2, PIXELS)
    weight[1, 0] = 10.0
    model = Linear(weight, torch.tensor([10.5, 0.0])).eval()
    x = torch.full((1, *SHAPE), 1.0)
    for norm in ("linf", "l2"):
        rows = judged(model, 2, "pgd", norm, 0.5, x, torch.tensor([0]))
        assert not rows["success"].any()
    rows = judged(model, 2, "pgd", "linf", 0.5, x, torch.tensor([1]))
    assert not rows["clean_correct"].any()

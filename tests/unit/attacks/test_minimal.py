"""Minimal-norm FGSM and PGD: closed forms on a linear model, a written-out line search, limits and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench import Attack, BadInput, Batch, ThreatModel, randomness, registry
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.figures.curves import standing
from robench_attacks.minimal import CHUNK

SIDE, SEED, COUNT = 4, 3, 12
WHOLE = ThreatModel.of("linf", 1)
BOTH = pytest.mark.parametrize("name", ["min-fgsm", "min-pgd"])


class Linear(nn.Module):
    """Logits w x + b of two classes; counts the images that went through it, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(2, SIDE * SIDE, generator=torch.Generator().manual_seed(2))
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(-0.5 * weight.sum(1))
        self.seen = [0, 0]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += len(x)
        if x.requires_grad:
            x.register_hook(self.count)
        return x.flatten(1) @ self.weight.T + self.bias

    def count(self, grad: Tensor) -> None:
        self.seen[1] += len(grad)


def problem() -> tuple[Linear, Tensor, Tensor]:
    """Images near grey, at many distances from the boundary, the box out of reach; their labels are right."""
    model, noise = Linear(), torch.Generator().manual_seed(4)
    x = 0.3 + 0.4 * torch.rand(400, 1, SIDE, SIDE, generator=noise)
    x = x[(nearest(model, x) < 0.25).nonzero()[:COUNT, 0]]
    return model, x, model(x).argmax(1)


def slope(model: Linear) -> np.ndarray:
    return (model.weight[1] - model.weight[0]).detach().double().numpy()


def gap(model: Linear, x: Tensor) -> np.ndarray:
    """f_1 - f_0 per image."""
    return x.flatten(1).double().numpy() @ slope(model) + float((model.bias[1] - model.bias[0]).detach())


def nearest(model: Linear, x: Tensor) -> Tensor:
    """Linf distance to the boundary: |margin| / ||w||_1."""
    return torch.from_numpy(np.abs(gap(model, x)) / np.abs(slope(model)).sum())


def built(name: str, **options: Any) -> Attack:
    attack = registry.load("attack", name).build(options)
    assert isinstance(attack, Attack)
    return attack


def batch_of(x: Tensor, y: Tensor, threat: ThreatModel) -> Batch:
    rows = torch.arange(len(x))
    return Batch(x, y, torch.full_like(y, -1), 50 + rows, 0 * rows, rows, threat, SEED)


def perturb(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel = WHOLE) -> Tensor:
    """Linf distances of what the attack proposes, [B]."""
    classifier = Classifier(model, 2, len(x))
    images = attack.perturb(classifier.rows(torch.arange(len(x))), batch_of(x, y, threat))
    assert isinstance(images, Tensor)
    return threat.distance(x, images)


def judged(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, eps: float = 1.0) -> Any:
    threat = ThreatModel.of("linf", eps)
    return attack_shard(model, 2, attack, threat, Examples(x, y, 50 + torch.arange(len(x))), Settings(seed=SEED)).rows


@pytest.mark.parametrize("line", [1000, 100])
def test_fgsm_stops_at_the_first_size_past_the_boundary(line: int) -> None:
    model, x, y = problem()
    exact, found = nearest(model, x), perturb(built("min-fgsm", line=line), model, x, y)
    coarse = (exact * line).ceil() / line
    early = exact * line < 20  # refined: 20 sizes up to the hit
    assert early.sum() > 0
    assert early.sum() < COUNT or line == 100
    expected = torch.where(early, (exact / coarse * 20).ceil() / 20 * coarse, coarse)
    assert torch.allclose(found, expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("reach", [4 / 3, 2.5])
@pytest.mark.parametrize("first", [0.3, 0.01])
def test_pgd_ends_at_the_smallest_ball_its_steps_can_cross(reach: float, first: float) -> None:
    """From noise u in [-1, 1], in radii and towards the boundary, a pixel gets to min(u + reach, 1): a gain of its
    weight each. Steps of twice a radius forget where they began, and the distance is |margin| / ||w||_1."""
    model, x, y = problem()
    ids = list(range(50, 50 + COUNT))
    noise = 2 * randomness.uniform(SEED, ids, [0] * COUNT, "start", (SIDE * SIDE,)).double().numpy() - 1
    towards = -np.sign(gap(model, x))[:, None] * slope(model)
    gain = (np.abs(towards) * np.minimum(np.sign(towards) * noise + reach, 1)).sum(1)
    exact = torch.from_numpy(np.abs(gap(model, x)) / gain)
    assert torch.allclose(exact, nearest(model, x)) == (reach > 2)
    found = perturb(built("min-pgd", reach=reach, first=first), model, x, y)
    assert bool((found - exact > -1e-6).all())
    assert bool((found - exact < 1e-5).all()), found - exact


def test_without_bisections_pgd_keeps_the_first_ball() -> None:
    model, x, y = problem()
    found = perturb(built("min-pgd", first=0.01, growth=2.0, bisections=0, reach=2.5), model, x, y)
    balls = 0.01 * 2.0 ** torch.ceil(torch.log2(nearest(model, x) / 0.01)).clamp(min=0)
    assert bool((found <= balls + 1e-6).all())
    assert bool((found > balls / 4).all())
    exact = perturb(built("min-pgd", first=0.01, growth=2.0, reach=2.5), model, x, y)
    assert bool((exact <= found + 1e-7).all())
    assert bool((exact < 0.9 * found).any())


@BOTH
def test_one_run_gives_the_accuracy_at_every_eps(name: str) -> None:
    model, x, y = problem()
    attack = built(name, **({"reach": 2.5, "bisections": 12} if name == "min-pgd" else {}))
    whole, ends = judged(attack, model, x, y), nearest(model, x).sort().values
    wide = ends.diff().topk(4).indices  # wider than the sizes of a line lie apart
    for eps in ((ends[wide] + ends[wide + 1]) / 2).tolist():
        expected = (nearest(model, x) > eps).numpy()
        assert standing(whole, "linf", eps).tolist() == expected.tolist()
        for other in (attack, built("fgsm")):
            assert (~judged(other, model, x, y, eps)["success"]).tolist() == expected.tolist()
        assert 0 < expected.sum() < COUNT
    assert float(ends.diff()[wide].min()) > 0.002
    assert not standing(whole, "linf", 1.0).any()


@BOTH
def test_where_nothing_succeeds_all_of_eps_is_used(name: str) -> None:
    model, x, y = problem()
    found = perturb(built(name), model, x, y, ThreatModel.of("linf", "0.001"))
    assert found.tolist() == pytest.approx([0.001] * COUNT, abs=1e-7)
    assert bool((perturb(built(name), model, x, y, ThreatModel.of("linf", 0)) == 0).all())


class Wavy(nn.Module):
    """A model whose boundary a line crosses more than once."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(8)
            self.inner, self.outer = nn.Linear(SIDE * SIDE, 8), nn.Linear(8, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.outer(torch.sin(4 * self.inner(x.flatten(1))))
        return logits


def test_fgsm_equals_a_loop_over_sizes() -> None:
    model, x = Wavy(), torch.rand(20, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    y = model(x).argmax(1)
    found, exact, again = perturb(built("min-fgsm"), model, x, y), Wavy().double(), 0
    for image, label, distance in zip(x.double(), y, found.tolist(), strict=True):
        pixels = image.clone().requires_grad_(True)
        nn.functional.cross_entropy(exact(pixels[None]), label[None]).backward()
        sign = pixels.grad.sign()
        hits = [bool(exact((image + k / 1000 * sign).clamp(0, 1)[None]).argmax() != label) for k in range(1, 1001)]
        first = hits.index(True) if True in hits else 999
        size = (first + 1) / 1000
        reached = float(((image + size * sign).clamp(0, 1) - image).abs().max())
        assert distance == pytest.approx(reached, abs=1e-6) or (first < 20 and distance < size)
        again += not all(hits[first:])
    assert again > 3


@BOTH
@pytest.mark.parametrize("eps", ["0.05", "1"])
def test_every_pass_of_every_image_is_counted(name: str, eps: str) -> None:
    """As many as the module sees when an image is alone, whatever batch it is in."""
    _, x, y = problem()
    attack = built(name, **({"bisections": 8} if name == "min-pgd" else {}))
    classifier, whole = Classifier(Linear(), 2, COUNT), batch_of(x, y, ThreatModel.of("linf", eps))
    attack.perturb(classifier.rows(torch.arange(COUNT)), whole)
    counts = torch.stack([classifier.forwards, classifier.backwards], dim=1)
    for i in range(0, COUNT, 4):
        alone, one = Linear(), torch.tensor([i])
        parts = (t[one] for t in (whole.x, whole.y, whole.goal, whole.example_id, whole.trial, whole.group))
        attack.perturb(Classifier(alone, 2, 1).rows(0 * one), Batch(*parts, whole.threat, SEED))
        assert alone.seen == counts[i].tolist()
    assert len(counts[:, 0].unique()) > (2 if eps == "1" else 1)
    if name == "min-fgsm":
        assert (classifier.backwards == 1).all()
        steps = (nearest(Linear(), x) * 1000).ceil()
        plain = (steps > 20) & (steps <= 1000 * float(eps))
        assert plain.any()
        assert torch.equal(classifier.forwards[plain], (1 + CHUNK * (steps / CHUNK).ceil())[plain].long())
    else:
        assert int(classifier.backwards.max()) <= 40 * (4 + 8)


@BOTH
@pytest.mark.parametrize("kind", ["randomised", "crafting"])
def test_what_has_no_boundary_of_its_own_is_attacked_at_eps(name: str, kind: str) -> None:
    model, x, y = problem()
    classifier = Classifier(model, 2, COUNT)
    setattr(classifier, kind, True)
    threat = ThreatModel.of("linf", "0.25")
    images = built(name).perturb(classifier.rows(torch.arange(COUNT)), batch_of(x, y, threat))
    assert isinstance(images, Tensor)
    assert threat.distance(x, images).tolist() == pytest.approx([0.25] * COUNT, abs=1e-6)
    assert (classifier.backwards == (1 if name == "min-fgsm" else 40)).all()
    assert torch.equal(classifier.forwards, classifier.backwards)


@BOTH
def test_an_answer_that_is_not_a_number_is_a_find(name: str) -> None:
    _, x, y = problem()

    class Breaks(Linear):
        def forward(self, z: Tensor) -> Tensor:
            far = (z - x[:1]).flatten(1).abs().amax(1, keepdim=True) > 0.1
            return torch.where(far, torch.nan, super().forward(z) + 8 * nn.functional.one_hot(y[:1], 2))

    attack = built(name, **({"first": 0.05} if name == "min-pgd" else {}))
    rows = judged(attack, Breaks(), x[:1], y[:1])
    assert rows["success"].all()
    assert rows["flags"].tolist() == ["non-finite"]
    assert rows["linf"][0] == pytest.approx(0.1, abs=1.1e-3)


@BOTH
def test_a_gradient_that_is_zero_is_flagged(name: str) -> None:
    model, x, y = problem()
    assert (judged(built(name), model, x, y, 0.2)["flags"] == "").all()
    model.weight.data.zero_()
    model.bias.data = torch.tensor([2.0, 0.0])
    rows = judged(built(name), model, x, torch.zeros_like(y), 0.2)
    assert (rows["flags"] == "zero-gradient").all()
    assert not rows["success"].any()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("min-fgsm", {"line": 0}), ("min-pgd", {"steps": 0}), ("min-pgd", {"bisections": -1}), ("min-pgd", {"reach": 0.0}),
     ("min-pgd", {"first": 0.0}), ("min-pgd", {"first": 1.5}), ("min-pgd", {"growth": 1.0})],
)  # fmt: skip
def test_bad_options_are_refused(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        built(name, **wrong)

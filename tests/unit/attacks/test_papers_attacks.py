"""Attacks of the papers' transfer and minimal-norm protocols, against closed forms and loops in float64."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench import Attack, BadInput, Batch, Proposal, ThreatModel, randomness, registry
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.attack.objectives import targeted_cross_entropy
from robench_attacks.pgd import step_length
from robench_attacks.random_class import iterations

SIDE, SEED = 4, 3
WIDE = ThreatModel.of("l2", 4)


class Linear(nn.Module):
    """Logits w x + b; counts the images that went through it, forwards and backwards, per bucket of the last pixel."""

    def __init__(self, weight: Tensor, bias: Tensor, buckets: int = 1) -> None:
        super().__init__()
        self.weight, self.bias, self.buckets = nn.Parameter(weight), nn.Parameter(bias), buckets
        self.forwards, self.backwards = torch.zeros(buckets).long(), torch.zeros(buckets).long()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        who = (x.detach()[:, -1, -1, -1] * self.buckets).long().clamp(max=self.buckets - 1)
        self.forwards.index_add_(0, who, torch.ones_like(who))
        if x.requires_grad:
            x.register_hook(lambda grad: self.count(who))
        return x.flatten(1) @ self.weight.T + self.bias

    def count(self, who: Tensor) -> None:
        self.backwards.index_add_(0, who, torch.ones_like(who))


@cache
def problem(classes: int, count: int = 12) -> tuple[Linear, Tensor, Tensor]:
    """A linear model, images near grey with one boundary near enough and the others well behind it, and their labels.

    The nearest class also has the second highest logit, so that no other distracts an attack on the largest wrong one.
    The last pixel does nothing but say which image it is.
    """
    noise = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, SIDE * SIDE, generator=noise)
    weight[:, -1] = 0
    x = 0.2 + 0.6 * torch.rand(20_000, 1, SIDE, SIDE, generator=noise)
    model = Linear(weight, -0.5 * weight.sum(1), count)
    y = model(x).detach().argmax(1)
    far = distances(model, x, y).topk(min(2, classes - 1), largest=False)
    second = model(x).topk(2).indices[:, 1]
    clear = (far.values[:, 0] > 0.08) & (far.values[:, 0] < 0.25) & (far.indices[:, 0] == second)
    if classes > 2:
        clear &= far.values[:, 1] > 1.5 * far.values[:, 0] + 0.1
    keep = clear.nonzero()[:count, 0]
    assert len(keep) == count
    x, y = x[keep], y[keep]
    x[:, 0, -1, -1] = (torch.arange(count) + 0.5) / count
    return model, x, y


def distances(model: Linear, x: Tensor, y: Tensor, kappa: float = 0.0) -> Tensor:
    """L2 distance of the nearest point that every class leads by kappa, [B, classes] in float64."""
    weight, bias, flat = float64(model, x)
    logits, label = flat @ weight.T + bias, y.numpy()
    own = np.take_along_axis(logits, label[:, None], 1)
    slope = np.linalg.norm(weight[label][:, None] - weight[None], axis=2)
    slope[np.arange(len(label)), label] = 1e-30
    return torch.from_numpy((own - logits + max(kappa, 1e-20)) / slope)


def nearest(model: Linear, x: Tensor, y: Tensor, kappa: float = 0.0) -> Tensor:
    """The least of them, [B]."""
    return distances(model, x, y, kappa).amin(1)


def built(name: str, **options: Any) -> Attack:
    attack = registry.load("attack", name).build(options)
    assert isinstance(attack, Attack)
    return attack


def perturb(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Proposal, Classifier]:
    """What the attack proposes in its first trial, and the classifier that counted."""
    ids, rows = torch.arange(50, 50 + len(x)), torch.arange(len(x))
    classifier = Classifier(model, int(model(x).shape[1]), len(x))
    plan = attack.trials(y, classifier.logits(x), ids, SEED)
    batch = Batch(x, y, plan.goal[:, 0], ids, plan.key[:, 0], rows, threat, SEED)
    answer = attack.perturb(classifier.rows(rows), batch)
    return (answer if isinstance(answer, Proposal) else Proposal(answer, torch.full_like(y, -1))), classifier


def judged(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Any:
    classes = int(model(x[:1]).shape[1])
    return attack_shard(model, classes, attack, threat, Examples(x, y, torch.arange(len(x))), Settings(seed=SEED)).rows


def float64(model: Linear, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, biases and flat images in float64."""
    arrays = (model.weight, model.bias, x.flatten(1))
    weight, bias, flat = (t.detach().double().numpy() for t in arrays)
    return weight, bias, flat


# --- step-rand, iter-rand, pgd-rand ----------------------------------------------------------------------------------


def test_targeted_cross_entropy_by_hand() -> None:
    logits, goal = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.5]]), torch.tensor([0, 1])
    expected = logits.double().softmax(1).gather(1, goal[:, None]).log()[:, 0]
    assert torch.allclose(targeted_cross_entropy(logits, goal).double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("eps", "count"),
    [("8/255", 10), ("4/255", 5), ("2/255", 3), ("16/255", 20), ("32/255", 36), ("0.1", 30), ("0.3", 81), ("0", 1)],
)
def test_iterations_of_kurakin(eps: str, count: int) -> None:
    assert iterations(Fraction(eps)) == count
    model, x, y = problem(5)
    rows = judged(built("iter-rand", success="last"), model, x, y, ThreatModel.of("linf", eps))
    assert (rows["backwards"] == count).all()


def by_hand(name: str, model: Linear, x: Tensor, goal: Tensor, eps: Fraction) -> np.ndarray:
    """The attack as a loop over images and steps, in float64."""
    weight, bias, flat = float64(model, x)
    radius = float(eps)
    step, steps = {"step-rand": (radius, 1), "iter-rand": (1 / 255, iterations(eps)), "pgd-rand": (radius / 4, 20)}[
        name
    ]
    ids = list(range(50, 50 + len(x)))
    noise = randomness.uniform(SEED, ids, [0] * len(x), "start", (1, SIDE, SIDE)).flatten(1).double().numpy()
    images = []
    for i, origin in enumerate(flat):
        image = origin.copy()
        if name == "pgd-rand":
            image = np.clip(origin + radius * (2 * noise[i] - 1), 0, 1)
        for _ in range(steps):
            scores = np.exp(weight @ image + bias)
            probability = scores / scores.sum()
            probability[goal[i]] -= 1  # the gradient of the goal's cross-entropy by the logits
            image = image - step * np.sign(weight.T @ probability)
            image = np.clip(np.clip(image, origin - radius, origin + radius), 0, 1)
        images.append(image)
    return np.array(images)


@pytest.mark.parametrize("eps", ["8/255", "0.6"])
@pytest.mark.parametrize("name", ["step-rand", "iter-rand", "pgd-rand"])
def test_random_class_attacks_equal_a_loop(name: str, eps: str) -> None:
    model, x, y = problem(5)
    threat = ThreatModel.of("linf", eps)
    attack = built(name, success="last")
    goal = attack.trials(y, model(x), torch.arange(50, 62), SEED).goal[:, 0]
    proposal, _ = perturb(attack, model, x, y, threat)
    expected = by_hand(name, model, x, goal, threat.eps)
    assert np.abs(proposal.x.flatten(1).numpy() - expected).max() < 1e-5
    assert np.abs(expected - x.flatten(1).numpy()).max() > 0.9 * float(threat.eps)  # it went as far as it may


@pytest.mark.parametrize("name", ["step-rand", "iter-rand", "pgd-rand"])
def test_goals_are_those_of_random_targeted(name: str) -> None:
    model, x, y = problem(5)
    ids = torch.arange(len(x))
    mine = built(name).trials(y, model(x), ids, 7).goal
    assert torch.equal(mine, built("random-targeted").trials(y, model(x), ids, 7).goal)
    assert len(mine.unique()) > 2
    assert not torch.equal(mine, built(name).trials(y, model(x), ids, 8).goal)


def test_any_wrong_class_counts() -> None:
    """Class 1 lies on the way to class 2, which is out of reach."""
    weight = torch.zeros(3, SIDE * SIDE)
    weight[1, 0], weight[2, 0] = 10.0, 10.0
    model = Linear(weight, torch.tensor([6.0, 0.0, -3.0]))
    x, y = torch.full((40, 1, SIDE, SIDE), 0.5), torch.zeros(40, dtype=torch.int64)
    rows = judged(built("iter-rand"), model, x, y, ThreatModel.of("linf", "0.2"))
    assert rows["success"].all()
    assert set(rows["adv_pred"]) == {1}


@pytest.mark.parametrize("name", ["step-rand", "iter-rand", "pgd-rand"])
def test_random_class_is_exact_on_two_classes(name: str) -> None:
    model, x, y = problem(2)
    weight, bias, flat = float64(model, x)
    distance = np.abs(flat @ (weight[1] - weight[0]) + bias[1] - bias[0]) / np.abs(weight[1] - weight[0]).sum()
    eps = float(np.sort(distance)[5]) * 1.01
    rows = judged(built(name), model, x, y, ThreatModel.of("linf", eps))
    assert (rows["success"] == (distance < eps)).all()
    assert 0 < rows["success"].sum() < len(rows)
    peer = judged(built("fgsm"), model, x, y, ThreatModel.of("linf", eps))
    assert (rows["success"] == peer["success"]).all()


@pytest.mark.parametrize(("step", "length"), [("eps", 0.2), ("eps/4", 0.05), ("2/255", 2 / 255), ("0.01", 0.01)])
def test_step_lengths(step: str, length: float) -> None:
    assert step_length(step, 0.2) == pytest.approx(length)


@pytest.mark.parametrize("step", ["", "epsilon", "eps/0", "eps.5", "eps/", "-0.1", "0", "1/0", "x"])
@pytest.mark.parametrize("name", ["pgd", "pgd-rand"])
def test_bad_step_lengths_are_refused(name: str, step: str) -> None:
    with pytest.raises(BadInput, match="step"):
        built(name, step=step)


# --- r-fgsm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_r_fgsm_is_exact_on_two_classes(share: float) -> None:
    """The random step gains a <s, w>, the gradient's step (eps - a) ||w||_1."""
    model, x, y = problem(2)
    weight, bias, flat = float64(model, x)
    direction = np.where(y.numpy()[:, None] == 0, weight[1] - weight[0], weight[0] - weight[1])
    gap = np.abs(flat @ (weight[1] - weight[0]) + bias[1] - bias[0])
    noise = randomness.gaussian(SEED, range(len(x)), [0] * len(x), "corner", (1, SIDE, SIDE))  # type: ignore[arg-type]
    corner = np.sign(noise.flatten(1).double().numpy())
    gain = share * (corner * direction).sum(1) + (1 - share) * np.abs(direction).sum(1)  # per unit of eps
    eps = float(np.sort(gap / gain)[len(x) // 2]) * 1.001
    assert eps < 0.3  # the box is out of reach
    rows = judged(built("r-fgsm", share=share), model, x, y, ThreatModel.of("linf", eps))
    assert (rows["success"] == (gap < eps * gain)).all()
    assert 0 < rows["success"].sum() < len(rows)
    assert (rows["forwards"] == 1).all()
    assert (rows["backwards"] == 1).all()
    peer = judged(built("fgsm"), model, x, y, ThreatModel.of("linf", eps))
    assert peer["success"].sum() >= rows["success"].sum()
    assert share > 0 or (rows["success"] == peer["success"]).all()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_shares_are_refused(share: float) -> None:
    with pytest.raises(BadInput, match="share"):
        built("r-fgsm", share=share)


# --- cw --------------------------------------------------------------------------------------------------------------

STEPS, SEARCH = 100, 5
QUICK = {"steps": STEPS, "search_steps": SEARCH, "initial_c": 0.05}


@pytest.mark.parametrize("kappa", [0.0, 0.5])
@pytest.mark.parametrize("classes", [2, 5])
def test_cw_finds_the_nearest_example_of_a_linear_model(classes: int, kappa: float) -> None:
    model, x, y = problem(classes)
    proposal, _ = perturb(built("cw", kappa=kappa, **QUICK), model, x, y, WIDE)
    distance = WIDE.distance(x, proposal.x)
    ratio = distance / nearest(model, x, y, kappa)
    assert bool((ratio > 1 - 1e-4).all())
    assert bool((ratio < 1.02).all()), ratio
    logits = model(proposal.x).detach()
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]
    assert bool((margin >= kappa).all())
    assert bool((margin > 0).all())
    assert bool((proposal.step >= 0).all())


def test_cw_under_an_epsilon() -> None:
    model, x, y = problem(5)
    distance = nearest(model, x, y)
    eps = float(distance.sort().values[6:8].mean())
    rows = judged(built("cw", **QUICK), model, x, y, ThreatModel.of("l2", eps))
    assert (rows["success"] == (distance < eps).numpy()).all()
    found = rows["success"].to_numpy()
    assert rows["l2"][found].tolist() == pytest.approx(distance[torch.tensor(found)].tolist(), rel=0.02)
    # with a margin to spare, fewer are near enough
    sure = nearest(model, x, y, kappa=0.2)
    shard = judged(built("cw", kappa=0.2, **QUICK), model, x, y, ThreatModel.of("l2", eps))
    assert shard["success"][(sure < eps / 1.02).numpy()].all()
    assert (shard["l2"] <= eps + 1e-6).all()


def reference(model: Linear, x: Tensor, y: Tensor, steps: int, search_steps: int) -> list[float]:
    """The distances found by the paper's algorithm, image by image, in numpy's float64, with gradients by hand."""
    weight, bias, flat = float64(model, x)
    found = []
    for origin, label in zip(flat, y.tolist(), strict=True):
        low, high, c, best = 0.0, math.inf, 0.05, math.inf
        for _ in range(search_steps):
            w, first, second, success = np.arctanh((2 * origin - 1) * 0.999999), 0.0, 0.0, False
            for t in range(1, steps + 1):
                image = (np.tanh(w) + 1) / 2
                logits = weight @ image + bias
                other = np.argmax(np.where(np.arange(len(bias)) == label, -np.inf, logits))
                size, hinge = np.linalg.norm(image - origin), logits[label] - logits[other]
                if hinge < 0:
                    success, best = True, min(best, float(size))
                slope = 2 * (image - origin) + c * (weight[label] - weight[other]) * (hinge >= 0)
                slope = slope * (1 - np.tanh(w) ** 2) / 2
                first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
                w = w - 0.01 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-9)
            low, high = (low, c) if success else (c, high)
            c = (low + high) / 2 if high < math.inf else 10 * c
        found.append(best)
    return found


def test_cw_equals_the_algorithm_written_out() -> None:
    model, x, y = (problem(5)[0], *(t[:5] for t in problem(5)[1:]))
    attack = built("cw", steps=50, search_steps=4, initial_c=0.05, abort_early=False)
    proposal, _ = perturb(attack, model, x, y, WIDE)
    assert WIDE.distance(x, proposal.x).tolist() == pytest.approx(reference(model, x, y, 50, 4), rel=1e-3)


def test_cw_is_the_same_in_every_batch() -> None:
    model, x, y = problem(5)
    together, _ = perturb(built("cw", **QUICK), model, x, y, WIDE)
    for i in (0, 7):
        alone, _ = perturb(built("cw", **QUICK), model, x[i : i + 1], y[i : i + 1], WIDE)
        assert torch.allclose(alone.x, together.x[i : i + 1], atol=1e-3)


@pytest.mark.parametrize("abort_early", [True, False])
def test_cw_counts_every_pass_of_every_image(abort_early: bool) -> None:
    _, x, y = problem(5)
    model = Linear(problem(5)[0].weight.data, problem(5)[0].bias.data, len(x))
    attack = built("cw", abort_early=abort_early, **QUICK)
    classifier = Classifier(model, 5, len(x))
    rows = torch.arange(len(x))
    attack.perturb(classifier.rows(rows), Batch(x, y, torch.full_like(y, -1), rows, 0 * rows, rows, WIDE, SEED))
    assert torch.equal(classifier.forwards, model.forwards)
    assert torch.equal(classifier.backwards, model.backwards)
    if abort_early:
        assert len(classifier.forwards.unique()) > 1
        assert int(classifier.forwards.max()) < STEPS * SEARCH
    else:
        assert (classifier.forwards == STEPS * SEARCH).all()


def test_cw_flags_a_gradient_that_is_zero() -> None:
    model = Linear(torch.zeros(3, SIDE * SIDE), torch.tensor([2.0, 0.0, 0.0]))
    x, y = problem(5)[1], torch.zeros(12, dtype=torch.int64)
    rows = judged(built("cw", steps=5, search_steps=2), model, x, y, ThreatModel.of("l2", 1))
    assert not rows["success"].any()
    assert (rows["flags"] == "zero-gradient").all()
    honest, x, y = problem(5)
    assert (judged(built("cw", steps=5, search_steps=2), honest, x, y, WIDE)["flags"] == "").all()


def test_cw_survives_what_is_not_a_number() -> None:
    class Breaks(Linear):
        def forward(self, x: Tensor) -> Tensor:
            far = (x - problem(5)[1][0]).flatten(1).norm(dim=1, keepdim=True) > 0.2
            return torch.where(far, torch.nan, super().forward(x))

    source, x, y = problem(5)
    model = Breaks(source.weight.data, source.bias.data + 50 * nn.functional.one_hot(y[0], 5))
    rows = judged(built("cw", **QUICK), model, x[:1], y[:1], WIDE)
    assert rows["success"].all()
    assert rows["adv_pred"].tolist() == [-1]
    assert rows["flags"].tolist() == ["non-finite"]
    assert 0.2 < rows["l2"][0] < 0.25


def test_cw_takes_no_lucky_draw_of_a_random_model() -> None:
    model, x, y = problem(5)
    attack = built("cw", **QUICK)
    classifier = Classifier(model, 5, len(x))
    classifier.randomised = True
    rows = torch.arange(len(x))
    batch = Batch(x, y, torch.full_like(y, -1), rows, 0 * rows, rows, WIDE, SEED)
    proposal = attack.perturb(classifier.rows(rows), batch)
    assert isinstance(proposal, Proposal)
    assert set((proposal.step % STEPS).tolist()) == {STEPS - 1}
    assert (classifier.forwards == STEPS * SEARCH).all()


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"search_steps": 0}, {"lr": 0}, {"lr": -1}, {"initial_c": 0}, {"initial_c": 1e11}, {"kappa": -1}],
)
def test_cw_refuses_bad_options(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        built("cw", **wrong)

"""Adversarial training: the examples it trains on, and the three losses against float64 arithmetic of their own."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from robench import BadInput, Batch, ThreatModel, TrainingPGD, perturbed
from robench.attack.classifier import Classifier
from robench.data.dataset import DataInfo
from robench_attacks.pgd import PGD
from robench_defenses.adversarial import Inner, Madry, step_length
from robench_defenses.llr import LLR
from robench_defenses.trades import Trades, answer_divergence

DIGITS = DataInfo("digits", 1, 8, 8, 10, (0.4,), (0.3,), "digits")
MNIST = DataInfo("mnist", 1, 28, 28, 10, (0.4,), (0.3,), "mnist")
LINF = ThreatModel.of("linf", "0.1")


def batch(info=DIGITS, count=12, dtype=torch.float32):
    noise = torch.Generator().manual_seed(3)
    x = torch.rand(count, *info.shape, generator=noise).to(dtype)
    return x, torch.randint(info.classes, (count,), generator=noise)


def built(base, info=DIGITS, **options):
    torch.manual_seed(0)
    return base(info, **{"eps": "0.1", "steps": 4, **options})


def scaled(defense, by=4.0):
    """Logits large enough for the divergence to be worth measuring."""
    with torch.no_grad():
        defense.head.weight *= by
    return defense


def losses(module, x, y):
    with torch.no_grad():
        return functional.cross_entropy(module(x), y, reduction="none")


# --- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rule", ["steepest", "adam"])
def test_examples_stay_in_the_ball_and_beat_their_starts(norm, rule):
    threat, (x, y), module = ThreatModel.of(norm, "0.1" if norm == "linf" else "0.8"), batch(), built(Madry)
    torch.manual_seed(1)
    start = perturbed(module, x, y, threat, TrainingPGD(steps=1, size=0.0), 10)
    torch.manual_seed(1)
    end = perturbed(module, x, y, threat, TrainingPGD(steps=5, size=0.02 if rule == "steepest" else 0.1, rule=rule), 10)
    assert threat.contains(x, start).all()
    assert threat.contains(x, end).all()
    assert not end.requires_grad
    assert (losses(module, end, y) > losses(module, start, y)).all()


@pytest.mark.parametrize("random_start", [True, False])
def test_examples_are_those_of_the_attack(random_start):
    """The evaluation's PGD from the same starts proposes the same images, bit for bit."""
    (x, y), module = batch(), built(Madry).train()
    torch.manual_seed(7)
    seed = int(torch.randint(2**62, ()))
    rows = torch.arange(len(x))
    attack = PGD(steps=6, step="0.03", random_start=random_start, success="last")
    classifier = Classifier(module.eval(), 10, len(x))
    given = Batch(x, y, torch.full_like(y, -1), rows, torch.zeros_like(rows), rows, LINF, seed)
    expected = attack.perturb(classifier.rows(rows), given).x
    classifier.release()
    torch.manual_seed(7)
    training = TrainingPGD(steps=6, size=0.03, random_start=random_start)
    assert torch.equal(perturbed(module.train(), x, y, LINF, training, 10), expected)
    torch.manual_seed(8)
    assert torch.equal(perturbed(module, x, y, LINF, training, 10), expected) != random_start


class Counting(nn.Module):
    """A linear model that counts the images it answers and those whose pixels get a gradient."""

    def __init__(self):
        super().__init__()
        self.linear, self.forwards, self.backwards = nn.Linear(64, 10), 0, 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self.count)
        return self.linear(x.flatten(1))

    def count(self, grad):
        self.backwards += len(grad)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_step_costs_one_forward_and_one_backward(steps):
    (x, y), module = batch(), Counting()
    perturbed(module, x, y, LINF, TrainingPGD(steps=steps, size=0.03), 10)
    assert (module.forwards, module.backwards) == (12 * steps, 12 * steps)


def test_the_module_comes_back_as_it_was():
    """Modes and trainability part by part, statistics and gradients untouched; the model was in eval mode inside."""
    norm, head = nn.BatchNorm2d(1), nn.Linear(64, 10)
    module = nn.Sequential(norm, nn.Dropout(0.5), nn.Flatten(), head).train()
    norm.eval()
    head.bias.requires_grad_(False)
    mean = norm.running_mean.clone()
    seen = []

    def objective(logits, y):
        seen.append([part.training for part in module.modules()])
        seen.append([p.requires_grad for p in module.parameters()])
        return functional.cross_entropy(logits, y, reduction="none")

    perturbed(module, *batch(), LINF, TrainingPGD(steps=2, size=0.03, objective=objective), 10)
    assert seen == [[False] * 5, [False] * 4] * 2
    assert [part.training for part in module.modules()] == [True, False, True, True, True]
    assert [p.requires_grad for p in module.parameters()] == [True, True, True, False]
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(norm.running_mean, mean)


def test_the_module_comes_back_after_an_error():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def fail(logits, y):
        assert not module.training
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        perturbed(module, *batch(), LINF, TrainingPGD(steps=1, size=0.1, objective=fail), 10)
    assert module[1].training
    assert module[1].weight.requires_grad


def test_a_start_near_the_image():
    x = torch.full((200, 1, 8, 8), 0.5)
    near = TrainingPGD(steps=1, size=0.0, noise=0.01)
    offset = perturbed(Counting(), x, torch.zeros(200, dtype=torch.int64), LINF, near, 10) - x
    assert float(offset.std()) == pytest.approx(0.01, rel=0.02)
    wide = TrainingPGD(steps=1, size=0.0, noise=10.0)
    offset = perturbed(Counting(), x, torch.zeros(200, dtype=torch.int64), LINF, wide, 10) - x
    assert float(offset.abs().max()) == pytest.approx(0.1)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": "0"}, "eps is '0', but must be above 0"),
        ({"eps": "1.5"}, "at most 1"),
        ({"eps": "-0.1"}, "negative"),
        ({"eps": "nan"}, "eps is 'nan'"),
        ({"steps": 0}, "steps is 0"),
        ({"step": "far"}, "step is 'far'"),
        ({"step": "0"}, "step is '0'"),
        ({"step": "eps/0"}, "step is 'eps/0'"),
        ({"ramp": 1.5}, "ramp is 1.5"),
    ],
)
@pytest.mark.parametrize("base", [Madry, Trades, LLR])
def test_bad_options_are_refused(base, options, match):
    with pytest.raises(BadInput, match=match):
        base(DIGITS, **options)


@pytest.mark.parametrize(
    ("base", "options"),
    [
        (Trades, {"beta": -1.0}),
        (Trades, {"noise": 0.0}),
        (LLR, {"nominal": -1.0}),
        (LLR, {"linearity": -1.0}),
        (LLR, {"smoothing": -1.0}),
    ],
)
def test_bad_weights_are_refused(base, options):
    with pytest.raises(BadInput, match=f"{next(iter(options))} is "):
        base(DIGITS, **options)


def test_step_lengths():
    assert step_length("eps/2.5", 0.3) == pytest.approx(0.12)
    assert step_length("2/255", 0.3) == 2 / 255
    assert step_length("0.01", 0.3) == 0.01


def test_the_ramp_scales_ball_and_steps():
    inner = Inner("0.3", 3, "0.1", ramp=0.5)
    assert [inner.threat(p).eps for p in (0.0, 0.25, 0.5, 1.0)] == [
        0,
        Fraction("0.15"),
        Fraction("0.3"),
        Fraction("0.3"),
    ]
    sizes = [inner.attack(t, losses).search(t).sizes for t in (inner.threat(0.25), inner.threat(1.0))]
    assert sizes == [[pytest.approx(0.05)] * 3, [pytest.approx(0.1)] * 3]


# --- the losses ------------------------------------------------------------------------------------------------------


def recorded(defense, name):
    """The images that the named search of the defense finds from now on, in a list."""
    found, search = [], getattr(defense, name)

    def record(*arguments):
        found.append(search(*arguments))
        return found[-1]

    setattr(defense, name, record)
    return found


def log_softmax(defense, x):
    """Log probabilities [B, C] of an MLP defense, by numpy in float64."""
    h = ((x.numpy().astype(np.float64) - 0.4) / np.float64(np.float32(0.3))).reshape(len(x), -1)
    for layer in [m for m in defense.backbone.fully_connected if isinstance(m, nn.Linear)]:
        h = np.maximum(h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    z = h @ defense.head.weight.detach().numpy().T + defense.head.bias.detach().numpy()
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_madry_is_cross_entropy_on_the_examples_and_at_eps_0_on_the_images():
    (x, y), defense = batch(dtype=torch.float64), built(Madry, ramp=0.5).double()
    found = recorded(defense, "worst")
    loss = float(defense.loss(x, y)["total"].detach())
    assert loss == pytest.approx(-log_softmax(defense, found[0])[np.arange(12), y].mean(), abs=1e-6)
    clean = -log_softmax(defense, x)[np.arange(12), y].mean()
    assert loss > clean + 0.01
    defense.progress = 0.0
    assert float(defense.loss(x, y)["total"].detach()) == pytest.approx(clean, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_trades_terms(beta):
    (x, y), defense = batch(dtype=torch.float64), scaled(built(Trades, beta=beta)).double()
    found = recorded(defense, "worst")
    terms = {name: float(value.detach()) for name, value in defense.loss(x, y).items()}
    p, q = log_softmax(defense, x), log_softmax(defense, found[0])
    natural = -p[np.arange(12), y].mean()
    robust = beta * (np.exp(p) * (p - q)).sum(1).mean()
    assert robust >= (0.01 if beta else 0)
    assert terms == pytest.approx({"natural": natural, "robust": robust, "total": natural + robust}, abs=1e-6)


def test_trades_searches_for_divergence_from_the_clean_answer():
    (x, y), defense = batch(), scaled(built(Trades))
    found = recorded(defense, "worst")
    defense.loss(x, y)
    noisy = LINF.sample(x, torch.rand(x.shape))
    with torch.no_grad():
        clean, end, other = defense(x), defense(found[0]), defense(noisy)
    assert LINF.contains(x, found[0]).all()
    assert (answer_divergence(clean, end) > answer_divergence(clean, other)).all()


def tangent(defense, x, y, towards):
    """(l(x), l(there), d . grad l(x)) by numpy, the slope as a central difference along d: [B] each."""
    rows = np.arange(len(x))
    d = towards - x

    def at(h):
        return -log_softmax(defense, x + h * d)[rows, y]

    return at(0), at(1), (at(1e-5) - at(-1e-5)) / 2e-5


def test_llr_terms():
    (x, y), defense = batch(dtype=torch.float64), scaled(built(LLR, smoothing=0.5)).double()
    found = recorded(defense, "bend")
    terms = {name: float(value.detach()) for name, value in defense.loss(x, y).items()}
    here, there, slope = tangent(defense, x, y, found[0])
    nominal = 2 * here.mean()
    linearity, gradient = 4 * np.abs(there - here - slope).mean(), 4 * 0.5 * np.abs(slope).mean()
    assert min(linearity, gradient) > 0.01
    expected = {"nominal": nominal, "linearity": linearity, "gradient": gradient}
    assert terms == pytest.approx({**expected, "total": sum(expected.values())}, abs=1e-6)


def test_llr_searches_for_distance_from_the_plane():
    (x, y), defense = batch(dtype=torch.float64), scaled(built(LLR)).double()
    bends = []
    for towards in (defense.bend(x, y), LINF.sample(x, torch.rand(x.shape).double())):
        assert LINF.contains(x, towards).all()
        here, there, slope = tangent(defense, x, y, towards)
        bends.append(np.abs(there - here - slope))
    assert (bends[0] > bends[1]).mean() > 0.9
    assert bends[0].mean() > 2 * bends[1].mean()


def test_llr_is_differentiated_through_the_slope():
    """The gradient of every term by a weight of the head, against a central difference at a fixed d."""
    (x, y), defense = batch(dtype=torch.float64), scaled(built(LLR)).double()
    worst = defense.bend(x, y)
    defense.bend = lambda x, y: worst
    weight = defense.head.weight

    def moved(by):
        with torch.no_grad():
            weight[2, 5] += by
        terms = {name: float(value.detach()) for name, value in defense.loss(x, y).items()}
        with torch.no_grad():
            weight[2, 5] -= by
        return terms

    terms = defense.loss(x, y)
    by_autograd = {
        name: float(torch.autograd.grad(term, weight, retain_graph=True)[0][2, 5]) for name, term in terms.items()
    }
    above, below = moved(1e-5), moved(-1e-5)
    for name, value in by_autograd.items():
        assert value == pytest.approx((above[name] - below[name]) / 2e-5, rel=1e-4, abs=1e-7), name
        assert abs(value) > 1e-5, name


@pytest.mark.parametrize("base", [Madry, Trades, LLR])
def test_batch_norm_sees_one_batch_of_a_step(base):
    """The search leaves the statistics alone; the loss adds to them once, and leaves the model in train mode."""
    (x, y), defense = batch(MNIST, 4), built(base, MNIST, backbone="cnn", steps=2).train()
    defense.loss(x, y)["total"].backward()
    counts = [int(m.num_batches_tracked) for m in defense.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts == [1, 1]
    assert all(part.training for part in defense.modules())
    assert all(p.requires_grad for p in defense.parameters())


@pytest.mark.parametrize("base", [Madry, Trades, LLR])
def test_the_loss_is_a_function_of_the_random_state(base):
    (x, y), values = batch(), []
    defense = scaled(built(base))
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(float(defense.loss(x, y)["total"].detach()))
    assert values[0] == values[1] != values[2]

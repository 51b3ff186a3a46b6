"""Rows that go round in a circle: they leave early, and what comes out is what would have come out at the end."""

import pytest
import torch
from torch import nn

from robench.attack.base import Batch
from robench.attack.classifier import Classifier
from robench.attack.gradient import GradientAttack, Search
from robench.attack.objectives import cross_entropy
from robench.attack.orbits import Orbits
from robench.threat import ThreatModel


class Ascent(GradientAttack):
    """Sign steps on the cross-entropy."""

    def __init__(self, sizes, success="any", rule="steepest"):
        self._search = Search(sizes, rule, success=success)

    def search(self, threat):
        return self._search

    def objective(self, logits, y, goal):
        return cross_entropy(logits, y)


def run(module, x, attack, norm="linf", eps="0.3"):
    """(proposal, backward passes per row) of one call of the loop."""
    rows = torch.arange(len(x))
    classifier = Classifier(module.eval(), module(x).shape[1], len(x))
    y = classifier.logits(x).argmax(1)
    batch = Batch(x, y, torch.full_like(y, -1), rows, rows, rows, ThreatModel.of(norm, eps), seed=0)
    return attack.perturb(classifier.rows(rows), batch), classifier.backwards


def network(seed=0):
    """A small network that most images of noise cannot be pushed out of within 0.1."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def steadfast():
    """A linear model of two classes that nothing here breaks."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        module[1].bias[0] += 5.0
    return module


def images(count=24):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


# --- what comes out of a search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "sizes",
    [*([0.01] * n for n in (60, 61, 62, 63)), [0.02] * 20 + [0.01] * 41, [0.01] * 58 + [0.001] * 3],
    ids=lambda sizes: f"{len(sizes)} steps, {len(set(sizes))} lengths",
)
def test_a_search_finds_what_it_would_find_without(monkeypatch, norm, sizes):
    module, attack, eps = network(), Ascent(sizes), "0.04"
    found, passes = run(module, images(), attack, norm, eps)
    monkeypatch.setattr(Orbits, "ended", lambda *_: None)
    without, all_passes = run(module, images(), attack, norm, eps)
    assert torch.equal(found.x, without.x)
    assert torch.equal(found.step, without.step)
    assert bool((passes <= all_passes).all())
    if norm == "linf" and len(set(sizes[-40:])) == 1:
        assert int(all_passes.max()) == len(sizes)
        assert int(passes.sum()) < int(all_passes.sum())
    if sizes[-1] == 0.001:  # three steps of another length are too few to have come round in
        assert torch.equal(passes, all_passes)


def test_a_linear_model_is_followed_into_its_corner_and_no_further():
    found, passes = run(steadfast(), images(), Ascent([0.1] * 200), eps="0.1")
    assert bool((found.step == -1).all())
    # up to three steps to the corner from a random start, on to an even one, four more, and the answer there
    assert int(passes.max()) <= 9
    weight = steadfast()[1].weight
    corner = (images() + 0.1 * (weight[1] - weight[0]).sign().reshape(1, 1, 8, 8)).clamp(0, 1)
    assert torch.allclose(found.x, corner, atol=1e-6)


@pytest.mark.parametrize("rule", ["momentum", "adam", "apgd"])
def test_rules_that_remember_go_on(rule):
    assert run(steadfast(), images(), Ascent([0.1] * 30, rule=rule))[1].tolist() == [30] * 24


def test_the_last_image_of_a_search_that_counts_it_alone_takes_every_step():
    assert run(steadfast(), images(), Ascent([0.1] * 30, success="last"))[1].tolist() == [30] * 24


class Drifting(nn.Module):
    """A model without a gradient whose answers change from call to call."""

    def __init__(self, drift):
        super().__init__()
        self.drift, self.calls = drift, 0

    def forward(self, x):
        self.calls += x.requires_grad
        logits = torch.linspace(0, 1, 10).expand(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)
        return logits + self.drift * self.calls * torch.eye(10)[9]


@pytest.mark.parametrize(("drift", "expected"), [(0.0, 5), (0.01, 30)])
def test_a_model_that_answers_otherwise_at_the_same_image_is_asked_to_the_end(drift, expected):
    passes = run(Drifting(drift), images(), Ascent([0.1] * 30))[1]
    assert passes.tolist() == [expected] * 24


# --- circles that are known -------------------------------------------------------------------------------------------


def orbit(start, period, steps):
    """Where a row is after every number of steps, one number [steps + 1]: new ones up to `start`, then a circle."""
    return [float(step if step < start else start + (step - start) % period) for step in range(steps + 1)]


def watch(sizes, rows, interval=1):
    """{row: (step at which it was found to go round, where it is said to end)}; the rows found leave."""
    orbits, live, found = Orbits(sizes, interval), torch.arange(len(rows)), {}
    for step in range(len(sizes)):
        if step % interval and (len(sizes) - step) % interval:
            continue
        x = torch.tensor([rows[row][step] for row in live.tolist()]).reshape(-1, 1, 1, 1).expand(-1, 3, 5, 7)
        ended = orbits.ended(step, live, x, torch.cat([x[:, :1, 0, 0], -x[:, :1, 0, 0]], dim=1))
        if ended is not None:
            for row, final in zip(live[ended[0]].tolist(), ended[1], strict=True):
                found[row] = step, float(final.unique())
            gone = torch.ones(len(live), dtype=torch.bool).index_fill_(0, ended[0], value=False)
            live = live[gone]
    return found


@pytest.mark.parametrize("steps", [40, 41, 42, 43])
def test_circles_of_one_two_and_four_steps_are_found_with_their_ends(steps):
    rows = [orbit(start, period, steps) for start in range(1, 30) for period in (1, 2, 4)]
    found = watch([0.1] * steps, rows)
    assert sorted(found) == list(range(len(rows)))
    for row, (step, final) in found.items():
        assert final == rows[row][steps]
        assert 4 <= step - (1 + row // 3) <= 5


@pytest.mark.parametrize("steps", [80, 83])
def test_on_a_device_that_is_asked_every_eight_steps(steps):
    rows = [orbit(start, period, steps) for start in (1, 9, 30) for period in (1, 2, 4, 8)]
    found = watch([0.1] * steps, rows, interval=8)
    assert {row: final for row, (_, final) in found.items()} == {i: row[steps] for i, row in enumerate(rows)}
    assert all((steps - step) % 8 == 0 for step, _ in found.values())


def test_circles_of_other_lengths_go_on():
    assert watch([0.1] * 60, [orbit(2, period, 60) for period in (3, 5, 6, 7, 8, 60)]) == {}


def test_nothing_is_compared_across_a_change_of_length():
    rows = [orbit(1, 1, 40)]
    assert watch([0.1] * 40, rows) == {0: (6, 1.0)}
    assert watch([0.1] * 20 + [0.05] * 20, rows) == {0: (24, 1.0)}
    assert watch([0.1] * 36 + [0.05] * 4, rows) == {}
    assert watch([0.1, 0.05] * 20, rows) == {}

"""The one loop of the gradient attacks: schedules, step rules, who leaves the batch when, and what is proposed."""

import pytest
import torch
from torch import nn
from torch.optim.adam import adam

from robench.attack.base import Batch
from robench.attack.classifier import Classifier
from robench.attack.gradient import GradientAttack, Search, parse_schedule
from robench.attack.objectives import cross_entropy, margin, misclassified_margin, targeted_margin
from robench.attack.step_rules import Adam, Steepest
from robench.errors import BadInput
from robench.threat import ThreatModel

LINF = ThreatModel.of("linf", "0.05")


class Ascent(GradientAttack):
    """Any search, any objective."""

    def __init__(self, search, objective=margin):
        self._search, self._objective = search, objective

    def search(self, threat):
        return self._search

    def objective(self, logits, y, goal):
        return self._objective(logits, y, goal) if self._objective is targeted_margin else self._objective(logits, y)


class Fixed(nn.Module):
    """A module from a plain function of x; counts rows forwards and backwards per bucket of its first pixel."""

    def __init__(self, answer, buckets=1):
        super().__init__()
        self.answer, self.buckets = answer, buckets
        self.forwards, self.backwards = [0] * buckets, [0] * buckets

    def forward(self, x):
        who = (x.detach()[:, 0, 0, 0] * self.buckets).long().clamp(max=self.buckets - 1).tolist()
        for i in who:
            self.forwards[i] += 1
        if x.requires_grad:
            x.register_hook(lambda grad: [self.count(i) for i in who] and None)
        return self.answer(x)

    def count(self, i):
        self.backwards[i] += 1


def run(module, x, search, objective=margin, classes=2, threat=LINF, group=None, goal=None):
    """(proposal, classifier) of one call of the loop; `group` says which example a row belongs to."""
    rows = len(x)
    group = torch.arange(rows) if group is None else torch.tensor(group)
    goal = torch.full((rows,), -1) if goal is None else torch.tensor(goal)
    classifier = Classifier(module.eval(), classes, int(group.max()) + 1)
    y, trial = torch.zeros(rows, dtype=torch.int64), torch.arange(rows)
    batch = Batch(x, y, goal, group, trial, group, threat, seed=0)
    return Ascent(search, objective).perturb(classifier.rows(group), batch), classifier


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps", "sizes"),
    [
        ("0.1,0.01@100,0.001@150", 200, [0.1] * 100 + [0.01] * 50 + [0.001] * 50),
        ("0.1", 3, [0.1] * 3),
        (".5, 1e-2@1", 3, [0.5, 0.01, 0.01]),
        ("0.1@0,0.2@2", 4, [0.1, 0.1, 0.2, 0.2]),
        ("2", 1, [2.0]),
    ],
)
def test_schedules(text, steps, sizes):
    assert parse_schedule(text, steps) == sizes


BAD_SCHEDULES = """,  a  0.1,  0.1@  @3  -0.1  0.1@5  0.1,0.01  0.1,0.2@5,0.3@5  0.1,0.2@5,0.3@4  0.1@1.5  1.2.3  .  ..
    0.1;0.2@3  nan  inf  1e999  0.1,0.2@-3"""


@pytest.mark.parametrize("text", ["", *BAD_SCHEDULES.split()])
def test_bad_schedules_are_refused(text):
    with pytest.raises(BadInput, match="schedule"):
        parse_schedule(text, 10)


@pytest.mark.parametrize("wrong", [{"sizes": []}, {"rule": "sgd"}, {"success": "first"}])
def test_bad_searches_are_refused(wrong):
    with pytest.raises(BadInput):
        Search(**{"sizes": [0.1], **wrong})


# --- objectives ------------------------------------------------------------------------------------------------------


def test_objectives_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.5]])
    y, goal = torch.tensor([1, 0]), torch.tensor([0, 1])
    assert margin(logits, y).tolist() == [-1.0, 1.5]
    assert targeted_margin(logits, y, goal).tolist() == [-2.0, -1.0]
    assert misclassified_margin(logits, y, goal).tolist() == [-2.0, -2.5]
    expected = -logits.double().softmax(1).gather(1, y[:, None]).log()[:, 0]
    assert torch.allclose(cross_entropy(logits, y).double(), expected, atol=1e-6)


# --- step rules ------------------------------------------------------------------------------------------------------


def test_steepest_steps():
    grad = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [1e-12, 0.0, -1e-12]]).reshape(3, 1, 1, 3)
    x = torch.full_like(grad, 0.25)
    sign = (Steepest(x, LINF).move(x, grad, 0.5) - x).flatten(1)
    assert sign.tolist() == [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, -0.5]]
    unit = (Steepest(x, ThreatModel.of("l2", "1")).move(x, grad, 0.5) - x).flatten(1)
    assert torch.allclose(unit[0], torch.tensor([0.3, -0.4, 0.0]))
    assert unit[1].tolist() == [0, 0, 0]
    assert float(unit[2].norm()) == pytest.approx(0.5)


def test_adam_is_torchs_adam():
    noise = torch.Generator().manual_seed(0)
    shape = (3, 1, 2, 2)
    goal, curve = torch.randn(shape, generator=noise), torch.rand(shape, generator=noise) + 0.1
    ours, theirs = torch.zeros(shape), torch.zeros(shape)
    rule, moments, count = Adam(ours, LINF), [torch.zeros(shape), torch.zeros(shape)], torch.tensor(0.0)
    for step, size in enumerate(parse_schedule("0.1,0.01@60,0.001@90", 110)):
        grad = -curve * (theirs - goal)
        adam([theirs], [grad], moments[:1], moments[1:], [], [count], amsgrad=False, beta1=0.9, beta2=0.999,
            lr=size, weight_decay=0, eps=1e-9, maximize=True, foreach=False)  # fmt: skip
        ours = rule.move(ours, -curve * (ours - goal), size)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6), step
    assert float(theirs.abs().max()) > 0.5


def test_adam_in_l2_follows_a_constant_gradient():
    grad = torch.tensor([[3.0, 4.0], [0.0, -1e-3]]).reshape(2, 1, 1, 2)
    x = torch.zeros_like(grad)
    rule = Adam(x, ThreatModel.of("l2", "0.5"))
    for _ in range(30):
        step = rule.move(x, grad, 0.1).flatten(1)
        # size 0.1 moves by one radius
        assert torch.allclose(step, torch.tensor([[0.3, 0.4], [0.0, -0.5]]), rtol=1e-4)


def test_adam_keeps_the_moments_of_the_rows_that_stay():
    noise = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 4, 1, 2, 2, generator=noise)
    keep, zero = torch.tensor([1, 3]), torch.zeros(grads.shape[1:])
    for norm in ("linf", "l2"):
        threat = ThreatModel.of(norm, "0.1")
        whole, part = Adam(grads[0], threat), Adam(grads[0], threat)
        for grad in grads[:3]:
            whole.move(zero, grad, 0.1)
            part.move(zero, grad, 0.1)
        part.select(keep)
        for grad in grads[3:]:
            assert torch.equal(whole.move(zero, grad, 0.1)[keep], part.move(zero[keep], grad[keep], 0.1))


# --- who leaves the batch, and what is charged -----------------------------------------------------------------------


def ladder(count):
    """Images that fall at iterate 0, 1, 2, ... under steps of 0.01; the first pixel only says who is who."""
    x = torch.full((count, 1, 2, 2), 0.5)
    x -= 0.01 * torch.arange(count).reshape(-1, 1, 1, 1) - 0.005
    x[:, 0, 0, 0] = (torch.arange(count) + 0.5) / count
    return x


def climb(x):
    height = x[:, 0, 0, 1] + x[:, 0, 1, 0] + x[:, 0, 1, 1] - 1.5
    return torch.stack([-height, height], dim=1)


@pytest.mark.parametrize("rule", ["steepest", "adam"])
def test_broken_examples_leave_the_batch(rule):
    count, steps = 7, 8
    module = Fixed(climb, count)
    proposal, classifier = run(module, ladder(count), Search([0.01] * steps, rule, random_start=False))
    # example i falls at iterate i; the last is out of reach of eps and sees every step and the end
    assert proposal.step[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert classifier.forwards.tolist() == [1, 2, 3, 4, 5, 6, steps + 1]
    assert classifier.backwards.tolist() == [1, 2, 3, 4, 5, 6, steps]
    assert module.forwards == classifier.forwards.tolist()
    assert module.backwards == classifier.backwards.tolist()
    y = torch.zeros(count, dtype=torch.int64)
    assert (misclassified_margin(climb(proposal.x), y) > 0).tolist() == [True] * 6 + [False]


def test_an_example_leaves_with_all_its_rows():
    def answer(x):  # class 1 is within reach, class 2 never moves
        height = x[:, 0, 0, 1] - 0.5
        return torch.stack([-height, height, torch.full_like(height, -1)], dim=1)

    x = ladder(5)[[3, 3, 4, 4]]
    module = Fixed(answer, 5)
    search = Search([0.01] * 8, random_start=False)
    proposal, classifier = run(module, x, search, targeted_margin, 3, group=[0, 0, 1, 1], goal=[2, 1, 1, 2])
    assert classifier.forwards.tolist() == [8, 10]
    assert classifier.backwards.tolist() == [8, 10]
    assert module.forwards[3:] == [8, 10]
    assert proposal.step[[1, 2]].tolist() == [3, 4]


def test_the_last_iterate_costs_no_more_than_its_steps():
    _, classifier = run(Fixed(climb), ladder(7), Search([0.01] * 8, random_start=False, success="last"))
    assert set(classifier.forwards.tolist()) == {8}
    assert set(classifier.backwards.tolist()) == {8}


def valley(height):
    """Class 1 wins while the image has moved by 0.01 to 0.03; class 2 never wins, but pulls ever on."""

    def answer(x):
        moved = x[:, 0, 0, 0] - 0.5
        zero = torch.zeros_like(moved)
        return torch.stack([zero, height * (1 - 100 * (moved - 0.02).abs()), 10 * moved - 1000], dim=1)

    return answer


def pull(logits, y):
    return logits[:, 2]


def test_success_any_counts_what_the_last_iterate_left_behind():
    x, sizes = torch.full((1, 1, 1, 1), 0.5), [0.012] * 4
    found, _ = run(Fixed(valley(1)), x, Search(sizes, random_start=False), pull, 3)
    assert found.step.tolist() == [1]
    assert float(found.x) == pytest.approx(0.512)
    last, _ = run(Fixed(valley(1)), x, Search(sizes, random_start=False, success="last"), pull, 3)
    assert last.step.tolist() == [-1]
    assert float(last.x) == pytest.approx(0.548)


def test_a_find_that_is_not_firm_is_kept_at_its_best():
    # the margin is positive but within rounding of a logit of 1000: search on, and propose the best iterate
    x = torch.full((1, 1, 1, 1), 0.5)
    proposal, classifier = run(Fixed(valley(1e-4)), x, Search([0.012] * 4, random_start=False), pull, 3)
    assert classifier.forwards.tolist() == [5]
    assert proposal.step.tolist() == [2]
    assert float(proposal.x) == pytest.approx(0.524)


def test_the_iterate_after_the_last_step_counts():
    x = torch.full((1, 1, 1, 1), 0.5)
    proposal, _ = run(Fixed(valley(1)), x, Search([0.012], random_start=False), pull, 3)
    assert proposal.step.tolist() == [1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rule", ["steepest", "adam"])
def test_every_iterate_is_inside(norm, rule):
    threat, seen = ThreatModel.of(norm, "0.05"), []

    def answer(x):
        seen.append(x.detach().clone())
        return climb(x)

    x = ladder(7)[6:]
    run(Fixed(answer), x, Search([0.4] * 6, rule), threat=threat)
    assert len(seen) == 7
    assert all(bool(threat.contains(x, iterate).all()) for iterate in seen)
    assert not torch.equal(seen[0], x)  # the random start


# --- gradients that are no use ---------------------------------------------------------------------------------------


class Poison(torch.autograd.Function):
    """The identity, whose gradient is bad in pixel 1 for the rows where `mark` is set."""

    @staticmethod
    def forward(ctx, x, mark, bad):
        ctx.mark, ctx.bad = mark, bad
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[ctx.mark, 0, 0, 1] = ctx.bad
        return grad, None, None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rule", ["steepest", "adam"])
def test_a_bad_gradient_does_not_poison_the_iterate(bad, norm, rule):
    calls = []

    def answer(x):
        calls.append(1)
        return climb(Poison.apply(x, torch.tensor([len(calls) < 3, False])[: len(x)], bad)) - torch.tensor([0.0, 1.0])

    x, threat = ladder(7)[[3, 3]], ThreatModel.of(norm, "0.05")
    proposal, classifier = run(Fixed(answer), x, Search([0.01] * 20, rule, random_start=False), threat=threat)
    assert bool(proposal.x.isfinite().all())
    moved = (proposal.x - x).flatten(1)
    wanted = 0.05 if norm == "linf" else 0.05 / 3**0.5
    assert torch.allclose(moved[1], torch.tensor([0, 1, 1, 1]) * wanted, atol=1e-5)
    assert bool((moved[0, 1:] > 0.8 * wanted).all())  # it recovers once the gradient does
    assert classifier.zero_gradient.tolist() == [True, False]


def test_no_gradient_is_noted():
    def answer(x):
        logits = climb(x)
        return torch.where(x[:, 0, 0, 0, None] < 0.5, logits, logits.detach())

    x = ladder(7)[[2, 6]]
    proposal, classifier = run(Fixed(answer), x, Search([0.01] * 3, random_start=False))
    assert classifier.zero_gradient.tolist() == [False, True]
    assert torch.equal(proposal.x[1], x[1])


def test_a_model_without_any_graph_is_noted():
    _, classifier = run(Fixed(lambda x: climb(x).detach()), ladder(7)[5:], Search([0.01] * 3))
    assert classifier.zero_gradient.tolist() == [True, True]


def test_an_answer_of_nan_is_proposed_and_noted():
    def answer(x):
        height = climb(x) - torch.tensor([0.0, 1.0])
        return torch.where((x[:, 0, 0, 1] > 0.52)[:, None], torch.nan, height)

    x = torch.full((1, 1, 2, 2), 0.5)
    proposal, classifier = run(Fixed(answer), x, Search([0.01] * 5, random_start=False))
    assert bool(answer(proposal.x).isnan().all())
    assert classifier.nonfinite.tolist() == [True]


def test_a_step_size_that_would_never_be_used_is_refused():
    with pytest.raises(BadInput, match="for 3 steps"):
        parse_schedule("0.1,0.01@100", 3)

"""The judge: verdicts are its own, on projected images; no attack or model can talk its way to robustness."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from robench import registry
from robench.attack.base import Attack, Proposal, Trials
from robench.attack.judge import Examples, Settings, attack_shard
from robench.errors import BadInput, Permanent
from robench.results.accuracy import attack_figure, clean_figure
from robench.results.summary import evaluation_flags, summarise
from robench.threat import ThreatModel

SHAPE, CLASSES = (1, 4, 4), 3
# see test_libraries.py, and test_import.py of what was made elsewhere
LIBRARIES = ("foolbox", "art", "autoattack", "library", "fab-t", "square", "imported")
ATTACKS = [name for name in registry.names("attack") if name not in LIBRARIES]
NORMS = {name: registry.load("attack", name).base.norms for name in ATTACKS}
CASES = [(name, norm) for name in ATTACKS for norm in NORMS[name]]


class Linear(nn.Module):
    """A fixed linear classifier that answers what `twist` makes of its logits."""

    def __init__(self, twist=None):
        super().__init__()
        self.layer = nn.Linear(16, CLASSES)
        noise = torch.Generator().manual_seed(0)
        self.layer.weight.data = torch.randn(CLASSES, 16, generator=noise) * 4
        self.layer.bias.data = -0.5 * self.layer.weight.data.sum(1)
        self.twist = twist

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return self.twist(logits) if self.twist else logits


class Spy(Attack):
    """Proposes its random starts and remembers them."""

    def __init__(self, restarts=3):
        self.restarts, self.starts = restarts, {}

    def trials(self, y, logits, example_id, seed):
        return Trials.untargeted(len(y), self.restarts)

    def perturb(self, model, batch):
        start = batch.start()
        for example, trial, x in zip(batch.example_id.tolist(), batch.trial.tolist(), start, strict=True):
            self.starts[example, trial] = x
        return start


class Says(Attack):
    """Proposes whatever `say` answers to the batch."""

    def __init__(self, say, restarts=1):
        self.say, self.restarts = say, restarts

    def trials(self, y, logits, example_id, seed):
        return Trials.untargeted(len(y), self.restarts)

    def perturb(self, model, batch):
        return self.say(batch)


def examples(n=60, wrong=0):
    """Images and the labels that `Linear` gives them, but for the first `wrong`."""
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    y = Linear()(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % CLASSES
    return Examples(x, y, torch.arange(n) + 500)


def part(whole, start, stop):
    return Examples(whole.x[start:stop], whole.y[start:stop], whole.ids[start:stop])


def judge(attack, data, model=None, norm="linf", eps="0.1", **settings):
    module = (model or Linear()).eval()
    return attack_shard(module, CLASSES, attack, ThreatModel.of(norm, eps), data, Settings(**settings))


def built(name, **options):
    """An attack with few steps and restarts."""
    plugin = registry.load("attack", name)
    small = {"steps": 3, "restarts": 2, **options}
    return plugin.build({k: v for k, v in small.items() if k in plugin.options({})})


# --- the denominator, and the registered attacks ---------------------------------------------------------------------


def test_every_evaluated_example_is_in_the_denominator():
    data = examples(wrong=20)
    rows = judge(built("pgd"), data).rows
    assert rows["example_id"].tolist() == data.ids.tolist()
    assert clean_figure(rows).n == attack_figure(rows, "robust accuracy").n == 60
    assert clean_figure(rows).count == 40
    assert rows["clean_correct"].tolist() == [False] * 20 + [True] * 40
    broken = int(rows["success"].sum())
    assert 0 < broken < 40
    assert not rows["success"][:20].any()  # what was wrong before is not the attack's doing, nor robust
    assert attack_figure(rows, "robust accuracy").count == 40 - broken
    assert (rows["forwards"][:20] == 0).all()
    summary = summarise(rows, "robust accuracy", [])
    assert (summary.n, summary.clean_accuracy) == (60, 40 / 60)
    assert summary.value == (40 - broken) / 60


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_at_eps_zero_accuracy_is_the_clean_one(name, norm):
    data = examples(wrong=15)
    attack = built(name)
    rows = judge(attack, data, norm=norm, eps="0").rows
    assert (rows[["linf", "l2"]] == 0).all(axis=None)
    assert rows["adv_pred"].equals(rows["clean_pred"])
    if attack.metric == "attack success rate":
        assert rows["success"].equals(rows["clean_pred"] == rows["goal"])
        assert 0 < rows["success"].sum() <= 15
    else:
        assert not rows["success"].any()
        assert attack_figure(rows, attack.metric) == clean_figure(rows)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_every_row_follows_from_its_image(name, norm):
    data, model = examples(30, wrong=5), Linear().eval()
    attack = built(name)
    eps = "2" if name == "cw" else "0.3"  # cw searches for the nearest example, wherever that is
    shard = judge(attack, data, norm=norm, eps=eps)
    rows, threat = shard.rows, ThreatModel.of(norm, eps)
    assert bool(threat.contains(data.x, shard.images).all())
    assert rows["adv_pred"].tolist() == model(shard.images).argmax(1).tolist()
    assert rows[norm].tolist() == pytest.approx(threat.distance(data.x, shard.images).tolist())
    y, goal = torch.tensor(rows["label"]), torch.tensor(rows["goal"])
    found = model(shard.images).argmax(1)
    expected = (
        found == goal if attack.metric == "attack success rate" else (found != y) & (model(data.x).argmax(1) == y)
    )
    assert rows["success"].tolist() == expected.tolist()
    assert rows["success"].any()


@pytest.mark.parametrize("name", ATTACKS)
def test_all_examples_may_be_wrong_from_the_start(name):
    rows = judge(built(name), examples(6, wrong=6), norm=NORMS[name][0]).rows
    assert not rows["clean_correct"].any()
    assert attack_figure(rows, "robust accuracy").count == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_all_examples_may_fall_to_the_first_trial(name):
    norm = NORMS[name][0]
    attack = built(name, restarts=12, **({"steps": 100, "lr": 0.1} if name == "cw" else {}))
    rows = judge(attack, examples(6), norm=norm, eps="1" if norm == "linf" else "4").rows
    if "rand" not in name:  # noise finds what it finds, and a class drawn at random may be out of reach
        assert rows["success"].all()


# --- attacks that cannot be trusted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_outside_the_ball_is_projected(norm):
    data, threat = examples(), ThreatModel.of(norm, "0.01")
    far = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(9))
    assert int((Linear()(far).argmax(1) != data.y).sum()) > 30
    shard = judge(Says(lambda batch: far[batch.example_id - 500] * 100 - 50), data, norm=norm, eps="0.01")
    assert bool(threat.contains(data.x, shard.images).all())
    assert shard.rows["success"].sum() < 10  # judged where it was projected to
    assert (shard.rows[norm] > 0.005).all()


def test_an_l2_step_on_a_plain_image_is_no_crash():
    grey = Examples(torch.full((1, 1, 28, 28), 0.25), torch.tensor([0]), torch.tensor([0]))
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES)).eval()
    module[1].bias.data = torch.tensor([100.0, 0.0, 0.0])
    for sign in (-1, 1):
        attack = Says(lambda batch, sign=sign: batch.x + sign * 0.2)
        shard = attack_shard(module, CLASSES, attack, ThreatModel.of("l2", "0.5"), grey)
        assert shard.rows["l2"][0] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_proposal_that_is_not_finite_is_flagged(bad):
    data = examples(40)

    def say(batch):
        x = batch.start()
        x[batch.example_id < 510, 0, 0, 0] = bad
        return x

    shard = judge(Says(say), data)
    assert bool(shard.images.isfinite().all())
    assert torch.equal(shard.images[:10], data.x[:10])
    flagged = shard.rows["flags"].str.contains("invalid-proposal")
    assert flagged.tolist() == [True] * 10 + [False] * 30
    assert evaluation_flags(shard.rows, []) == ["invalid-proposal 25%"]


def test_one_bad_trial_does_not_hide_a_good_one():
    data = examples(40)

    def say(batch):
        x = batch.x.clone()
        x[batch.trial == 0] = math.nan
        best = directions[data.y[batch.example_id - 500]]
        x[batch.trial == 1] = (batch.x + best)[batch.trial == 1]
        return x

    weight = Linear().layer.weight.detach()
    directions = torch.stack([(weight[(y + 1) % 3] - weight[y]).sign() for y in range(3)]).reshape(3, *SHAPE)
    rows = judge(Says(say, restarts=2), data, eps="0.5").rows
    assert rows["success"].sum() > 20
    assert (rows["trial"][rows["success"]] == 1).all()
    assert rows["flags"].str.contains("invalid-proposal").all()


def test_an_attack_that_raises_is_heard_and_the_model_is_given_back():
    def say(batch):
        raise ZeroDivisionError("in the attack")

    model = Linear()
    model.layer.bias.requires_grad_(False)
    with pytest.raises(Permanent, match="ZeroDivisionError: in the attack"):
        judge(Says(say), examples(), model)
    assert [p.requires_grad for p in model.parameters()] == [True, False]


@pytest.mark.parametrize("say", [lambda b: b.x[:-1], lambda b: b.x[:, :, :2], lambda b: b.x.flatten(1)])
def test_a_proposal_of_another_shape_is_refused(say):
    with pytest.raises(Permanent, match="proposed shape") as refusal:
        judge(Says(say), examples())
    assert "judge.py" not in str(refusal.value)


def test_an_unknown_norm_is_refused():
    attack = Says(lambda batch: batch.x)
    attack.norms = ("l2",)
    with pytest.raises(BadInput, match="does not support norm linf"):
        judge(attack, examples())


# --- models that cannot be judged as they stand ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twist", "said"),
    [
        (lambda z: z.softmax(1), "probabilities"),
        (lambda z: z * math.nan, "NaN or infinite"),
        (lambda z: z / 0, "NaN or infinite"),
        (lambda z: z[:, :2], "3 classes"),
        (lambda z: z[:-1], "shape"),
        (lambda z: z.argmax(1), "shape"),
        (lambda z: (z,), "tuple"),
        (lambda z: z.long(), "floating point"),
    ],
)
def test_an_answer_that_is_not_logits_is_refused(twist, said):
    with pytest.raises(BadInput, match=said):
        judge(built("fgsm"), examples(), Linear(twist))


def test_train_mode_is_refused():
    model = nn.Sequential(Linear(), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(BadInput, match="train mode"):
        attack_shard(model, CLASSES, built("fgsm"), ThreatModel.of("linf", "0.1"), examples())


def counter():
    """A twist whose module keeps a buffer that changes with every call."""
    model = Linear()
    model.register_buffer("calls", torch.zeros(()))
    model.twist = lambda z: z + 0 * model.calls.add_(1)
    return model


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (Linear(), ()),
        (Linear(lambda z: z + 0.3 * torch.randn_like(z)), ("randomised",)),
        (Linear(lambda z: z + 0.1 * len(z) * torch.tensor([1.0, 0, 0])), ("batch-dependent",)),
        (counter(), ("changes-its-state",)),
    ],
)
def test_models_that_answer_differently_are_flagged(model, flags):
    assert judge(built("fgsm"), examples(), model).flags == flags


def test_an_answer_of_nan_under_attack_is_no_robustness():
    model = Linear(lambda z: torch.where(z.amax(1, keepdim=True) > limit, math.nan, z))
    data = examples(40)
    limit = Linear()(data.x).max().item() + 0.5
    weight = Linear().layer.weight.detach().sign().reshape(3, *SHAPE)  # towards the label: only NaN can break it
    rows = judge(Says(lambda batch: batch.x + weight[batch.y]), data, model, eps="0.5").rows
    mute = rows["adv_pred"] == -1
    assert mute.sum() > 20
    assert rows["success"].equals(mute)
    assert rows["flags"].str.contains("non-finite").equals(mute)


def test_an_answer_of_nan_breaks_an_image_whose_attack_has_a_goal() -> None:
    """The goal is not reached, but the image no longer answered as it should be."""
    model, data = Linear(lambda z: torch.where(z.amax(1, keepdim=True) > limit, math.nan, z)), examples(40)
    limit = Linear()(data.x).max().item() + 0.5
    rows = judge(built("random-targeted", steps=5, restarts=1), data, model, eps="0.5").rows
    mute = rows["adv_pred"] == -1
    assert mute.any()
    assert not rows["success"][mute].any()
    assert (rows["trial"][mute] >= 0).all()


# --- the batch does not matter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_and_verdicts_do_not_depend_on_batches_or_shards(norm):
    data, seen = examples(100, wrong=10), []
    for size in (32, 100, 1000):
        spy = Spy()
        rows = judge(spy, data, norm=norm, eps="0.2", batch_size=size).rows
        seen.append((spy.starts, rows))
    spy = Spy()
    halves = [judge(spy, part(data, *ends), norm=norm, eps="0.2", batch_size=32).rows for ends in ((0, 37), (37, 100))]
    seen.append((spy.starts, pd.concat(halves, ignore_index=True)))
    starts, rows = seen[0]
    assert len(starts) > 180
    for other_starts, other_rows in seen[1:]:
        assert starts.keys() == other_starts.keys()
        assert all(torch.equal(starts[key], other_starts[key]) for key in starts)
        pd.testing.assert_frame_equal(rows, other_rows)


@pytest.mark.parametrize("name", ATTACKS)
def test_verdicts_do_not_depend_on_batches(name):
    data = examples(50, wrong=5)
    rows = [judge(built(name), data, norm=NORMS[name][0], eps="0.15", batch_size=size).rows for size in (13, 32, 1000)]
    for other in rows[1:]:
        for column in ("clean_pred", "adv_pred", "success", "trial", "goal", "flags"):
            assert other[column].equals(rows[0][column]), column


def test_the_seed_changes_the_starts():
    spies = [Spy(1), Spy(1)]
    for seed, spy in enumerate(spies):
        judge(spy, examples(5), seed=seed)
    assert not torch.equal(*(spy.starts[502, 0] for spy in spies))


# --- verdicts near zero -----------------------------------------------------------------------------------------------


def test_a_find_that_the_final_verdict_does_not_share_is_borderline():
    # wrong by a hair in a batch of three, right by a hair in one of four: kernels do such things
    class Hair(nn.Module):
        def forward(self, x):
            lead = torch.where(x[:, 0, 0, 0] < 0.5, -1.0, 1e-4 if len(x) == 3 else -1e-4)
            first = torch.ones(len(x))
            return torch.stack([first, first + lead, 0 * first], dim=1)

    x = torch.tensor([0.2, 0.2, 0.7, 0.2]).reshape(4, 1, 1, 1).expand(4, *SHAPE).clone()
    data = Examples(x, torch.tensor([0, 0, 0, 2]), torch.arange(4))
    rows = judge(Says(lambda batch: batch.x), data, Hair(), batch_size=4).rows
    assert rows["flags"].tolist() == ["", "", "borderline", ""]
    assert not rows["success"].any()


class Staged(Attack):
    """Two trials, of which the first runs "quick" and, on every other example, the second runs "slow"."""

    stages = ("quick", "slow", "last")

    def __init__(self, mask=0b10):
        self.mask = mask

    def trials(self, y, logits, example_id, seed):
        return Trials.untargeted(len(y), 2)

    def perturb(self, model, batch):
        model(batch.x)
        run = torch.where(batch.trial == 0, 1, self.mask * (batch.example_id % 2))
        return Proposal(batch.x.clone(), torch.full_like(run, -1), run)


def test_rows_tell_which_stages_were_run_and_what_was_spent():
    rows = judge(Staged(), examples(6, wrong=1)).rows
    assert rows["stages"].tolist() == ["", "quick;slow", "quick", "quick;slow", "quick", "quick;slow"]
    assert rows["forwards"].tolist() == rows["passes"].tolist() == [0, 2, 2, 2, 2, 2]
    ascended = judge(built("fgsm"), examples(6)).rows
    assert (ascended["passes"] == ascended["forwards"] + 2 * ascended["backwards"]).all()
    assert ascended["passes"].min() >= 3


@pytest.mark.parametrize("mask", [0b1000, -1])
def test_a_stage_that_the_attack_does_not_have_is_refused(mask):
    with pytest.raises(Permanent, match="stages"):
        judge(Staged(mask), examples(6))

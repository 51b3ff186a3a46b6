"""What every registered defense, attack and detector must do, in one table over all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robench import Attack, Batch, Defense, Detector, Split, ThreatModel, registry
from robench.attack.base import Proposal
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard
from robench.data.dataset import DataInfo
from robench.defense.recipe import make_optimizer, make_schedule

# a family of attacks stands in the table with some of its members
MEMBERS = {
    "foolbox": ["foolbox:LinfPGD", "foolbox:L2CarliniWagnerAttack"],
    "art": ["art:ProjectedGradientDescent"],
}
DEFENSES, DETECTORS = registry.names("defense"), registry.names("detector")
ATTACKS = [member for name in registry.names("attack") for member in MEMBERS.get(name, [name])]


def info(family: str, channels: int, side: int, classes: int = 10) -> DataInfo:
    return DataInfo(family, channels, side, side, classes, (0.4,) * channels, (0.3,) * channels, family)


DATA = {"digits": info("digits", 1, 8), "mnist": info("mnist", 1, 28)}
FAMILIES = {
    **DATA, "fashion-mnist": info("fashion-mnist", 1, 28), "cifar10": info("cifar10", 3, 32),
    "cifar100": info("cifar100", 3, 32, 100), "svhn": info("svhn", 3, 32), "stl10": info("stl10", 3, 96),
    "imagenet": info("imagenet", 3, 224, 1000), "other": info("other", 1, 20, 3),
}  # fmt: skip


def batch(data: DataInfo, count: int = 16) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(5)
    x = torch.rand(count, *data.shape, generator=noise)
    return x, torch.randint(data.classes, (count,), generator=noise)


def built(name: str, data: DataInfo, *, seed: int = 0, **options: Any) -> Defense:
    torch.manual_seed(seed)
    plugin = registry.load("defense", name)
    small = {"steps": 2, "width": 16}  # of adversarial training, and of wide networks
    known = plugin.options({})
    defense = plugin.build({**{k: v for k, v in small.items() if k in known}, **options}, data)
    assert isinstance(defense, Defense)
    return defense


PLUGINS = [(k, n) for k, found in (("defense", DEFENSES), ("attack", ATTACKS), ("detector", DETECTORS)) for n in found]
each_plugin = pytest.mark.parametrize(("kind", "name"), PLUGINS)
each_defense = pytest.mark.parametrize("name", DEFENSES)
each_detector = pytest.mark.parametrize("name", DETECTORS)
each_data = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


@each_defense
@each_data
def test_logits_are_deterministic_in_eval_mode(name: str, data: DataInfo) -> None:
    defense, (x, _) = built(name, data).eval(), batch(data)
    with torch.no_grad():
        first = defense(x)
        torch.rand(7)
        again = defense(x)
        single = torch.cat([defense(image[None]) for image in x])
    assert first.shape == (16, data.classes)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert torch.allclose(first, single, atol=1e-4)


@each_defense
@each_data
def test_gradient_reaches_the_pixels(name: str, data: DataInfo) -> None:
    defense, (x, y) = built(name, data).eval(), batch(data)
    x.requires_grad_(True)
    torch.nn.functional.cross_entropy(defense(x), y).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()


@each_defense
@each_data
def test_saved_and_loaded_is_the_same(name: str, data: DataInfo, tmp_path: Path) -> None:
    defense, (x, y) = built(name, data), batch(data)
    defense.loss(x, y)["total"].backward()  # moves the statistics of batch norm
    save_file({k: v.contiguous() for k, v in defense.state_dict().items()}, tmp_path / "model.safetensors")
    copy = built(name, data, seed=99)
    copy.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(copy.eval()(x), defense.eval()(x))


@each_defense
@each_data
def test_a_few_steps_lower_the_loss(name: str, data: DataInfo) -> None:
    defense, (x, y) = built(name, data).train(), batch(data)
    optimizer = torch.optim.Adam(defense.parameters(), lr=2e-4)
    values = []
    for _ in range(15):
        torch.manual_seed(1)
        terms = defense.loss(x, y)
        assert all(term.dim() == 0 and bool(term.isfinite()) for term in terms.values())
        parts = [term for key, term in terms.items() if key != "total"]
        assert not parts or torch.allclose(sum(parts, torch.zeros(())), terms["total"], rtol=1e-4, atol=1e-4)
        values.append(float(terms["total"].detach()))
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    assert values[-1] < values[0]


@each_defense
def test_every_parameter_is_trained_and_a_batch_of_one_works(name: str) -> None:
    data = DATA["digits"]
    defense, (x, y) = built(name, data).train(), batch(data)
    defense.loss(x, y)["total"].backward()
    assert [n for n, p in defense.named_parameters() if p.requires_grad and p.grad is None] == []
    assert defense.loss(x[:1], y[:1])["total"].isfinite()


@each_plugin
def test_options_survive_json(kind: str, name: str) -> None:
    plugin = registry.load(kind, name)
    options = plugin.options({})
    assert plugin.options(json.loads(json.dumps(options))) == options
    as_text = {key: str(value) for key, value in options.items() if value is not None}
    assert plugin.options(as_text) == options


@each_plugin
def test_summary_is_a_sentence(kind: str, name: str) -> None:
    text = registry.summaries(kind)[name.partition(":")[0]]
    assert text[:1].isupper()
    assert text.endswith(".")
    assert "\n" not in text


RECIPES = [
    (name, family, recipe)
    for name in DEFENSES
    for family, recipes in registry.load("defense", name).recipes.items()
    for recipe in recipes
]


@pytest.mark.parametrize(("name", "family", "recipe"), RECIPES)
def test_every_recipe_builds(name: str, family: str, recipe: str) -> None:
    """Whether it is the papers' giant or ours, on a device that holds no numbers."""
    plugin, data = registry.load("defense", name), FAMILIES[family]
    found = plugin.recipes[family][recipe]
    options = plugin.options(found.options)
    json.dumps([found.to_json(), options])
    with torch.device("meta"):
        defense = plugin.build({k: v for k, v in options.items() if k != "mc_samples"}, data)
        assert defense.eval()(torch.empty(2, *data.shape)).shape == (2, data.classes)
    optimizer = make_optimizer(found, list(defense.parameters()))
    schedule = make_schedule(found, optimizer, 10 * found.epochs)
    assert (schedule is None) == (found.schedule == "constant")
    assert found.source


class Small(nn.Module):
    """A smooth model of any shape and number of classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, classes)
            )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(3 * x)
        return logits


def attack_named(name: str) -> Attack:
    """The attack with as little work as shows what it does."""
    plugin = registry.load("attack", name)
    short = {"steps": 6, "restarts": 2, "queries": 20, "max_iter": 6, "binary_search_steps": 2}
    attack = plugin.build({k: v for k, v in short.items() if k in plugin.options({})})
    assert isinstance(attack, Attack)
    return attack


def proposed(attack: Attack, threat: ThreatModel, channels: int, classes: int, count: int, seed: int = 0) -> Proposal:
    """What the attack proposes for all of its trials, checked against the images it was given."""
    x, y = batch(info("x", channels, 8, classes), count)
    ids = torch.arange(100, 100 + count)
    classifier = Classifier(Small(channels, classes), classes, count)
    plan = attack.trials(y, classifier.logits(x), ids, seed)
    assert plan.key.shape == plan.goal.shape == (count, len(plan))
    assert all(len(set(keys)) == len(plan) for keys in plan.key.tolist()), "two trials share their noise"
    assert ((plan.goal >= -1) & (plan.goal < classes) & (plan.goal != y[:, None])).all()
    rows = torch.arange(count).repeat_interleave(len(plan))
    given = Batch(x[rows], y[rows], plan.goal.flatten(), ids[rows], plan.key.flatten(), rows, threat, seed)
    before = [t.clone() for t in (given.x, given.y, given.goal, given.example_id, given.trial, given.group)]
    answer = attack.perturb(classifier.rows(rows), given)
    after = [given.x, given.y, given.goal, given.example_id, given.trial, given.group]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the attack changed its input"
    images = answer.x if isinstance(answer, Proposal) else answer
    assert images.shape == given.x.shape
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert threat.contains(given.x, images).all(), "a proposal lies outside the threat model"
    return Proposal(images, answer.step if isinstance(answer, Proposal) else torch.full_like(rows, -1))


CASES = [(name, norm) for name in ATTACKS for norm in attack_named(name).norms]
each_case = pytest.mark.parametrize(("name", "norm"), CASES)


@each_case
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("count", [1, 5])
def test_proposals_are_inside_the_threat_model(name: str, norm: str, channels: int, classes: int, count: int) -> None:
    threat = ThreatModel.of(norm, "0.1" if norm == "linf" else "1.5")
    proposal = proposed(attack_named(name), threat, channels, classes, count)
    assert proposal.step.shape == (len(proposal.x),)


@each_case
def test_same_seed_same_proposals(name: str, norm: str) -> None:
    threat = ThreatModel.of(norm, "0.2")
    first, again, other = (proposed(attack_named(name), threat, 1, 10, 5, seed) for seed in (3, 3, 4))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.step, again.step)
    assert first.x.shape == other.x.shape


@each_case
def test_no_perturbation_allowed_means_none(name: str, norm: str) -> None:
    proposal = proposed(attack_named(name), ThreatModel.of(norm, "0"), 1, 10, 4)
    x, _ = batch(info("x", 1, 8), 4)
    assert torch.equal(proposal.x, x.repeat_interleave(len(proposal.x) // 4, dim=0))


@each_case
@pytest.mark.parametrize("count", [1, 6])
def test_judged_figures_hold(name: str, norm: str, count: int) -> None:
    """Under the judge: a row per image, inside eps, and success as the metric says."""
    x, y = batch(info("x", 3, 8, 3), count)
    y = torch.where(torch.arange(count) == 0, Small(3, 3)(x).argmax(1), y)
    attack, threat = attack_named(name), ThreatModel.of(norm, "0.3")
    shard = attack_shard(
        Small(3, 3), 3, attack, threat, Examples(x, y, torch.arange(count)), Settings(seed=1, batch_size=4)
    )
    rows = shard.rows
    assert len(rows) == count
    assert threat.contains(x, shard.images).all()
    with torch.no_grad():
        answer = Small(3, 3)(shard.images).argmax(1).numpy()
    assert (rows["adv_pred"] == answer).all()
    hit = rows["goal"] if attack.metric == "attack success rate" else None
    expected = answer == hit if hit is not None else rows["clean_correct"] & (answer != y.numpy())
    assert (rows["success"] == expected).all()


@each_case
def test_nothing_left_to_attack(name: str, norm: str) -> None:
    """Every image is misclassified already."""
    x, _ = batch(info("x", 1, 8, 3), 5)
    y = (Small(1, 3)(x).argmax(1) + 1) % 3
    threat, examples = ThreatModel.of(norm, "0.1"), Examples(x, y, torch.arange(5))
    shard = attack_shard(Small(1, 3), 3, attack_named(name), threat, examples, Settings(batch_size=4))
    assert not shard.rows["clean_correct"].any()


@each_case
def test_everything_broken_by_the_first_trial(name: str, norm: str) -> None:
    """A perturbation as large as the box leaves nothing standing."""
    x, _ = batch(info("x", 1, 8, 3), 5)
    y = Small(1, 3)(x).argmax(1)
    threat, examples = ThreatModel.of(norm, "1" if norm == "linf" else "8"), Examples(x, y, torch.arange(5))
    shard = attack_shard(Small(1, 3), 3, attack_named(name), threat, examples, Settings(batch_size=4))
    assert len(shard.rows) == 5


class Coded(Small):
    """The small model with a code, its last hidden layer."""

    def embed(self, x: Tensor) -> Tensor:
        code: Tensor = self.body[:-1](3 * x)
        return code


class Noise:
    """Random images [N, channels, 8, 8]."""

    def __init__(self, count: int, channels: int) -> None:
        self.array = np.random.default_rng(7).integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)
        self.shape = (channels, 8, 8)

    def read(self, rows: Any) -> Any:
        return self.array[rows]


def watching(name: str, channels: int, classes: int, count: int = 240) -> tuple[Detector, Coded]:
    """A fitted detector and the model it watches."""
    detector = registry.load("detector", name).build({}, classes)
    assert isinstance(detector, Detector)
    model = Coded(channels, classes).requires_grad_(False)
    detector.eval().fit(model, Split(Noise(count, channels), torch.arange(count) % classes, torch.arange(count)))
    return detector, model


each_size = pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 2)])


@each_detector
@each_size
def test_features_are_finite_and_move_with_the_pixels(name: str, channels: int, classes: int) -> None:
    detector, model = watching(name, channels, classes)
    x, _ = batch(info("x", channels, 8, classes), 12)
    x.requires_grad_(True)
    logits, features = detector.features(model, x)
    assert torch.equal(logits, model(x))
    assert features.dim() == 2
    assert len(features) == 12
    assert features.is_floating_point()
    assert features.isfinite().all()
    features.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()


@each_detector
@each_size
def test_features_do_not_depend_on_the_batch(name: str, channels: int, classes: int) -> None:
    detector, model = watching(name, channels, classes)
    x, _ = batch(info("x", channels, 8, classes))
    together = detector.features(model, x)[1]
    assert torch.equal(together, detector.features(model, x)[1])
    single = torch.cat([detector.features(model, image[None])[1] for image in x])
    assert torch.allclose(together, single, rtol=1e-4)


@each_detector
def test_a_restored_detector_is_the_same(name: str, tmp_path: Path) -> None:
    detector, model = watching(name, 3, 2)
    tensors = {key: value.cpu().contiguous() for key, value in detector.state_dict().items()}
    save_file(tensors, tmp_path / "detector.safetensors")
    other = registry.load("detector", name).build({}, 2).eval()
    other.restore(load_file(tmp_path / "detector.safetensors"))
    x, _ = batch(info("x", 3, 8, 2))
    assert torch.equal(other.features(model, x)[1], detector.features(model, x)[1])


@each_detector
def test_fitting_twice_is_fitting_once(name: str) -> None:
    detector, model = watching(name, 1, 2, count=400)
    again, _ = watching(name, 1, 2)
    detector.fit(model, Split(Noise(240, 1), torch.arange(240) % 2, torch.arange(240)))
    assert detector.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in detector.state_dict().items())


@each_detector
def test_watching_leaves_the_model_alone(name: str) -> None:
    untouched = {key: value.clone() for key, value in Coded(1, 10).state_dict().items()}
    detector, model = watching(name, 1, 10)
    detector.features(model, batch(info("x", 1, 8))[0])
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in model.modules())

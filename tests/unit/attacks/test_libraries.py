"""Attacks of other libraries under the judge: parity with direct calls, counts, options, randomness left alone."""

from __future__ import annotations

import logging
import random
import sys
from typing import Any

import foolbox
import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robench import Batch, ThreatModel, registry
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench_attacks.libraries import CountedModel, own_randomness
from tests import liars

CHEAP = {"steps": 8, "queries": 30, "max_iter": 8, "binary_search_steps": 2}
EACH = [
    ("foolbox:LinfPGD", "linf"), ("foolbox:L2DeepFoolAttack", "l2"), ("art:ProjectedGradientDescent", "linf"),
    ("art:DeepFool", "l2"), ("autoattack", "linf"), ("autoattack", "l2"), ("library:apgd-t", "l2"),
    ("library:square", "linf"),
]  # fmt: skip
each = pytest.mark.parametrize(("name", "norm"), EACH)


class Levels(nn.Module):
    """A smooth model of images whose mean brightness says which they are, and which counts its passes by that."""

    def __init__(self, images: int, classes: int = 4) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(8)
        self.register_buffer("first", torch.randn(64, 12, generator=noise) / 2)
        self.register_buffer("second", torch.randn(12, classes, generator=noise))
        self.forwards, self.backwards = torch.zeros(images, dtype=torch.int64), torch.zeros(images, dtype=torch.int64)
        self.counting = True
        self.eval()

    def images(self) -> Tensor:
        """Images far from each other and from the edges of the box."""
        level = torch.linspace(0.2, 0.8, len(self.forwards)).reshape(-1, 1, 1, 1)
        noise = torch.rand(len(level), 1, 8, 8, generator=torch.Generator().manual_seed(3))
        return level + 0.02 * (noise - noise.mean((1, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = ((x.flatten(1) - 0.5) @ self.first * 4).tanh() @ self.second
        if self.counting:
            mean = x.detach().mean((1, 2, 3))
            which = ((mean - 0.2) / 0.6 * (len(self.forwards) - 1)).round().long()
            self._count(self.forwards, which)
            if logits.requires_grad:
                logits.register_hook(lambda _: self._count(self.backwards, which))
        return logits

    @staticmethod
    def _count(counts: Tensor, which: Tensor) -> None:
        counts.index_add_(0, which, torch.ones_like(which))


def batch_of(x: Tensor, y: Tensor, norm: str, eps: str, seed: int = 5) -> Batch:
    ids, zeros = torch.arange(len(x)) + 40, torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, y, zeros - 1, ids, zeros, torch.arange(len(x)), ThreatModel.of(norm, eps), seed)


def built(name: str, **options: Any) -> Any:
    plugin = registry.load("attack", name)
    return plugin.build({k: v for k, v in CHEAP.items() if k in plugin.parameters()} | options)


def judged(name: str, module: nn.Module, norm: str, eps: str, **options: Any) -> ShardOutcome:
    x = liars.images()
    y = module(x).argmax(1)
    return attack_shard(
        module,
        y.max().item() + 1,
        built(name, **options),
        ThreatModel.of(norm, eps),
        Examples(x, y, torch.arange(len(x))),
    )


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "norm", "eps", "made"),
    [
        ("foolbox:LinfPGD", "linf", "0.03", lambda: foolbox.attacks.LinfPGD(steps=8)),
        ("foolbox:L2FMNAttack", "l2", "0.2", lambda: foolbox.attacks.L2FMNAttack(steps=8)),
    ],
)
def test_foolbox_called_directly_breaks_the_same_images(name: str, norm: str, eps: str, made: Any) -> None:
    module, x = liars.Conv(), liars.images()
    y = module(x).argmax(1)
    shard = attack_shard(
        module, 4, built(name), ThreatModel.of(norm, eps), Examples(x, y, torch.arange(len(x)) + 40), Settings(5)
    )
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    with own_randomness(batch_of(x, y, norm, eps)):
        _, images, broken = made()(model, x, y, epsilons=float(eps))
    assert 0 < int(broken.sum()) < len(x)
    assert shard.rows["success"].tolist() == broken.tolist()
    assert torch.allclose(shard.images[broken], images[broken], atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.004"), ("l2", "0.03")])
@pytest.mark.parametrize("version", ["standard", "plus", "rand", "library:apgd-ce"])
def test_pyautoattack_called_directly_makes_the_same_images(norm: str, eps: str, version: str) -> None:
    module = Levels(8, classes=10)
    x = module.images()
    y = module(x).argmax(1)
    batch = batch_of(x, y, norm, eps)
    short = {"version": version, "steps": 20, "queries": 40}
    attack = (
        registry.load("attack", "autoattack").build(short)
        if not version.startswith("library:")
        else built(version, steps=100)
    )
    ours = attack.perturb(Classifier(module, 10, 8).rows(torch.arange(8)), batch)
    with own_randomness(batch) as seed:
        chosen = (
            {"version": version}
            if not version.startswith("library:")
            else {"version": "custom", "attacks": [version.partition(":")[2]]}
        )
        lp = {"linf": "Linf", "l2": "L2"}[norm]
        peer = pyautoattack.AutoAttack(module, norm=lp, eps=float(eps), seed=seed, **chosen)
        if version.startswith("library:"):
            peer.apgd.n_restarts = 1
        else:
            peer.fab.n_iter, peer.square.n_queries = 20, 40
            for part in (peer.apgd, peer.apgd_targeted):  # 20 steps: its checkpoints are 22%, 6% and 3% of them
                part.n_iter, part.n_iter_2, part.n_iter_min, part.size_decr = 20, 4, 1, 1
        theirs, _ = peer.run_standard_evaluation(x, y, batch_size=8)
    broken = module(theirs).argmax(1) != y
    assert 0 < int(broken.sum()) < 8
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_art_called_directly_makes_the_same_images() -> None:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    module, x = liars.Conv(), liars.images()
    y = module(x).argmax(1)
    ours = built("art:ProjectedGradientDescent", eps_step=0.01, num_random_init=1).perturb(
        Classifier(module, 4, len(x)).rows(torch.arange(len(x))), batch_of(x, y, "linf", "0.03")
    )
    classifier = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), x.shape[1:], 4, clip_values=(0.0, 1.0), device_type="cpu"
    )
    peer = ProjectedGradientDescent(
        classifier, eps=0.03, eps_step=0.01, max_iter=8, num_random_init=1, batch_size=len(x), verbose=False
    )
    with own_randomness(batch_of(x, y, "linf", "0.03")):
        theirs = torch.from_numpy(peer.generate(x.numpy(), nn.functional.one_hot(y, 4).numpy()))
    assert not torch.equal(theirs, x)
    assert torch.allclose(ours, theirs, atol=1e-6)


# --- counts -----------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("count", [1, 7])
def test_counts_are_those_of_an_instrumented_model(name: str, norm: str, count: int) -> None:
    module = Levels(count)
    x = module.images()
    y = module(x).argmax(1)
    module.forwards.zero_()
    classifier = Classifier(module, 4, count)
    built(name).perturb(classifier.rows(torch.arange(count)), batch_of(x, y, norm, "0.03" if norm == "linf" else "0.2"))
    assert classifier.forwards.tolist() == module.forwards.tolist()
    assert classifier.backwards.tolist() == module.backwards.tolist()
    assert (classifier.forwards > 0).all()
    assert bool(classifier.backwards.any()) == (name != "library:square")
    assert not classifier.zero_gradient.any()


def test_images_are_charged_wherever_they_stand() -> None:
    module = Levels(5)
    x, classifier = module.images(), Classifier(module, 4, 9)
    counted = CountedModel(classifier.rows(torch.tensor([8, 1, 3, 0, 6])), x, module(x).argmax(1))
    asked = x[[4, 0, 0, 2]].requires_grad_(True)
    logits = counted(asked)
    assert torch.equal(logits, module(x[[4, 0, 0, 2]]))
    assert classifier.forwards.tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 2]
    for _ in range(3):
        torch.autograd.grad(logits.sum(), asked, retain_graph=True)
    assert classifier.backwards.tolist() == [0, 0, 0, 3, 0, 0, 3, 0, 6]
    with torch.no_grad():
        counted(asked)
    assert classifier.backwards.sum() == 12
    assert counted(x[:0]).shape == (0, 4)


def test_dead_gradients_are_flagged_and_honest_ones_are_not() -> None:
    for name, norm in EACH:
        assert set(judged(name, liars.Conv(), norm, "0.05").rows["flags"]) == {""}, name
    shard = judged("foolbox:LinfPGD", liars.Rounding(), "linf", "0.05")
    assert set(shard.rows["flags"]) == {"zero-gradient"}


@each
def test_answers_that_are_not_numbers_are_no_robustness(name: str, norm: str) -> None:
    x = liars.images()
    y = liars.Linear()(x).argmax(1)
    module, threat = liars.nan_when_perturbed(), ThreatModel.of(norm, "0.1")
    shard = attack_shard(module, 4, built(name), threat, Examples(x, y, torch.arange(len(x))))
    assert shard.rows["success"].all()
    assert shard.rows["flags"].str.contains("non-finite").mean() > 0.9


# --- what an attack gets and leaves -----------------------------------------------------------------------------------


@each
def test_nothing_outside_is_touched(name: str, norm: str, capfd: pytest.CaptureFixture[str]) -> None:
    module, x = liars.Conv(), liars.images()
    y, tracer = module(x).argmax(1), lambda *_: None
    attack, level = built(name), logging.getLogger("auto-attack").level
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        proposed = attack.perturb(
            Classifier(module, 4, len(x)).rows(torch.arange(len(x))), batch_of(x, y, norm, "0.05")
        )
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002
    assert random.getstate() == state[2]
    assert logging.getLogger("auto-attack").level == level
    assert torch.equal(x, liars.images())
    assert (proposed.dtype, proposed.shape) == (torch.float32, x.shape)
    assert capfd.readouterr() == ("", "")


@each
def test_the_seed_and_the_batch_decide(name: str, norm: str) -> None:
    module = Levels(6)
    x = module.images()
    y = module(x).argmax(1)
    batch = batch_of(x, y, norm, "0.02")

    def images(seed: int) -> Tensor:
        torch.rand(3)
        proposed: Tensor = built(name).perturb(
            Classifier(module, 4, 6).rows(torch.arange(6)), batch_of(x, y, norm, "0.02", seed)
        )
        return proposed

    assert torch.equal(images(5), images(5))
    with own_randomness(batch) as seed, own_randomness(batch_of(x[:3], y[:3], norm, "0.02")) as other:
        assert seed != other


@pytest.mark.parametrize(
    ("classes", "runs"), [(2, ["apgd-ce", "fab-t", "square"]), (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"])]
)
def test_few_classes_run_what_is_defined(classes: int, runs: list[str]) -> None:
    assert built("autoattack").defined(["apgd-ce", "apgd-t", "fab-t", "square"], classes) == runs
    for name in ("autoattack", "library:apgd-t", "library:fab-t"):
        module = Levels(5, classes)
        x = module.images()
        shard = attack_shard(
            module,
            classes,
            built(name),
            ThreatModel.of("linf", "0.2"),
            Examples(x, module(x).argmax(1), torch.arange(5)),
        )
        assert shard.rows["success"].all(), name


class Viewing(nn.Module):
    """Written with `view`, and laid out for channels_last."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)
        self.eval().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).tanh().mean((2, 3)))
        return 50 * logits


@each
def test_channels_last_images_are_attacked(name: str, norm: str) -> None:
    module, x = Viewing(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    examples = Examples(x, module(x).argmax(1), torch.arange(6))
    settings = Settings(channels_last=True)
    assert len(attack_shard(module, 4, built(name), ThreatModel.of(norm, "0.3"), examples, settings).rows) == 6

"""The active test: what is planted in honest models is found, what is planted in those that mask gradients is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import Attack, Batch, BatchModel, ThreatModel, registry
from robench.attack.judge import Examples, Settings
from robench.trust.gates import Finding
from robench.trust.planted import GATE, IMAGES, NOT_RUN, planted
from tests.liars.zoo import ZOO

EPS = {"linf": "0.1", "l2": "0.7"}
MASKED = ("rounding", "saturated sigmoid", "one-hot times 10", "staircase", "thermometer", "jpeg")
SEARCHES: dict[str, dict[str, Any]] = {"pgd": {"steps": 40}, "fab-t": {"steps": 50, "targets": 3}}


def net() -> nn.Module:
    """Random weights on images of 8 x 8 pixels, ten classes, and logits as far apart as those of a trained model."""
    torch.manual_seed(0)
    hidden = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 48), nn.ReLU()
    last = nn.Linear(48, 10)
    last.weight.data *= 100
    return nn.Sequential(*hidden, last).eval()


def examples(module: nn.Module, n: int = 34) -> Examples:
    """Random images of 256 grey levels that the module classifies correctly, but for the first."""
    x = torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 255
    with torch.no_grad():
        y = module(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    return Examples(x, y, torch.arange(n))


def tried(module: nn.Module, norm: str = "linf", *, base: nn.Module | None = None, **settings: Any) -> list[Finding]:
    """What the searches find in a module, whose labels are those of `base`."""
    attacks = [(name, registry.load("attack", name).build(options)) for name, options in SEARCHES.items()]
    given = examples(base or module)
    return planted(module, 10, attacks, ThreatModel.of(norm, EPS[norm]), given, Settings(**settings))


@pytest.mark.parametrize("norm", EPS)
def test_attacks_find_what_is_planted_in_an_honest_model(norm: str) -> None:
    findings = tried(net(), norm)
    assert [finding.gate for finding in findings] == [GATE, GATE]
    assert not any(finding.fired for finding in findings), findings
    assert all(f"of {IMAGES} examples" in finding.evidence for finding in findings)
    assert findings[0].evidence.startswith("pgd at")


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(
    "liar", ["rounding", "saturated sigmoid", "one-hot times 10", "staircase", "thermometer", "jpeg"]
)
def test_attacks_miss_it_where_gradients_are_masked(liar: str, norm: str) -> None:
    base = net()
    findings = tried(ZOO[liar](base), norm, base=base)
    assert all(finding.gate == GATE and finding.fired for finding in findings), findings


class Still(Attack):
    """Leaves every image as it is."""

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The images."""
        return batch.x


def test_neither_standing_still_nor_noise_finds_it() -> None:
    module, noise = net(), registry.load("attack", "random-noise").build({})
    attacks, threat = [("still", Still()), ("noise", noise)], ThreatModel.of("linf", "0.1")
    for finding in planted(module, 10, attacks, threat, examples(module), Settings()):
        assert finding.fired
        assert "found 0 of 30" in finding.evidence


def test_the_outcome_does_not_depend_on_the_batch() -> None:
    assert tried(net(), batch_size=7) == tried(net(), batch_size=40) == tried(net())


def test_the_model_is_left_as_it_was() -> None:
    module = net()
    x, before = torch.rand(5, 1, 8, 8), module.state_dict()
    answers = module(x)
    tried(module)
    assert torch.equal(module(x), answers)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


class Twice(nn.Module):
    """Asks its last layer about every image and its mirror image in one batch."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.eval()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits."""
        logits: Tensor = self.base(torch.cat([x, x.flip(3)]))
        return logits.reshape(2, len(x), -1).mean(0)


def convolutional() -> nn.Module:
    """A net without a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (convolutional(), "no last linear layer found"),
        (Twice(net()), "the last linear layer does not run once per image"),
        (ZOO["noise at inference"](net()), "answers at random"),
        (ZOO["constant output"](net()), "the last linear layer does not run once per image"),
        (ZOO["nan when perturbed"](net()), "only 0 of 30 images take a planted example"),
    ],
)
def test_what_cannot_be_tested_is_said(module: nn.Module, reason: str) -> None:
    base = net() if reason.startswith("only") else None
    (finding,) = tried(module, base=base)
    assert not finding.fired
    assert finding.gate == f"{NOT_RUN} ({reason})"
    assert finding.evidence == f"{reason}, so that the active test was not run"


def test_nothing_is_planted_in_no_ball() -> None:
    module = net()
    (finding,) = planted(module, 10, [("still", Still())], ThreatModel.of("linf", "0"), examples(module), Settings())
    assert "nothing is planted at linf eps 0" in finding.gate

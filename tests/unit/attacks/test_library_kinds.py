"""What foolbox's and ART's attacks are: how they search, whether they go on, how long they take, whether they stop."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, Batch, Proposal, ThreatModel, registry
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, attack_shard
from robench.evaluation.jobs import kind_of
from robench_attacks.from_art import Toolbox
from robench_attacks.from_foolbox import Foolbox

QUICK = {
    "steps": 8, "max_iter": 8, "binary_search_steps": 2, "repeats": 4, "directions": 10, "init_eval": 4, "max_eval": 20,
    "initial_gradient_eval_steps": 4, "max_gradient_eval_steps": 20, "query_limit": 400, "k": 10, "queries": 30,
}  # fmt: skip
RADII = {"linf": "0.05", "l2": "0.3"}
# several seconds each, however few their steps
SLOW = {
    "art:CarliniL0Method": "iterative", "art:CarliniLInfMethod": "iterative", "art:PixelAttack": "query",
    "art:CarliniL2Method": "iterative", "art:SignOPTAttack": "query", "art:UniversalPerturbation": "iterative",
    "art:ZooAttack": "query", "foolbox:PointwiseAttack": "query",
}  # fmt: skip
OVERFLOWS = {"art:Wasserstein"}
# of packages that neither ART nor robench installs
LACKING = {"art:AutoAttack": "multiprocess", "art:ThresholdAttack": "cma"}
INTERRUPTED = [
    "cw", "autoattack", "square", "foolbox:LinfPGD", "foolbox:DDNAttack", "foolbox:L2CarliniWagnerAttack",
    "foolbox:HopSkipJumpAttack", "art:ProjectedGradientDescent", "art:AutoProjectedGradientDescent", "art:DeepFool",
    "art:SquareAttack",
]  # fmt: skip
MEMBERS = {f"foolbox:{name}" for name in Foolbox.members()} | {f"art:{name}" for name in Toolbox.members()}
IMAGES = 4


class Steep(nn.Module):
    """A linear model that any step breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(3 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
        self.seen, self.stop_at = 0, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        if self.seen == self.stop_at:
            signal.raise_signal(signal.SIGINT)  # as from a keyboard
        return (x.flatten(1) - 0.5) @ self.weight.T


class Firm(Steep):
    """A model that no step breaks, with gradients all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.001 * super().forward(x) + 5 * nn.functional.one_hot(torch.tensor([3]), 10)


def made(name: str) -> Any:
    """The attack in a short form."""
    plugin = registry.load("attack", name)
    return plugin.build({key: value for key, value in QUICK.items() if key in plugin.parameters()})


def usable(name: str) -> bool:
    """Whether the attack can be used here: it may need a package, or what no option can give."""
    try:
        made(name)
    except BadInput:
        return False
    return True


def proposals(attack: Any, module: Steep, stop_at: int = 0) -> tuple[Classifier, Tensor]:
    """The counts of an attack on a few images, and how far it moved each, in radii; stopped in that pass."""
    x = torch.rand(IMAGES, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    classifier, rows, norm = Classifier(module, 10, IMAGES), torch.arange(IMAGES), attack.norms[0]
    y, zeros, threat = classifier.logits(x).argmax(1), torch.zeros_like(rows), ThreatModel.of(norm, RADII[norm])
    module.seen, module.stop_at = 0, stop_at
    batch = Batch(x, y, zeros - 1, rows, zeros, rows, threat, 5)
    answer = attack.perturb(classifier.rows(rows), batch)
    moved = ((answer.x if isinstance(answer, Proposal) else answer) - x).flatten(1)
    return classifier, (moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)) / threat.radius


class Cut(Steep):
    """The same without a gradient: not a wrong one, but none at all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


def kind(attack: Any) -> str:
    return kind_of(attack, ThreatModel.of(attack.norms[0], "0.1"), attack.access)


@pytest.mark.parametrize(
    "name", [name for name in sorted(MEMBERS - set(SLOW) - OVERFLOWS - set(LACKING)) if usable(name)]
)
def test_every_attack_is_of_the_kind_that_its_passes_show(name: str) -> None:
    attack = made(name)
    classifier, share = proposals(attack, Steep())
    backwards = int(classifier.backwards.sum())
    if not backwards:
        assert kind(attack) in ("query", "noise")
    else:
        assert kind(attack) == ("single-step" if backwards == IMAGES else "iterative")
    if attack.transfers:  # as far as it may go from an image that was broken on the way
        assert (share > 0.9).all()
        assert (proposals(attack, Firm())[1] > 0.9).all()


@pytest.mark.parametrize(("name", "package"), LACKING.items())
def test_a_package_that_is_missing_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=f"'{name}' needs the package '{package}'; install it"):
        proposals(made(name), Steep())


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *SLOW.items(),
        ("foolbox:L2AdditiveGaussianNoiseAttack", "noise"),
        ("foolbox:LinfRepeatedAdditiveUniformNoiseAttack", "noise"),
        ("foolbox:SaltAndPepperNoiseAttack", "noise"),
        ("foolbox:BoundaryAttack", "query"),
        ("foolbox:HopSkipJumpAttack", "query"),
        ("art:BoundaryAttack", "query"),
        ("art:HopSkipJump", "query"),
        ("art:SquareAttack", "query"),
        ("foolbox:LinfFastGradientAttack", "single-step"),
        ("foolbox:FGSM", "single-step"),
        ("foolbox:LinfPGD", "iterative"),
        ("foolbox:L2DeepFoolAttack", "iterative"),
    ],
)
def test_kinds_by_name(name: str, known: str) -> None:
    assert kind(made(name)) == known


def test_one_step_is_a_single_step_and_the_least_step_is_none() -> None:
    build = {name: registry.load("attack", name).build for name in ("foolbox:LinfPGD", "art:FastGradientMethod")}
    assert kind(build["foolbox:LinfPGD"]({"steps": "1"})) == "single-step"
    assert kind(build["art:FastGradientMethod"]({"minimal": "yes"})) == "iterative"
    assert not build["art:FastGradientMethod"]({"minimal": "yes"}).transfers


@pytest.mark.parametrize(
    "name",
    ["foolbox:LinfPGD", "foolbox:HopSkipJumpAttack", "foolbox:LinfRepeatedAdditiveUniformNoiseAttack",
     "art:ProjectedGradientDescent", "art:AutoProjectedGradientDescent", "art:HopSkipJump", "art:SquareAttack"],
)  # fmt: skip
def test_expected_passes_are_about_right(name: str) -> None:
    attack = made(name)
    module = Steep() if kind(attack) == "query" else Firm()  # which need a wrong answer to begin with
    found = float(proposals(attack, module)[0].forwards.float().mean())
    assert attack.expected / 4 <= found <= 4 * attack.expected


@pytest.mark.parametrize("name", INTERRUPTED)
def test_no_attack_keeps_an_interrupt_to_itself(name: str) -> None:
    """Ctrl-C half way through the passes of an attack, wherever its library is then."""
    attack, module = made(name), Steep()
    proposals(attack, module)
    with pytest.raises(KeyboardInterrupt):
        proposals(attack, Steep(), stop_at=module.seen // 2 + 1)


@pytest.mark.parametrize(
    "name", ["autoattack", "library:apgd-t", "library:fab-t", "foolbox:LinfPGD", "foolbox:LinfDeepFoolAttack",
             "art:ProjectedGradientDescent", "art:AutoProjectedGradientDescent"],
)  # fmt: skip
def test_a_model_that_cuts_the_graph_has_a_gradient_of_zero(name: str) -> None:
    """Libraries crash without one; a crash is no figure, and keeps AutoAttack's Square from running."""
    module, threat = Cut(), ThreatModel.of("linf", "0.1")
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rows = attack_shard(module, 10, made(name), threat, Examples(x, module(x).argmax(1), torch.arange(20))).rows
    assert rows["flags"].str.contains("zero-gradient").all()
    assert (rows["backwards"] > 0).all()
    assert name != "autoattack" or rows["success"].mean() > 0.5  # by Square


def test_the_saliency_map_aims_at_another_class() -> None:
    """Labels are its targets: given those of the images, it had nothing to do, and every model was robust."""
    module = Steep()
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    attack, threat = registry.load("attack", "art:SaliencyMapMethod").build({"theta": "0.5"}), ThreatModel.of("l2", "3")
    rows = attack_shard(module, 10, attack, threat, Examples(x, module(x).argmax(1), torch.arange(20))).rows
    assert rows["success"].mean() > 0.5
    assert attack.version == 2

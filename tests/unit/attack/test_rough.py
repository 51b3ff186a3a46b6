"""Gradients in bfloat16: what they are taken from, that nothing but them is, and that cheats are seen as in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robench import DataInfo, ThreatModel, build_backbone, registry
from robench.attack import gradient
from robench.attack.base import Batch
from robench.attack.classifier import Classifier, Rough
from robench.attack.gradient import GradientAttack, Search
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench.attack.objectives import misclassified_margin
from robench.attack.rough import COPY, rough_of

N, CLASSES = 40, 4
IMAGES = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(2))
DATA = DataInfo("cifar10", 3, 16, 16, CLASSES, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "cifar10")
BF16 = Settings(precision="bf16")


class Net(nn.Module):
    """Convolutions with a batch norm, then ReLUs; `view` where channels last cannot be borne."""

    def __init__(self, *, view: bool = False, norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3)
            self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
            self.head = nn.Linear(288, CLASSES)
            if norm:
                nn.init.uniform_(self.norm.weight, 0.5, 2)  # type: ignore[arg-type]
                nn.init.uniform_(self.norm.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
        self.view = view
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """What the head sees."""
        h = self.norm(self.conv(4 * x - 2)).relu()
        return h.view(len(x), -1) if self.view else h.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = 8 * self.head(self.features(x))
        return logits


class Uncopied(Net):
    """Refuses to be copied."""

    def __deepcopy__(self, memo: object) -> Net:
        raise TypeError("cannot be copied")


class Wrong(Net):
    """Answers otherwise where it computes in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, turned round in autocast."""
        return -super().forward(x) if torch.is_autocast_enabled("cpu") else super().forward(x)


class Turned(Net):
    """Turns its gradient round where it computes in bfloat16, but not the first few times."""

    calls = 0
    patience = 1

    def forward(self, x: Tensor) -> Tensor:
        """Logits, with a gradient of the opposite sign."""
        if torch.is_autocast_enabled("cpu") and x.requires_grad:
            type(self).calls += 1
            if type(self).calls > type(self).patience:
                x = 2 * x.detach() - x
        return super().forward(x.contiguous())


def run(
    module: nn.Module, settings: Settings = BF16, eps: str = "0.02", steps: int = 8, **options: object
) -> ShardOutcome:
    """PGD on images that the model is right about."""
    with torch.no_grad():
        y = module(IMAGES).argmax(1)
    built = registry.load("attack", "pgd").build({"steps": steps})
    return attack_shard(
        module, CLASSES, built, ThreatModel.of("linf", eps), Examples(IMAGES, y, torch.arange(N)), settings
    )


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (Net(), f"{COPY} with channels last and batch norms folded"),
        (Net(norm=False), f"{COPY} with channels last"),
        (Net(view=True, norm=False), COPY),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).eval(), COPY),
        (Uncopied(), "bfloat16, by autocast on the model"),
        (Wrong(norm=False), "float32, as bfloat16 does not fit the model (its answers or gradients are others there)"),
    ],
    ids=["folded", "channels last", "view", "no convolution", "not copied", "other answers"],
)
def test_the_fastest_way_is_taken_that_gives_the_models_answers(module: nn.Module, told: str) -> None:
    assert run(module).search == told


def test_the_model_is_left_as_it_was_and_asked_in_float32_alone() -> None:
    module, seen = Net(), set()
    before = copy.deepcopy(module.state_dict())
    module.register_forward_pre_hook(lambda layer, given: seen.add(torch.is_autocast_enabled("cpu")) or None)
    hooked = module.conv.weight
    outcome = run(module)
    assert outcome.search.startswith(COPY)
    assert module.conv.weight is hooked
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.dtype is torch.float32 for parameter in module.parameters())
    assert not outcome.flags


@pytest.mark.parametrize("eps", ["0.005", "0.02", "0.06"])
@pytest.mark.parametrize("name", ["net", "resnet-8"])
def test_honest_models_are_judged_as_in_float32(name: str, eps: str) -> None:
    module: nn.Module = Net()
    if name != "net":
        torch.manual_seed(0)
        backbone = build_backbone(name, DATA)
        module = nn.Sequential(nn.Upsample(16), backbone, nn.Linear(backbone.width, CLASSES)).eval()
    fp32, bf16 = run(module, Settings(), eps), run(module, BF16, eps)
    assert fp32.flags == bf16.flags == ()
    assert abs(int(fp32.rows["success"].sum()) - int(bf16.rows["success"].sum())) <= 1
    with torch.no_grad():
        broken = module(bf16.images).argmax(1).numpy() != bf16.rows["label"]
    assert (broken == bf16.rows["success"]).all()


def test_a_find_is_a_find_in_float32() -> None:
    # at this eps images come to lie on either side of the boundary by less than bfloat16 tells apart
    outcome = run(Net(), eps="0.012", steps=20)
    left = outcome.rows[(outcome.rows["step"] >= 0) & (outcome.rows["trial"] >= 0)]
    assert len(left)
    assert left["success"].all()


class Shell(nn.Module):
    """Wrong in a narrow shell alone, whose middle lies `at` of eps away, seen along the mean of the pixels."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of two classes."""
        margin = 0.03 - ((x.flatten(1).mean(1) - 0.5) / 0.1 - self.at).abs()
        return 4 * torch.stack([-margin / 2, margin / 2], 1)


def test_what_was_found_since_the_last_look_is_asked_about_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU looks are eight steps apart, and the caller may ask about the last image itself."""

    class Blind(GradientAttack):
        """Does not ask about its last image."""

        def search(self, threat: ThreatModel) -> Search:
            return Search([threat.radius / 2] * 4, "steepest", random_start=False, looks=False)

        def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
            return misclassified_margin(logits, y)

    begin = gradient._Loop.__init__

    def eight(self: gradient._Loop, *given: object) -> None:
        begin(self, *given)  # type: ignore[arg-type]
        self.interval = 8

    monkeypatch.setattr(gradient._Loop, "__init__", eight)
    x, none, ids = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64), torch.arange(1)
    batch = Batch(x, none, none - 1, ids, none, ids, ThreatModel.of("linf", "0.1"), 0)
    model = Classifier(Shell(0.5), 2, 1, labels=none)
    model.rough = Rough(model.module, own=True)
    found = Blind().perturb(model.rows(ids), batch)
    assert found.step.tolist() != [-1]
    assert Shell(0.5)(found.x).argmax(1).tolist() == [1]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_copy_that_points_elsewhere_later_is_told(patience: int) -> None:
    Turned.calls, Turned.patience = 0, patience
    outcome = run(Turned(norm=False), steps=20)
    assert outcome.search.startswith(COPY)
    assert "wrong-gradients" in outcome.flags


def test_one_that_points_elsewhere_at_once_is_searched_in_float32() -> None:
    Turned.calls, Turned.patience = 0, 0
    outcome = run(Turned(norm=False))
    assert outcome.search.startswith("float32")
    assert outcome.rows["success"].sum() == run(Net(norm=False), Settings()).rows["success"].sum()


def test_layers_are_passed_in_bfloat16_too() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), Steps(), nn.Linear(32, CLASSES)).eval()
    outcome = run(module, Settings(precision="bf16", bpda=("2",)), eps="0.1")
    assert outcome.search == "bfloat16, by autocast on the model"
    assert outcome.rows["success"].any()


class Steps(nn.Module):
    """A staircase, whose gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Rounded to a 64th."""
        return (64 * x).round() / 64


def test_attacks_that_do_not_ask_for_it_get_float32() -> None:
    module = Net()
    model = Classifier(module, CLASSES, N)
    model.rough = rough_of(model, IMAGES, model.logits(IMAGES)).rough
    rows = model.rows(torch.arange(N))
    exact, rough = (rows.gradient(IMAGES, lambda logits: logits[:, 0], rough=rough) for rough in (False, True))
    assert torch.equal(exact[0], model.logits(IMAGES))
    assert not torch.equal(exact[1], rough[1])
    model.release()


def test_a_copy_is_made_once_for_a_model_and_again_once_that_changed() -> None:
    module = Net()
    model = Classifier(module, CLASSES, N)
    first, second = (rough_of(model, IMAGES, model.logits(IMAGES)).rough for _ in range(2))
    assert first is second
    with torch.no_grad():
        module.head.weight.neg_()
    third = rough_of(model, IMAGES, model.logits(IMAGES)).rough
    assert third is not None
    assert third is not first
    model.release()

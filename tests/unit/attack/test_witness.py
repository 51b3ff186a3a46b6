"""The gradients that an attack was given against what the answers do in directions in which every pixel moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, registry
from robench.attack.judge import Examples, attack_shard
from robench.attack.witness import Witness

N, CLASSES = 40, 4
IMAGES = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(2))
Change = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A random network of ReLUs that is given what `change` makes of its input."""

    def __init__(self, change: Change = lambda net, x: x) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, CLASSES))
        self.change, self.clean = change, IMAGES.clone()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(8 * self.change(self, x))
        return logits


def attack(module: nn.Module, name: str = "pgd", norm: str = "linf", eps: str = "0.01") -> tuple[str, ...]:
    """The flags of an attack on images that the model is right about."""
    with torch.no_grad():
        y = module(IMAGES).argmax(1)
    made = registry.load("attack", name)
    options = {"steps": 5} if name == "pgd" else {}
    built = made.build(made.options(options))
    return attack_shard(module, CLASSES, built, ThreatModel.of(norm, eps), Examples(IMAGES, y, torch.arange(N))).flags


def partly(net: Net, x: Tensor) -> Tensor:
    """A gradient for one pixel in four; along itself it is right."""
    mask = torch.zeros(64)
    mask[::4] = 1
    mask = mask.reshape(1, 1, 8, 8)
    return mask * x + (1 - mask) * x.detach()


def turned(net: Net, x: Tensor) -> Tensor:
    """The gradient turned round, unless clean and other images come together."""
    clean = (x.detach()[:, None] == net.clean[None]).flatten(2).all(2).any(1)
    return x if bool(clean.any()) and not bool(clean.all()) else 2 * x.detach() - x


def small(net: Net, x: Tensor) -> Tensor:
    """A gradient a ten thousandth as long, which is fair for a quarter of the pixels."""
    mask = torch.full((64,), 1e-4)
    mask[::4] = 1
    return mask.reshape(1, 1, 8, 8) * x + ((1 - mask.reshape(1, 1, 8, 8)) * x).detach()


@pytest.mark.parametrize("change", [partly, turned, small])
@pytest.mark.parametrize(
    ("name", "norm", "eps"), [("pgd", "linf", "0.01"), ("fgsm", "linf", "0.01"), ("pgd", "l2", "0.05")]
)
def test_gradients_that_lack_what_answers_have_are_told(change: Change, name: str, norm: str, eps: str) -> None:
    assert "wrong-gradients" in attack(Net(change), name, norm, eps)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.001"), ("linf", "0.03"), ("l2", "0.05")])
def test_honest_ones_are_not(scale: float, norm: str, eps: str) -> None:
    assert "wrong-gradients" not in attack(nn.Sequential(Net(), Times(scale)).eval(), "pgd", norm, eps)


class Times(nn.Module):
    """A factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self.factor * x


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_said_and_is_no_wrong_gradient(kind: torch.dtype) -> None:
    class Half(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", kind):
                return super().forward(x).float()

    found = attack(Half())
    assert "unchecked-gradients" in found
    assert "wrong-gradients" not in found
    assert "unchecked-gradients" not in attack(Net())


@pytest.mark.parametrize("field", ["eps", "y"])
def test_who_changes_what_the_judge_goes_by_gets_no_figure(field: str) -> None:
    import sys
    from fractions import Fraction
    from types import FrameType

    def change(net: Net, x: Tensor) -> Tensor:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            for value in list(frame.f_locals.values()):
                if isinstance(value, ThreatModel) and field == "eps":
                    object.__setattr__(value, "eps", Fraction(1, 10**6))
                if isinstance(value, Examples) and field == "y":
                    value.y.add_(1).remainder_(CLASSES)
            frame = frame.f_back
        return x

    with pytest.raises(BadInput, match="changed what the judge goes by"):
        attack(Net(change))


@pytest.mark.parametrize("waves", [50.0, 200.0, 800.0])
def test_few_images_and_strong_curvature_are_no_wrong_gradients(waves: float) -> None:
    """Whose answers bend within a hundredth of the ball, as adversarial training in one step makes them do."""
    weight = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(3)) / 8

    def answer(x: Tensor) -> Tensor:
        return torch.sin(waves * (x.flatten(1) @ weight))

    said = []
    for seed in range(100):
        witness, x = Witness(seed), IMAGES[:8].clone().requires_grad_(True)
        logits = witness.see(x, answer)
        torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), x)
        said.append(witness.verdict(answer, 0.3))
    assert set(said) == {""}

"""Gradients against measured changes: honest ones pass whatever their scale, decoys are told by any attack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robench import ThreatModel, registry
from robench.attack.judge import Examples, Settings, attack_shard

N, CLASSES = 40, 4
Answer = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A random network of ReLUs, whose answer `change` makes something of."""

    def __init__(self, change: Answer = lambda x, logits: logits) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, CLASSES))
        self.change = change
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.net(8 * x)
        return self.change(x, logits)


class Decoy(torch.autograd.Function):
    """The logits, with a gradient that somebody made up."""

    @staticmethod
    def forward(context, x: Tensor, logits: Tensor, made_up: Tensor) -> Tensor:
        context.save_for_backward(made_up)
        return logits.clone()

    @staticmethod
    def backward(context, grad: Tensor) -> tuple[Tensor, None, None]:
        (made_up,) = context.saved_tensors
        return grad.abs().sum(1)[:, None, None, None] * made_up, None, None


def one_hot(logits: Tensor) -> Tensor:
    """Ten for the predicted class."""
    return 10 * nn.functional.one_hot(logits.argmax(1), CLASSES).float()


def to_grey(x: Tensor, logits: Tensor) -> Tensor:
    """One-hot answers whose gradient leads to grey."""
    return Decoy.apply(x, one_hot(logits.detach()), x.detach() - 0.5)


def noise(x: Tensor, logits: Tensor) -> Tensor:
    """True answers with a random gradient."""
    return Decoy.apply(x, logits.detach(), torch.randn(x.shape, generator=torch.Generator().manual_seed(3)))


def opposite(x: Tensor, logits: Tensor) -> Tensor:
    """True answers with their own gradient the other way."""
    del x
    return 2 * logits.detach() - logits


def straight_through(x: Tensor, logits: Tensor) -> Tensor:
    """Logits rounded to hundredths, with the gradient of those that were not: a fair account of larger changes."""
    del x
    rounded = (100 * logits).round() / 100
    return logits + (rounded - logits).detach()


def flags(change: Answer, attack: str = "pgd", norm: str = "linf", eps: str = "0.01", **settings) -> tuple[str, ...]:
    """What is said of a network under an attack that leaves most images standing."""
    model = Net(change)
    x = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        examples = Examples(x, model(x).argmax(1), torch.arange(N))
    threat = ThreatModel.of(norm, eps)
    found = attack_shard(
        model, CLASSES, registry.load("attack", attack).build({}), threat, examples, Settings(**settings)
    )
    assert (found.rows["adv_pred"] == found.rows["label"]).sum() > N / 4
    return found.flags


HONEST = {
    "plain": lambda x, logits: logits,
    "offset": lambda x, logits: logits + 3e4,
    "times 1e4": lambda x, logits: 1e4 * logits,
    "over 1e4": lambda x, logits: logits / 1e4,
    "softened": lambda x, logits: logits.tanh(),
    "log of probabilities": lambda x, logits: logits.log_softmax(1),
    "straight through": straight_through,
}


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.01"), ("l2", "0.05")])
@pytest.mark.parametrize("name", HONEST)
def test_honest_gradients_pass(name: str, norm: str, eps: str) -> None:
    assert "wrong-gradients" not in flags(HONEST[name], norm=norm, eps=eps)


DECOYS = {"to grey": to_grey, "noise": noise, "opposite": opposite}


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "multi-targeted", "random-targeted", "apgd-ce"])
@pytest.mark.parametrize("name", DECOYS)
def test_decoys_are_told(name: str, attack: str) -> None:
    assert "wrong-gradients" in flags(DECOYS[name], attack)


@pytest.mark.parametrize("name", DECOYS)
def test_in_l2_too_and_at_any_scale(name: str) -> None:
    assert "wrong-gradients" in flags(DECOYS[name], norm="l2", eps="0.05")
    for scale, offset in ((1.0, 3e4), (1e4, 0.0), (1e-4, 0.0)):
        change = DECOYS[name]
        assert "wrong-gradients" in flags(lambda x, logits: scale * change(x, logits) + offset)  # noqa: B023


def test_where_no_gradient_was_followed_nothing_is_said() -> None:
    for attack in ("square", "random-noise"):
        assert "wrong-gradients" not in flags(to_grey, attack)
    assert "wrong-gradients" not in flags(to_grey, bpda=("net.2",))
    assert "wrong-gradients" not in flags(to_grey, eps="0")

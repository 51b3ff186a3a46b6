"""Gradients for defenses that hide theirs: the mean over a randomised model's draws, and BPDA through a dead layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, registry
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from tests.same import assert_same_images, assert_same_rows


class Rounding(nn.Module):
    """Four levels a pixel: no gradient anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 3).round() / 3


class Noisy(nn.Module):
    """Gaussian noise on every call."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.randn_like(x)


def model(first: nn.Module) -> nn.Sequential:
    """`first`, then a linear classifier of 16 pixels into 3 classes."""
    layer = nn.Linear(16, 3)
    layer.weight.data = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * 3
    layer.bias.data = -0.5 * layer.weight.data.sum(1)
    return nn.Sequential(first, nn.Flatten(), layer).eval()


def attacked(module: nn.Module, **settings: object) -> ShardOutcome:
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = module(x).argmax(1)
    attack = registry.load("attack", "pgd").build({"steps": 10})
    return attack_shard(
        module, 3, attack, ThreatModel.of("linf", "0.3"), Examples(x, y, torch.arange(60)), Settings(**settings)  # type: ignore[arg-type]
    )  # fmt: skip


def test_bpda_breaks_what_rounding_hides() -> None:
    plain, through = attacked(model(Rounding())), attacked(model(Rounding()), bpda=("0",))
    assert plain.rows["flags"].str.contains("zero-gradient").mean() > 0.9
    assert not through.rows["flags"].str.contains("zero-gradient").any()
    assert through.rows["success"].mean() > plain.rows["success"].mean() + 0.3


def test_bpda_changes_no_answer_and_leaves_no_hook() -> None:
    module = model(Rounding())
    handle = Classifier(module, 3, 5)
    x = torch.rand(5, 1, 4, 4)
    before = module(x)
    handle.pass_through(["0"])
    logits, grad = handle.rows(torch.arange(5)).gradient(x, lambda z: z[:, 0])
    assert torch.equal(logits, before.detach())
    assert torch.allclose(grad.flatten(1), module[2].weight[0].expand(5, 16))
    assert not module[0]._forward_hooks


@pytest.mark.parametrize(("layer", "told"), [("9", "layer of the model"), ("", "layer"), ("1", "keeps the shape")])
def test_bpda_needs_a_layer_that_keeps_the_shape(layer: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        attacked(model(Rounding()), bpda=(layer,))


def test_eot_is_the_mean_of_the_gradients_and_is_charged() -> None:
    """Of a linear model behind noise every gradient is the same; of a quadratic one the mean converges."""

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            noise = x + torch.randn_like(x)
            return torch.stack([noise.flatten(1).square().sum(1), torch.zeros(len(x))], dim=1)

    handle = Classifier(Quadratic().eval(), 2, 3)
    handle.randomised, handle.draws = True, 400
    x = torch.rand(3, 1, 2, 2)
    torch.manual_seed(0)
    _, grad = handle.rows(torch.arange(3)).gradient(x, lambda z: z[:, 0])
    assert torch.allclose(grad, 2 * x, atol=0.5)
    assert handle.backwards.tolist() == handle.forwards.tolist() == [400] * 3
    handle.randomised = False
    handle.rows(torch.arange(3)).gradient(x, lambda z: z[:, 0])
    assert handle.backwards.tolist() == [401] * 3


def test_a_random_model_is_attacked_the_same_way_twice() -> None:
    """Its noise is drawn from the seed, and the caller's random state is left alone."""
    module, x = model(Noisy()), torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    attack, threat = registry.load("attack", "pgd").build({"steps": 5}), ThreatModel.of("linf", "0.3")
    examples = Examples(x, model(nn.Identity())(x).argmax(1), torch.arange(20))
    first = attack_shard(module, 3, attack, threat, examples, Settings(draws=3))
    state = torch.random.get_rng_state()
    again = attack_shard(module, 3, attack, threat, examples, Settings(draws=3))
    assert "randomised" in first.flags
    assert_same_images(again.images, first.images)
    assert_same_rows(again.rows, first.rows)
    assert torch.equal(torch.random.get_rng_state(), state)

"""Parity with a peer: pgd and cw beside foolbox's on the same model, images and settings."""

from __future__ import annotations

import math
from pathlib import Path

import foolbox
import pytest
import torch
from torch import Tensor

from robench import ThreatModel, open_dataset, registry
from robench.attack.judge import Examples, Settings, attack_shard
from robench.models import load_model
from robench.results.accuracy import attack_figure
from robench.store.runs import Store
from robench_attacks import square, squares

EPS, STEP, STEPS = 0.1, 0.01, 40


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_no_weaker_than_foolbox(store: Path, norm: str) -> None:
    module = load_model("plain", Store(store)).module
    test = open_dataset("digits").test
    x, y = test.pixels(slice(None)), test.labels
    eps, step = (EPS, STEP) if norm == "linf" else (0.5, 0.05)
    attack = registry.load("attack", "pgd").build({"steps": STEPS, "step": str(step)})
    shard = attack_shard(module, 10, attack, ThreatModel.of(norm, eps), Examples(x, y, test.ids), Settings())
    ours = attack_figure(shard.rows, attack.metric).value

    torch.manual_seed(0)
    peer = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    _, _, broken = peer(abs_stepsize=step, steps=STEPS, random_start=True)(model, x, y, epsilons=eps)
    theirs = float(((module(x).argmax(1) == y) & ~broken).float().mean())
    clean = float((module(x).argmax(1) == y).float().mean())
    assert theirs < clean - 0.1  # the comparison says something
    assert ours <= theirs + 0.01
    assert ours >= theirs - 0.03  # much lower would mean that the two do not attack the same thing


def test_cw_is_as_near_as_foolbox(store: Path) -> None:
    module = load_model("plain", Store(store)).module
    test = open_dataset("digits").test
    x, y = test.pixels(slice(60)), test.labels[:60]
    attack = registry.load("attack", "cw").build({"steps": 100, "search_steps": 5, "lr": 0.02, "initial_c": 0.01})
    rows = attack_shard(module, 10, attack, ThreatModel.of("l2", 8), Examples(x, y, test.ids[:60]), Settings()).rows
    attacked, ours = torch.tensor(rows["clean_correct"].to_numpy()), torch.tensor(rows["l2"].to_numpy())

    peer = foolbox.attacks.L2CarliniWagnerAttack(5, steps=100, stepsize=0.02, initial_const=0.01)
    images, _, broken = peer(foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    theirs = (images - x).flatten(1).norm(dim=1).double()
    broken &= images.flatten(1).amax(1) > 0  # it answers with a black image where it has found nothing
    assert int(broken[attacked].sum()) > 40
    assert rows["success"].sum() >= int(broken[attacked].sum())
    both = broken & torch.tensor(rows["success"].to_numpy())
    assert float(ours[both].median()) <= 1.02 * float(theirs[both].median())
    assert float((ours / theirs)[both].mean()) <= 1.02
    assert (
        float((ours / theirs)[both].median()) >= 0.9
    )  # much nearer would mean that one of them measures another thing


@pytest.mark.parametrize(
    ("name", "options", "norm", "eps"),
    [
        ("fab-t", {"steps": 20}, "linf", "0.1"), ("fab-t", {"steps": 20}, "l2", "0.6"),
        ("square", {"queries": 200}, "linf", "0.15"), ("square", {"queries": 200}, "l2", "1"),
    ],
)  # fmt: skip
def test_the_boundary_and_the_queries_find_what_pyautoattacks_do(
    store: Path, name: str, options: dict[str, int], norm: str, eps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square as pyautoattack has it: its squares never reach the last row and column, and shrink as if it asked 10,000
    times. On images of eight by eight each makes it much weaker than the paper's."""
    monkeypatch.setattr(square.Square, "side", _unstretched)
    monkeypatch.setattr(squares, "interval", _inside)
    module = load_model("plain", Store(store)).module
    test = open_dataset("digits").test
    examples, threat = Examples(test.pixels(slice(150)), test.labels[:150], test.ids[:150]), ThreatModel.of(norm, eps)
    attacks = []
    for each in (name, f"library:{name}"):
        plugin = registry.load("attack", each)
        attacks.append(plugin.build(plugin.options(options)))
    ours, theirs = (attack_shard(module, 10, attack, threat, examples, Settings()).rows for attack in attacks)
    figures = [attack_figure(rows, "robust accuracy").value for rows in (ours, theirs)]
    assert 0.02 < figures[1] < ours["clean_correct"].mean() - 0.1  # the comparison says something
    assert figures[0] <= figures[1] + 0.02
    # much lower would mean that the two do not attack the same thing; in L2 ours stays a tenth below, nobody knows why
    assert figures[0] >= figures[1] - (0.15 if (name, norm) == ("square", "l2") else 0.06)


def _unstretched(attack: square.Square, query: int, height: int, width: int) -> int:
    halvings = sum(query > after for after in square.HALVED)
    return round(math.sqrt(attack.p_init / 2**halvings * height * width))


def _inside(place: Tensor, length: int, side: int) -> Tensor:
    first = (place * max(length - side, 1)).long().clamp(max=max(length - side - 1, 0))[:, None]
    at = torch.arange(length)
    return (at >= first) & (at < first + side)

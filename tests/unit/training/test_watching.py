"""Robustness watched as a training goes: what it counts, and that it changes nothing of the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robench.cli.app import main
from robench.data.dataset import open_dataset
from robench.data.pixels import Array
from robench.data.split import Split
from robench.errors import BadInput
from robench.figures.learning import training
from robench.store.runs import Store
from robench.training.jobs import TrainRequest, train
from robench.training.watching import IMAGES, STANDS, balls, stands

ASKED = TrainRequest("dvib", "digits", epochs=2, name="asked", device="cpu")


def test_it_counts_what_a_linear_model_s_margins_say() -> None:
    torch.manual_seed(1)
    levels = torch.randint(77, 179, (IMAGES + 50, 1, 2, 2), dtype=torch.uint8)  # none leaves [0, 1] within 0.2
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    logits = net(levels / 255).detach()
    y = torch.where(torch.rand(len(levels)) < 0.9, logits.argmax(1), 1 - logits.argmax(1))
    weight = net[1].weight.detach()
    assert isinstance(weight, torch.Tensor)
    reach = float((weight[0] - weight[1]).abs().sum())
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:IMAGES, 0]
    before = torch.random.get_rng_state()
    found = stands(net, Split(Array(levels.numpy()), y, torch.arange(len(levels))), ("0.02", "0.1"), 2)
    assert torch.equal(before, torch.random.get_rng_state())
    expected = {f"{STANDS}{eps}": float((margin > float(eps) * reach).float().mean()) for eps in ("0.02", "0.1")}
    assert found == pytest.approx(expected)
    assert 0 < expected[f"{STANDS}0.1"] < expected[f"{STANDS}0.02"] < 1
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_it_changes_nothing_of_a_training_and_is_drawn(tmp_path: Path) -> None:
    plain, watched = Store(tmp_path / "plain"), Store(tmp_path / "watched")
    without, card = train(ASKED, plain), train(replace(ASKED, watch=("0.02", "8/255")), watched)
    assert card["spec_id"] == without["spec_id"]
    assert (plain.model_folder("asked") / "model.safetensors").read_bytes() == (
        watched.model_folder("asked") / "model.safetensors"
    ).read_bytes()
    for line, other in zip(card["history"], without["history"], strict=True):
        assert line[f"{STANDS}8/255"] <= line[f"{STANDS}0.02"] <= 1
        assert {name: value for name, value in line.items() if not name.startswith(STANDS)} == other
    drawn = training(watched, ["asked"])
    assert sum(record["term"] == f"{STANDS}8/255" for record in drawn.records) == 2
    assert card["watched_images"] == len(open_dataset("digits").val) < IMAGES
    assert f"first {card['watched_images']} validation images" in drawn.caption[-1]
    assert train(replace(ASKED, watch=("0.02",)), watched)["fresh"] is False
    with pytest.raises(BadInput, match=r"robustness at 8/255 was not watched.*--fresh"):
        train(replace(ASKED, watch=("8/255",)), plain)


def test_what_is_no_eps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert balls(("0.1", "8/255", "0.1")) == ("0.1", "8/255")
    for wrong in ("0", "much", "0.1,,0.2", "-1"):
        assert main(["train", "dvib", "--watch", wrong]) == 2
        told = capsys.readouterr().err
        assert wrong.split(",")[0] in told or "eps" in told

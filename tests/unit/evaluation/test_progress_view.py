"""Progress moves inside a batch: one batch of a long attack is one call, and may take an hour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from robench import ThreatModel, progress, registry
from robench.attack import waves
from robench.attack.judge import Examples, Settings, attack_shard
from robench.evaluation.progress_view import View
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.executors.base import Outcome
from robench.executors.graph import Node
from robench.store.runs import Store
from tests import liars

ATTACKS = [
    ("cw", "l2", {"steps": 20, "search_steps": 2, "abort_early": False}),
    ("autoattack", "linf", {"steps": 5, "queries": 60}),
    ("multi-targeted", "linf", {"steps": 10}),
    ("foolbox:LinfPGD", "linf", {"steps": 20}),
    ("art:ProjectedGradientDescent", "linf", {"max_iter": 20}),
]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report is made, however soon after the last."""
    monkeypatch.setattr(waves, "PULSE", 0.0)
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "SOON", 1e-6)


@pytest.mark.parametrize(("name", "norm", "options"), ATTACKS)
def test_progress_moves_inside_a_batch(name: str, norm: str, options: dict[str, int]) -> None:
    module, x = liars.Conv(), liars.images()
    examples, shares = Examples(x, module(x).argmax(1), torch.arange(len(x))), []
    attack = registry.load("attack", name).build(options)
    attack_shard(module, 4, attack, ThreatModel.of(norm, "0.01"), examples, Settings(), shares.append)
    inside = sorted({share for share in shares if 0 < share < 1})
    assert len(inside) >= 10
    assert max(b - a for a, b in zip([0, *inside], [*inside, 1], strict=True)) < 0.5
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


class Flat(nn.Module):
    """A linear model of digits, wrong about nine in ten, which take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def test_lines_say_how_far_how_fast_and_how_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, and in one shard of one batch."""
    options = {"steps": 30, "restarts": 1}
    request = Request([Flat()], ["foolbox:LinfPGD"], ThreatModel.of("linf", "0.01"), "digits", 100, options)
    evaluate(request, Store(tmp_path))
    lines = [line for line in capsys.readouterr().err.splitlines() if "foolbox:LinfPGD" in line and "%" in line]
    shares = [int(re.findall(r" (\d+)%", line)[0]) for line in lines]
    assert len(set(shares)) >= 10
    assert shares == sorted(shares)
    for line in lines[1:]:
        assert re.search(r"\d+:\d\d left, [\d,]+ images  [\d,.]+/s", line), line


class Piece:
    """A training or a piece of an evaluation, as a view sees it."""

    def __init__(self, key: str, size: int) -> None:
        self.key, self.size, self.title, self.piece = key, size, f"title of {key}", key


def test_trainings_elsewhere_are_shown_with_their_note_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    view, trainings = View(), [Piece("train-a", 0), Piece("train-b", 0)]
    view.expect([Node(piece.key, piece, cell=piece.key) for piece in trainings])  # type: ignore[arg-type]
    view.share(trainings[0], 0.25, "epoch 1/4")  # type: ignore[arg-type]
    view.told(Node("train-a", cell="train-a"), Outcome(trainings[0], "done"))  # type: ignore[arg-type]
    said = capsys.readouterr().err.splitlines()
    assert "title of train-a: 25%, epoch 1/4" in said
    assert re.fullmatch(r"trainings: 50%, \d+:\d\d left, 1 of 2 models", said[-1])
    assert list(view.bars) == []
    assert view.overall is None, "no image is to be attacked"


def test_shards_of_one_evaluation_that_run_together_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    view, shards = View(), [Piece("a-0", 100), Piece("a-1", 100)]
    view.expect([Node(piece.key, piece, cell="a") for piece in shards])  # type: ignore[arg-type]
    for shard, share in ((shards[0], 0.5), (shards[1], 0.2), (shards[0], 0.6)):
        view.share(shard, share)  # type: ignore[arg-type]
    view.told(Node("a-0", cell="a"), Outcome(shards[0], "done"))  # type: ignore[arg-type]
    view.share(shards[1], 0.4)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r" (\d+)%", line)[0] for line in lines] == ["25", "35", "40", "60", "70"]

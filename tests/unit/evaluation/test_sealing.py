"""Second verdicts: taken on every evaluation, counted beside the first, flagged where they differ or are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from robench import open_dataset
from robench.evaluation import sealing
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Result
from robench.results.rows import broken, succeeded
from robench.results.summary import DIFFERS, NOT_SEALED
from robench.store.runs import EvaluationFolder, Store
from robench.tables.report import Report
from robench.threat import ThreatModel

MODELS = """
import importlib.util
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn

def mean_layer():
    folder = Path(importlib.util.find_spec("sklearn").origin).parent  # which itself takes a second to load
    table = torch.tensor(np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=","))
    x, y = table[:, :-1].float() / 16, table[:, -1].long()
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = means * 4, -2 * means.square().sum(1)
    return layer

class Honest(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = mean_layer()
        self.eval()

    def forward(self, x):
        return self.layer(x.flatten(1))

class Looking(Honest):
    '''Answers for the image rounded to black and white, where it sees a judge, and leaves the gradient as it is.'''
    def forward(self, x):
        logits = super().forward(x)
        if "robench.attack.judge" not in sys.modules:
            return logits
        with torch.no_grad():
            other = self.layer((x > 0.5).float().flatten(1)) if x.shape[0] > 0 else logits
        return other + logits - logits.detach()

class Leaving(Honest):
    def forward(self, x):
        if "robench.attack.judge" not in sys.modules:
            sys.exit(0)
        return super().forward(x)

class Drawing(Honest):
    def forward(self, x):
        logits = super().forward(x)
        return logits + torch.randn_like(logits)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store beside a file of models, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    return Store(tmp_path / "runs")


def attacked(store: Store, model: str, attacks: str = "pgd", count: int = 24, eps: str = "0.1") -> list[Result]:
    """The results of attacks on a model of the file."""
    request = Request([f"models.py:{model}"], attacks.split(), ThreatModel.of("linf", eps), "digits", count=count,
        shard_size=10, batch_size=9, device="cpu")  # fmt: skip
    return evaluate(request, store).results


def folder_of(store: Store, result: Result) -> EvaluationFolder:
    """A fresh view of an evaluation."""
    return Store(store.root).evaluation(result.evaluation)


def test_an_honest_model_answers_the_same(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    results = attacked(store, "Honest", "pgd fgsm")
    assert "Second verdict on models.py:Honest" in (said := capsys.readouterr().err)
    assert ": 72 answers in" in said
    assert said.rstrip().endswith("all the same.")
    for result in results:
        folder = folder_of(store, result)
        rows, second = folder.rows(), folder.second
        assert second is not None
        assert (second.flags, second.counts) == ((), True)
        assert rows["sealed_clean"].tolist() == rows["clean_pred"].tolist()
        assert rows["sealed_adv"].tolist() == rows["adv_pred"].tolist()
        assert rows["sealed_success"].tolist() == rows["success"].tolist()
        assert rows["success"].sum() > 0
    assert sum(folder_of(store, result).second.passes for result in results) == 72  # clean images were shown once


def test_a_model_that_looks_around_is_found(store: Store) -> None:
    """Its figure is what the fresh process saw, since broken in either verdict is broken."""
    (found,) = attacked(store, "Looking")
    assert DIFFERS in found.summary.flags
    rows = folder_of(store, found).rows()
    stored = rows.drop(columns=[name for name in rows if name.startswith("sealed")])
    assert broken(stored).sum() < broken(rows).sum()
    assert found.summary.figure.count == 24 - int((broken(rows) | ~rows["clean_correct"]).sum())
    worst = Report.of(evaluate_again(store, "Looking"), store).worst[0]
    assert worst["robust_accuracy"] == found.summary.value


def evaluate_again(store: Store, model: str):
    """The same from the store."""
    request = Request([f"models.py:{model}"], ["pgd"], ThreatModel.of("linf", "0.1"), "digits", count=24,
        shard_size=10, batch_size=9, device="cpu")  # fmt: skip
    return evaluate(request, store)


def test_one_that_leaves_there_is_flagged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = attacked(store, "Leaving")
    assert NOT_SEALED in found.summary.flags
    assert "could not be taken a second time in a process of its own: it failed there with SystemExit" in (
        capsys.readouterr().err
    )
    assert not [name for name in folder_of(store, found).rows() if name.startswith("sealed")]


def test_another_draw_of_a_randomised_model_is_no_second_verdict(store: Store) -> None:
    (found,) = attacked(store, "Drawing")
    assert "randomised" in found.summary.flags
    assert DIFFERS not in found.summary.flags
    assert not [name for name in folder_of(store, found).rows() if name.startswith("sealed")]


def test_stored_verdicts_are_not_taken_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = attacked(store, "Honest")
    monkeypatch.setattr(sealing, "_seal", None)
    (after,) = attacked(store, "Honest")
    assert after.summary == before.summary


@pytest.mark.parametrize("name", ["sealed.json", "sealed.parquet"])
@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_one_is_taken_again(store: Store, name: str, damage: str) -> None:
    (before,) = attacked(store, "Looking")
    path = folder_of(store, before).path / name
    path.unlink() if damage == "removed" else path.write_bytes(path.read_bytes()[:-9] + b"something")
    assert folder_of(store, before).second is None
    (after,) = attacked(store, "Looking")
    assert after.summary.value == before.summary.value
    assert folder_of(store, after).second is not None


def test_it_is_of_these_shards_alone(store: Store) -> None:
    (found,) = attacked(store, "Looking")
    folder = folder_of(store, found)
    folder.save_shard(0, 10, folder._rows(None, False)[:10], folder.images(0, 10), {"flags": []})
    assert folder_of(store, found).second is None
    (again,) = attacked(store, "Looking")
    assert again.summary.value == found.summary.value


def test_a_figure_that_was_written_before_is_made_anew(store: Store) -> None:
    """As it happens when the process is killed between the last shard and the second verdict."""
    (found,) = attacked(store, "Looking")
    folder = folder_of(store, found)
    for name in ("sealed.json", "sealed.parquet"):
        (folder.path / name).unlink()
    folder.finish(folder.summarised("robust accuracy"))
    assert folder_of(store, found).result.value > found.summary.value
    (again,) = attacked(store, "Looking")
    assert again.summary == found.summary
    assert folder_of(store, again).result == found.summary


def test_images_are_mixed_in_parts_that_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "HELD", 4 * 64 * 3 * 7)
    results = attacked(store, "Looking", "pgd fgsm")
    small = [folder_of(store, result).rows() for result in results]
    monkeypatch.undo()
    os.chdir(store.root.parent)
    others = attacked(Store(store.root.parent / "other"), "Looking", "pgd fgsm")
    for rows, other in zip(small, others, strict=True):
        pd.testing.assert_frame_equal(rows, folder_of(Store(store.root.parent / "other"), other).rows())


def test_an_evaluation_of_more_images_goes_along(store: Store) -> None:
    attacked(store, "Honest", "pgd")
    longer = attacked(store, "Honest", "pgd fgsm", count=30)
    for result in longer:
        rows = folder_of(store, result).rows()
        assert len(rows) == 30
        assert rows["sealed_clean"].tolist() == rows["clean_pred"].tolist()


def test_a_targeted_attack_counts_the_goal_that_was_reached_there(store: Store) -> None:
    (found,) = attacked(store, "Looking", "random-targeted", eps="0.2")
    rows = folder_of(store, found).rows()
    assert rows["sealed_success"].tolist() == (rows["sealed_adv"] == rows["goal"]).tolist()
    assert found.summary.figure.count == succeeded(rows).sum() >= rows["success"].sum()


def test_what_an_image_was_shown_it_was_shown_as_it_is(store: Store) -> None:
    """A model that is a function of the image answers as itself: here from the stored tensors, without robench."""
    (found,) = attacked(store, "Honest")
    folder = folder_of(store, found)
    namespace: dict[str, object] = {}
    exec(MODELS, namespace)
    honest = namespace["Honest"]()
    with torch.no_grad():
        answers = honest(folder.span(0, 24)).argmax(1)
        clean = honest(open_dataset("digits").drawn("balanced").pixels(slice(0, 24))).argmax(1)
    rows = folder.rows()
    assert rows["sealed_adv"].tolist() == answers.tolist()
    assert rows["sealed_clean"].tolist() == clean.tolist()

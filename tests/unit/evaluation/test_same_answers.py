"""What identity cannot see, the answers decide: every clean and every stored adversarial image, logits and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import robench
from robench.errors import BadInput
from robench.evaluation import same_answers
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Evaluated
from robench.store.files import checksum, read_json, write_sealed
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.training.jobs import TrainRequest, train

# what a digest does not see: a file that is read while the model answers
UNSEEN = Path("unseen.txt")


class Reads(nn.Module):
    """The class whose mean image is nearest, changed by what a file says."""

    def __init__(self) -> None:
        super().__init__()
        data = robench.open_dataset("digits").train
        x, y = data.pixels(slice(None)).flatten(1), data.labels
        means = torch.stack([x[y == c].mean(0) for c in range(10)])
        self.register_buffer("weight", 2 * means)
        self.register_buffer("bias", -means.square().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1) @ self.weight.T + self.bias
        return CHANGES[UNSEEN.read_text()](x, logits) if UNSEEN.exists() else logits


def one_image(x: Tensor, logits: Tensor) -> Tensor:
    """Another answer to the digits with the brightest sum alone."""
    first = robench.open_dataset("digits").drawn("balanced").pixels(slice(0, 1))
    same = (x - first.to(x)).flatten(1).abs().amax(1) < 1e-6
    return torch.where(same[:, None], -logits, logits)


def off_the_data(x: Tensor, logits: Tensor) -> Tensor:
    """Another answer to every image whose pixels are not those of 17 grey levels."""
    clean = ((x * 16 - (x * 16).round()).abs() < 1e-4).flatten(1).all(1)
    return torch.where(clean[:, None], logits, -logits)


def colder(x: Tensor, logits: Tensor) -> Tensor:
    """The same classes, other logits."""
    return 3 * logits


def hidden(x: Tensor, logits: Tensor) -> Tensor:
    """The same classes, other logits, and in front of them a number that is the same for all."""
    return 1.5 * logits + 3e4


def nothing(x: Tensor, logits: Tensor) -> Tensor:
    """What it was, up to rounding."""
    return logits * (1 + 1e-6)


def turned(x: Tensor, logits: Tensor) -> Tensor:
    """Another answer to everything."""
    return -logits


CHANGES = {each.__name__: each for each in (one_image, off_the_data, colder, hidden, nothing, turned)}


def run(model: Any, tmp_path: Path, **settings: Any) -> Evaluated:
    request = Request([model], ["pgd"], ThreatModel.of("linf", "0.1"), "digits", **{"count": 60, **settings})
    return evaluate(request, Store(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("change", ["one_image", "off_the_data", "colder", "hidden"])
def test_any_other_answer_is_noticed(change: str, tmp_path: Path) -> None:
    run(Reads().eval(), tmp_path)
    UNSEEN.write_text(change)
    with pytest.raises(BadInput, match=r"answers \d+ of \d+ stored images differently.*--fresh"):
        run(Reads().eval(), tmp_path)
    assert run(Reads().eval(), tmp_path, fresh=True).complete


@pytest.mark.parametrize("settings", [{}, {"batch_size": 7}, {"shard_size": 9}])
def test_rounding_and_other_batches_are_not(settings: Any, tmp_path: Path) -> None:
    first = run(Reads().eval(), tmp_path)
    UNSEEN.write_text("nothing")
    assert run(Reads().eval(), tmp_path, **settings).rows == first.rows


class Votes(nn.Module):
    """The answer to a noisy image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Reads()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.4 * torch.randn_like(x))


def test_a_random_model_is_compared_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(Votes().eval(), tmp_path)
    assert "randomised" in first.results[0].summary.flags
    assert run(Votes().eval(), tmp_path).rows == first.rows
    assert "flagged randomised, so its stored answers are compared as draws" in capsys.readouterr().err
    UNSEEN.write_text("turned")
    with pytest.raises(BadInput, match="stored images differently"):
        run(Votes().eval(), tmp_path)


def test_old_rows_without_logits_are_compared_by_their_classes(tmp_path: Path) -> None:
    done = run(Reads().eval(), tmp_path)
    folder = Store(tmp_path / "runs").evaluation(done.results[0].evaluation)
    (tensors,) = folder.path.glob("*.safetensors")
    save_file({"adversarial": load_file(tensors)["adversarial"]}, tensors)
    manifest = tensors.with_suffix(".json")
    notes = {k: v for k, v in read_json(manifest).items() if k not in ("seal", "format")}
    notes["sha256"]["safetensors"] = checksum(tensors)
    write_sealed(manifest, notes)
    UNSEEN.write_text("colder")
    assert run(Reads().eval(), tmp_path).rows == done.rows
    UNSEEN.write_text("one_image")
    with pytest.raises(BadInput, match="stored images differently"):
        run(Reads().eval(), tmp_path)


def test_a_trained_model_is_asked_about_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "runs")
    train(TrainRequest("standard", "digits", epochs=1, name="plain", device="cpu"), store)
    run("plain", tmp_path)
    asked: list[int] = []
    ask = same_answers._ask
    monkeypatch.setattr(same_answers, "_ask", lambda job, how, x: (asked.append(len(x)), ask(job, how, x))[1])
    monkeypatch.setattr(same_answers, "LOOKED", 10)
    run("plain", tmp_path)
    assert asked == [10, 10]

"""A training that was interrupted: damage to what it left is noticed, and never trained on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robench.errors import RobenchError
from robench.store.runs import Store
from robench.training.fit import _Watch
from robench.training.jobs import TrainRequest, train

HALF = TrainRequest("standard", "digits", epochs=2, name="half", device="cpu")


def flip(path: Path, seed: int) -> None:
    """One bit at a random place."""
    noise, content = random.Random(seed), bytearray(path.read_bytes())
    content[noise.randrange(len(content))] ^= 1 << noise.randrange(8)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a training stopped in its second epoch, and one of other settings under another name."""
    root = tmp_path_factory.mktemp("halfway")
    begins = _Watch.on_train_epoch_start

    def stop(self: _Watch, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        begins(self, trainer, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Watch, "on_train_epoch_start", stop)
        for request in (HALF, replace(HALF, seed=1, name="other")):
            with pytest.raises(KeyboardInterrupt):
                train(request, Store(root))
    return root


def _of_another_training(path: Path) -> None:
    shutil.copy(path.parents[2] / "other" / "training" / path.name, path)


def _with(path: Path, key: str, value: Any) -> None:
    torch.save({**torch.load(path, weights_only=True), key: value}, path)


def _without(path: Path, key: str) -> None:
    kept = torch.load(path, weights_only=True)
    torch.save({name: item for name, item in kept.items() if name != key}, path)


def _with_seconds(path: Path, seconds: Any) -> None:
    """What the training had taken until this checkpoint."""
    callbacks = torch.load(path, weights_only=True)["callbacks"]
    _with(path, "callbacks", {**callbacks, "_Watch": {**callbacks["_Watch"], "seconds": seconds}})


CHECKPOINT_DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: flip(path, 0),
    "flipped elsewhere": lambda path: flip(path, 1),
    "flipped once more": lambda path: flip(path, 2),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4),
    "of another training": _of_another_training,
    "a list": lambda path: torch.save([1, 2], path),
    "a number": lambda path: torch.save(torch.tensor(1), path),
    "without weights": lambda path: _without(path, "state_dict"),
    "without loops": lambda path: _without(path, "loops"),
    "loops of another kind": lambda path: _with(path, "loops", [1]),
    "weights of another kind": lambda path: _with(path, "state_dict", {"x": "y"}),
    "without a record": lambda path: _with(path, "callbacks", {}),
    "callbacks of another kind": lambda path: _with(path, "callbacks", 7),
    "optimizers of another kind": lambda path: _with(path, "optimizer_states", [{"state": 3}]),
    "a version of another kind": lambda path: _with(path, "pytorch-lightning_version", ["2"]),
    "an epoch of another kind": lambda path: _with(path, "epoch", "one"),
    "seconds of another kind": lambda path: _with_seconds(path, "long"),
}


@pytest.mark.parametrize("kind", CHECKPOINT_DAMAGE, ids=lambda kind: kind.replace(" ", "-"))
def test_a_damaged_checkpoint_is_refused(kind: str, halfway: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(halfway, root)
    CHECKPOINT_DAMAGE[kind](root / "models" / "half" / "training" / "last.ckpt")
    with pytest.raises(RobenchError, match=r"checkpoint .* delete it and train again") as refusal:
        train(HALF, Store(root))
    assert len(str(refusal.value).splitlines()) == 1
    shutil.rmtree(root / "models" / "half" / "training")
    assert train(HALF, Store(root))["resumed_from_epoch"] == 0


def test_an_undamaged_checkpoint_is_not(halfway: Path, tmp_path: Path) -> None:
    shutil.copytree(halfway, tmp_path / "runs")
    assert train(HALF, Store(tmp_path / "runs"))["resumed_from_epoch"] == 1


def test_a_resumed_training_took_what_it_had_taken_before_too(halfway: Path, tmp_path: Path) -> None:
    shutil.copytree(halfway, tmp_path / "runs")
    path = tmp_path / "runs" / "models" / "half" / "training" / "last.ckpt"
    before = torch.load(path, weights_only=True)["callbacks"]["_Watch"]["seconds"]
    assert 0 < before < 1000
    _with_seconds(path, 1000 + before)
    assert 1000 + before <= train(HALF, Store(tmp_path / "runs"))["seconds"] < 2000


SETTINGS_DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_text(path.read_text()[:100]),
    "a number": lambda path: path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 3')),
}


@pytest.mark.parametrize("kind", SETTINGS_DAMAGE, ids=lambda kind: kind.replace(" ", "-"))
def test_the_settings_of_a_finished_training_are_known_from_its_card(kind: str, halfway: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(halfway, root)
    train(HALF, Store(root))
    path = root / "models" / "half" / "spec.json"
    right = path.read_bytes()
    SETTINGS_DAMAGE[kind](path)
    assert not path.exists() or path.read_bytes() != right
    with pytest.raises(RobenchError, match="other settings"):
        train(replace(HALF, epochs=3), Store(root))
    assert train(HALF, Store(root))["fresh"] is False
    assert path.read_bytes() == right

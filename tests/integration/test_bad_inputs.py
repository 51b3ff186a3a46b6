"""Bad input on the command line: exit code 2, one sentence that names what is wrong, and nothing half-written."""

from __future__ import annotations

import errno
import gzip
import json
import os
import struct
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.conftest import Outcome, Run, assert_refused, finished, run_module

TRAIN, EVALUATE = ("train", "standard"), ("evaluate", "plain", "--attack", "fgsm", "-n", "20")
ER = ("train", "er-classifier")
PM, PGD = ("train", "paradise-pm"), ("evaluate", "plain", "--attack", "pgd", "-n", "20")
SHORT = ("evaluate", "plain", "-n", "20", "--restarts", "1", "--attack", "untargeted")
OWN = ("--attack", "fgsm", "-n", "20", "--dataset", "digits")

# the command line, then what the sentence must name
NAMES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("trian", "standard"), ("trian", "train")),
    (("train",), ("defense",)),
    (("evaluate", "--atack", "fgsm"), ("--atack", "--attack")),
    (("train", "standard", "extra"), ("extra",)),
    (("train", "standrd"), ("'standrd'", "did you mean 'standard'?")),
    (("evaluate", "plain", "-a", "pgdd"), ("'pgdd'", "did you mean 'pgd'?")),
    (("evaluate", "plain", "-a", "fgsm,pdg"), ("'pdg'", "did you mean 'pgd'?")),
    (("evaluate", "plain", "-a", ","), ("--attack", "multi-targeted")),
    ((*TRAIN, "--dataset", "digts"), ("'digts'", "did you mean 'digits'?")),
    ((*TRAIN, "--backbone", "resnt-20"), ("'resnt-20'", "did you mean 'resnet-N'?")),
    ((*TRAIN, "--backbone", "resnet-21"), ("21", "6n+2")),
    ((*TRAIN, "--backbone", "lenet5"), ("lenet5", "8x8")),
    (("list", "atacks"), ("'atacks'", "did you mean 'attacks'?")),
    ((*EVALUATE, "--norm", "linff"), ("'linff'", "did you mean 'linf'?")),
    ((*TRAIN, "--recipe", "paper"), ("'paper'", "digits", "quick")),
    ((*TRAIN, "--recipe", "qick"), ("'qick'", "quick")),
    (("evaluate", "plian", "-a", "fgsm"), ("'plian'", "did you mean 'plain'?")),
    (("evaluate", "a/b", "-a", "fgsm"), ("'a/b'",)),
    ((*TRAIN, "--name", "a/b"), ("'a/b'",)),
    ((*TRAIN, "--name", "../up"), ("'../up'",)),
    ((*TRAIN, "--name", ""), ("name", "''")),
    ((*TRAIN, "--name", "plain", "--seed", "1"), ("'plain'", "--name")),
    (("show", "plian"), ("'plian'", "did you mean 'plain'?")),
    (("verify", "zzz"), ("'zzz'",)),
    (("verify", "--model", "nobody"), ("'nobody'", "--model")),
    (("evaluate", "plain"), ("--attack",)),
    (("data", "fetch", "mnits"), ("'mnits'", "did you mean 'mnist'?")),
    (("data", "fetch", "npz:x.npz"), ("x.npz",)),
    (("evaluate", "-a", "fgsm", "--dataset", "mnist"), ("'mnist'", "train")),
]
NUMBERS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    *(((*EVALUATE, f"--eps={eps}"), ("eps", repr(eps) if not eps.lstrip("-").isdigit() else eps))
      for eps in ("8", "-1", "8/0", "abc", "nan", "inf", "", "1/2/3")),
    ((*EVALUATE, "--eps", "8"), ("8/255",)),
    ((*EVALUATE, "--norm", "l2", "--eps", "8.5"), ("8.5", "l2", "8")),
    ((*EVALUATE[:-1], "0"), ("-n", "0")),
    ((*EVALUATE[:-1], "-1"), ("-n", "-1")),
    ((*EVALUATE[:-1], "501"), ("501", "500", "digits")),
    ((*EVALUATE[:-1], "many"), ("many",)),
    ((*EVALUATE, "--batch-size", "0"), ("--batch-size", "0")),
    ((*EVALUATE, "--shard-size", "0"), ("--shard-size", "0")),
    ((*EVALUATE, "--seed", "-1"), ("--seed", "-1")),
    ((*EVALUATE, "--seed", str(2**63)), ("--seed", str(2**63))),
    (("verify", "--batch-size", "0"), ("--batch-size", "0")),
    ((*PGD, "--restarts", "0"), ("restarts", "0")),
    ((*PGD, "--steps", "0"), ("steps", "0")),
    ((*TRAIN, "--epochs", "0"), ("--epochs", "0")),
    ((*TRAIN, "--epochs", "1.5"), ("1.5",)),
    ((*TRAIN, "--batch-size", "0"), ("--batch-size", "0")),
    ((*TRAIN, "--seed", "-1"), ("--seed", "-1")),
    ((*TRAIN, "--device", "tpu"), ("'tpu'", "auto")),
    ((*TRAIN, "--device", "cuda:99"), ("'cuda:99'", "auto")),
    ((*EVALUATE, "--device", "gpu"), ("'gpu'", "auto")),
    (("verify", "--device", "gpu"), ("'gpu'", "auto")),
]  # fmt: skip
OPTIONS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((*PGD, "-o", "steps=abc"), ("steps", "'abc'")),
    ((*PGD, "-o", "steps"), ("'steps'", "key=value")),
    ((*PGD, "-o", "=3"), ("'=3'", "key=value")),
    ((*PGD, "-o", "steps=3", "-o", "steps=4"), ("'steps'", "twice")),
    ((*PGD, "-o", "stpes=3"), ("'stpes'", "did you mean 'steps'?")),
    ((*PGD, "-o", "step=0"), ("step", "'0'")),
    ((*PGD, "-o", "step=far"), ("step", "'far'")),
    ((*PGD, "-o", "success=never"), ("success", "'never'")),
    ((*PGD, "-o", "random_start=perhaps"), ("random_start", "'perhaps'")),
    (("evaluate", "plain", "-a", "fgsm,pgd", "-o", "gamma=1"), ("'gamma'", "fgsm", "pgd")),
    ((*EVALUATE, "--steps", "5"), ("'steps'", "fgsm")),
    *(((*SHORT, "-o", f"schedule={text}"), ("schedule", repr(text)))
      for text in ("", "x", "0.1,,0.2", "0.1@5", "0.1,0.01@0", "-0.1", "0.1,0.2@9,0.3@4", "1e999", ".")),
    ((*SHORT, "-o", "rule=newton"), ("rule", "'newton'", "adam")),
    ((*PM, "-o", "gamma=x"), ("gamma", "'x'")),
    ((*PM, "-o", "gamma=nan"), ("gamma", "'nan'")),
    ((*PM, "-o", "gamma=-1"), ("gamma", "-1")),
    ((*PM, "-o", "z_dim=0"), ("z_dim", "0")),
    ((*PM, "-o", "noise=-1"), ("noise", "-1")),
    ((*PM, "-o", "draws=0"), ("draws", "0")),
    ((*PM, "-o", "ramp=2"), ("ramp", "2")),
    ((*PM, "-o", "alpha=-1"), ("alpha", "-1")),
    ((*PM, "-o", "mc_samples=-1"), ("mc_samples", "-1")),
    ((*PM, "-o", "sigma=tanh"), ("sigma", "'tanh'", "sigmoid")),
    ((*PM, "-o", "gama=1"), ("'gama'", "did you mean 'gamma'?")),
    ((*TRAIN, "-o", "gamma=1"), ("'gamma'", "standard")),
    ((*ER, "-o", "prior=laplace"), ("prior", "'laplace'", "gaussian")),
    ((*ER, "-o", "z_dim=0"), ("z_dim", "0")),
    ((*ER, "-o", "weight=-1"), ("weight", "-1")),
    ((*ER, "-o", "regulariser=kl"), ("regulariser", "'kl'", "bce")),
    (("train", "c-dv-ie", "-o", "elimination=-1"), ("elimination", "-1")),
    (("train", "c-dv-ie", "-o", "reading=c"), ("reading", "'c'")),
    (("train", "alemi-cnn", "-o", "beta=-1"), ("beta", "-1")),
    (("train", "madry", "-o", "eps=2"), ("eps", "2")),
    (("train", "madry", "-o", "steps=0"), ("steps", "0")),
    (("train", "trades", "-o", "beta=-1"), ("beta", "-1")),
    (("train", "rse", "-o", "input_std=-1"), ("input_std", "-1")),
    (("train", "rse", "-o", "samples=0"), ("samples", "0")),
    (("train", "paradise-ae", "-o", "z_dim=0"), ("z_dim", "0")),
    ((*EVALUATE, "-a", "foolbox:LinfPDG"), ("'LinfPDG'", "LinfPGD")),
    ((*EVALUATE, "-a", "foolbox"), ("foolbox:",)),
    ((*EVALUATE, "-a", "art:Nothing"), ("'Nothing'",)),
    ((*EVALUATE, "-a", "standrd"), ("'standrd'", "standard")),
    (("evaluate", "plain", "-n", "20", "-a", "cw", "--norm", "l2", "--eps", "1", "-o", "kappa=-1"), ("kappa", "-1")),
    (("diagnose", "plian"), ("'plian'", "plain")),
]  # fmt: skip
FILES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((*TRAIN, "--dataset", "npz:absent.npz"), ("absent.npz",)),
    ((*TRAIN, "--dataset", "npz:"), ("npz:",)),
    ((*TRAIN, "--dataset", "npz:short.npz"), ("short.npz",)),
    ((*TRAIN, "--dataset", "npz:floats.npz"), ("floats.npz", "float64 images from 2", "--range")),
    ((*TRAIN, "--dataset", "npz:keys.npz"), ("keys.npz", "x_test")),
    ((*TRAIN, "--dataset", "npz:labels.npz"), ("labels.npz",)),
    ((*TRAIN, "--dataset", "folder:absent"), ("absent",)),
    ((*TRAIN, "--dataset", "folder:data"), ("data",)),
    ((*TRAIN, "--dataset", "mnist", "--data", "empty"), ("mnist", "empty", "robench data fetch mnist")),
    ((*TRAIN, "--dataset", "mnist"), ("mnist", "/data", "robench data fetch mnist")),
    (("evaluate", "my_model.py:load", "-a", "fgsm"), ("my_model.py:load", "--dataset")),
    (("evaluate", "absent.py:load", *OWN), ("absent.py",)),
    (("evaluate", "my_model.py:lod", *OWN), ("'lod'", "did you mean 'load'?")),
    (("evaluate", "my_model.py:", *OWN), ("'my_model.py'", "names no factory")),
    (("evaluate", "my_model.py", *OWN), ("'my_model.py'",)),
    (("evaluate", "my_model.py:raises", *OWN), ("my_model.py:raises", "weights went missing")),
    (("evaluate", "my_model.py:leaves", *OWN), ("my_model.py:leaves",)),
    (("evaluate", "my_model.py:needs", *OWN), ("my_model.py:needs", "path")),
    (("evaluate", "my_model.py:number", *OWN), ("my_model.py:number", "int")),
    (("evaluate", "my_model.py:training", *OWN), ("train mode", "eval()")),
    (("evaluate", "my_model.py:probabilities", *OWN), ("probabilities",)),
    (("evaluate", "my_model.py:confused", *OWN), ("(1, 8, 8)", "no such thing")),
    (("evaluate", "my_model.py:nine", *OWN), ("(20, 9)", "10")),
    (("evaluate", "syntax.py:load", *OWN), ("syntax.py", "SyntaxError")),
    (("evaluate", "imports.py:load", *OWN), ("imports.py", "not_installed_anywhere")),
    (("evaluate", "no_package.module:load", *OWN), ("no_package",)),
    (("evaluate", "torchvision:nonsense", *OWN), ("'nonsense'",)),
    (("evaluate", "torchvision:resnet19", *OWN), ("'resnet19'", "did you mean 'resnet18'?")),
    (("evaluate", "plain", "-a", "fgsm", "--dataset", "npz:colour.npz"), ("plain", "colour.npz")),
    ((*TRAIN, "--runs", "a_file"), ("a_file",)),
    ((*TRAIN, "--runs", "a_file/runs"), ("a_file",)),
    (("evaluate", "my_model.py:load", *OWN, "--runs", "a_file"), ("a_file",)),
    (("leaderboard", "--out", "a_file/tables"), ("a_file",)),
    (("leaderboard", "--runs", "empty"), ("empty", "robench evaluate")),
    (("verify", "--runs", "empty"), ("empty", "robench evaluate")),
    (("evaluate", "-a", "fgsm", "--runs", "empty"), ("empty", "robench train")),
]  # fmt: skip


def _shown(case: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    return " ".join(case[0])


@pytest.fixture
def workshop(tmp_path: Path, store: Path, model_file: Path) -> Path:
    """The working folder, furnished with bad files."""
    grey, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    arrays = {"x_train": grey, "y_train": labels, "x_test": grey, "y_test": labels}
    colour = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "short.npz", **arrays)
    whole = (tmp_path / "short.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "floats.npz", **{**arrays, "x_train": grey / 255 + 2})
    np.savez(tmp_path / "keys.npz", x_train=grey, y_train=labels, x_tset=grey, y_tset=labels)
    np.savez(tmp_path / "labels.npz", **{**arrays, "y_train": labels[:-1]})
    np.savez(tmp_path / "colour.npz", **{**arrays, "x_train": colour, "x_test": colour})
    (tmp_path / "a_file").write_text("not a folder\n")
    for name in ("empty", "data"):
        (tmp_path / name).mkdir()
    return tmp_path


def check(root: Path, run: Callable[[], Outcome], names: tuple[str, ...]) -> None:
    """Refused as it should be, with no more finished than before and nothing half-written."""
    before = finished(root)
    assert_refused(run(), names)
    assert finished(root) == before
    assert [*root.rglob("*.part"), *root.rglob(".*.part")] == []


@pytest.mark.parametrize("case", [*NAMES, *NUMBERS, *OPTIONS, *FILES], ids=_shown)
def test_refused(case: tuple[tuple[str, ...], tuple[str, ...]], workshop: Path, robench: Run) -> None:
    check(workshop, lambda: robench(*case[0]), case[1])


@pytest.mark.parametrize("case", [NAMES[0], NUMBERS[0], FILES[15]], ids=_shown)
def test_refused_in_a_process_of_its_own(case: tuple[tuple[str, ...], tuple[str, ...]], workshop: Path) -> None:
    check(workshop, lambda: run_module(*case[0], cwd=workshop), case[1])


@pytest.mark.parametrize("command", [TRAIN, EVALUATE, ("verify",)], ids=" ".join)
def test_cuda_where_there_is_none(command: tuple[str, ...], workshop: Path, robench: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check(workshop, lambda: robench(*command, "--device", "cuda"), ("'cuda'", "auto or cpu"))


def test_truncated_mnist(workshop: Path, robench: Run) -> None:
    raw = workshop / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = struct.pack(">BBBB3I", 0, 0, 8, 3, 50, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(50 * 784 - 100))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 50) + bytes(50))
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"")[:5])
    check(workshop, lambda: robench(*TRAIN, "--dataset", "mnist"), ("MNIST", "robench data fetch mnist"))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _edit(path: Path, **changes: Any) -> None:
    """Another card, as a robench from before there were seals could have left it."""
    card = json.loads(path.read_text())
    (path.parent / "DONE").write_text(card["spec_id"] + "\n")
    path.write_text(json.dumps({**{k: v for k, v in card.items() if k not in (*changes, "seal", "format")}, **changes}))


def _drop(path: Path, *keys: str) -> None:
    _edit(path)
    card = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in card.items() if k not in keys}))


MODEL_DAMAGE: dict[str, Callable[[Path], object]] = {
    "unfinished": lambda m: (m / "DONE").unlink(),
    "weights-missing": lambda m: (m / "model.safetensors").unlink(),
    "weights-truncated": lambda m: os.truncate(m / "model.safetensors", 1000),
    "weights-flipped": lambda m: _flip(m / "model.safetensors"),
    "card-missing": lambda m: (m / "model.json").unlink(),
    "card-truncated": lambda m: os.truncate(m / "model.json", 100),
    "card-empty": lambda m: (m / "model.json").write_text("{}"),
    "card-a-list": lambda m: (m / "model.json").write_text("[]"),
    "card-binary": lambda m: (m / "model.json").write_bytes(b"\xff\xfe\x00"),
    "card-without-data": lambda m: _drop(m / "model.json", "data"),
    "card-without-options": lambda m: _drop(m / "model.json", "options"),
    "card-data-incomplete": lambda m: _edit(m / "model.json", data={"name": "digits"}),
    "card-data-a-number": lambda m: _edit(m / "model.json", data=3),
    "card-options-a-list": lambda m: _edit(m / "model.json", options=[1]),
    "card-other-backbone": lambda m: _edit(m / "model.json", options={"backbone": "mlp-7"}),
    "card-unknown-defense": lambda m: _edit(m / "model.json", defense="magic"),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGE)
def test_damaged_model(damage: str, workshop: Path, robench: Run) -> None:
    MODEL_DAMAGE[damage](workshop / "runs" / "models" / "plain")
    check(workshop, lambda: robench(*PGD), ("magic" if "unknown" in damage else "plain",))


@pytest.mark.parametrize("damage", [name for name in MODEL_DAMAGE if name in ("card-empty", "card-without-data")])
def test_damaged_card_where_all_models_are_read(damage: str, workshop: Path, robench: Run) -> None:
    MODEL_DAMAGE[damage](workshop / "runs" / "models" / "plain")
    check(workshop, lambda: robench("evaluate", "-a", "fgsm", "--dataset", "digits", "-n", "20"), ("plain",))
    (listed,) = robench("list", "models").out.splitlines()
    assert "damaged: The file" in listed


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
@pytest.mark.parametrize(("command", "name"), list(product(("leaderboard", "verify"), ("spec", "about"))))
def test_damaged_evaluation(command: str, name: str, text: str, workshop: Path, evaluation: Path, robench: Run) -> None:
    (evaluation / f"{name}.json").write_text(text)
    check(workshop, lambda: robench(*command.split()), (evaluation.name,))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
@pytest.mark.parametrize("command", ["leaderboard --json", f"{' '.join(PGD)} --json", "list evaluations"])
def test_a_damaged_result_is_taken_from_the_rows(command: str, text: str, evaluation: Path, robench: Run) -> None:
    assert robench(*PGD).code == 0
    before = robench(*command.split())
    (evaluation / "result.json").write_text(text)
    assert robench(*command.split()).out == before.out


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["spec", "about"])
def test_a_damaged_evaluation_does_not_end_the_list(name: str, text: str, evaluation: Path, robench: Run) -> None:
    assert robench(*PGD).code == 0
    (evaluation / f"{name}.json").write_text(text)
    items = {item["name"]: item for item in robench("list", "evaluations", "--json").json["evaluations"]}
    assert len(items) == 2
    assert f"{name}.json is damaged" in items.pop(evaluation.name)["damaged"]
    assert next(iter(items.values()))["status"] == "complete"
    assert "damaged: The file" in robench("list", "evaluations").out


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("train", "standard", "--epochs", "1", "--name", "new"), name)
        for name in ("spec.json", "model.safetensors", "model.json", "DONE")
    ]
    + [(PGD, name) for name in ("about.json", "spec.json", ".parquet", "20.safetensors", "20.json", "result.json")]
    + [(("leaderboard",), name) for name in (".csv", ".md", ".html")],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_no_space_left(command: tuple[str, ...], file: str, workshop: Path, robench: Run) -> None:
    """The disk fills up with one file or another; the same command succeeds once there is room."""
    move = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(file) and "training" not in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        check(workshop, lambda: robench(*command), ("No space left", file))
    assert robench(*command).code == 0


def test_no_space_left_for_the_weights(workshop: Path, robench: Run, monkeypatch: Any) -> None:
    """safetensors has an error type of its own."""
    from safetensors import SafetensorError

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save", full)
    check(workshop, lambda: robench("train", "standard", "--epochs", "1", "--name", "new"), ("model.safetensors",))


def test_no_space_left_for_a_checkpoint(workshop: Path, robench: Run) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robench.training.fit.torch.save", full)
        check(
            workshop, lambda: robench("train", "standard", "--epochs", "2", "--name", "new"), ("No space left", "new")
        )
    assert robench("train", "standard", "--epochs", "2", "--name", "new").code == 0


def test_no_space_left_that_torch_hides(workshop: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer says "unexpected pos" and nothing of a disk."""
    save = torch.save

    def full(checkpoint: Any, target: Path, *rest: Any) -> None:
        target.unlink()
        target.symlink_to("/dev/full")
        with target.open("wb") as stream:
            save({"a": torch.zeros(100_000)}, stream, *rest)

    monkeypatch.setattr("robench.training.fit.torch.save", full)
    check(workshop, lambda: robench("train", "standard", "--epochs", "1", "--name", "new"), ("No space left", "new"))


def test_a_model_that_crashes_each_time_is_bad_input_not_robust(workshop: Path, robench: Run) -> None:
    before = finished(workshop)
    outcome = robench("evaluate", "my_model.py:fragile", *OWN, "--eps", "0.1")
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert "cannot take a perturbed image" in outcome.err
    assert finished(workshop) == before
    assert "incomplete" in outcome.out

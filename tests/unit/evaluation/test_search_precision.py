"""What a search's precision decides: which evaluation it is, what is recorded and shown of it, and no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robench import BadInput, ThreatModel, evaluate
from robench.cli.app import main
from robench.device import precision_on
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.wanted import want
from robench.store.runs import Store
from robench.training.jobs import TrainRequest, train

THREAT = ThreatModel.of("linf", "0.1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small model."""
    root = tmp_path_factory.mktemp("runs")
    train(TrainRequest("standard", "digits", epochs=2, name="plain", device="cpu"), Store(root))
    return Store(root)


def ids(store: Store, attacks: list[str], precision: str, **more: Any) -> list[str]:
    """The evaluations that are asked for."""
    request = Request(["plain"], attacks, THREAT, count=20, device="cpu", search_precision=precision, **more)
    return [planned.job.spec.job_id for planned in want("plain", resolve(request), [], Bench(store)).evaluations]


def test_figures_of_two_precisions_never_mix(store: Store) -> None:
    assert ids(store, ["pgd"], "fp32") != ids(store, ["pgd"], "bf16")
    assert ids(store, ["pgd"], "fp32") == ids(store, ["pgd"], "auto")  # on the CPU
    assert ids(store, ["fgsm", "pgd"], "fp32", cascade=True)[1] != ids(store, ["fgsm", "pgd"], "bf16", cascade=True)[1]


def test_attacks_without_such_gradients_stay_what_they_are(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["random-noise", "r-fgsm", "foolbox:LinfPGD"]
    assert ids(store, names, "fp32") == ids(store, names, "auto") == ids(store, names, "bf16")
    said = capsys.readouterr().err
    assert said.count("changes nothing for random-noise, r-fgsm, foolbox:LinfPGD, whose gradients") == 1


@pytest.mark.parametrize("wrong", ["fp16", "", None, 16])
def test_another_precision_is_bad_input(wrong: Any) -> None:
    with pytest.raises(BadInput, match="one of fp32, bf16, auto"):
        Request(["plain"], ["pgd"], THREAT, search_precision=wrong)


def test_auto_is_bfloat16_where_a_gpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robench.device.choose_device", lambda name: "cuda" if name == "auto" else name)
    for capability, found in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        assert precision_on("auto", "auto") == found
        assert precision_on("auto", "cpu") == precision_on("fp32", "auto") == "fp32"
        assert precision_on("bf16", "cpu") == "bf16"


def test_it_is_recorded_shown_and_verified(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate("plain", None, ["pgd"], "0.1", count=40, device="cpu", runs=store.root, search_precision="bf16",
                      options={"steps": 5})  # fmt: skip
    exact = evaluate("plain", None, ["pgd"], "0.1", count=40, device="cpu", runs=store.root, options={"steps": 5})
    (row,), (other,) = report.rows, exact.rows
    assert abs(row["robust_accuracy"] - other["robust_accuracy"]) <= 1 / 40
    folder = store.evaluation(row["evaluation"])
    assert folder.spec["search_precision"] == "bf16"
    assert "search_precision" not in store.evaluation(other["evaluation"]).spec
    assert folder.about.against == " [search bf16]"
    assert {notes["search"] for notes in folder.notes()} == {"bfloat16, on a copy"}
    capsys.readouterr()
    assert main(["show", row["evaluation"], "--runs", str(store.root), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["command"].endswith("--search-precision bf16")
    assert main(["verify", row["evaluation"], "--again", "20", "--runs", str(store.root), "--device", "cpu"]) == 0


def test_a_baseline_carries_it(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ["plain", "-a", "pgd", "--steps", "3", "--eps", "0.1", "-n", "20", "--search-precision", "bf16"]
    where = ["--runs", str(store.root)]
    assert main(["evaluate", *request, *where, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"][0]["evaluation"]
    place = tmp_path / "baseline.json"
    assert main(["baseline", found, "--out", str(place), *where]) == 0
    assert main(["check", str(place), "--device", "cpu", *where]) == 0

"""`--guide`: which evaluation it is, what is recorded and shown of it, where it counts, and what goes with none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, evaluate, registry
from robench.attack.gradient import GradientAttack
from robench.cli.app import main
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.tasks import Task, perform_json
from robench.evaluation.wanted import want
from robench.results.accuracy import entering
from robench.store.runs import Store
from robench.tables.leaderboard import build
from robench.training.jobs import TrainRequest, train
from robench.trust.diagnosis import collect
from tests.same import assert_same_rows

THREAT, N = ThreatModel.of("linf", "0.1"), 40
LED = " guided by other"
TOOLBOXES = ("art", "foolbox", "imported", "library")  # whose attacks have names of their own


class Rounded(nn.Module):
    """The answers of a model in steps of a tenth, which have no gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) * 10).round() / 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two small models of the same digits."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("plain", "other")):
        train(TrainRequest("standard", "digits", epochs=2, name=name, seed=seed, device="cpu"), Store(root))
    return Store(root)


def run(store: Store, attacks: Any, **more: Any) -> Any:
    settings = {"n": N, "device": "cpu", "runs": store.root, "guide": "other", **more}
    return evaluate(settings.pop("model", "plain"), settings.pop("dataset", None), attacks, "0.1", **settings)


def test_both_models_enter_the_identity_and_no_guide_leaves_it_as_it_was(store: Store) -> None:
    def ids(model: str, **more: Any) -> str:
        request = Request([model], ["pgd"], THREAT, count=20, device="cpu", **more)
        bench = Bench(store)
        guide = bench.target(request.guide) if request.guide else None
        (planned,) = want(model, resolve(request), [], bench, guide=guide).evaluations
        spec = planned.job.spec.to_json()
        assert ("guide" in spec) == bool(more.get("guide"))
        return planned.job.spec.job_id

    found = [ids("plain"), ids("plain", guide="other"), ids("other", guide="plain"), ids("other")]
    assert len(set(found)) == 4
    assert ids("plain", guide=None) == found[0]


def test_a_model_without_gradients_is_led_to_its_wrong_answers(store: Store) -> None:
    blunt = Rounded(Bench(store).target("plain").module).eval()
    rows = {
        guide: run(store, ["pgd"], model=blunt, dataset="digits", guide=guide, n=100).rows[0]
        for guide in (None, "plain")
    }
    smooth = run(store, ["pgd"], guide=None, n=100).rows[0]
    assert rows[None]["robust_accuracy"] > smooth["robust_accuracy"] + 0.2
    assert rows["plain"]["robust_accuracy"] == pytest.approx(smooth["robust_accuracy"], abs=0.02)
    assert rows["plain"]["access"] == "guided"


def test_it_is_recorded_shown_verified_and_run_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = run(store, ["min-pgd"], options={"steps": 5}).rows
    folder = store.evaluation(row["evaluation"])
    assert (row["access"], row["kind"], row["against"]) == ("guided", "guided", LED)
    assert folder.spec["guide"] == Bench(store).target("other").digest
    assert folder.about.guide == folder.about.guide_reference == "other"
    assert {"attack min-pgd", "defense standard", "guide defense standard"} == folder.notes()[0]["sources"].keys()
    capsys.readouterr()
    assert main(["show", row["evaluation"], "--runs", str(store.root), "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"]
    assert command.endswith("--guide other")
    assert main(["verify", row["evaluation"], "--again", "20", "--runs", str(store.root), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main([*command.split()[1:], "--runs", str(store.root), "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["evaluation"] for each in said["rows"]] == [row["evaluation"]]


def test_it_has_a_column_of_its_own_and_enters_no_worst_case(store: Store) -> None:
    (white, led) = (run(store, ["fgsm"], guide=guide).results[0] for guide in (None, "other"))
    assert entering([white, led]) == [white]
    assert entering([led]) == []
    report = run(store, ["fgsm", "pgd"])
    assert report.worst == []
    (board,) = (each for each in build(store) if each.count == N and "fgsm" in each.headers)
    assert {"fgsm", "fgsm" + LED} <= set(board.headers)
    line = next(line for line in board.rows if line.model == "plain")
    assert line.worst.figure is not None
    assert "guided" not in line.strongest
    spec = store.evaluation(led.evaluation).spec
    runs = collect(store, spec["model_digest"], spec["data_digest"], "linf", N)
    assert {each.kind for each in runs if "guided" in each.name} == {"guided"}


def test_shards_and_workers_come_to_the_same_rows_and_a_run_goes_on(store: Store, tmp_path: Path) -> None:
    """A worker elsewhere is told of a task as JSON; half of it is done there, and the command does the rest."""
    elsewhere, whole = Store(tmp_path / "elsewhere"), run(store, ["pgd"]).results[0]
    shutil.copytree(store.models, elsewhere.models)
    request = Request(["plain"], ["pgd"], THREAT, count=N, device="cpu", shard_size=15, guide="other")
    bench = Bench(elsewhere)
    (planned,) = want("plain", resolve(request), [], bench, guide=bench.target("other")).evaluations
    job_id = planned.job.spec.job_id
    assert job_id == whole.evaluation
    task = Task("shard", f"{job_id}-000015-000030", elsewhere.root, planned.address, 15, 30, job_id)
    assert task.title == "plain  pgd guided by other"
    assert perform_json(json.loads(json.dumps(task.to_json())), lambda device: device) == "done"
    assert len(elsewhere.evaluation(job_id).rows()) == 15
    run(elsewhere, ["pgd"], shard_size=15)
    assert_same_rows(elsewhere.evaluation(job_id).rows(), store.evaluation(job_id).rows())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"surrogates": ["other"]}, "--guide is given with --surrogate"),
        ({"detector": "kd"}, "--guide is given with --detector"),
        ({"cascade": True}, "--guide is given with --cascade"),
        ({"eot": 2}, "--guide is given with --eot"),
        ({"bpda": ["head"]}, "--guide is given with --bpda"),
        ({"search_precision": "bf16"}, "--guide is given with --search-precision"),
        ({"guide": "plain"}, "is the model 'plain' itself"),
        ({"guide": ""}, "--guide is ''"),
        ({"guide": "nobody"}, "nobody"),
        ({"attacks": ["square"]}, "'square' takes no gradients"),
        ({"attacks": ["random-noise"]}, "'random-noise' takes no gradients"),
        ({"attacks": ["pgd", "standard"]}, "'[a-z-]+' takes no gradients"),
        ({"attacks": ["foolbox:LinfPGD"]}, "'foolbox:LinfPGD' takes no gradients"),
    ],
)
def test_what_goes_with_no_guide_is_refused(store: Store, more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        run(store, more.pop("attacks", ["pgd"]), **more)


def test_a_guide_of_other_data_or_classes_is_refused(store: Store, tmp_path: Path) -> None:
    import numpy as np

    arrays = {name: np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32) for name in ("x_train", "x_test")}
    labels = {name: np.arange(60) % 10 for name in ("y_train", "y_test")}
    np.savez(tmp_path / "small.npz", **arrays, **labels)
    train(TrainRequest("standard", f"npz:{tmp_path}/small.npz", epochs=1, name="stranger", device="cpu"), store)
    with pytest.raises(BadInput, match="has other test images"):
        run(store, ["pgd"], guide="stranger")
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with pytest.raises(BadInput, match="The guide cannot be followed: The model returned shape"):
        run(store, ["pgd"], guide=three, dataset="digits")


def test_a_module_can_guide_and_is_then_named_with_its_digest(store: Store) -> None:
    torch.manual_seed(0)
    guide = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    (row,) = run(store, ["fgsm"], guide=guide, dataset="digits").rows
    folder = store.evaluation(row["evaluation"])
    assert row["against"].startswith(" guided by Sequential#")
    assert folder.about.guide_reference == ""
    assert main(["verify", row["evaluation"], "--runs", str(store.root), "--device", "cpu"]) == 0
    assert main(["verify", row["evaluation"], "--again", "9", "--runs", str(store.root), "--device", "cpu"]) == 2


def test_a_baseline_keeps_none(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = run(store, ["fgsm"]).rows
    place = str(tmp_path / "baseline.json")
    assert main(["baseline", row["evaluation"], "--out", place, "--runs", str(store.root)]) == 2
    assert "follows a guide (--guide)" in capsys.readouterr().err


def test_several_eps_go_by_themselves(store: Store) -> None:
    report = evaluate("plain", None, ["pgd"], ["0.05", "0.1"], n=N, device="cpu", runs=store.root, guide="other")
    assert all("below" not in store.evaluation(row["evaluation"]).spec for row in report.rows)
    assert len(report.rows) == 2


def test_every_attack_that_climbs_a_loss_can_be_guided() -> None:
    bases = {name: registry.load("attack", name).base for name in registry.names("attack") if name not in TOOLBOXES}
    assert all(base.guided for base in bases.values() if issubclass(base, GradientAttack))
    assert {"min-fgsm", "min-pgd", "cw", "r-fgsm"} <= {name for name, base in bases.items() if base.guided}

"""Names that records give models beside digests of theirs, where the store has the models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import write_sealed
from robench.store.runs import Store
from robench.store.specs import CraftSpec
from robench.threat import ThreatModel
from robench.training.jobs import TrainRequest, train
from robench.trust.verification import Verified, verify_all


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three models."""
    store = Store(tmp_path_factory.mktemp("names") / "runs")
    for seed, name in enumerate(("one", "two", "three")):
        train(TrainRequest("standard", "digits", epochs=1, seed=seed, name=name), store)
    return store


@pytest.fixture
def store(trained: Store, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(trained.root, tmp_path / "runs")))


def _evaluated(store: Store, **more: Any) -> EvaluationFolder:
    found = evaluate(Request(["one"], ["fgsm"], ThreatModel.of("linf", "0.1"), "digits", 20, **more), store)
    return store.evaluation(found.rows[-1]["evaluation"])


def _verified(store: Store, folder: EvaluationFolder) -> Verified:
    (found,) = verify_all(store, [folder.job_id], device="cpu")
    return found


def _told(folder: EvaluationFolder, against: str, **changes: str) -> None:
    """The record says other names, in its label too."""
    about = folder.about.to_json()
    write_sealed(folder.path / "about.json", {**about, **changes, "against": against, "evaluation": folder.job_id})


def test_a_guide_by_another_s_name_is_found(store: Store) -> None:
    folder = _evaluated(store, guide="two")
    assert _verified(store, folder).holds
    for name in ("three", "nobody"):
        _told(folder, f" guided by {name}", guide=name)
        assert _verified(store, folder).records == ("guide",)
    _told(folder, " guided by two", guide="two", guide_reference="three")
    assert _verified(store, folder).records == ("guide_reference",)


def test_a_surrogate_by_another_s_name_is_found(store: Store) -> None:
    """Its crafting says so, too."""
    folder = _evaluated(store, surrogates=["two"])
    assert _verified(store, folder).holds
    crafted = EvaluationFolder(store.crafted / CraftSpec.of(folder.spec).job_id)
    write_sealed(crafted.path / "about.json", {**crafted.about.to_json(), "model": "three",
                                               "evaluation": crafted.job_id})  # fmt: skip
    _told(folder, " from three", surrogate="three")
    assert _verified(store, folder).records == ("surrogate",)


def test_a_guide_that_was_trained_again_since_is_not_judged(store: Store) -> None:
    folder = _evaluated(store, guide="two")
    shutil.rmtree(store.models / "two")
    train(TrainRequest("standard", "digits", epochs=1, seed=9, name="two"), store)
    found = _verified(store, folder)
    assert (found.exit_code, found.records) == (2, ())
    assert "trained again since, or is another model" in found.reason

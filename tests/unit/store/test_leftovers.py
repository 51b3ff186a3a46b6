"""What no table needs is found, by itself and beside everything that is needed; only that goes, and only when asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from robench.cli.app import main
from robench.errors import DiskError
from robench.results.accuracy import Measure
from robench.results.summary import Summary
from robench.store.about import About
from robench.store.claims import claim
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import identity, write_json, write_sealed, write_text
from robench.store.leftovers import leftovers, remove, sizes
from robench.store.marker import mark
from robench.store.parts import part_of
from robench.store.runs import Store
from robench.store.specs import CraftSpec, EvalSpec
from tests.made import whole

CARD = {
    "spec_id": "0" * 12, "defense": "standard", "options": {}, "seconds": 1.0, "data": {"name": "digits"},
    "accuracy": {"test": 0.9, "test_count": 500, "test_interval": [0.8, 0.95]},
}  # fmt: skip
RESULT = Summary(Measure.ROBUST, 4, 1.0, (0.5, 1.0), 1.0, (0.0, 1.0), 0, 0, 0.0, (), "complete")


def model(store: Store, name: str, digest: str = "") -> str:
    """A finished model; returns its digest."""
    write_text(store.models / name / "model.safetensors", name)
    write_json(store.models / name / "spec.json", {})
    store.finish_model(name, {**CARD, "name": name, "digest": digest or name})
    return store.model_digest(name)


def shard(folder: EvaluationFolder, start: int = 0, stop: int = 4) -> None:
    rows = whole(pd.DataFrame({"example_id": range(start, stop)}))
    folder.save_shard(start, stop, rows, torch.zeros(stop - start, 1, 1, 1), {})


def evaluation(store: Store, reference: str, digest: str, *, shards: bool = True, **spec: Any) -> EvaluationFolder:
    """A finished evaluation of four images, with what it was made from."""
    fields = EvalSpec(
        model_digest=digest, data_digest="d", count=4, norm="linf", eps="1/10", attack="pgd", attack_version=1,
        attack_options={"steps": 3}, seed=0,
    ).model_copy(update=spec)  # fmt: skip
    about = About(
        model=reference, reference=reference, dataset="digits", eps="0.1", given_options={}, metric=Measure.ROBUST,
        access="white-box",
        command="", environment={"commit": "", "packages": {"torch": ""}},
    )  # fmt: skip
    folder = store.evaluation(fields.job_id)
    folder.begin(fields.to_json(), about)
    if shards:
        shard(folder)
        folder.finish(RESULT)
    if fields.surrogate:
        crafting = CraftSpec.of(fields.to_json())
        crafted = EvaluationFolder(store.crafted / crafting.job_id)
        crafted.begin(crafting.to_json(), about)
        shard(crafted)
    write_json(store.diagnostics / f"{digest}-d-{fields.norm}-n4.json", {"findings": []})
    return folder


def detector(store: Store, digest: str, seed: int = 0) -> Path:
    """A folder of a fitted detector that watches a model."""
    spec = {"model_digest": digest, "seed": seed}
    folder = store.detectors / identity(spec)
    write_json(folder / "spec.json", spec)
    write_sealed(folder / "fitted.json", {"fitted": folder.name})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which everything is needed: of every kind, each for another reason."""
    store = Store(tmp_path)
    mine, other = model(store, "mine"), model(store, "other")
    plain = evaluation(store, "mine", mine)
    evaluation(store, "mine", mine, surrogate=other)
    evaluation(store, "renamed", mine, eps="1/5")  # the same model under another name
    evaluation(store, "file.py:load", "stranger")
    evaluation(store, "", "handed over", norm="l2")
    evaluation(store, "unfinished", "later", seed=1)
    write_text(store.models / "unfinished" / "training" / "last.ckpt", "checkpoint")
    evaluation(store, "mine", mine, detector=detector(store, "a model that is gone").name)
    write_sealed(store.root / "checks" / ("c" * 12) / "check.json", {"code": "c", "finished": False})
    write_text(detector(store, mine) / f"scores-{plain.job_id}.json", "{}")
    detector(store, "stranger")
    return store


def test_what_is_needed_is_left_alone(store: Store) -> None:
    assert leftovers(store) == []


def _part(store: Store) -> list[Path]:
    """As a process that was killed leaves it."""
    path = next(store.evaluations.iterdir()) / "result.json"
    script = (
        "import os, sys, pathlib; from robench.store.files import write_file\n"
        "write_file(pathlib.Path(sys.argv[1]), lambda aside: (aside.write_text('half'), os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    return list(path.parent.glob(".result.json.*.part"))


def _part_of_an_earlier_robench(store: Store) -> list[Path]:
    """Named by a process, of which none is left, and not touched for long."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path = next(store.evaluations.iterdir()) / f".result.json.{int(done.stdout)}.part"
    path.write_text("half")
    os.utime(path, (1e9, 1e9))
    return [path]


def _training(store: Store) -> list[Path]:
    write_text(store.models / "mine" / "training" / "last.ckpt", "checkpoint")
    return [store.models / "mine" / "training"]


def _without_shards(store: Store) -> list[Path]:
    return [evaluation(store, "mine", store.model_digest("mine"), shards=False, seed=2).path]


def _only_damaged_shards(store: Store) -> list[Path]:
    folder = evaluation(store, "mine", store.model_digest("mine"), seed=2)
    write_text(folder.path / "shard-000000-000004.parquet", "damaged")
    return [folder.path]


def _half_begun(store: Store) -> list[Path]:
    write_sealed(store.evaluations / ("a" * 12) / "about.json", {"evaluation": "a" * 12})
    return [store.evaluations / ("a" * 12)]


def _of_a_model_that_is_gone(store: Store) -> list[Path]:
    folder = evaluation(store, "gone", "gone", norm="l2")
    return [folder.path, store.diagnostics / "gone-d-l2-n4.json"]


def _of_an_earlier_model(store: Store) -> list[Path]:
    return _of_a_model_that_is_gone(store) if model(store, "gone", "trained again") else []


def _crafted(store: Store) -> list[Path]:
    folder = evaluation(store, "mine", store.model_digest("mine"), surrogate="an earlier one", shards=False)
    crafted = store.crafted / CraftSpec.of(folder.spec).job_id
    return [folder.path, crafted]


def _detector(store: Store) -> list[Path]:
    return [detector(store, "a model that is gone", seed=7)]


def _damaged_detector(store: Store) -> list[Path]:
    folder = detector(store, "", seed=8)
    write_text(folder / "spec.json", "{")
    return [folder]


def _scores(store: Store) -> list[Path]:
    watching = next(store.detectors.glob("*/scores-*")).parent
    paths = [watching / f"scores-abcdef012345.{kind}" for kind in ("json", "parquet")]
    for path in paths:
        write_text(path, "{}")
    return paths


def _shards_that_do_not_count(store: Store) -> list[Path]:
    folder = evaluation(store, "mine", store.model_digest("mine"), seed=3)
    write_text(folder.path / "shard-000000-000002.json", "{}")
    write_text(folder.path / "shard-000004-000008.parquet", "no manifest")
    return [folder.path / name for name in ("shard-000000-000002.json", "shard-000004-000008.parquet")]


def _finished_check(store: Store) -> list[Path]:
    folder = store.root / "checks" / ("f" * 12)
    write_sealed(folder / "check.json", {"finished": True})
    write_text(folder / "evaluations" / "abc" / "spec.json", "{}")
    return [folder]


def _check_half_removed(store: Store) -> list[Path]:
    folder = store.root / "checks" / ("e" * 12)
    folder.mkdir()
    mark(folder)
    return [folder]


def _set_aside(store: Store) -> list[Path]:
    folder = evaluation(store, "mine", store.model_digest("mine"), seed=5)
    place = store.root / "superseded" / f"{folder.job_id}-0123abcd"
    place.parent.mkdir()
    folder.path.rename(place)
    return [place]


UNNEEDED: dict[str, tuple[Callable[[Store], list[Path]], str]] = {
    "part": (_part, "half-written"),
    "part of before": (_part_of_an_earlier_robench, "half-written"),
    "training": (_training, "checkpoints of model 'mine'"),
    "without shards": (_without_shards, "without a single whole shard"),
    "only damaged shards": (_only_damaged_shards, "without a single whole shard"),
    "half begun": (_half_begun, "without spec and shards"),
    "model gone": (_of_a_model_that_is_gone, "model 'gone', which is gone"),
    "model trained again": (_of_an_earlier_model, "earlier model 'gone'"),
    "crafted": (_crafted, "crafted images"),
    "detector": (_detector, "a detector of a model that is gone"),
    "damaged detector": (_damaged_detector, "a detector of a model that is gone"),
    "scores": (_scores, "scores on an evaluation that is gone"),
    "finished check": (_finished_check, "a check that is finished"),
    "half removed check": (_check_half_removed, "a check that is finished"),
    "set aside": (_set_aside, "made anew since"),
    "shards": (_shards_that_do_not_count, "do not count"),
}


@pytest.mark.parametrize("name", UNNEEDED, ids=lambda name: name.replace(" ", "-"))
def test_what_no_table_needs_is_found_and_nothing_else_goes(name: str, store: Store) -> None:
    make, reason = UNNEEDED[name]
    before = _files(store)
    paths = make(store)
    made = _files(store) - before
    found = leftovers(store)
    assert sorted(path for each in found for path in each.paths) == sorted(paths)
    assert any(reason in each.reason for each in found)
    assert sum(each.size for each in found) == sum(size for path, size in _sized(store) if _within(path, paths))
    assert _files(store) == before | made, "listing changed something"
    assert remove(store, found) == found
    assert _files(store) == {path for path in before | made if not _within(path, paths)}
    assert leftovers(store) == []


def test_what_only_lies_where_evaluations_are_set_aside_is_somebodys(store: Store) -> None:
    (place,) = _set_aside(store)
    write_text(place / "about.json", "{}")
    place.rename(place.with_name("0123456789ab-0123abcd"))  # the id of nothing in it
    write_text(store.root / "superseded" / "notes" / "spec.json", "{}")
    write_text(store.root / "superseded" / "list.txt", "mine")
    assert leftovers(store) == []


def _files(store: Store) -> set[Path]:
    return {path for path in store.root.rglob("*") if path.is_file() and path.parent.name != "locks"}


def _sized(store: Store) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_size) for path in _files(store)]


def _within(path: Path, paths: list[Path]) -> bool:
    return any(path == each or each in path.parents for each in paths)


@pytest.mark.parametrize("name", UNNEEDED, ids=lambda name: name.replace(" ", "-"))
def test_what_somebody_works_on_is_in_use(name: str, store: Store) -> None:
    """The lock of that very work; and for what any work may need, any lock."""
    made = UNNEEDED[name][0](store)
    found = leftovers(store)
    for each in found:
        with claim(store.root, f"{each.work or 'something'}-000000-000004"):
            assert each not in leftovers(store)
            assert each not in remove(store, [each])
    assert all(path.exists() for path in made)
    assert leftovers(store) == found


def test_work_on_something_else_is_no_reason(store: Store) -> None:
    (path,) = _without_shards(store)
    with claim(store.root, "train-something"):
        assert [each.paths for each in leftovers(store)] == [(path,)]


def test_a_file_that_a_living_process_writes_is_left_alone(store: Store) -> None:
    place = next(store.evaluations.iterdir())
    path = place / f".spec.json.{os.getpid()}.part"
    path.write_text("half")
    os.utime(path, (1e9, 1e9))
    with part_of(place / "about.json") as aside:
        assert aside.exists()
        assert leftovers(store) == []
    assert [each.paths for each in leftovers(store)] == [(aside,)]


def test_a_damaged_evaluation_may_need_anything(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (forgotten,) = _detector(store)
    assert [each.paths for each in leftovers(store)] == [(forgotten,)]
    write_text(next(store.evaluations.iterdir()) / "spec.json", "{")
    assert leftovers(store) == []
    assert "are damaged (1, see 'robench list')" in capsys.readouterr().err


def test_a_model_whose_card_is_damaged_is_not_gone(store: Store) -> None:
    write_text(store.models / "mine" / "model.json", "{")
    assert leftovers(store) == []


def test_a_folder_that_cannot_be_removed_is_a_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _detector(store)
    monkeypatch.setattr(
        "robench.store.leftovers.os.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    with pytest.raises(DiskError, match="detectors"):
        remove(store, leftovers(store))


def test_sizes(store: Store) -> None:
    found = sizes(store)
    assert {kind: count for kind, (count, _) in found.items()} == {
        "models": 3, "evaluations": 7, "crafted": 1, "detectors": 3, "diagnostics": 4, "checks": 1,
        "imported": 0, "superseded": 0,
    }  # fmt: skip
    assert sum(size for _, size in found.values()) == sum(size for _, size in _sized(store))


# --- on the command line ---------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> str:
    assert main(["runs", *arguments, "--runs", str(store.root)]) == 0
    return capsys.readouterr().out


def test_nothing_is_deleted_without_being_asked(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is needed" in run(capsys, store, "gc")
    (forgotten,) = _detector(store)
    (empty,) = _without_shards(store)
    first, second, total = run(capsys, store, "gc").splitlines()
    assert f"{empty}: an evaluation without" in first
    assert f"{forgotten}: a detector of" in second
    assert total.startswith("2 that no table needs, ")
    assert "nothing was deleted" in total
    found = json.loads(run(capsys, store, "gc", "--json"))
    assert [each["paths"] for each in found["leftovers"]] == [[str(empty)], [str(forgotten)]]
    assert found["deleted"] == 0
    assert run(capsys, store, "gc", "--delete").splitlines()[-1].startswith("Deleted 2 of 2, ")
    assert not empty.exists()
    assert not forgotten.exists()
    assert json.loads(run(capsys, store, "gc", "--delete", "--json")) == {"leftovers": [], "deleted": 0}


def test_sizes_are_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, store, "size").splitlines()
    assert [line.split()[0] for line in lines] == [
        "models",
        "evaluations",
        "crafted",
        "detectors",
        "diagnostics",
        "checks",
        "imported",
        "superseded",
        "all",
    ]
    assert json.loads(run(capsys, store, "size", "--json"))["evaluations"]["count"] == 7


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_units(size: float, text: str) -> None:
    from robench.cli.runs import _bytes

    assert _bytes(size) == text

"""Every JSON file is parsed where it is read: what does not fit its record is damaged, in one sentence, seal or not."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from robench.results.accuracy import Measure
from robench.results.statistics import wilson
from robench.results.summary import Summary, summarise
from robench.store.about import About
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged, digest, identity, read_json, write_json, write_sealed
from robench.store.records import AboutRecord, CraftRecord, FindingRecord, ResultRecord, SpecRecord
from robench.store.runs import Store
from robench.store.specs import CraftSpec, EvalSpec
from robench.trust.gates import Finding
from tests.made import whole

N = 4
SPEC: dict[str, Any] = {
    "harness": 1, "model_digest": "m", "data_digest": "d", "split": "test", "start": 0, "count": N, "norm": "linf",
    "eps": "1/10", "attack": "pgd", "attack_version": 1, "attack_options": {"steps": 40, "step": None}, "seed": 0,
}  # fmt: skip
ABOUT = About(
    model="m", reference="m", dataset="digits", eps="0.1", given_options={}, metric=Measure.ROBUST,
    access="white-box", command="robench", environment={"commit": "", "packages": {"torch": "2"}},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> EvaluationFolder:
    """A finished evaluation of four images, of which one is broken."""
    folder = Store(tmp_path).evaluation(identity(SPEC))
    folder.begin(SPEC, ABOUT)
    rows = whole(pd.DataFrame({"success": [True, False, False, False]}))
    folder.save_shard(0, N, rows, torch.zeros(N, 1, 2, 2), {"flags": [], "seconds": 1.0})
    folder.finish(summarise(folder.rows(), Measure.ROBUST, folder.notes()))
    assert folder.result is not None
    assert folder.result.value == 0.75
    return folder


def changed(path: Path, key: str, value: Any) -> None:
    """A field of a sealed file given another value, None to drop it, and a seal that fits."""
    content = json.loads(path.read_text())
    *holders, last = key.split(".")
    place = content
    for holder in holders:
        place = place[holder]
    place[last] = value
    if value is None:
        del place[last]
    content.pop("seal", None)
    path.write_text(json.dumps({**content, "seal": digest(content)}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", None), ("norm", "l7"), ("norm", ["linf"]), ("eps", "a tenth"), ("eps", "1/0"), ("eps", 0.1),
        ("count", "4"), ("count", 0), ("count", 10**30), ("start", -1), ("attack_options", {"steps": {"a": [1]}}),
        ("attack_options", []), ("attack", None), ("model_digest", "../../etc"), ("detector", "a/b"), ("seed", 1.5),
        ("harness", True), ("attack_version", "\ud800"),
    ],
)  # fmt: skip
def test_a_spec_that_is_none_is_damaged(key: str, value: Any, folder: EvaluationFolder) -> None:
    """Its id fits."""
    spec = {name: item for name, item in {**SPEC, key: value}.items() if item is not None or name != key}
    moved = Store(folder.root).evaluation(identity(spec))
    moved.path.mkdir()
    (moved.path / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(Damaged, match=r"spec\.json is damaged \(.+\); run the command of evaluation") as caught:
        assert moved.spec
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metric", "elegance"), ("metric", None), ("access", "friendly"), ("eps", "x"), ("given_options", {"a": [[1]]}),
        ("environment.commit", None), ("environment.packages.torch", 2), ("environment", []), ("model", {"a": 1}),
        ("access", "half a \ud83d"), ("batch_size", -1), ("mended", "yes"), ("surrogate_digest", "../x"),
    ],
)  # fmt: skip
def test_an_about_that_is_none_is_damaged(key: str, value: Any, folder: EvaluationFolder) -> None:
    changed(folder.path / "about.json", key, value)
    with pytest.raises(Damaged, match=r"about\.json is damaged"):
        assert EvaluationFolder(folder.path).about


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interval", []), ("interval", [0.2]), ("interval", [math.nan, 1.0]), ("n", 0), ("n", 10**9), ("n", None),
        ("robust_accuracy", 1.0), ("robust_accuracy", math.nan), ("robust_accuracy", "0.9"), ("robust_accuracy", None),
        ("clean_accuracy", 7), ("attack_success_rate", 0.1), ("status", "Complete"), ("flags", "none"),
        ("backwards", -3), ("seconds", math.inf), ("shards", []),
    ],
)  # fmt: skip
def test_a_result_that_is_none_is_not_believed(key: str, value: Any, folder: EvaluationFolder) -> None:
    """The rows are summed up again, and 1.0 of four images with the interval of three is no figure."""
    changed(folder.path / "result.json", key, value)
    found = EvaluationFolder(folder.path).result
    assert found is not None
    assert (found.value, found.n, found.clean_accuracy) == (0.75, N, 1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", []), ("sha256.parquet", None), ("flags", "randomised"), ("flags", [1]), ("seconds", "long"),
     ("seconds", math.nan), ("batch_size", "all"), ("range", [0, 2]), ("range", "0-4"), ("evaluation", ["x"])],
)  # fmt: skip
def test_a_manifest_that_is_none_is_no_shard(key: str, value: Any, folder: EvaluationFolder) -> None:
    changed(folder.path / "shard-000000-000004.json", key, value)
    assert EvaluationFolder(folder.path).shards() == []
    assert EvaluationFolder(folder.path).damaged() == [(0, N)]


def test_a_shard_beyond_the_images_does_not_count(folder: EvaluationFolder) -> None:
    rows = whole(pd.DataFrame({"example_id": range(N, 2 * N)}))
    folder.save_shard(N, 2 * N, rows, torch.zeros(N, 1, 2, 2), {})
    assert folder.ranges() == [(0, N)]
    assert len(folder.rows()) == N


def test_old_and_later_records_open(folder: EvaluationFolder) -> None:
    """What was added later may lack, and what is unknown is kept."""
    write_sealed(folder.path / "about.json", {
        **{k: v for k, v in ABOUT.to_json().items() if k not in ("kind", "against")}, "evaluation": folder.job_id,
        "weather": {"nested": [1]},
    })  # fmt: skip
    found = EvaluationFolder(folder.path).about
    assert found.kind == "white-box"
    assert found.more["weather"] == {"nested": [1]}


def test_records_have_the_fields_of_what_is_read() -> None:
    """A field that a class gains and a record lacks would go unchecked, or make what is whole damaged."""
    assert set(FindingRecord.model_fields) == {each.name for each in fields(Finding)}
    assert set(AboutRecord.model_fields) == {each.name for each in fields(About)} - {"more", "lacks"}
    assert set(SpecRecord.model_fields) == set(EvalSpec.model_fields)
    assert set(CraftRecord.model_fields) == set(CraftSpec.model_fields) - {"crafted"}
    plain = Summary(Measure.ROBUST, 1, 1.0, (0.0, 1.0), 1.0, (0.0, 1.0), 1, 1, 1.0, (), "complete").to_json()
    assert set(ResultRecord.model_fields) == {*plain, "attack_success_rate", "shards", "second"}


def test_names_of_bytes_that_are_no_text_are_kept(tmp_path: Path, folder: EvaluationFolder) -> None:
    write_json(tmp_path / "a.json", {"name": "caf\udce9.py:load"})
    assert read_json(tmp_path / "a.json") == {"name": "caf\udce9.py:load"}
    for name in ("caf\udce9.py:load", "half a \ud83d"):
        changed(folder.path / "about.json", "reference", name)
        assert EvaluationFolder(folder.path).about.reference == name


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(Damaged, match="it is not a plain file"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(Damaged, match="it is not a plain file"):
        read_json("/dev/zero")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000, '{"a": ' + "9" * 5000 + "}"])
def test_deep_and_long_json_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Damaged):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 20), (13, 20), (999, 1000), (10000, 10000)])
def test_honest_figures_are_consistent(count: int, n: int) -> None:
    def summary(value: float) -> Summary:
        ends = wilson(count, n)
        return Summary(Measure.ROBUST, n, value, ends, value, ends, 1, 1, 1.0, (), "complete")

    assert summary(count / n).consistent
    assert not summary((count + 0.5) / (n + 1)).consistent

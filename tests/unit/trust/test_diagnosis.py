"""Which stored evaluations the gates are asked about, and where their findings are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from robench.results.accuracy import Measure
from robench.results.statistics import wilson
from robench.results.summary import Summary
from robench.store.about import About
from robench.store.files import identity
from robench.store.runs import EvaluationFolder, Store
from robench.trust.diagnosis import collect, record
from tests.made import whole
from tests.unit.trust.attack_runs import N, found, rows_of


def stored(store: Store, job: str, broken: Iterable[int], *, done: bool = True, **spec: Any) -> EvaluationFolder:
    """An evaluation of 200 images of 2 x 2 pixels, with a seed of its own."""
    base = {
        "harness": 1, "model_digest": "m", "data_digest": "d", "split": "test", "start": 0, "count": N, "norm": "l2",
        "eps": "1", "attack": "pgd", "attack_version": 1, "attack_options": {"steps": 4}, "seed": int(job[0]),
    }  # fmt: skip
    metric = spec.pop("metric", "robust accuracy")
    about = About(
        model="name", reference="", dataset="digits", eps="1", given_options={}, metric=metric, access="white-box",
        kind="iterative", command="", environment={"commit": "", "packages": {"torch": ""}},
    )  # fmt: skip
    folder = store.evaluation(identity({**base, **spec}))
    folder.begin({**base, **spec}, about)
    folder.save_shard(0, N, whole(rows_of(broken)), torch.zeros(N, 1, 2, 2), {"flags": []})
    if done:
        folder.finish(Summary(Measure(metric), N, 1.0, wilson(N, N), 0.5, wilson(N // 2, N), 0, 0, 0.0, (), "complete"))
    return folder


def test_only_comparable_runs_are_collected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored(store, "1" * 12, range(N))
    for i, other in enumerate(
        [{"model_digest": "x"}, {"data_digest": "x"}, {"norm": "linf"}, {"count": 100}, {"start": 5}, {"detector": "x"},
         {"metric": "attack success rate"}, {"done": False}]
    ):  # fmt: skip
        stored(store, str(i + 2) * 12, range(N), **other)
    (only,) = collect(store, "m", "d", "l2", N)
    assert (only.name, only.kind, only.pixels, str(only.threat)) == ("pgd", "iterative", 4, "l2 eps 1")
    assert only.broken.all()


def test_an_older_version_of_the_same_attack_says_nothing_beside_the_newer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored(store, "1", range(3), attack_version=1)
    stored(store, "1", range(5), attack_version=2)
    stored(store, "1", range(7), attack_version=1, attack_options={"steps": 8})
    stored(store, "1", range(9), attack_version=3, done=False)
    runs = collect(store, "m", "d", "l2", N)
    assert sorted(int(run.broken.sum()) for run in runs) == [5, 7]


def test_draws_and_replaced_gradients_are_another_attack(tmp_path: Path) -> None:
    """Else a plain run at a larger eps would be held against them."""
    store = Store(tmp_path)
    for i, how in enumerate([{"eot": 20}, {"bpda": ["jpeg"]}, {}]):
        stored(store, str(i + 1) * 12, range(100) if how else [], eps="1" if how else "2", **how)
    runs = collect(store, "m", "d", "l2", N)
    assert {run.name for run in runs} == {"pgd (eot=20)", "pgd (bpda=['jpeg'])", "pgd"}
    assert found("success not rising with eps", *runs) == []


def test_who_walks_along_the_boundary_is_known_by_the_attack(tmp_path: Path) -> None:
    store, gate = Store(tmp_path), "boundary attack beats ascent"
    stored(store, "1" * 12, range(100), eps="0.5")
    fab = {"attack": "fab-t", "attack_options": {"steps": 50, "targets": 3, "restarts": 1, "nearest": False}}
    stored(store, "2" * 12, range(90, 150), eps="0.5", **fab)
    runs = collect(store, "m", "d", "l2", N)
    assert {run.attack: (run.walks, run.ascends) for run in runs} == {"pgd": (False, True), "fab-t": (True, False)}
    (finding,) = found(gate, *runs)
    assert finding.fired
    assert "fab-t broke 50 of 200 images that pgd left standing at l2 eps 0.5" in finding.evidence


def test_findings_are_kept_beside_the_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store, "1" * 12, range(100))
    findings = record(store, "name", folder)
    (path,) = store.diagnostics.iterdir()
    kept = json.loads(path.read_text())
    assert kept["runs"] == ["pgd at l2 eps 1"]
    assert kept["findings"] == [finding.to_json() for finding in findings]
    assert {f.gate for f in findings if f.fired} == {"robust at eps that allows anything"}  # 1 reaches grey
    stored(store, "2" * 12, range(N), eps="0.5")
    record(store, "name", folder)
    assert len(json.loads(path.read_text())["runs"]) == 2

"""What an evaluation is known by beside its code: a library's batches, whether it is a probe, and one label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robench.regression import baseline
from robench.store.files import read_json, write_json, write_sealed
from robench.store.runs import Store
from robench.tables.chosen import Chosen
from robench.tables.leaderboard import build
from tests.unit.evaluation.evaluating import folder_of, renote, run

# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_library_s_attack_is_known_by_its_batches(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    usual, other = run(store, "library:apgd-ce"), run(store, "library:apgd-ce", batch_size=7, shard_size=20)
    spec = folder_of(store, other).spec
    assert (spec["batch_size"], spec["shard_size"]) == (7, 20)
    assert not {"batch_size", "shard_size"} & folder_of(store, usual).spec.keys()
    labels = {row.about.against for row in (usual.results[0], other.results[0])}
    assert labels == {"", " [batch size 7, shard size 20]"}
    (board,) = build(store)
    assert "depends on the sizes of batches" in board.note


def test_robench_s_own_attacks_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "runs")
    assert run(store, "pgd").results[0].evaluation == run(store, "pgd", batch_size=7).results[0].evaluation
    assert "was in the store" in capsys.readouterr().err


def test_old_rows_of_other_batches_are_made_again(tmp_path: Path) -> None:
    """Before batches were part of the id, all sizes had the id that the usual one has."""
    store = Store(tmp_path / "runs")
    renote(folder_of(store, run(store, "library:apgd-ce")), lambda notes: notes.update(batch_size=40))
    run(store, "library:apgd-ce")
    assert (store.root / "superseded").is_dir()


# --- probes ----------------------------------------------------------------------------------------------------------


def test_probes_are_marked_and_left_out_until_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    probe, figure = run(store, "fgsm", probe=True), run(store, "pgd")
    name = figure.results[0].about.model
    assert json.loads((folder_of(store, probe).path / "about.json").read_text())["probe"] is True
    assert "probe" not in json.loads((folder_of(store, figure).path / "about.json").read_text())
    assert [set(row.attacks) for row in build(store)[0].rows] == [{"pgd"}]
    assert [set(row.attacks) for row in build(store, Chosen(probes=True))[0].rows] == [{"fgsm", "pgd"}]
    kept = [each.spec.attack for each in baseline.make([name], store).kept]
    assert kept == ["pgd"]
    assert len(baseline.make([name], store, probes=True).kept) == 2
    assert len(baseline.make([probe.results[0].evaluation], store).kept) == 1  # asked for by its id
    run(store, "fgsm")
    assert [set(row.attacks) for row in build(store)[0].rows] == [{"fgsm", "pgd"}]


def test_probes_of_before_they_were_marked_are_known_by_their_command(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    folder = folder_of(store, run(store, "fgsm"))
    run(store, "pgd")
    about = {k: v for k, v in read_json(folder.path / "about.json").items() if k not in ("seal", "format")}
    write_sealed(folder.path / "about.json", {**about, "command": "robench diagnose m.py:load --eps 0.5"})
    assert [set(row.attacks) for row in build(store)[0].rows] == [{"pgd"}]
    write_json(folder.path / "spec.json", folder.spec)


# --- one label -------------------------------------------------------------------------------------------------------


def test_an_attack_with_its_own_options_is_the_attack(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    one = run(store, "pgd").results
    two = run(store, "pgd", options={"steps": "40"}).results
    both = run(store, "pgd,er", options={"step": "0.01"}).results
    assert [(each.evaluation, each.label) for each in one] == [(each.evaluation, each.label) for each in two]
    assert one[0].label == "pgd"
    assert [each.label for each in both] == ["pgd (step=0.01)", "fgsm"]
    assert [each.label for each in run(store, "pgd,diagnosis-wide").results] == ["pgd"]


def test_old_records_of_it_have_its_label_in_tables(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    folder = folder_of(store, run(store, "pgd"))
    about = {k: v for k, v in read_json(folder.path / "about.json").items() if k not in ("seal", "format")}
    write_sealed(folder.path / "about.json", {**about, "given_options": {"steps": 40}})
    (board,) = build(store)
    assert list(board.rows[0].attacks) == ["pgd"]

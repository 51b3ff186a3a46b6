"""Only a runs folder is looked after: one with the marker, or, from before there were markers, with our specs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robench.cli.app import main
from robench.errors import BadInput
from robench.store.claims import claim
from robench.store.files import identity, write_json
from robench.store.leftovers import leftovers
from robench.store.marker import MARKER, carries_our_spec, is_runs_folder
from robench.store.runs import Store

SPEC = {"model_digest": "m", "attack": "pgd"}


def project(root: Path) -> set[Path]:
    """Somebody's project, whose folders go by the names of ours; returns its files."""
    for name in (
        "evaluations/2024/notes.txt", "evaluations/0123456789ab/spec.json", "evaluations/0123456789ac/about.json",
        "checks/health/check.json", "checks/0123456789ab/results.csv", "detectors/smoke/firmware.bin",
        "detectors/0123456789ab/spec.json", "crafted/0123456789ab/hat.png", "crafted/beer/recipe.md",
        "diagnostics/a-b-linf-n1.json", "diagnostics/report.json", "models/car/DONE", "models/car/training/data.csv",
        ".download.1234.part", "models/.car.4194305.part", "evaluations/.x.4194305.part",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if name.endswith("json") else "precious")
    return {path for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("marked", [False, True])
def test_nothing_of_somebody_else_goes(marked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where robench once wrote there, since --runs was wrong."""
    files = project(tmp_path)
    if marked:
        with claim(tmp_path, "work"):
            pass
    code = main(["runs", "gc", "--delete", "--runs", str(tmp_path)])
    assert code == (0 if marked else 2)
    assert marked or "is not a runs folder" in capsys.readouterr().err
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / MARKER} == files


def test_a_runs_folder_from_before_there_were_markers_is_known(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluations" / identity(SPEC) / "spec.json", SPEC)
    assert is_runs_folder(tmp_path)
    training = {"defense": "standard", "recipe": {}, "train_digest": "t"}
    write_json(tmp_path / "b" / "models" / "m" / "spec.json", training)
    assert is_runs_folder(tmp_path / "b")
    project(tmp_path / "c")
    assert not is_runs_folder(tmp_path / "c")


def test_an_empty_or_absent_folder_has_no_leftovers(tmp_path: Path) -> None:
    assert leftovers(Store(tmp_path)) == leftovers(Store(tmp_path / "none")) == []


def test_a_link_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / identity(SPEC)
    write_json(folder / "spec.json", SPEC)
    assert carries_our_spec(folder)
    link = tmp_path / "crafted" / folder.name
    link.parent.mkdir()
    link.symlink_to(folder)
    assert not carries_our_spec(link)


@pytest.mark.parametrize("command", ["gc", "size"])
def test_a_file_is_no_runs_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text(json.dumps({}))
    assert main(["runs", command, "--runs", str(tmp_path / "file")]) == 2
    assert "is not a folder; give a runs folder as --runs" in capsys.readouterr().err
    with pytest.raises(BadInput):
        leftovers(Store(tmp_path / "file"))

"""Records read back: what an earlier robench wrote is neither added to nor lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robench.results.accuracy import Measure
from robench.results.summary import Summary
from robench.store.about import About, depends_on_folder

FIRST: dict[str, Any] = {
    "model": "m", "reference": "m", "dataset": "digits", "eps": "0.1", "given_options": {"steps": 5},
    "metric": "robust accuracy", "access": "white-box", "command": "robench",
    "environment": {"commit": "abc", "packages": {"torch": "2"}},
}  # fmt: skip
WHOLE = {
    **FIRST, "kind": "iterative", "against": "", "surrogate": "", "surrogate_digest": "", "batch_size": 250,
    "device": "cpu", "folder": "/work", "classes": 10,
}  # fmt: skip


@pytest.mark.parametrize("record", [FIRST, WHOLE, {**WHOLE, "mended": True}, {**WHOLE, "of_later": 1}])
def test_a_record_stays_as_it_was(record: dict[str, Any]) -> None:
    assert About.from_json(record).to_json() == record


def test_an_early_record_is_read_as_what_it_was() -> None:
    about = About.from_json(FIRST)
    assert (about.kind, about.against, about.commit, about.torch) == ("white-box", "", "abc", "2")


@pytest.mark.parametrize("measure", Measure)
def test_a_summary_stays_as_it_was(measure: Measure) -> None:
    early = {
        "n": 5, "clean_accuracy": 1.0, measure.key: 0.4, "interval": [0.1, 0.7], "backwards": 3, "flags": ["x"],
        "status": "complete",
    }  # fmt: skip
    whole = {**early, "clean_interval": [0.5, 1.0], "forwards": 6, "seconds": 0.5}
    for stated in (early, whole):
        assert Summary.from_json(stated, measure).to_json() == stated
    assert Summary.from_json(whole, measure).figure is not None


def test_an_incomplete_summary_says_what_is_not_known() -> None:
    found = Summary(Measure.ROBUST, 3).to_json()
    assert (found["robust_accuracy"], found["interval"], found["forwards"]) == (None, None, None)
    assert (found["n"], found["status"]) == (3, "incomplete")


def test_names_lead_to_what_they_meant_where_they_were_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "sub").mkdir(parents=True)
    for name in ("npz", "data.npz", "model.py", "sub/a.py", "[x].npz"):
        (there / name).write_text("")
    (here / "model.py").write_text("")
    monkeypatch.chdir(here)
    record = replace(About.from_json(FIRST), folder=str(there))
    expected = {
        "npz:npz": f"npz:{there}/npz",
        "npz:data.npz": f"npz:{there}/data.npz",
        "npz:[x].npz": f"npz:{there}/[x].npz",
        "folder:sub": f"folder:{there}/sub",
        "folder:sub@32": f"folder:{there}/sub@32",
        "model.py:load": f"{there}/model.py:load",
        "sub/a.py:load": f"{there}/sub/a.py:load",
        "sub/b.py:load": "sub/b.py:load",
    }
    same = ["digits", "plain", "torchvision:resnet18", "package.module:load", "npz:/x.npz", "npz:~/x.npz", "/m.py:load"]
    for name, found in {**expected, **dict.fromkeys(same)}.items():
        assert record.at_hand(name) == (found or name)
        assert replace(record, folder="").at_hand(name) == name
        assert depends_on_folder(name) == (name in expected)
    monkeypatch.chdir(there)
    assert record.at_hand("npz:data.npz") == "npz:data.npz"

"""Colons, brackets, "@" and "=" that mean something in a command, where they are a part of a name."""

from __future__ import annotations

from pathlib import Path

from tests.integration.conftest import Run
from tests.integration.test_hostile_names import MODEL, SMALL, clean, image


def test_brackets_and_colons_in_a_path_are_not_taken_apart(robench: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a:b [x] torchvision:c"
    folder.mkdir()
    (folder / "net.py").write_text(MODEL + "load = _make\n")
    row = robench("evaluate", f"{folder.name}/net.py:load", *SMALL, "--json").json["rows"][0]
    assert row["model"] == "net.py:load"


def test_a_folder_of_data_that_ends_like_a_size(robench: Run, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef load(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(2)).eval()\n"
        "def fixed(n): return nn.Sequential(nn.Flatten(), nn.Linear(n * n, 2)).eval()\n"
        "def eight(): return fixed(8)\ndef four(): return fixed(4)\n"
    )
    for part in ("train", "test"):
        for label in ("a", "b"):
            image(tmp_path / "set@4" / part / label / "x.png", 7)
    how = ("-a", "fgsm", "--eps", "0.1", "--dataset")
    clean(robench("evaluate", "net.py:eight", *how, "folder:set@4"))
    clean(robench("evaluate", "net.py:four", *how, "folder:set@4@4"))
    (tmp_path / "set").mkdir()
    outcome = robench("evaluate", "net.py:eight", *how, "folder:set@4")
    assert "could be the folder set@4, or set at 4 pixels" in outcome.err
    assert outcome.code == 2
    clean(robench("evaluate", "net.py:eight", *how, "folder:set@4/"))


def test_equals_signs_in_names_and_references_of_a_check(robench: Run, tmp_path: Path) -> None:
    (tmp_path / "a=1.py").write_text(MODEL + "load = _make\n")
    clean(robench("evaluate", "a=1.py:load", *SMALL))
    clean(robench("baseline", "a=1.py:load", "-o", "b.json"))
    for told in ("a=1.py:load=a=1.py:load", "a=1.py:load"):
        assert "Nothing fell" in clean(robench("check", "b.json", "--model", told))

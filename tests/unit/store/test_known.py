"""Whose code is run because a record says so: only what this user named before, or says to trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from robench.errors import BadInput
from robench.store.known import allow, is_code, reference_known, remember


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def test_what_is_code_and_what_is_data() -> None:
    for reference in ("model.py:load", "/a/b.py:load", "package.module:factory", "os:abort", ":", "a:b:c"):
        assert is_code(reference)
    for reference in ("plain", "standard-digits", "torchvision:resnet18", ""):
        assert not is_code(reference)


def test_a_file_is_known_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not reference_known("model.py:load")
    remember("model.py:load")
    remember("package.module:load")
    assert reference_known("model.py:load")
    assert reference_known(f"{tmp_path}/model.py:load")
    assert reference_known("./x/../model.py:load")
    assert reference_known("package.module:load")
    assert not reference_known("model.py:other")
    assert not reference_known("package.module:loads")
    assert not reference_known("package:load")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not reference_known("model.py:load")
    assert reference_known("../model.py:load")


def test_a_name_with_a_newline_makes_nothing_else_known(tmp_path: Path) -> None:
    remember(f"x\n{tmp_path}/evil.py:load")
    assert not reference_known("evil.py:load")
    assert reference_known(f"x\n{tmp_path}/evil.py:load")
    remember("caf\udce9.py:load")
    assert reference_known("caf\udce9.py:load")


def test_what_is_not_known_is_refused_in_a_sentence() -> None:
    with pytest.raises(BadInput, match=r"^The record names the code 'os:abort', .*; give --model, or add --trust.*\.$"):
        allow("os:abort", "The record", "give --model", trust=False)
    allow("os:abort", "The record", "give --model", trust=True)
    allow("plain", "The record", "give --model", trust=False)
    allow("torchvision:resnet18", "The record", "give --model", trust=False)
    remember("os:abort")
    allow("os:abort", "The record", "give --model", trust=False)


def test_without_a_place_to_note_it_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("model.py:load")
    assert not reference_known("model.py:load")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    remember("model.py:load")
    assert not reference_known("model.py:load")

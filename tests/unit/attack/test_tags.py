"""Whether a name space was written to: every way to write is seen, and looking is none."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from robench.attack.namespaces import Functions
from robench.attack.tags import number_at, tag_of

WRITES: dict[str, Callable[[Any], object]] = {
    "assigned": lambda owner: setattr(owner, "kept", 3),
    "new": lambda owner: setattr(owner, "fresh", 3),
    "deleted": lambda owner: delattr(owner, "kept"),
    "there and back": lambda owner: [setattr(owner, "kept", 3), setattr(owner, "kept", 1)],
}


def _module() -> types.ModuleType:
    module = types.ModuleType("somebody")
    module.kept = 1  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("make", [_module, lambda: type("Somebody", (), {"kept": 1})], ids=["module", "class"])
def test_what_is_written_is_seen(make: Callable[[], Any], write: Callable[[Any], object]) -> None:
    owner = make()
    tag = tag_of(vars(owner))
    assert tag is not None
    before = number_at(tag)
    assert owner.kept == 1
    assert list(vars(owner).items())
    assert not hasattr(owner, "absent")
    assert number_at(tag) == before
    write(owner)
    assert number_at(tag) != before


def test_a_module_written_to_past_its_attributes_is_seen() -> None:
    module = _module()
    tag = tag_of(vars(module))
    assert tag is not None
    for write in (lambda: vars(module).update(kept=2), vars(module).clear, lambda: vars(module).setdefault("fresh", 1)):
        before = number_at(tag)
        write()
        assert number_at(tag) != before


def test_functions_are_put_back_however_often_they_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module()
    monkeypatch.setitem(sys.modules, "somebody", module)
    module.act = abs  # type: ignore[attr-defined]
    functions = Functions([module], deep=False)
    assert functions.restore() == []
    for other in (len, max, len):
        module.act = other  # type: ignore[attr-defined]
        assert functions.restore() == ["somebody.act"]
        assert module.act is abs
        assert functions.restore() == []


def test_functions_are_compared_where_changes_have_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robench.attack.namespaces.tag_of", lambda space: None)
    module = _module()
    monkeypatch.setitem(sys.modules, "somebody", module)
    module.act = abs  # type: ignore[attr-defined]
    functions = Functions([module], deep=False)
    assert functions.restore() == []
    module.act = len  # type: ignore[attr-defined]
    assert functions.restore() == ["somebody.act"]
    assert module.act is abs


def test_what_changes_between_two_deep_looks_is_part_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last look found is used again only where a new one would find the same."""
    module = _module()
    monkeypatch.setitem(sys.modules, "somebody", module)

    def act() -> int:
        return 1

    module.act = act  # type: ignore[attr-defined]
    assert Functions([module], deep=True).restore() == []
    act.__code__ = (lambda: 2).__code__  # by whom nobody watches
    second = Functions([module], deep=True)
    act.__code__ = (lambda: 3).__code__
    assert second.restore() == [f"{__name__}.{act.__qualname__}"]
    assert act() == 2
    module.act = abs  # type: ignore[attr-defined]
    third = Functions([module], deep=True)
    module.act = len  # type: ignore[attr-defined]
    assert third.restore() == ["somebody.act"]
    assert module.act is abs
    vars(module)["other"] = vars(module).pop("act")  # the same value, under another name
    fourth = Functions([module], deep=True)
    vars(module)["max"] = vars(module).pop("other")
    assert fourth.restore() == ["somebody.other", "somebody.max"]
    assert "max" not in vars(module)
    assert module.other is abs

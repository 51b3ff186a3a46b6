"""What stands behind names that would read the same: all that their evaluations differ in, and nothing elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from robench.store.labels import behind, endings


def folder(job_id: str, dataset: str = "digits", **spec: Any) -> Any:
    usual = {"seed": 0, "count": 60, "start": 0, "harness": 1, "attack_version": 1, "data_digest": "d" * 16}
    return SimpleNamespace(job_id=job_id, about=SimpleNamespace(dataset=dataset), spec=usual | spec)


def told(*folders: Any, **more: Any) -> list[str]:
    return list(endings(folders, dict.fromkeys([each.job_id for each in folders], "pgd"), **more).values())


def test_what_differs_is_named_in_all() -> None:
    assert told(folder("a")) == [""]
    assert told(folder("a"), folder("b", seed=2)) == [" [seed 0]", " [seed 2]"]
    assert told(folder("a", surrogate="1" * 16), folder("b", surrogate="2" * 16)) == [" #111111", " #222222"]
    many = told(folder("a", detector="3" * 12), folder("b", seed=1), folder("c", seed=1, count=1000, draw="balanced"))
    assert many == [
        " #333333 [seed 0, n 60, in the data's order]",
        " [seed 1, n 60, in the data's order]",
        " [seed 1, n 1,000, balanced]",
    ]


def test_the_data_are_told_of_all_where_they_are_several() -> None:
    lines = {"a": "pgd", "b": "fgsm", "c": "fgsm"}
    found = endings([folder("a"), folder("b", "mnist"), folder("c", "mnist", seed=1)], lines)
    assert list(found.values()) == [" [on digits]", " [on mnist, seed 0]", " [on mnist, seed 1]"]


def test_where_nothing_else_tells_them_apart_digest_and_id_do() -> None:
    assert told(folder("a"), folder("b", data_digest="e" * 16)) == [" [data #dddddd]", " [data #eeeeee]"]
    assert told(folder("a" * 12), folder("b" * 12)) == [" [evaluation aaaaaa]", " [evaluation bbbbbb]"]
    assert told(folder("a"), folder("b"), aspects=(behind,), last=()) == ["", ""]

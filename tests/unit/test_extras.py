"""What a plugin needs beside its package: read from its entry point's extras and its package's metadata."""

from __future__ import annotations

from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from robench import BadInput, extras

METADATA = """Metadata-Version: 2.4
Name: third-party
Version: 1.0
Requires-Dist: numpy
Requires-Dist: there_is_none_such>=2; extra == "absent"
Requires-Dist: numpy>=999; extra == "newer"
Requires-Dist: numpy>=1; extra == "present"
Requires-Dist: nothing_of_ours; extra == "present" and python_version < "3"
"""
ENTRIES = """[robench.attacks]
plain = third:Plain
absent = third:Absent [absent]
newer = third:Newer [newer]
present = third:Present [present]
both = third:Both [present,absent]
unknown = third:Unknown [no-such-extra]
"""


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, EntryPoint]:
    folder = tmp_path / "third_party-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    (folder / "entry_points.txt").write_text(ENTRIES)
    (found,) = distributions(path=[str(tmp_path)])
    return {entry.name: entry for entry in found.entry_points}


def complaint(entry: EntryPoint) -> str:
    with pytest.raises(BadInput) as caught:
        extras.check(entry, f"attack {entry.name!r}")
    return str(caught.value)


def test_what_is_there_is_not_complained_of(entries: dict[str, EntryPoint]) -> None:
    for name in ("plain", "present", "unknown"):
        extras.check(entries[name], name)
    assert extras.needs(entries["plain"]) == []
    assert [need.package for need in extras.needs(entries["present"])] == ["numpy"]
    extras.check(EntryPoint("bare", "third:Bare [absent]", "robench.attacks"), "of no package")


def test_what_is_missing_is_one_sentence_with_the_package_s_own_extra(entries: dict[str, EntryPoint]) -> None:
    assert complaint(entries["absent"]) == (
        "The attack 'absent' needs there_is_none_such, which is not installed; install it with: "
        "pip install 'third-party[absent]', or choose another."
    )
    assert complaint(entries["both"]).endswith(
        "install it with: pip install 'third-party[present,absent]', or choose another."
    )


def test_a_version_that_is_too_old_is_named(entries: dict[str, EntryPoint]) -> None:
    import numpy

    assert f"needs numpy, >=999, but {numpy.__version__} is installed" in complaint(entries["newer"])

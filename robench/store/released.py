"""Whether the version of a plugin speaks for its code: it does where a file in the plugin's package records the digest
that the code has, so that what was released keeps its figures, and who edits a copy gets figures of their own."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robench.errors import BadInput
from robench.store.reach import plugin_digest

# beside the `__init__.py` of a package: a line per version of a plugin's class and digest of its code
RECORD = "digests.txt"
HEAD = """\
# A plugin's class, its version, and a digest of what its code says; 'make digests' adds to it. Two digests of one
# version mean: the code was changed, and its figures were not.
"""


@dataclass(frozen=True, order=True)
class Release:
    """A version of a plugin: its class as "module:name", and the version."""

    plugin: str
    version: int

    @classmethod
    def of(cls, base: type) -> Release:
        """That of a plugin's class, 1 where the class states none."""
        version = getattr(base, "version", 1)
        return cls(f"{base.__module__}:{base.__qualname__}", version if type(version) is int else 1)


Recorded = Mapping[Release, frozenset[str]]


def unreleased(base: type) -> str | None:
    """The digest of a plugin's code, None where its version speaks for it."""
    digest = plugin_digest(base)
    return None if digest in recorded(place_of(base)).get(Release.of(base), frozenset()) else digest


def place_of(base: type) -> Path | None:
    """Where the record of a plugin's package is, if it keeps one; None for a plugin outside of packages."""
    top = sys.modules.get(base.__module__.partition(".")[0])
    file = getattr(top, "__file__", None)
    return Path(file).parent / RECORD if file and hasattr(top, "__path__") else None


@cache
def recorded(place: Path | None) -> Recorded:
    """What a package's record says, nothing where there is none. Raises BadInput for a line that is none of its."""
    found: dict[Release, set[str]] = defaultdict(set)
    if place is not None and place.is_file():
        for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split()
            if not words or line.startswith("#"):
                continue
            if len(words) != 3 or not (words[1].isascii() and words[1].isdigit()):
                raise BadInput(
                    f"Line {number} of {place} is {line!r}, but must be a plugin's class, its version and a digest; "
                    "restore the file from git."
                )
            found[Release(words[0], int(words[1]))].add(words[2])
    return {release: frozenset(digests) for release, digests in found.items()}


def text_of(releases: Recorded) -> str:
    """A record as its file has it."""
    lines = [f"{each.plugin} {each.version} {digest}" for each in sorted(releases) for digest in sorted(releases[each])]
    return HEAD + "".join(f"{line}\n" for line in lines)

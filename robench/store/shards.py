"""Shards of an evaluation: their names, and which of several count."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SHARD = re.compile(r"shard-(\d+)-(\d+)\.json")


@dataclass(frozen=True)
class Shard:
    """A whole shard: the examples [start, stop), what was noted when it was computed, and its manifest's digest."""

    start: int
    stop: int
    notes: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """What the names of its files begin with."""
        return stem_of(self.start, self.stop)


def stem_of(start: int, stop: int) -> str:
    """What the names of a shard's files begin with."""
    return f"shard-{start:06d}-{stop:06d}"


def apart(shards: Sequence[Shard]) -> list[Shard]:
    """Of shards that overlap, as two shard sizes leave them, those that do not and hold the most examples, in order."""
    best: list[tuple[int, list[Shard]]] = [(0, [])]  # by how many shards, in the order of their ends, were looked at
    ordered = sorted(shards, key=lambda shard: (shard.stop, shard.start))
    ends = [shard.stop for shard in ordered]
    for i, shard in enumerate(ordered):
        held, before = best[bisect_right(ends, shard.start, hi=i)]
        held += shard.stop - shard.start
        best.append((held, [*before, shard]) if held > best[i][0] else best[i])
    return best[-1][1]


def ranges_of(names: Iterable[str]) -> list[tuple[int, int]]:
    """The ranges of the manifests among these names, in order."""
    return sorted((int(match[1]), int(match[2])) for match in map(SHARD.fullmatch, names) if match)


def contents_of(shards: list[Shard]) -> dict[str, str]:
    """What shards hold: the digests of their manifests by name."""
    return {shard.name: shard.digest for shard in shards}

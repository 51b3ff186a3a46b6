"""Columns that read one printed column in several ways, and which of them comes nearer to print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from robench.suites.schema import Column
from robench.suites.suite import ScaledSuite

# the figure of a place in percent, the mean over its seeds, by row and column; None while it is incomplete
Measured = Callable[[str, str], float | None]


def way(column: Column) -> str:
    """What a column's attacks had of other models, in words."""
    if column.surrogate:
        return f"crafted on {column.surrogate}"
    return f"guided by {column.guide}" if column.guide else "on the models alone"


@dataclass(frozen=True)
class Readings:
    """The ways to read some printed columns, each with its distances to print, in points of percent: one per place
    where every way has its figure."""

    columns: tuple[str, ...]
    distances: dict[str, tuple[float, ...]]

    @property
    def printed(self) -> str:
        """The columns, in words."""
        return ("All of " if len(self.columns) > 1 else "") + ", ".join(self.columns)

    @property
    def nearer(self) -> str:
        """The way with the smallest mean distance; "" where two are equal, or nothing can be said."""
        means = sorted((mean(each), name) for name, each in self.distances.items() if each)
        return means[0][1] if len(means) > 1 and means[0][0] < means[1][0] else ""

    def __str__(self) -> str:
        places = len(next(iter(self.distances.values())))
        if not places:
            return f"{self.printed} against print: no place has every reading yet."
        told = ", ".join(f"{name} {mean(each):.1f}" for name, each in self.distances.items())
        nearer = f"nearer is {self.nearer}" if self.nearer else "neither is nearer"
        return f"{self.printed} against print, mean absolute distance over {places} places: {told}; {nearer}."

    def to_json(self) -> dict[str, Any]:
        """The printed column, the number of places, the mean distances, and which way is nearer."""
        means = {name: mean(each) if each else None for name, each in self.distances.items()}
        places = len(next(iter(self.distances.values())))
        return {"printed": self.printed, "places": places, "mean_distance": means, "nearer": self.nearer or None}


def readings_of(suite: ScaledSuite, measured: Measured) -> list[Readings]:
    """Every printed column that is read in several ways, and after them all of those together that are read in the same
    ones."""
    found = [_readings(suite, column, measured) for column in suite.columns if column.reading_of is None]
    several = [each for each in found if len(each.distances) > 1]
    alike: dict[frozenset[str], list[Readings]] = {}
    for each in several:
        alike.setdefault(frozenset(each.distances), []).append(each)
    return [*several, *(_together(group) for group in alike.values() if len(group) > 1)]


def nearest(readings: Sequence[Readings]) -> dict[str, str]:
    """By printed column the way to read it that is nearer to print: over all columns that are read in the same ways."""
    return {column: each.nearer for each in readings for column in each.columns}


def _readings(suite: ScaledSuite, column: Column, measured: Measured) -> Readings:
    ways = {way(each): each.name for each in suite.columns if column.name in (each.name, each.reading_of)}
    places: list[dict[str, float]] = []
    for row in suite.rows:
        printed = suite.printed_in(row.name, column.name)
        figures = {how: measured(row.name, name) for how, name in ways.items()} if printed is not None else {}
        known = {
            how: abs(value - printed) for how, value in figures.items() if printed is not None and value is not None
        }
        if known and len(known) == len(ways):
            places.append(known)
    return Readings((column.name,), {how: tuple(place[how] for place in places) for how in ways})


def _together(several: Sequence[Readings]) -> Readings:
    names = tuple(name for each in several for name in each.columns)
    ways = several[0].distances
    return Readings(names, {how: tuple(d for each in several for d in each.distances[how]) for how in ways})

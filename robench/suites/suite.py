"""A suite is data: a table's models (rows), attacks (columns) and printed values, and the scales it can be run at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robench.environment import expanded
from robench.errors import BadInput, unknown
from robench.suites.schema import Column, Order, Row, Scale, SuiteFile, check_entries, inside, parsed, validated

BUNDLED = Path(__file__).parent / "bundled"
# tables of options, which a scale's lie over a row's or column's own key by key; any other field replaces it
OPTIONS = ("options", "detector_options", "trained_options")


@dataclass(frozen=True)
class RowPlan:
    """A line of the table at a scale: a defense to be trained once per seed, and the detector before it, if any.

    epochs, batch_size: None for the recipe's own. shown: False for a model that images are only crafted on, which is
    no line of the table. brought: the reference of a model of the user's own, which is there and not trained.
    """

    name: str
    defense: str
    dataset: str
    recipe: str
    options: Mapping[str, Any]
    epochs: int | None
    batch_size: int | None
    seeds: tuple[int, ...]
    detector: str | None
    detector_options: Mapping[str, Any]
    shown: bool
    brought: str = ""


@dataclass(frozen=True)
class ScaledSuite:
    """A suite at one scale, everything resolved.

    What the scale skips is in none of rows, columns, printed and orders; `skipped` has its name and the reason, and
    `unrun` what is printed of it. rows: also those that are not shown. printed: row -> column -> the value in the
    paper's table. paper_data: the data of the scale "paper", "" where there is none: what is printed is about those.
    reference: how the suite was named. instead_of: the name of the data that `dataset` stands in for, "" where it is
    the suite's own. less: the part of a command line that makes the suite smaller. most: at most so many images of each
    column, whatever its count.
    """

    name: str
    title: str
    source: str
    metric: str
    scale: str
    note: str
    dataset: str
    count: int | None
    rows: tuple[RowPlan, ...]
    columns: tuple[Column, ...]
    printed: Mapping[str, Mapping[str, float]]
    skipped: Mapping[str, str]
    orders: tuple[Order, ...] = ()
    tolerance: float = 1.0
    paper_data: str = ""
    reference: str = ""
    instead_of: str = ""
    less: tuple[str, ...] = ()
    most: int | None = None
    unrun: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def on(self, copies: Mapping[str, str]) -> ScaledSuite:
        """The suite on the user's own copy of its data, where there is one; copies: data's names and references."""
        if self.dataset not in copies:
            return self
        copy = copies[self.dataset]
        return replace(
            self, dataset=copy, rows=tuple(replace(row, dataset=copy) for row in self.rows), instead_of=self.dataset,
            paper_data=copy if self.paper_data == self.dataset else self.paper_data,
        )  # fmt: skip

    def beside(self, models: Mapping[str, str]) -> ScaledSuite:
        """The suite with models of the user's own below its rows; models: names of rows and references. Raises BadInput
        for a name that a row has."""
        taken = {row.name for row in self.rows} & models.keys()
        if taken:
            raise BadInput(f"The suite {self.name!r} has a row {min(taken)!r}; give your model another name.")
        brought = [
            RowPlan(name, "", self.dataset, "", {}, None, None, (0,), None, {}, True, brought=reference)
            for name, reference in models.items()
        ]
        return replace(self, rows=(*self.rows, *brought))

    def within(self, seeds: int | None, images: int | None) -> ScaledSuite:
        """The suite with at most so many seeds of each row and images of each column; None for as many as it has.
        Raises BadInput for less than one."""
        less = [("--seeds", seeds), ("-n", images)]
        for option, most in less:
            if most is not None and most < 1:
                raise BadInput(f"{option} is {most}, but must be at least 1.")
        return replace(
            self, rows=tuple(replace(row, seeds=row.seeds[:seeds]) for row in self.rows),
            most=images,
            less=tuple(str(word) for option, most in less if most is not None for word in (option, most)),
        )  # fmt: skip

    def row(self, name: str) -> RowPlan:
        """The row of that name; raises BadInput where there is none."""
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise unknown(f"row of the suite {self.name!r} at scale {self.scale!r}", name, found)
        return found[name]

    def images(self, column: Column) -> int | None:
        """How many test images a column is of; None for all."""
        return _at_most(column.count or self.count, self.most)

    def of(self, there: int) -> ScaledSuite:
        """The suite on data of so many test images, of which `most` may be more: then it is no limit."""
        return replace(self, most=None) if self.most is not None and self.most > there else self

    def printed_in(self, row: str, column: str) -> float | None:
        """What is printed in a place of the table, or in that which it is another reading of."""
        read = next((each.reading_of for each in self.columns if each.name == column), None)
        return self.printed.get(row, {}).get(read or column)

    def cell(self, row: RowPlan, column: Column) -> Column:
        """The column as it applies to a row: behind the row's own detector, where it has one."""
        if row.detector is None or not column.attacks:
            return column
        return column.model_copy(update={"detector": row.detector, "detector_options": dict(row.detector_options)})


@dataclass(frozen=True)
class Suite:
    """A suite with all of its scales."""

    name: str
    title: str
    source: str
    metric: str
    scales: Mapping[str, ScaledSuite]

    def at(self, scale: str) -> ScaledSuite:
        """The suite at a scale; raises BadInput for one it does not have."""
        if scale not in self.scales:
            raise unknown(f"scale of the suite {self.name!r}", scale, self.scales)
        return self.scales[scale]


def names() -> list[str]:
    """The bundled suites."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))


def titles() -> dict[str, str]:
    """The bundled suites and their titles."""
    return {name: str(parsed(BUNDLED / f"{name}.toml").get("title", "")) for name in names()}


def at_all_scales() -> list[ScaledSuite]:
    """The bundled suites at each scale they have."""
    return [scaled for name in names() for scaled in load(name).scales.values()]


def load(reference: str) -> Suite:
    """A bundled suite by its name, or the one in a file, by a path that ends in .toml.

    Raises BadInput, naming the file, the place in it, the value and what is allowed, for whatever cannot be used; names
    of plugins and their options are for `check`.
    """
    path = expanded(reference) if reference.endswith(".toml") else BUNDLED / f"{reference}.toml"
    if path.parent == BUNDLED and path.stem not in names():
        raise unknown("suite", reference, [*names(), "PATH/FILE.toml"])
    raw = parsed(path)
    with inside(str(path)):
        found = validated(SuiteFile, raw)
        check_entries(found)
        scales = {
            scale: replace(_resolved(path.stem, found, raw, scale), reference=reference) for scale in found.scales
        }
    return Suite(path.stem, found.title, found.source, found.metric, scales)


def _at_most(count: int | None, most: int | None) -> int | None:
    """The smaller of two counts, None being no limit."""
    return min((each for each in (count, most) if each is not None), default=None)


def _resolved(name: str, found: SuiteFile, raw: Mapping[str, Any], scale: str) -> ScaledSuite:
    """The suite at a scale; raises BadInput where the scale's changes make no valid rows and columns."""
    plan = found.scales[scale]
    with inside(f"scales.{scale}"):
        rows, no_rows = _laid_over(raw["rows"], plan.rows)
        columns, no_columns = _laid_over(raw["columns"], plan.columns)
        planned = tuple(_planned(validated(Row, row), plan) for row in rows)
        kept = tuple(validated(Column, column) for column in columns)
        _check_cells(planned, kept)
    shown, there = {row.name for row in planned if row.shown}, {column.name for column in kept}
    orders = tuple(
        order.model_copy(update={"columns": left})
        for order in found.orders
        if (left := tuple(column for column in order.columns if column in there)) and shown.issuperset(order.rows)
    )
    printed = {
        row: {column: value for column, value in values.items() if column in there}
        for row, values in found.printed.items()
        if row in shown
    }
    unrun = {
        row: {column: value for column, value in values.items() if column not in printed.get(row, {})}
        for row, values in found.printed.items()
    }
    return ScaledSuite(
        name, found.title, found.source, found.metric, scale, plan.note, plan.dataset, plan.count, planned, kept,
        printed, no_rows | no_columns, orders, found.tolerance,
        found.scales["paper"].dataset if "paper" in found.scales else "",
        unrun=unrun,
    )  # fmt: skip


def _laid_over(
    entries: Sequence[Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows or columns with a scale's changes, and the reasons of those it skips by name."""
    kept, skipped = [], {}
    for entry in entries:
        name, change = entry["name"], changes.get(entry["name"], {})
        if "skip" in change:
            if set(change) != {"skip", "reason"} or change["skip"] is not True or not _is_text(change["reason"]):
                raise BadInput(f'{name!r} is skipped by skip = true and a reason = "..." and nothing else.')
            skipped[name] = change["reason"]
            continue
        if "name" in change:
            raise BadInput(f"{name!r} cannot have another name at one scale; leave it as it is.")
        tables = {
            key: entry[key] | change[key] for key in OPTIONS if key in entry and isinstance(change.get(key), dict)
        }
        kept.append({**entry, **change, **tables})
    return kept, skipped


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _planned(row: Row, scale: Scale) -> RowPlan:
    """The row with the scale's settings where it has none of its own."""
    return RowPlan(
        name=row.name,
        defense=row.defense,
        dataset=scale.dataset,
        recipe=row.recipe or scale.recipe,
        options=row.options,
        epochs=row.epochs or scale.epochs,
        batch_size=row.batch_size or scale.batch_size,
        seeds=row.seeds or scale.seeds,
        detector=row.detector,
        detector_options=row.detector_options,
        shown=row.shown,
    )


def _check_cells(rows: Sequence[RowPlan], columns: Sequence[Column]) -> None:
    """Raise BadInput for a surrogate or a guide that is not one model, and for too few or too many detectors."""
    if not any(row.shown for row in rows) or not columns:
        raise BadInput("No row or no column is left; skip fewer.")
    sources = {row.name: row for row in rows}
    for column in columns:
        for kind, what, name in (
            ("surrogate", "row to craft on", column.surrogate),
            ("guide", "row to follow", column.guide),
        ):
            if name is not None and name not in sources:
                raise BadInput(f"column {column.name!r}: {unknown(what, name, sources)}")
            if name is not None and len(sources[name].seeds) > 1:
                raise BadInput(
                    f"column {column.name!r} has the {kind} {name!r}, which is trained from {len(sources[name].seeds)} "
                    "seeds; give that row one seed, such as seeds = [1]."
                )
        for row in (row for row in rows if row.shown and column.attacks):
            if row.name == column.guide:
                raise BadInput(
                    f"row {row.name!r} under column {column.name!r} is guided by itself, which is white-box; name "
                    "another row, or say shown = false in that one."
                )
            watching = [each for each in (row.detector, column.detector, column.surrogate, column.guide) if each]
            if len(watching) > 1:
                raise BadInput(
                    f"row {row.name!r} under column {column.name!r} has {' and '.join(map(repr, watching))}; of a "
                    "row's detector, a column's detector, a surrogate and a guide there can be one."
                )
            if column.figure and not (row.detector or column.detector):
                raise BadInput(
                    f"row {row.name!r} under column {column.name!r} shows {column.figure} of no detector; name one for "
                    "the row or the column, or leave out figure."
                )

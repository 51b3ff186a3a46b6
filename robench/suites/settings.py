"""What a suite's scale says of a claim's figures, as a digest: verdicts of other settings answer another question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robench.suites.schema import Column, Order
from robench.suites.suite import RowPlan, ScaledSuite

# of a column, what says how it is called and on how many images it is, and the rows that are told whole
APART = {"name", "reading_of", "count", "surrogate", "guide"}


def settings(suite: ScaledSuite) -> Mapping[tuple[str, str], str]:
    """By the text of a claim and what is printed, for every way to read its column: 12 hex digits over the data, the
    rows' defenses and trainings, the column's attacks, threat model and metric, and for a value its tolerance. Neither
    seeds nor counts are in it, nor which copy of the data it was."""
    return dict(_settings(suite))


def said(text: str, column: str, own: str) -> str:
    """A claim's text, with the column of ours that its printed column is read as, where that is another."""
    return text + (f", read as {own}" if own != column else "")


def orders_of(suite: ScaledSuite) -> Iterator[tuple[Order, str, str]]:
    """Each order of rows with a printed column, and its text."""
    printed_as = {each.name: each.reading_of or each.name for each in suite.columns}
    for order in suite.orders:
        for column in dict.fromkeys(printed_as[each] for each in order.columns):
            yield order, column, f"{order.claim} ({column})"


def _settings(suite: ScaledSuite) -> Iterator[tuple[tuple[str, str], str]]:
    for row, values in suite.printed.items():
        for column, printed in values.items():
            for own in _ways(suite, column):
                key = said(f"{row}: {column}", column, own.name), f"{printed:g}"
                yield key, _digest(suite, [row], own, tolerance=suite.tolerance)
    for order, column, text in orders_of(suite):
        for own in _ways(suite, column):
            yield (said(text, column, own.name), " < ".join(order.rows)), _digest(suite, order.rows, own)


def _ways(suite: ScaledSuite, column: str) -> list[Column]:
    return [each for each in suite.columns if column in (each.name, each.reading_of)]


def _digest(suite: ScaledSuite, rows: Sequence[str], column: Column, **more: Any) -> str:
    plans = [suite.row(name) for name in rows]
    others = {"surrogate": column.surrogate, "guide": column.guide}
    told = {
        "data": suite.instead_of or suite.dataset,
        "rows": [_row(plan) for plan in plans],
        "cells": [suite.cell(plan, column).model_dump(exclude=APART, exclude_defaults=True) for plan in plans],
        **{what: _row(suite.row(name)) for what, name in others.items() if name},
        **more,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _row(plan: RowPlan) -> dict[str, Any]:
    return {
        "defense": plan.defense, "options": plan.options, "recipe": plan.recipe, "epochs": plan.epochs,
        "batch_size": plan.batch_size,
    }  # fmt: skip

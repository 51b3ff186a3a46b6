"""Tables wider than the terminal: every column is shown, with the row it belongs to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from robench.tables.rendering import Grid, grid

COLUMNS = [f"0.{place:02d}" for place in range(12)]
ROWS = ("one, pgd (steps=40), eps 0.3", "two")


def table(columns: list[str], figures: bool = True) -> Grid:
    shown = grid("A title of the whole", ("What is said below it.", "And more."))
    shown.add_column("evaluation", overflow="fold", min_width=14)
    for name in columns:
        shown.add_column(name, justify="right", no_wrap=figures, min_width=6, overflow="fold")
    for row, _ in enumerate(ROWS):
        shown.add_row(ROWS[row], *(f"{row + 1}{place:02d}.5" for place, _ in enumerate(columns)))
    return shown


def shown(grid: Grid, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(grid)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [26, 40, 79, 80, 81, 100, 140, 400])
@pytest.mark.parametrize("figures", [True, False])
def test_no_column_is_left_out_and_no_figure_cut(width: int, figures: bool) -> None:
    lines = shown(table(COLUMNS, figures), width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert [word for word in words if word in COLUMNS] == COLUMNS
    for place, _ in enumerate(COLUMNS):
        assert words.count(f"1{place:02d}.5") == words.count(f"2{place:02d}.5") == 1
    parts = words.count("evaluation")
    assert words.count("two") == parts  # every part says whose its figures are
    assert parts == 1 if width >= 140 else parts > 1
    assert " ".join(words).count("A title of the whole") == 1
    assert " ".join(words).endswith("What is said below it. And more.")


def test_a_table_that_fits_is_one() -> None:
    lines = shown(table(COLUMNS[:3]), 60)
    assert sum("evaluation" in line for line in lines) == 1
    assert "".join(shown(grid("No columns"), 40)) == ""


def test_a_long_name_is_folded_and_parts_no_table() -> None:
    name = "a_model_whose_name_is_one_word_of_more_than_fifty_letters"
    table = grid("")
    for column in ("model", "worst case %", "95% interval", "strongest attack"):
        figures = "%" in column
        table.add_column(column, no_wrap=figures, min_width=len(column) if figures else None, overflow="fold")
    table.add_row(name, "97.6", "96.5 - 98.4", "pgd")
    lines = shown(table, 80)
    assert sum("model" in line.split() for line in lines) == 1
    assert name in "".join(line.split()[0] for line in lines if line.strip())

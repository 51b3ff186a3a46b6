"""Tables of figures: a line per model and attack, for one threat model; over several seeds their mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from fractions import Fraction

from robench.evaluation.summaries import Result
from robench.norms import NORMS
from robench.results.summary import INCOMPLETE
from robench.tables.rendering import Grid, grid
from robench.tables.worst import WorstCase

WORST = "worst case"
# below it where finds within smaller eps lower it
NESTED = "... with finds within smaller eps"
LOWER = "† attack success rate, lower is better"


def threats(results: Iterable[Result]) -> list[tuple[str, str]]:
    """The norms and eps of results, each once: by norm, the smallest eps first."""
    found = dict.fromkeys((result.norm, result.about.eps) for result in results)
    order = list(NORMS)
    return sorted(found, key=lambda threat: (order.index(threat[0]), Fraction(threat[1])))


def figures_table(results: Sequence[Result], worst: Sequence[WorstCase]) -> Grid:
    """One line per model and attack, percent with 95% Wilson intervals, most robust model first; of several seeds the
    mean, the standard deviation, and the lowest and the highest."""
    seeds = list(dict.fromkeys(result.seed for result in results))
    flagged = any(result.summary.flags or result.note for result in results)
    table = grid(_title(results, seeds), _caption(results, seeds))
    for name in ("model", "attack"):
        table.add_column(name, overflow="fold")  # names give way before figures do
    for name in ("clean %", "robust %", "95% interval" if len(seeds) < 2 else "lowest - highest"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    if flagged:
        table.add_column("flags")
    cases: dict[tuple[str, str], list[WorstCase]] = {}
    for each in worst:
        cases.setdefault((each.model, each.dataset), []).append(each)
    for key in _order(results, cases):
        _add(table, [r for r in results if (r.model, r.about.dataset) == key], cases.get(key, []), flagged)
    return table


def _title(results: Sequence[Result], seeds: Sequence[int]) -> str:
    over = f", seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    told = dict.fromkeys(
        f"{r.about.dataset}, {r.norm} eps {r.about.eps}, n = {r.summary.n:,}{r.drawn}"
        f"{f', {r.absent}' if r.absent else ''}{over}"
        for r in [each for each in results if each.summary.n] or results
    )
    return "; ".join(told)


def _caption(results: Sequence[Result], seeds: Sequence[int]) -> tuple[str, ...]:
    rates = any(result.summary.measure.lower_is_better for result in results)
    over = "robust %: mean ± standard deviation over the seeds"
    return ((LOWER,) if rates else ()) + ((over,) if len(seeds) > 1 else ())


def _order(results: Sequence[Result], worst: dict[tuple[str, str], list[WorstCase]]) -> list[tuple[str, str]]:
    """Models and their data, the most robust first; those without a worst case last."""
    data = list(dict.fromkeys(result.about.dataset for result in results))  # figures on others are others

    def least(key: tuple[str, str]) -> float:
        figures = [each.figure.value for each in worst[key] if each.figure]
        return statistics.mean(figures) if figures else -1

    found = sorted(worst, key=lambda key: (data.index(key[1]), -least(key)))
    return found + [key for key in dict.fromkeys((r.model, r.about.dataset) for r in results) if key not in worst]


def _add(table: Grid, mine: Sequence[Result], worst: Sequence[WorstCase], flagged: bool) -> None:
    """The lines of one model, and of its worst case where several attacks have one or a smaller eps lowers it."""

    def flags(told: Iterable[str]) -> list[str]:
        return [", ".join(dict.fromkeys(filter(None, told)))] if flagged else []

    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in mine:
        groups.setdefault((result.label, result.about.against, result.access), []).append(result)
    for i, group in enumerate(groups.values()):
        first, found = group[0], group[0].summary
        clean = f"{100 * found.clean_accuracy:.1f}" if found.clean_accuracy is not None else ""
        told = [text for r in group for text in (r.note, *r.summary.flags)]
        table.add_row(
            first.model if i == 0 else "", first.label + first.about.against,
            clean if i == 0 or first.access == "detector" else "",
            *_cells([(r.summary.value, r.summary.interval) for r in group], found.measure.mark), *flags(told),
        )  # fmt: skip
    told = [text for case in worst for text in (case.note, *case.flags)]
    pairs = [(c.figure.value, c.figure.interval) if c.figure else (None, None) for c in worst]
    lower = [each if (each := case.nested or case.figure) else None for case in worst]
    if worst and (len(worst[0].attacks) > 1):
        table.add_row("", WORST, "", *_cells(pairs), *flags(told), style="bold")
    if any(case.nested for case in worst):
        table.add_row(
            "", NESTED, "", *_cells([(f.value, f.interval) if f else (None, None) for f in lower]), *flags(()),
            style="bold",
        )  # fmt: skip
    table.add_section()


def _cells(found: Sequence[tuple[float | None, tuple[float, float] | None]], mark: str = "") -> tuple[str, str]:
    """Percent and interval, or that there is none yet; of several, the mean with its spread, and the ends."""
    values = [100 * value for value, interval in found if value is not None and interval is not None]
    if len(values) < len(found) or not values:
        return INCOMPLETE, ""
    if len(values) > 1:
        spread = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}{mark}"
        return spread, f"{min(values):.1f} - {max(values):.1f}"
    low, high = found[0][1] or (0.0, 1.0)
    return f"{values[0]:.1f}{mark}", f"{100 * low:.1f} - {100 * high:.1f}"

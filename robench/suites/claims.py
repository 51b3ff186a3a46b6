"""What papers claim, beside what was measured: a verdict per printed value and per order of rows, by a stated rule."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from robench.results.accuracy import Figure
from robench.results.paired import Paired
from robench.results.statistics import holm
from robench.suites.provenance import Made, command
from robench.suites.readings import nearest, way
from robench.suites.schema import Order
from robench.suites.settings import orders_of, said, settings
from robench.suites.suite import ScaledSuite
from robench.suites.table import Entry, SuiteTable
from robench.tables.rendering import Grid, grid

LEVEL = 0.05
# points of percent, more than a widened interval of a hundred images, whose own is at most 19.2
WIDEST = 25.0
RULE = (
    "A printed value is reproduced where it lies inside our 95% Wilson interval, widened on both sides by the "
    "standard deviation over seeds and by the tolerance of its table (1 point unless the table says otherwise). Where "
    f"the widened interval reaches over more than {WIDEST:g} points, a printed value inside it is untested, since "
    "almost anything lies inside (100 images and one seed make at most 21.2 points); one outside it is not reproduced, "
    "however wide it is. An order of rows is reproduced where, in every seed, each row stands on more of the same "
    f"images than the one before it, with p below {LEVEL} by the exact test of McNemar, adjusted by Holm's for the "
    "pairs and seeds of that one claim. It is untested where it fails only in pairs of which so few images tell "
    f"nothing: the 95% interval of their difference (Bonett and Price's) is over {WIDEST:g} points wide, and the test "
    "does not say the reverse. What was run on other data than the paper's (a file that was given in their place is "
    "taken for them, and named), is not complete, or is left out at the scale, is untested. Networks and lengths of "
    "training are those of the scale, not the paper's, unless the scale is 'paper'. Where a column can be read in "
    "several ways, every claim about it is about the one that is nearer to print over the whole table."
)


class Verdict(StrEnum):
    """What a measurement says of a claim."""

    REPRODUCED = "reproduced"
    NOT = "not reproduced"
    UNTESTED = "untested"


@dataclass(frozen=True)
class Claim:
    """One thing that a paper says, and what came of it.

    printed, ours: as text, in percent. interval: what the printed value was held against, in percent, None where there
    is none. why: what the verdict rests on. hours: of the trainings and attacks behind it. settings: a digest of what
    the suite says of its figures, "" where that is not known.
    """

    suite: str
    scale: str
    claim: str
    printed: str
    ours: str
    interval: tuple[float, float] | None
    verdict: Verdict
    why: str
    command: str
    commits: tuple[str, ...]
    hours: float
    settings: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about, whichever way its column is read: the table, the claim, and what is printed."""
        return self.suite, self.claim.partition(", read as ")[0], self.printed

    @property
    def ends(self) -> str:
        """The interval as text."""
        return "-" if self.interval is None else f"[{self.interval[0]:.1f}, {self.interval[1]:.1f}]"


@dataclass(frozen=True)
class Claims:
    """All claims of some tables, as a table of their own."""

    claims: tuple[Claim, ...]
    name: str = field(default="claims")

    template = "claims"
    note = RULE

    @classmethod
    def of(cls, tables: Iterable[SuiteTable]) -> Claims:
        """The claims of papers' tables, in their order; tables of nobody's but ours have none. Of one table at several
        scales a claim is there for each that tests it, and once where none does."""
        found = by_key(claim for table in tables for claim in claims_of(table))
        kept = [[c for c in claims if c.verdict is not Verdict.UNTESTED] or claims[:1] for claims in found.values()]
        return cls(tuple(claim for claims in kept for claim in claims))

    @property
    def title(self) -> str:
        """How many there are, and what became of them."""
        told = Counter(claim.verdict for claim in self.claims)
        parts = ", ".join(f"{told[verdict]:,} {verdict}" for verdict in Verdict)
        return f"{len(self.claims):,} claims of the papers: {parts}"

    def tally(self) -> list[tuple[str, list[int]]]:
        """Per table, how many claims have each verdict, in the verdicts' order."""
        found: dict[str, Counter[str]] = {}
        for claim in self.claims:
            found.setdefault(f"{claim.suite} [{claim.scale}]", Counter())[claim.verdict] += 1
        return [(name, [told[verdict] for verdict in Verdict]) for name, told in found.items()]

    def table(self) -> Grid:
        """The tally for a terminal; the files have every claim."""
        shown = grid(self.title, RULE)
        shown.add_column("table", overflow="fold")
        for verdict in Verdict:
            shown.add_column(str(verdict), justify="right")
        for name, counts in self.tally():
            shown.add_row(name, *(f"{count:,}" for count in counts))
        return shown

    def records(self) -> list[dict[str, Any]]:
        """The csv file's lines, one per claim."""
        return [
            {
                "suite": claim.suite, "scale": claim.scale, "claim": claim.claim, "printed": claim.printed,
                "ours": claim.ours, "low": "" if claim.interval is None else round(claim.interval[0], 2),
                "high": "" if claim.interval is None else round(claim.interval[1], 2), "verdict": str(claim.verdict),
                "why": claim.why, "settings": claim.settings, "command": claim.command,
                "commit": " ".join(claim.commits), "hours": claim.hours,
            }
            for claim in self.claims
        ]  # fmt: skip


def by_key(claims: Iterable[Claim]) -> dict[tuple[str, str, str], list[Claim]]:
    """Claims by what they are about, in their order."""
    found: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.key, []).append(claim)
    return found


def claims_of(table: SuiteTable) -> Iterator[Claim]:
    """A table's claims: its printed values row by row, then its orders column by column."""
    known = settings(table.suite)
    for claim in _claims_of(table):
        yield replace(claim, settings=known.get((claim.claim, claim.printed), ""))


def _claims_of(table: SuiteTable) -> Iterator[Claim]:
    suite, read = table.suite, _read(table)
    for row, values in suite.printed.items():
        for column, printed in values.items():
            own = read.get(column, column)
            yield _value(suite, said(f"{row}: {column}", column, own), printed, _entries(table, [row], own))
    for row, values in suite.unrun.items():
        for column, printed in values.items():
            why = suite.skipped.get(row) or suite.skipped.get(column) or "left out"
            untested = (None, Verdict.UNTESTED, f"not run at this scale: {why}")
            yield _claim(suite, (f"{row}: {column}", f"{printed:g}", "-"), untested, ())
    for order, column, text in orders_of(suite):
        own = read.get(column, column)
        entries = _entries(table, order.rows, own)
        yield _order(suite, order, said(text, column, own), own, entries, _in_print(suite, order.rows, column))


def _read(table: SuiteTable) -> dict[str, str]:
    """By printed column, the column of ours that stands for it where several are run: that of the way to read it, and
    all that are read in the same ways, that is nearer to print over the whole table."""
    nearer, others = nearest(table.readings()), [each for each in table.suite.columns if each.reading_of]
    return {each.reading_of: each.name for each in others if each.reading_of and way(each) == nearer[each.reading_of]}


def _entries(table: SuiteTable, rows: Sequence[str], column: str) -> list[Entry]:
    return [entry for entry in table.entries if entry.row in rows and entry.column == column]


def _claim(
    suite: ScaledSuite, texts: tuple[str, str, str], found: tuple[tuple[float, float] | None, Verdict, str],
    entries: Sequence[Entry],
) -> Claim:  # fmt: skip
    """texts: the claim, what is printed, what is ours; found: the interval, the verdict, and why."""
    made: dict[str, Made] = {each.what: each for entry in entries for each in entry.made}
    commits = tuple(dict.fromkeys(each.commit for each in made.values() if each.commit))
    hours = round(sum(each.seconds for each in made.values()) / 3600, 2)
    interval, verdict, why = found
    said_of = dict.fromkeys(text for entry in entries for text in (entry.note, *entry.flags) if text)
    why += f"; said of our figures: {', '.join(said_of)}" if said_of else ""
    return Claim(suite.name, suite.scale, *texts, interval, verdict, why, command(suite), commits, hours)


def _elsewhere(suite: ScaledSuite) -> str:
    """Why nothing of this scale says anything about the paper's figures, "" where it does."""
    if suite.dataset == suite.paper_data:
        return ""
    return f"run on {suite.dataset}, and the paper's is about {suite.paper_data or 'other data'}"


def _value(suite: ScaledSuite, text: str, printed: float, entries: Sequence[Entry]) -> Claim:
    """A printed value beside the mean over seeds; text: which value it is."""
    figures = [entry.figure for entry in entries if entry.figure is not None]
    value = f"{printed:g}"
    if not figures or len(figures) < len(entries):
        return _claim(suite, (text, value, "-"), (None, Verdict.UNTESTED, "not complete"), entries)
    shares = [100 * figure.value for figure in figures]
    spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
    ours = f"{statistics.mean(shares):.1f}" + (f" ± {spread:.1f}" if len(shares) > 1 else "")
    n = min(figure.n for figure in figures)
    low, high = Figure(round(statistics.mean(shares) / 100 * n), n).interval
    margin = spread + suite.tolerance
    ends = max(0.0, 100 * low - margin), min(100.0, 100 * high + margin)
    if elsewhere := _elsewhere(suite):
        return _claim(suite, (text, value, ours), (ends, Verdict.UNTESTED, elsewhere), entries)
    seeds = f"{len(shares)} seeds" if len(shares) > 1 else "one seed"
    drawn = next(entry.drawn for entry in entries if entry.figure is not None and entry.figure.n == n)
    why = f"{seeds}, n = {n:,}{drawn}, tolerance {suite.tolerance:g}"
    verdict = judged(printed, ends)
    if verdict is Verdict.UNTESTED:
        several = f" and {seeds}" if len(shares) > 1 else ""
        why = f"the interval of n = {n:,}{drawn}{several} is {ends[1] - ends[0]:.1f} points wide"
        why += f"; {_widest(100 * (high - low), spread, suite.tolerance)}"
    why += f", on {suite.dataset} in place of {suite.instead_of}" if suite.instead_of else ""
    return _claim(suite, (text, value, ours), (ends, verdict, why), entries)


def judged(printed: float, ends: tuple[float, float]) -> Verdict:
    """What the rule says of a printed value that is held against a widened interval."""
    if not ends[0] <= printed <= ends[1]:
        return Verdict.NOT
    return Verdict.UNTESTED if too_wide(ends) else Verdict.REPRODUCED


def too_wide(ends: tuple[float, float]) -> bool:
    """Whether a widened interval reaches too far for what lies inside it to be reproduced."""
    return ends[1] - ends[0] > WIDEST


def _widest(images: float, spread: float, tolerance: float) -> str:
    """What makes an interval wide most of all: too few images, or seeds or a tolerance far apart."""
    parts = {
        "more images tell": images,
        f"its seeds have a standard deviation of {spread:.1f}": 2 * spread,
        f"its tolerance is {tolerance:g}": 2 * tolerance,
    }
    return max(parts, key=lambda part: parts[part])


def _in_order(shares: Mapping[str, float]) -> str:
    """Rows from the least share to the largest, with "=" between those that look equal in percent."""
    told = ""
    for row in sorted(shares, key=lambda row: shares[row]):
        value = f"{100 * shares[row]:.1f}"
        told += (" = " if told.endswith(f" {value}") else " < " if told else "") + f"{row} {value}"
    return told


def _in_print(suite: ScaledSuite, rows: Sequence[str], column: str) -> str:
    """The printed values of an order's rows, to be seen beside ours: one of the same order may be far from print."""
    printed = [f"{row} {value:g}" for row in rows if (value := suite.printed.get(row, {}).get(column)) is not None]
    return f"; printed: {', '.join(printed)}" if printed else ""


def _order(
    suite: ScaledSuite, order: Order, text: str, column: str, entries: Sequence[Entry], in_print: str
) -> Claim:  # fmt: skip
    """An order of rows, by pairs of neighbours on the same images under the same seeds; text: what is claimed."""
    about = text, " < ".join(order.rows)
    stood = {(entry.row, entry.seed): entry.stood for entry in entries if entry.stood is not None}
    seeds = sorted({seed for _, seed in stood})
    shares = {row: [float(stood[row, seed].mean()) for seed in seeds if (row, seed) in stood] for row in order.rows}
    if not seeds or len(stood) < len(entries) or any(len(found) < len(seeds) for found in shares.values()):
        return _claim(suite, (*about, "-"), (None, Verdict.UNTESTED, "not complete"), entries)
    ours = _in_order({row: statistics.mean(shares[row]) for row in order.rows})
    if elsewhere := _elsewhere(suite):
        return _claim(suite, (*about, ours), (None, Verdict.UNTESTED, elsewhere), entries)
    pairs = [
        (lesser, more, Paired.of(column, stood[more, seed], stood[lesser, seed]))
        for lesser, more in zip(order.rows, order.rows[1:], strict=False)
        for seed in seeds
    ]
    ps = holm([pair.p for *_, pair in pairs])
    against = [
        (f"{lesser} < {more}: {100 * pair.difference:+.1f}, p = {p:.2g}", _undecided(pair, p))
        for (lesser, more, pair), p in zip(pairs, ps, strict=True)
        if pair.difference <= 0 or p >= LEVEL
    ]
    verdict = Verdict.REPRODUCED
    why = f"all {len(pairs)} pairs of neighbours and seeds, largest adjusted p {max(ps):.2g}"
    if against:
        few = all(undecided for _, undecided in against)
        verdict, told = (Verdict.UNTESTED, "too few images for") if few else (Verdict.NOT, "fails in")
        why = f"{told} {len(against)} of {len(pairs)} pairs: {'; '.join(text for text, _ in against[:3])}"
    return _claim(suite, (*about, ours), (None, verdict, why + in_print), entries)


def _undecided(pair: Paired, p: float) -> bool:
    """Whether a pair's images, or their few that tell the two apart, say nothing of how the two stand to each other."""
    low, high = pair.interval
    return p >= LEVEL and 100 * (high - low) > WIDEST

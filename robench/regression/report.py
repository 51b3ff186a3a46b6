"""The outcome of a check, shown to people and machines: tables, markdown, JSON, JUnit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Group, RenderableType

from robench.regression.junit import Case, Suite, document
from robench.regression.verdict import Line, Terms, Verdict, exit_code
from robench.results.accuracy import Measure
from robench.tables.rendering import Grid, grid, lines
from robench.text.escaping import markdown, visible

HEADERS = ("attack", "n", "then", "now", "change", "fell", "rose", "stayed", "p", "verdict")
CAPTION = (
    "then, now: clean or robust accuracy in percent, or, marked †, attack success rate. change: of the share that "
    "stands, in points, and its paired 95% interval. fell, rose, stayed: images that stood only then, only now, both "
    "times. p: exact McNemar, then with Holm's correction over all lines, which the verdict goes by. "
    "untrusted: flagged with trouble of gradients that the baseline did not have, a gate on masking fires that did not "
    "then, or the attack is another one. open: fewer stand than did, of so few that all could have fallen by chance."
)


@dataclass(frozen=True)
class Checked:
    """The outcome of a check: a line per comparison, and what to know besides. `name` is the baseline's.

    lasting: a sentence per evaluation that cannot be made, now or later.
    """

    name: str
    lines: tuple[Line, ...]
    terms: Terms
    notes: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()

    def of(self, verdict: Verdict) -> list[Line]:
        """The lines with a verdict."""
        return [line for line in self.lines if line.verdict is verdict]

    @property
    def exit_code(self) -> int:
        """1 where a line fails the check, else 2 where one stays open, 3 where one is, and 0 where all is well."""
        code = exit_code(self.lines)
        return 2 if code == 3 and self.lasting else code

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        if self.exit_code == 0:
            some = any(line.fell > line.rose for line in self.lines)
            told = "Nothing fell more than chance explains" if some else "Nothing fell"
            return f"{told} in {len(self.lines)} comparisons with {self.name}."
        parts = [f"{len(lines)} {verdict.told}" for verdict in Verdict if verdict.told and (lines := self.of(verdict))]
        return f"Of {len(self.lines)} comparisons with {self.name}, {' and '.join(parts)}."

    @property
    def told(self) -> list[str]:
        """A sentence per line that is not well, then the notes."""
        lines = [line for verdict in Verdict if verdict.exit_code for line in self.of(verdict)]
        return [*(line.sentence for line in lines), *self.lasting, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """{"baseline", "verdict", "exit_code", "alpha", "max_drop", "lines": [...], "notes": [...]}."""
        head = {"baseline": self.name, "verdict": self.verdict, "exit_code": self.exit_code, **asdict(self.terms)}
        return {**head, "lines": [line.to_json() for line in self.lines], "notes": [*self.lasting, *self.notes]}

    def tables(self) -> RenderableType:
        """The verdict, a rich table per model, and what the columns are."""
        tables = [_table(model, lines) for model, lines in self._by_model()]
        return Group(lines((self.verdict, "bold"), ""), *tables, lines((CAPTION, "dim")))

    def markdown(self) -> str:
        """A table with sentences below it, as a CI job's summary shows them."""
        rows = [["model", *HEADERS], ["---", "---", *["---:"] * (len(HEADERS) - 1)]]
        rows += [[_cell(cell) for cell in (line.model, *_cells(line))] for line in self.lines]
        parts = ["## Robustness against the baseline", markdown(self.verdict)]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
        parts += ["\n".join(f"- {markdown(text)}" for text in self.told)] if self.told else []
        return "\n\n".join([*parts, CAPTION]) + "\n"

    def junit(self) -> str:
        """JUnit XML: a suite per model and a test per line, with an error where the evaluation is incomplete.

        The first suite has the notes as its output.
        """
        suites = [self._suite(model, lines) for model, lines in self._by_model()]
        told = "\n".join(map(visible, [*self.lasting, *self.notes]))
        suites[:1] = [replace(suite, output=told) for suite in suites[:1]]
        return document(suites, package=self.name)

    def _suite(self, model: str, lines: Sequence[Line]) -> Suite:
        facts: dict[str, object] = {"baseline": self.name, **asdict(self.terms)}
        for line in lines:
            found = line.to_json()
            names = ("n", "then", "now", "fell", "rose", "stayed", "p", "adjusted", "verdict", "subject", "evaluation")
            facts |= {f"{line.attack}: {name}": found[name] for name in names}
        cases = []
        for line in lines:
            told = {line.verdict.junit: line.sentence}
            failure, error = told.get("failure", ""), told.get("error", "")
            cases.append(Case(line.attack, model, line.seconds, failure=failure, error=error))
        return Suite(model, cases, facts)

    def _by_model(self) -> list[tuple[str, list[Line]]]:
        models = dict.fromkeys(line.model for line in self.lines)
        return [(model, [line for line in self.lines if line.model == model]) for model in models]


def _cells(line: Line) -> tuple[str | tuple[str, str], ...]:
    """The line as text under `HEADERS`; the interval and the corrected p are a second line."""
    mark = Measure.SUCCESS.mark if line.metric == Measure.SUCCESS else ""
    attack = (line.attack, f"({line.note})") if line.note else line.attack
    then = f"{100 * line.then:.1f}{mark}"
    if line.now is None:
        return attack, f"{line.n:,}", then, *"------", line.verdict
    low, high = line.interval
    return (
        attack, f"{line.n:,}", then, f"{100 * line.now:.1f}{mark}",
        (f"{100 * line.change:+.1f}", f"{100 * low:.1f}, {100 * high:.1f}"),
        *(f"{count:,}" for count in (line.fell, line.rose, line.stayed)),
        (f"{line.p:.2g}", f"{line.adjusted:.2g}"), line.verdict,
    )  # fmt: skip


def _table(model: str, lines: Sequence[Line]) -> Grid:
    subject = lines[0].subject
    shown = grid(model if subject in ("", model) else f"{model}, now {subject}", padding=0)
    shown.add_column(HEADERS[0], overflow="fold", min_width=8, max_width=24)
    for name in HEADERS[1:]:
        longest = max(map(len, Verdict)) if name == "verdict" else len(name)
        shown.add_column(name, justify="right", no_wrap=True, min_width=longest)
    for line in lines:
        shown.add_row(*_cells(line), style=line.verdict.style or None)
    return shown


def _cell(lines: str | tuple[str, str]) -> str:
    """A cell of a table in Markdown, its lines one behind the other."""
    return markdown(lines if isinstance(lines, str) else "; ".join(lines), cell=True)

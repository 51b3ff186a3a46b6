"""The outcome of a check, shown to people and machines: tables, markdown, JSON, JUnit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robench.regression.junit import Case, Suite, document
from robench.regression.verdict import Line, Terms, Verdict

HEADERS = ("attack", "n", "then", "now", "change", "fell", "rose", "stayed", "p", "verdict")
CAPTION = (
    "then, now: clean or robust accuracy in percent, or, marked †, attack success rate. change: of the share that "
    "stands, in points, and its paired 95% interval. fell, rose, stayed: images that stood only then, only now, both "
    "times. p: exact McNemar, then with Holm's correction over all lines, which the verdict goes by. "
    "untrusted: flagged with trouble of gradients that the baseline did not have."
)
STYLES = {"fell": "red", "untrusted": "magenta", "incomplete": "yellow", "rose": "green"}


@dataclass(frozen=True)
class Checked:
    """The outcome of a check: a line per comparison, and what to know besides. `name` is the baseline's."""

    name: str
    lines: tuple[Line, ...]
    terms: Terms
    notes: tuple[str, ...] = ()

    @property
    def fell(self) -> list[Line]:
        """The lines with a loss."""
        return [line for line in self.lines if line.verdict == "fell"]

    @property
    def untrusted(self) -> list[Line]:
        """The lines whose figure may be the attack's failure; they fail the check as a loss does."""
        return [line for line in self.lines if line.verdict == "untrusted"]

    @property
    def incomplete(self) -> list[Line]:
        """The lines without a figure."""
        return [line for line in self.lines if line.verdict == "incomplete"]

    @property
    def exit_code(self) -> int:
        """1 where something fell or cannot be trusted, else 3 where something is incomplete, else 0."""
        return 1 if self.fell or self.untrusted else 3 if self.incomplete else 0

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        if self.exit_code == 0:
            return f"Nothing fell in {len(self.lines)} comparisons with {self.name}."
        counts = {"fell": self.fell, "cannot be trusted": self.untrusted, "could not be made": self.incomplete}
        parts = [f"{len(lines)} {what}" for what, lines in counts.items() if lines]
        return f"Of {len(self.lines)} comparisons with {self.name}, {' and '.join(parts)}."

    @property
    def told(self) -> list[str]:
        """A sentence per line that fell, cannot be trusted or is incomplete, then the notes."""
        return [*(line.sentence for line in [*self.fell, *self.untrusted, *self.incomplete]), *self.notes]

    def to_json(self) -> dict[str, Any]:
        """{"baseline", "verdict", "exit_code", "alpha", "max_drop", "lines": [...], "notes": [...]}."""
        head = {"baseline": self.name, "verdict": self.verdict, "exit_code": self.exit_code, **asdict(self.terms)}
        return {**head, "lines": [line.to_json() for line in self.lines], "notes": list(self.notes)}

    def tables(self) -> RenderableType:
        """The verdict, a rich table per model, and what the columns are."""
        tables = [_table(model, lines) for model, lines in self._by_model()]
        return Group(Text(f"{self.verdict}\n", style="bold"), *tables, Text(CAPTION, style="dim"))

    def markdown(self) -> str:
        """A table with sentences below it, as a CI job's summary shows them."""
        rows = [["model", *HEADERS], ["---", "---", *["---:"] * (len(HEADERS) - 1)]]
        rows += [[_escape(cell.replace("\n", "; ")) for cell in (line.model, *line.cells())] for line in self.lines]
        parts = ["## Robustness against the baseline", _escape(self.verdict)]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
        parts += ["\n".join(f"- {_escape(text)}" for text in self.told)] if self.told else []
        return "\n\n".join([*parts, CAPTION]) + "\n"

    def junit(self) -> str:
        """JUnit XML: a suite per model and a test per line, with an error where the evaluation is incomplete.

        The first suite has the notes as its output.
        """
        suites = [self._suite(model, lines) for model, lines in self._by_model()]
        suites[:1] = [replace(suite, output="\n".join(self.notes)) for suite in suites[:1]]
        return document(suites, package=self.name)

    def _suite(self, model: str, lines: Sequence[Line]) -> Suite:
        facts: dict[str, object] = {"baseline": self.name, **asdict(self.terms)}
        for line in lines:
            found = line.to_json()
            names = ("n", "then", "now", "fell", "rose", "stayed", "p", "adjusted", "verdict", "subject", "evaluation")
            facts |= {f"{line.attack}: {name}": found[name] for name in names}
        told = {line: line.sentence for line in lines}
        cases = [
            Case(line.attack, model, line.seconds,
                 failure=told[line] if line.verdict in ("fell", "untrusted") else "",
                 error=told[line] if line.verdict == "incomplete" else "")
            for line in lines
        ]  # fmt: skip
        return Suite(model, cases, facts)

    def _by_model(self) -> list[tuple[str, list[Line]]]:
        models = dict.fromkeys(line.model for line in self.lines)
        return [(model, [line for line in self.lines if line.model == model]) for model in models]


def _table(model: str, lines: Sequence[Line]) -> Table:
    subject = lines[0].subject
    shown = Table(title=model if subject in ("", model) else f"{model}, now {subject}", title_justify="left",
        title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)  # fmt: skip
    shown.add_column(HEADERS[0], overflow="fold", min_width=8, max_width=24)
    for name in HEADERS[1:]:
        longest = max(map(len, get_args(Verdict))) if name == "verdict" else len(name)
        shown.add_column(name, justify="right", no_wrap=True, min_width=longest)
    for line in lines:
        shown.add_row(*line.cells(), style=STYLES.get(line.verdict))
    return shown


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    for mark in "\\|<>*_`[]":
        plain = plain.replace(mark, "\\" + mark)
    return plain

"""Two runs on the same examples, compared: counts, tests, verdicts, and how they are shown to people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robench.errors import require
from robench.regression.junit import Case, Suite, document
from robench.results.statistics import holm, mcnemar, paired_interval

# per example, whether it stands: classified correctly, or left standing by an attack
Marks = NDArray[np.bool_]
Verdict = Literal["fell", "untrusted", "rose", "same", "incomplete"]

CLEAN, WORST = "clean", "worst case"
CLEAN_METRIC = "clean accuracy"
HEADERS = ("attack", "n", "then", "now", "change", "fell", "rose", "stayed", "p", "verdict")
CAPTION = (
    "then, now: clean or robust accuracy in percent, or, marked †, attack success rate. change: of the share that "
    "stands, in points, and its paired 95% interval. fell, rose, stayed: images that stood only then, only now, both "
    "times. p: exact McNemar, then with Holm's correction over all lines, which the verdict goes by. "
    "untrusted: flagged with trouble of gradients that the baseline did not have."
)
STYLES = {"fell": "red", "untrusted": "magenta", "incomplete": "yellow", "rose": "green"}


@dataclass(frozen=True)
class Terms:
    """When a change counts.

    alpha: the chance of any false alarm in a whole check. max_drop, a fraction of the images: a robust accuracy that
    fell by more fails even if it could be chance; None for no such limit.
    """

    alpha: float = 0.05
    max_drop: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.alpha < 1, "--alpha", self.alpha, "between 0 and 1, such as 0.05")
        most = self.max_drop
        require(most is None or 0 <= most <= 1, "--max-drop", most, "a fraction from 0 to 1, such as 0.02")

    def too_far(self, drop: int, n: int) -> bool:
        """Whether `drop` of n images are more than allowed; 0.02 is taken as 2/100, not as its float."""
        return self.max_drop is not None and drop > Fraction(str(self.max_drop)) * n


@dataclass(frozen=True)
class Line:
    """One comparison: a model's clean accuracy, or what an attack leaves standing, on the same n images then and now.

    `attack` begins with `WORST` where it is what several attacks leave standing together, image by image; such a line
    has no evaluation of its own.

    then, now: the printed figures, of `metric`; now None where the evaluation is incomplete. fell, rose, stayed: how
    many images stood only then, only now, and both times. p: exact McNemar; `adjusted`: with Holm's correction over all
    lines of the check. model is the baseline's name for it, `subject` that of what stands in for it now; flags, seconds
    and evaluation are of now. doubts: those flags, with the share then, that say more of the attack than of the model.
    """

    model: str
    attack: str
    n: int
    metric: str
    then: float
    now: float | None = None
    fell: int = 0
    rose: int = 0
    stayed: int = 0
    p: float = 1.0
    adjusted: float = 1.0
    verdict: Verdict = "incomplete"
    subject: str = ""
    flags: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0
    evaluation: str = ""

    def counted(self, then: Marks, now: Marks, figure: float) -> Line:
        """The line with today's figure, and the counts and p of bool [n] then and now."""
        fell, rose = int((then & ~now).sum()), int((~then & now).sum())
        stayed = int((then & now).sum())
        return replace(self, now=figure, fell=fell, rose=rose, stayed=stayed, p=mcnemar(fell, rose))

    @property
    def change(self) -> float:
        """By how much the share of standing images changed, as a fraction."""
        return (self.rose - self.fell) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The paired 95% interval of the change."""
        return paired_interval(self.fell, self.rose, self.n)

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        where = f"in the {self.attack}" if self.attack.startswith(WORST) else f"under {self.attack}"
        where = f"on clean images{self.attack.removeprefix(CLEAN)}" if self.metric == CLEAN_METRIC else where
        if self.now is None:
            return f"{self.model} {where}: the evaluation is incomplete; run the same command again."
        return (
            f"{self.model} {where}: {self.metric} {100 * self.then:.1f}% then, {100 * self.now:.1f}% now; of "
            f"{self.n:,} images {self.fell:,} fell, {self.rose:,} rose and {self.stayed:,} stayed "
            f"(McNemar p = {self.p:.2g}, with Holm's correction {self.adjusted:.2g}){self._distrust}."
        )

    @property
    def _distrust(self) -> str:
        """What the doubts mean for the figures, as the end of a sentence."""
        flagged = f"flagged {', '.join(self.doubts)}"
        if self.verdict == "untrusted":
            return (
                f"; today's figure cannot be trusted, as it is {flagged}: look at what 'robench diagnose MODEL' finds, "
                "and where the figure is right, make the baseline anew"
            )
        return f"; it may have fallen further, as it is {flagged}" if self.doubts else ""

    def to_json(self) -> dict[str, Any]:
        """The fields, with the change and its interval as fractions; null where there is no figure."""
        lists = {"flags": list(self.flags), "doubts": list(self.doubts), "interval": list(self.interval)}
        found = {**asdict(self), **lists, "change": self.change}
        unknown = ("fell", "rose", "stayed", "p", "adjusted", "change", "interval") if self.now is None else ()
        return found | dict.fromkeys(unknown)

    def cells(self) -> tuple[str, ...]:
        """The line as text under `HEADERS`; the interval and the corrected p stand on a second line."""
        mark = " †" if self.metric == "attack success rate" else ""
        then = f"{100 * self.then:.1f}{mark}"
        if self.now is None:
            return self.attack, f"{self.n:,}", then, *"------", self.verdict
        low, high = self.interval
        return (
            self.attack, f"{self.n:,}", then, f"{100 * self.now:.1f}{mark}",
            f"{100 * self.change:+.1f}\n{100 * low:.1f}, {100 * high:.1f}",
            *(f"{count:,}" for count in (self.fell, self.rose, self.stayed)),
            f"{self.p:.2g}\n{self.adjusted:.2g}", self.verdict,
        )  # fmt: skip


def judge(lines: Sequence[Line], terms: Terms) -> tuple[Line, ...]:
    """The lines with adjusted p values and verdicts; an incomplete one counts as a comparison that found nothing."""
    return tuple(
        replace(line, adjusted=adjusted, verdict=_verdict(line, adjusted, terms))
        for line, adjusted in zip(lines, holm([line.p for line in lines]), strict=True)
    )


def _verdict(line: Line, adjusted: float, terms: Terms) -> Verdict:
    drop, significant = line.fell - line.rose, adjusted < terms.alpha
    if line.now is None:
        return "incomplete"
    if drop > 0 and (significant or (line.metric != CLEAN_METRIC and terms.too_far(drop, line.n))):
        return "fell"
    if line.doubts:
        return "untrusted"
    return "rose" if drop < 0 and significant else "same"


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

"""Two runs on the same examples, compared: counts, tests, and the rule that makes a verdict of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from robench.errors import require
from robench.ranges import SHARE, number
from robench.results.rows import Marks
from robench.results.statistics import holm, mcnemar, paired_interval


class Verdict(StrEnum):
    """What a comparison comes to, and what follows from it, in the order in which it is told."""

    FELL = "fell"
    UNTRUSTED = "untrusted"
    INCOMPLETE = "incomplete"
    OPEN = "open"
    ROSE = "rose"
    SAME = "same"

    @property
    def exit_code(self) -> int:
        """1 where it fails the check, 3 where it leaves it open, 0 where all is well."""
        return _FOLLOWS[self].exit_code

    @property
    def fails(self) -> bool:
        """Whether the check fails by it."""
        return self.exit_code == 1

    @property
    def told(self) -> str:
        """What happened to so many comparisons, after their number; "" where there is nothing to tell."""
        return _FOLLOWS[self].told

    @property
    def style(self) -> str:
        """The line's colour in a terminal, "" for none."""
        return _FOLLOWS[self].style

    @property
    def junit(self) -> Literal["failure", "error", ""]:
        """What the comparison's test is in JUnit's terms, "" for a test that passed."""
        return _FOLLOWS[self].junit


class _Follows(NamedTuple):
    exit_code: int = 0
    told: str = ""
    style: str = ""
    junit: Literal["failure", "error", ""] = ""


_FOLLOWS = {
    Verdict.FELL: _Follows(1, "fell", "red", "failure"),
    Verdict.UNTRUSTED: _Follows(1, "cannot be trusted", "magenta", "failure"),
    Verdict.INCOMPLETE: _Follows(3, "could not be made", "yellow", "error"),
    Verdict.OPEN: _Follows(3, "stand on too few images to tell", "yellow", "error"),
    Verdict.ROSE: _Follows(style="green"),
    Verdict.SAME: _Follows(),
}

CLEAN, WORST = "clean", "worst case"
CLEAN_METRIC = "clean accuracy"


@dataclass(frozen=True)
class Terms:
    """When a change counts.

    alpha: the chance of any false alarm in a whole check. max_drop, a fraction of the images: a robust accuracy that
    fell by more fails even if it could be chance; None for no such limit.
    """

    alpha: float = 0.05
    max_drop: float | None = None

    def __post_init__(self) -> None:
        alpha = number("--alpha", self.alpha, SHARE)
        require(0 < alpha < 1, "--alpha", alpha, "between 0 and 1, such as 0.05")
        if self.max_drop is not None:
            number("--max-drop", self.max_drop, SHARE)

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
    and evaluation are of now. doubts: those flags, with the share then, and what else says more of the attack than of
    the model.
    note: what is to be said beside both figures. blind: all images that stood then could fall without being told from
    chance.
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
    verdict: Verdict = Verdict.INCOMPLETE
    subject: str = ""
    flags: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    seconds: float = 0.0
    evaluation: str = ""
    note: str = ""
    blind: bool = False

    @property
    def stood(self) -> int:
        """How many images stood then."""
        return self.fell + self.stayed

    @property
    def blindness(self) -> str:
        """A sentence on a comparison that can find no fall and has not, "" for others."""
        if not self.blind or self.verdict is not Verdict.SAME:
            return ""
        return f"{self.model} {self._where}: {self._few}."

    @property
    def _few(self) -> str:
        return (
            f"{self.stood} {'images' if self.stood > 1 else 'image'} stood then, and were they all to fall, that could "
            "be chance; take more images, or give --max-drop"
        )

    def counted(self, then: Marks, now: Marks, figure: float | None) -> Line:
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
        where = self._where
        if self.now is None:
            said = f"{self.model} {where}: the evaluation is incomplete"
            return f"{said}; run the same command again, unless it is said to fail each time."
        return (
            f"{self.model} {where}: {self.metric} {100 * self.then:.1f}% then, {100 * self.now:.1f}% now; of "
            f"{self.n:,} images {self.fell:,} fell, {self.rose:,} rose and {self.stayed:,} stayed "
            f"(McNemar p = {self.p:.2g}, with Holm's correction {self.adjusted:.2g}){self._distrust}"
            f"{f'; {self.note}' if self.note else ''}{f'; {self._few}' if self.verdict is Verdict.OPEN else ''}."
        )

    @property
    def _where(self) -> str:
        if self.metric == CLEAN_METRIC:
            return f"on clean images{self.attack.removeprefix(CLEAN)}"
        return f"in the {self.attack}" if self.attack.startswith(WORST) else f"under {self.attack}"

    @property
    def _distrust(self) -> str:
        """What the doubts mean for the figures, as the end of a sentence."""
        told = ", ".join(self.doubts)
        if self.verdict is Verdict.UNTRUSTED:
            return (
                f"; today's figure cannot be trusted: {told}; look at what 'robench diagnose MODEL' finds, and make no "
                "baseline of it unless the model stands as well under --attack standard"
            )
        return f"; how far it fell is not certain: {told}" if self.doubts else ""

    def to_json(self) -> dict[str, Any]:
        """The fields, with the change and its interval as fractions; null where there is no figure."""
        lists = {"flags": list(self.flags), "doubts": list(self.doubts), "interval": list(self.interval)}
        found = {**asdict(self), **lists, "change": self.change}
        unknown = ("fell", "rose", "stayed", "p", "adjusted", "change", "interval") if self.now is None else ()
        if not self.note:
            del found["note"]
        if not self.blind:
            del found["blind"]
        return found | dict.fromkeys(unknown)


def judge(lines: Sequence[Line], terms: Terms) -> tuple[Line, ...]:
    """The lines with adjusted p values and verdicts; an incomplete one counts as a comparison that found nothing."""
    lines = [replace(line, blind=_blind(line, len(lines), terms)) for line in lines]
    return tuple(
        replace(line, adjusted=adjusted, verdict=_verdict(line, adjusted, terms))
        for line, adjusted in zip(lines, holm([line.p for line in lines]), strict=True)
    )


def _blind(line: Line, lines: int, terms: Terms) -> bool:
    """Whether some images stood then, but so few that the fall of all of them is no more than chance explains, among so
    many lines, and no limit of the user's holds."""
    limited = terms.max_drop is not None and line.metric != CLEAN_METRIC
    return line.now is not None and line.stood > 0 and not limited and lines * mcnemar(line.stood, 0) >= terms.alpha


def _verdict(line: Line, adjusted: float, terms: Terms) -> Verdict:
    drop, significant = line.fell - line.rose, adjusted < terms.alpha
    if line.now is None:
        return Verdict.INCOMPLETE
    if drop > 0 and (significant or (line.metric != CLEAN_METRIC and terms.too_far(drop, line.n))):
        return Verdict.FELL
    if line.doubts:
        return Verdict.UNTRUSTED
    if drop > 0 and line.blind:
        return Verdict.OPEN
    return Verdict.ROSE if drop < 0 and significant else Verdict.SAME


def exit_code(lines: Sequence[Line]) -> int:
    """A check's: 1 where a line fails it, else 3 where one is open, else 0."""
    if any(line.verdict.fails for line in lines):
        return 1
    return max((line.verdict.exit_code for line in lines), default=0)

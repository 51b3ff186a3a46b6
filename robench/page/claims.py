"""What papers print beside what was measured here, from the table of claims, where there is one."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from robench.errors import BadInput, reason_of, shown
from robench.suites.claims import Claim as Measured
from robench.suites.claims import Verdict
from robench.suites.kept import contradicts

NAME = "claims.csv"
COLUMNS = ("claim", "suite", "printed", "ours", "low", "high", "verdict", "command", "commit", "hours")
# columns that a table may lack
MORE = ("scale", "why", "settings")
VERDICTS = tuple(map(str, Verdict))


@dataclass(frozen=True)
class Claim:
    """One cell or order that a paper prints; texts as `suites.claims` writes them, "" for what the table lacks."""

    claim: str
    suite: str
    printed: str
    ours: str
    low: str
    high: str
    verdict: str
    command: str
    commit: str
    hours: str
    scale: str = ""
    why: str = ""
    settings: str = ""

    def measured(self) -> Measured:
        """The claim as `suites.claims` has it. Raises BadInput where a number of it is none, or where its verdict is
        another than its figures allow."""
        try:
            ends = (float(self.low), float(self.high)) if self.low and self.high else None
            hours = float(self.hours or 0)
            if not all(map(math.isfinite, (*(ends or ()), hours))):
                raise ValueError
        except ValueError:
            raise BadInput(
                f"The claim {shown(self.claim)} of {shown(self.suite)} has low {shown(self.low)}, high "
                f"{shown(self.high)} and hours {shown(self.hours)}, which must be numbers or empty; give the "
                "claims.csv as robench wrote it."
            ) from None
        found = Measured(
            self.suite, self.scale, self.claim, self.printed, self.ours, ends, Verdict(self.verdict), self.why,
            self.command, tuple(self.commit.split()), hours, self.settings,
        )  # fmt: skip
        if contradicts(found):
            raise BadInput(
                f"The claim {shown(self.claim)} of {shown(self.suite)} is {self.verdict!r}, which its own figures do "
                f"not allow: {shown(self.printed)} is printed, and held against {shown(self.low)} to "
                f"{shown(self.high)}; give the claims.csv as robench wrote it."
            )
        return found


def read(path: Path, option: str = "--claims") -> list[Claim]:
    """The claims in a csv file that an option named. Raises BadInput where it cannot be read, or lacks a column or a
    verdict."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(
            f"The table of claims {path} cannot be read ({reason_of(error)}); give another with {option}."
        ) from error
    missing = [name for name in COLUMNS if lines and name not in lines[0]]
    if missing:
        raise BadInput(
            f"The table of claims {path} lacks the column {missing[0]!r}; it must have {', '.join(COLUMNS)}."
        )
    found = [Claim(**{name: (line.get(name) or "").strip() for name in (*COLUMNS, *MORE)}) for line in lines]
    for number, claim in enumerate(found, 2):
        if claim.verdict not in VERDICTS:
            raise BadInput(
                f"Line {number} of {path} has the verdict {shown(claim.verdict)}, but it must be one of "
                f"{', '.join(VERDICTS)}."
            )
    return found

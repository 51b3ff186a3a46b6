"""What made a suite's figures: commits, seeds, images, machines and hours."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robench.environment import hardware
from robench.evaluation.summaries import Result
from robench.store.evaluation_folder import EvaluationFolder
from robench.suites.suite import ScaledSuite

if TYPE_CHECKING:
    from robench.suites.table import Entry


@dataclass(frozen=True)
class Made:
    """A training or an evaluation: which, the seconds it took, robench's commit ("" if unknown), and the machine."""

    what: str
    seconds: float
    commit: str
    machine: str

    @classmethod
    def of_model(cls, name: str, card: Mapping[str, Any]) -> Made:
        """A training, by the model's card."""
        return cls._of(name, card.get("seconds"), card.get("environment", {}), card.get("device"))

    @classmethod
    def of_result(cls, result: Result, folder: EvaluationFolder) -> Made:
        """An evaluation, by what its folder says of who made it, which may have been another commit on another machine
        than those that tabulate it. Raises Damaged."""
        about = folder.about
        return cls._of(result.evaluation, result.summary.seconds, about.environment, about.device)

    @classmethod
    def _of(cls, what: str, seconds: float | None, environment: Mapping[str, Any], device: str | None) -> Made:
        return cls(what, float(seconds or 0), str(environment.get("commit") or ""), hardware(environment, device))


@dataclass(frozen=True)
class Provenance:
    """What made one row: its seeds, how many images its figures are over, commits, machines, and hours in all."""

    row: str
    seeds: tuple[int, ...]
    counts: tuple[int, ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    hours: float

    @classmethod
    def of(cls, row: str, entries: Iterable[Entry]) -> Provenance:
        """From the row's entries; what several figures share counts once."""
        mine = [entry for entry in entries if entry.row == row]
        made = {each.what: each for entry in mine for each in entry.made}
        return cls(
            row,
            tuple(dict.fromkeys(entry.seed for entry in mine)),
            tuple(sorted({entry.figure.n for entry in mine if entry.figure})),
            tuple(dict.fromkeys(each.commit for each in made.values() if each.commit)),
            tuple(dict.fromkeys(each.machine for each in made.values())),
            round(sum(each.seconds for each in made.values()) / 3600, 2),
        )

    def texts(self) -> Sequence[str]:
        """The fields as a line of a table."""
        return (
            self.row,
            ", ".join(map(str, self.seeds)),
            ", ".join(f"{count:,}" for count in self.counts) or "?",
            f"{self.hours:.2f}",
            ", ".join(self.commits) or "unknown",
            "; ".join(self.machines) or "unknown",
        )


HEADERS = ("defense", "seeds", "n", "hours", "commit", "hardware")


def command(suite: ScaledSuite) -> str:
    """The command line that makes a suite's table again."""
    copy = ["--dataset", f"{suite.instead_of}={suite.dataset}"] if suite.instead_of else []
    for row in suite.rows:
        copy += ["--beside", f"{row.name}={row.brought}"] if row.brought else []
    return shlex.join(
        ["robench", "reproduce", suite.reference or suite.name, "--scale", suite.scale, *suite.less, *copy]
    )

"""What leaderboards are made of: cells, evaluations as a table sees them, lines, columns, and what made a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robench.errors import BadInput
from robench.norms import NORMS
from robench.results.accuracy import Figure, Measure, entering
from robench.results.summary import COMPLETE, INCOMPLETE
from robench.store.runs import EvaluationFolder
from robench.trust.bounds import IMPORTED, SINGLE_STEP, upper_bound, walked

if TYPE_CHECKING:  # takes its time to load, and few tables need it
    import pandas as pd

ABSENT = "absent"
# behind a figure that no attack along the decision boundary tried, where that makes it one
UPPER = "upper bound"
UNWALKED = "Upper bound: no boundary attack (FAB) tried it."
# behind a worst case of attacks that all take one step
ONE_STEP = "one step"
# behind one of images from elsewhere, which nothing was searched for beside
ELSEWHERE = "images from elsewhere"


def beside(text: str) -> str:
    """What stands behind a figure of which that is said."""
    short = {SINGLE_STEP: ONE_STEP, IMPORTED: ELSEWHERE}.get(text, UPPER)
    return f" ({short})" if text else ""


def whole_rows(folder: EvaluationFolder, wanted: str, then: str) -> pd.DataFrame:
    """The rows of an evaluation whose figure is robust accuracy; wanted and then: what for, in words.

    Raises BadInput where it is incomplete or counts goals.
    """
    spec, about = folder.spec, folder.about
    name = f"evaluation {folder.job_id} ({spec['attack']} on {about.model})"
    if about.metric != Measure.ROBUST:
        raise BadInput(f"The {name} has an {about.metric} and no {wanted}; name another.")
    rows: pd.DataFrame = folder.rows()
    if folder.result is None or len(rows) != spec["count"]:
        raise BadInput(f"The {name} is incomplete; run its command again, then {then}.")
    return rows


@dataclass(frozen=True)
class Cell:
    """One figure of a table, or None where it is missing or its evaluation incomplete; and the flags that fired."""

    figure: Figure | None
    status: str = COMPLETE
    flags: tuple[str, ...] = ()
    note: str = ""

    @property
    def text(self) -> str:
        """Percent with interval, "incomplete", or a dash; an asterisk says that flags fired."""
        if self.figure is None:
            return INCOMPLETE if self.status == INCOMPLETE else "-"
        return self.figure.text() + ("*" if self.flags else "") + self.note

    def to_json(self) -> dict[str, Any] | None:
        """Value, interval, n, status and flags."""
        if self.figure is None:
            return None if self.status != INCOMPLETE else {"status": INCOMPLETE}
        return {"value": self.figure.value, "interval": list(self.figure.interval), "n": self.figure.n,
                "status": self.status, "flags": list(self.flags), "note": self.note}  # fmt: skip

    def numbers(self, name: str) -> dict[str, str]:
        """The figure as a fraction and the ends of its interval, by the columns of a csv file."""
        parts = [f"{name} {part}" for part in ("value", "low", "high")]
        if self.figure is None:
            return dict.fromkeys(parts, self.text if self.status == INCOMPLETE else "")
        ends = (self.figure.value, *self.figure.interval)
        found = {part: f"{value:.6g}" for part, value in zip(parts, ends, strict=True)}
        return found | ({f"{name} note": self.note.strip(" ()")} if self.note else {})


@dataclass(frozen=True)
class Scored:
    """An evaluation as a table sees it: the column it belongs to, what `entering` asks, and whether an attack along the
    decision boundary made it."""

    column: str
    access: str
    metric: str
    folder: EvaluationFolder
    boundary: bool = False

    @classmethod
    def of(cls, folder: EvaluationFolder, label: str) -> Scored:
        """An evaluation under its label, which names what it counts where that is not robust accuracy."""
        about = folder.about
        name = label if about.metric == Measure.ROBUST else f"{label} ({about.metric})"
        above = NORMS[folder.spec["norm"]].bounded_above
        return cls(name, about.access, about.metric, folder, boundary=above and walked(folder))

    @property
    def kind(self) -> str:
        """How its attack searches."""
        return self.folder.about.kind

    @property
    def note(self) -> str:
        """What is said beside its figure: that it is an upper bound alone, or nothing."""
        return beside(upper_bound(self.folder.spec["norm"], self.metric, self.boundary))

    @property
    def whole(self) -> bool:
        """Whether every image was attacked."""
        folder = self.folder
        return folder.result is not None and sum(b - a for a, b in folder.ranges()) == folder.spec["count"]

    @property
    def ranks(self) -> bool:
        """Whether its own figure says how robust the model is, so that a model without it is ranked lower."""
        return bool(entering([self]))


@dataclass(frozen=True)
class Line:
    """One model: its clean accuracy, its worst case, and a cell per attack by the column's name.

    partial: it lacks attacks that others of the table have. strongest: the attack that alone comes nearest to the worst
    case. shared: the worst case over no attacks but those that all lines have that lack some. damaged: what damaged
    evaluations would say of it is not known. searched: whether an attack of several steps tried
    it, without which its worst case does not say how robust it is.
    """

    model: str
    clean: Cell
    worst: Cell
    attacks: dict[str, Cell]
    strongest: str = ""
    partial: bool = False
    shared: Figure | None = None
    damaged: bool = False
    searched: bool = True

    @property
    def flagged(self) -> bool:
        """Whether any flag fired."""
        return any(cell.flags for cell in (self.worst, *self.attacks.values()))

    def better(self, figure: Figure | None) -> tuple[float, str]:
        """What it is sorted by under a figure of its own: the most robust on top, without a figure below all."""
        return -figure.value if figure else 1.0, self.model


def ordered(lines: Iterable[Line]) -> list[Line]:
    """The lines of a table, the most robust on top by their worst cases.

    One that lacks attacks stands below every whole line that is as robust under those attacks that all of its like
    have, and above the others; one without what damaged evaluations would say stands last.
    """
    lines = list(lines)
    found = sorted((line for line in lines if not line.partial), key=lambda line: line.better(line.worst.figure))
    lacking = sorted((line for line in lines if line.partial), key=lambda line: line.better(line.shared))
    for line in (each for each in lacking if each.shared and not each.damaged):
        beaten_by = [i for i, other in enumerate(found) if other.better(other.shared)[0] <= line.better(line.shared)[0]]
        found.insert(beaten_by[-1] + 1 if beaten_by else 0, line)
    return [*found, *(line for line in lacking if not line.shared or line.damaged)]


@dataclass(frozen=True)
class Column:
    """A column: its name, the cell that a line has in it, what its attack was up against, and what it counts."""

    name: str
    cell: Callable[[Line], Cell]
    access: str = ""
    metric: str = ""
    strong: bool = False  # whether pages print it in bold


def attack_cell(name: str, line: Line) -> Cell:
    return line.attacks.get(name, Cell(None, ABSENT))


CLEAN = Column("clean", lambda line: line.clean)
WORST = Column("worst case", lambda line: line.worst, strong=True)


@dataclass(frozen=True)
class Setting:
    """What made one cell of an attack's column."""

    model: str
    column: str
    attack: str
    options: dict[str, Any]
    seed: int
    n: int
    gradients: int
    seconds: float
    flags: list[str]
    evaluation: str
    model_digest: str
    data_digest: str
    command: str
    commit: str
    torch: str

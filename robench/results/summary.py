"""The summary of one evaluation: its figures, and the flags that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robench.results.accuracy import Figure, Measure, attack_figure, clean_figure
from robench.results.rows import FELL, FLAT_GUIDE, attacked, marked
from robench.results.statistics import wilson_ends

if TYPE_CHECKING:  # takes its time to load, and what is intact needs none of it
    import pandas as pd

# flags of single images, each shown where more than this share of the attacked images has it
SHOWN_SHARE = {
    "zero-gradient": 0.05,
    FLAT_GUIDE: 0.05,
    "borderline": 0.01,
    "non-finite": 0.0,
    "invalid-proposal": 0.0,
    "out-of-budget": 0.0,
    "outside-eps": 0.0,
    FELL: 0.0,
}
# flags of a second verdict: it differed from the first, and there was none
DIFFERS, NOT_SEALED = "answers differ when sealed", "not sealed"
# a model with one of these flags gives other rows in the next run, or in other batches
UNSTABLE = ("randomised", "batch-dependent", "changes-its-state", "changes-its-answers", DIFFERS)
# figures and their intervals are computed to more digits than this
NEAR = 1e-6
COMPLETE, INCOMPLETE = "complete", "incomplete"


@dataclass(frozen=True)
class Summary:
    """What came of an evaluation; accuracies as fractions, None while it is incomplete.

    measure: what `value` counts. n: images, of an incomplete one those that are done. interval: 95%, Wilson.
    """

    measure: Measure
    n: int
    clean_accuracy: float | None = None
    clean_interval: tuple[float, float] | None = None
    value: float | None = None
    interval: tuple[float, float] | None = None
    forwards: int | None = None
    backwards: int | None = None
    seconds: float | None = None
    flags: tuple[str, ...] = ()
    status: str = INCOMPLETE

    @property
    def complete(self) -> bool:
        """Whether every image was attacked."""
        return self.status == COMPLETE

    @property
    def figure(self) -> Figure | None:
        """The attack's figure as a count, None while it is incomplete."""
        return None if self.value is None else Figure(round(self.value * self.n), self.n)

    @property
    def consistent(self) -> bool:
        """Whether its figures are shares of n images, each with the interval that such a share has."""
        pairs = ((self.clean_accuracy, self.clean_interval), (self.value, self.interval))
        return all(value is None or is_share(value, self.n, ends) for value, ends in pairs)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, the figure under its measure's key."""
        found = {
            "n": self.n,
            "clean_accuracy": self.clean_accuracy,
            "clean_interval": None if self.clean_interval is None else list(self.clean_interval),
            self.measure.key: self.value,
            "interval": None if self.interval is None else list(self.interval),
            "forwards": self.forwards,
            "backwards": self.backwards,
            "seconds": self.seconds,
            "flags": list(self.flags),
            "status": self.status,
        }
        known = ("clean_interval",) if not self.complete else found  # a record of before a field was added lacks it
        return {name: value for name, value in found.items() if value is not None or name not in known}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], metric: str) -> Summary:
        """The summary in a file; raises KeyError where a figure is missing."""
        measure = Measure(metric)
        return cls(
            measure, value["n"], value["clean_accuracy"], _pair(value.get("clean_interval")), value[measure.key],
            _pair(value["interval"]), value.get("forwards"), value["backwards"], value.get("seconds"),
            tuple(value["flags"]), value["status"],
        )  # fmt: skip


def is_share(value: float, n: int, ends: tuple[float, float] | None) -> bool:
    """Whether a value is a count of n, with its Wilson interval where there is one; up to rounding."""
    if n < 1 or abs(value * n - round(value * n)) > NEAR * n:
        return False
    expected = wilson_ends(value, n)
    return ends is None or all(abs(end - right) <= NEAR for end, right in zip(ends, expected, strict=True))


def _pair(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (ends[0], ends[1])


def label(attack: str, options: Mapping[str, Any], against: str = "") -> str:
    """An attack's name with the options that were given and what it was up against: "pgd (steps=40) + er-kde"."""
    given = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
    return (f"{attack} ({given})" if given else attack) + against


def evaluation_flags(rows: pd.DataFrame, shard_flags: list[list[str]]) -> list[str]:
    """The model's flags in any shard, and those of single images where enough of them have it."""
    flags = {flag for flags in shard_flags for flag in flags}
    for name, least in SHOWN_SHARE.items():
        found = marked(rows, name)
        share = int(found.sum()) / max(attacked(rows, found), 1)
        if share > least:
            flags.add(f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%")
    return sorted(flags)


def _mixed(notes: list[dict[str, Any]]) -> list[str]:
    """A flag where shards were made with different versions or on different kinds of devices."""
    known = [note["made_with"] for note in notes if "made_with" in note]
    return ["mixed-environments"] if any(each != known[0] for each in known) else []


def summarise(rows: pd.DataFrame, metric: str, notes: list[dict[str, Any]], flags: Sequence[str] = ()) -> Summary:
    """The summary of a finished evaluation from its rows, what was noted with its shards, and more flags."""
    clean, figure = clean_figure(rows), attack_figure(rows, metric)
    return Summary(
        measure=Measure(metric),
        n=figure.n,
        clean_accuracy=clean.value,
        clean_interval=clean.interval,
        value=figure.value,
        interval=figure.interval,
        forwards=int(rows["forwards"].sum()),
        backwards=int(rows["backwards"].sum()),
        seconds=round(sum(float(note.get("seconds", 0)) for note in notes), 2),
        flags=tuple(
            evaluation_flags(rows, [*(list(note.get("flags", [])) for note in notes), _mixed(notes), list(flags)])
        ),
        status=COMPLETE,
    )

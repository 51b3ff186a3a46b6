"""A report given to trackers, each of which may fail and lose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robench import registry
from robench.environment import __version__, command
from robench.errors import BadInput, contained, crash
from robench.progress import say, trace
from robench.tables.report import Report
from robench.trackers.base import Tracked, Tracker

# of a row, what is a figure
FIGURES = ("n", "clean_accuracy", "robust_accuracy", "attack_success_rate", "seconds")


def trackers_of(names: Sequence[str]) -> dict[str, Tracker]:
    """The trackers of `--log-to NAME` or `NAME:PLACE`, by name. Raises BadInput for an unknown one, and for one whose
    package is missing, before any work."""
    found = {}
    for text in names:
        name, _, place = text.partition(":")
        plugin = registry.load("tracker", name)
        if not issubclass(plugin.base, Tracker):
            raise BadInput(f"The tracker {name!r} is no Tracker of robench; mend its package.")
        plugin.base.check()
        found[text] = plugin.base(place)
    return found


def send(trackers: Mapping[str, Tracker], report: Report) -> None:
    """Give a finished report to each of the trackers, and say where it went, or that it did not."""
    if not trackers:
        return
    if not report.complete:
        say("The evaluation is not complete, so nothing was sent by --log-to; run the same command again.")
        return
    tracked = tracked_of(report)
    for name, tracker in trackers.items():
        try:
            where = tracker.send(tracked)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a tracker, its library or its server does
            failed = contained(error)
            trace(failed)
            say(f"The tracker {name} failed ({crash(failed)}); the evaluation is in the store, and nothing is lost.")
        else:
            say(f"Sent to {name}: {where}.")


def tracked_of(report: Report) -> Tracked:
    """A report as trackers take it."""
    figures, settings = dict[str, float](), dict[str, str]()
    for result in report.results:
        row, place = result.to_json(), f"{result.model}/{result.label}{result.about.against}"
        figures |= {f"{place}/{name}": float(row[name]) for name in FIGURES if row.get(name) is not None}
        figures |= _ends(place, row.get("interval"))
        settings[f"{place}/evaluation"] = result.evaluation
        if result.summary.flags:
            settings[f"{place}/flags"] = ", ".join(result.summary.flags)
    for worst in report.worst_cases:
        if worst.figure is not None:
            place = f"{worst.model}/worst case"
            figures[f"{place}/robust_accuracy"] = worst.figure.value
            figures |= _ends(place, worst.figure.interval)
    models, attacks = _each([r.model for r in report.results]), _each([r.label for r in report.results])
    settings |= {
        "models": models,
        "attacks": attacks,
        "dataset": _each([r.about.dataset for r in report.results]),
        "norm": _each([r.norm for r in report.results]),
        "eps": _each([r.about.eps for r in report.results]),
        "n": _each([r.summary.n for r in report.results]),
        "command": command(),
        "robench": __version__,
    }
    return Tracked(f"{models} under {attacks}", figures, settings, str(report), report.to_json()["rows"])


def _ends(place: str, interval: Sequence[float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{place}/low": float(interval[0]), f"{place}/high": float(interval[1])}


def _each(values: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))

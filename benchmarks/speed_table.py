"""What benchmarks/versus.py measured, as markdown; nothing here computes with a model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
# robust accuracies further apart than this make times incomparable, and distances by more than this share
APART, FURTHER = 0.005, 0.01
# how the names of contenders begin that are no peers
OURS = ("robench", "bare-loop")
HEAD = (
    "# Speed\n\nWritten by `benchmarks/versus.py`, whose first lines say how it measures. CPU seconds are least / "
    "median / most of the runs, each in a process of its own on one core, in turns; passes are per image, forward + "
    "backward. *times* is a contender's least and median CPU seconds over robench's. A speed at unequal strength is "
    "marked: it left more images standing than the strongest of its group, by more than 0.5 points, so it did less.\n"
)


def summarise(runs: Sequence[Row]) -> Row:
    """Runs of one contender in one line: the times in order, the figures of the runs' median."""
    failed = next((run["failed"] for run in runs if "failed" in run), None)
    if failed:
        return {"failed": failed}
    found: Row = {"seconds": sorted(run["seconds"] for run in runs), "n": runs[0]["n"]}
    for key in ("forwards", "backwards"):
        found[key] = statistics.median(run[key] for run in runs) / runs[0]["n"]
    for key in ("clean", "robust", "distance"):
        if key in runs[0]:
            found[key] = statistics.median(run[key] for run in runs)
    return found


def ratios(mine: Row, theirs: Row) -> tuple[float, float]:
    """How many times as long theirs took: by the least, and by the median CPU seconds."""
    return (
        min(theirs["seconds"]) / min(mine["seconds"]),
        statistics.median(theirs["seconds"]) / statistics.median(mine["seconds"]),
    )


def weaker(row: Row, rows: Sequence[Row]) -> str:
    """By how much a contender did less than the strongest of its group, in words; "" where it did not."""
    whole = [each for each in rows if "failed" not in each]
    more = row["robust"] - min(each["robust"] for each in whole)
    said = [f"weaker: {100 * more:.1f} points more stand"] if more > APART else []
    if math.isfinite(row.get("distance", math.inf)):  # else it seeks no nearest image
        share = row["distance"] / min(each["distance"] for each in whole) - 1
        said += [f"further by {100 * share:.0f}%"] if share > FURTHER else []
    return ", ".join(said)


def render(results: Sequence[Row]) -> str:
    """All groups as markdown."""
    parts = [HEAD]
    for result in results:
        parts.append(_section(result) if "rows" in result else _told(result))
    return "\n".join(parts)


def _section(result: Row) -> str:
    rows = result["rows"]
    whole = [row for row in rows if "failed" not in row]
    count = f", n = {whole[0]['n']:,}, clean {100 * whole[0]['clean']:.1f}%" if whole else ""
    lines = [f"## {result['group']}: {result['model']}, {result['norm']} eps {result['eps']}{count}\n"]
    far = any("distance" in row for row in whole)
    heads = ["who", "robust %", *(["median distance"] if far else []), "passes", "CPU s", "times", "", "command"]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    mine = next((row for row in whole if row["package"] == "robench"), None)
    for row in rows:
        lines.append(_line(row, whole, mine, len(heads), far))
    for told in goals(result):
        lines += ["", told]
    lines += ["", "Measured on: " + "; ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".", ""]
    return "\n".join(lines)


def _line(row: Row, whole: Sequence[Row], mine: Row | None, width: int, far: bool) -> str:
    if "failed" in row:
        said = row["failed"].replace("|", "/")
        return "| " + " | ".join([row["who"], *[""] * (width - 3), said, f"`{row['command']}`"]) + " |"
    seconds = row["seconds"]
    times = " / ".join(f"{seen:.2f}" for seen in ratios(mine, row)) if mine else ""
    version = f" (version {row['edition']})" if "edition" in row else ""
    cells = [row["who"] + version, f"{100 * row['robust']:.1f}", *([_distance(row["distance"])] if far else [])]
    cells += [f"{row['forwards']:,.1f} + {row['backwards']:,.1f}"]
    cells += [f"{seconds[0]:.2f} / {statistics.median(seconds):.2f} / {seconds[-1]:.2f}", times]
    return "| " + " | ".join([*cells, weaker(row, whole), f"`{row['command']}`"]) + " |"


def _distance(median: float) -> str:
    return f"{median:.4f}" if math.isfinite(median) else "not sought"


def goal_told(name: str, goal: float, mine: Row, peers: Sequence[Row], others: Sequence[Row] = ()) -> str:
    """Whether the fastest of the peers took at least `goal` times as long, in words.

    others: contenders that the goal is not about, told with their times, so that nobody takes the goal for more.
    """
    whole = [row for row in peers if "failed" not in row]
    if not whole or "failed" in mine:
        return ""
    least = min((ratios(mine, row)[0], row["who"]) for row in whole)
    middle = min((ratios(mine, row)[1], row["who"]) for row in whole)
    met = "met" if min(least, middle)[0] >= goal else "missed"
    who = "the fastest peer" if len(peers) > 1 else peers[0]["who"]
    told = (
        f"Goal: {who} takes at least {goal:g} times as long as {name}. By the least, {least[1]} takes "
        f"{least[0]:.2f} times as long, by the median {middle[1]} {middle[0]:.2f}: {met}."
    )
    beside = [(ratios(mine, row), row["who"]) for row in others]
    return told + "".join(
        f" The goal is not about {other}, which takes {by_least:.2f} and {by_median:.2f} times as long."
        for (by_least, by_median), other in beside
    )


def goals(result: Row) -> list[str]:
    """What became of a group's goals, in words, by the rows that there are."""
    named = {row["who"]: row for row in result["rows"] if "failed" not in row}
    goal, told = result.get("goal"), []
    for mine in ("robench", "robench-search"):
        if goal and mine in named:
            peers = [named[who] for who in goal["against"] if who in named]
            others = [row for who, row in named.items() if who not in goal["against"] and not who.startswith(OURS)]
            told.append(goal_told(mine, goal["times"], named[mine], peers, others))
    for bound in result.get("bounds", ()):
        if bound["who"] in named and bound["beside"] in named:
            told.append(bound_told(named[bound["who"]], named[bound["beside"]], bound))
    return [line for line in told if line]


def bound_told(mine: Row, theirs: Row, bound: Row) -> str:
    """Whether a contender left as little standing as another at a share of its passes and time, in words."""
    more = 100 * (mine["robust"] - theirs["robust"])
    spent, whole = (row["forwards"] + 2 * row["backwards"] for row in (mine, theirs))
    met = round(more, 3) <= bound["points"] and spent <= bound["passes"] * whole
    asked = f"1/{1 / bound['passes']:.0f} of the passes, a backward one counted as two"
    found = f"{more:+.1f} points, 1/{whole / spent:.1f} of the passes ({spent:,.0f} of {whole:,.0f})"
    if bound["seconds"]:
        times = statistics.median(theirs["seconds"]) / statistics.median(mine["seconds"])
        met = met and times * bound["seconds"] >= 1
        asked += f", and 1/{1 / bound['seconds']:.0f} of the CPU seconds"
        found += f", 1/{times:.1f} of the CPU seconds"
    return (
        f"Goal: {mine['who']} leaves at most {bound['points']:g} points more standing than {theirs['who']} at no more "
        f"than {asked}. It is {found}: {'met' if met else 'missed'}."
    )


def _told(result: Row) -> str:
    """A result that is no comparison of contenders: a line per figure."""
    lines = [f"## {result['group']}: {result['model']}\n", result["about"], ""]
    lines += ["| " + " | ".join(result["heads"]) + " |", "|" + " --- |" * len(result["heads"])]
    lines += ["| " + " | ".join(map(str, cells)) + " |" for cells in result["lines"]]
    lines += ["", f"`{result['command']}`", ""]
    lines += ["Measured on: " + "; ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".", ""]
    return "\n".join(lines)

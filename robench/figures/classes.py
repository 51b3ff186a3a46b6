"""Robust accuracy class by class, and which class images are taken for under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robench.errors import BadInput
from robench.figures.drawing import GREYS, HATCHES, MARKERS, Drawing, as_is, legend, named_ticks, numbers
from robench.figures.stored import Stored, stored
from robench.results.accuracy import Measure, attack_figure, clean_figure
from robench.results.rows import correct
from robench.store.runs import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

# classes up to which bars are drawn, and counts written
BARS, WRITTEN = 20, 25
NOT_FINITE = "not finite"
REJECTED = "rejected"


def per_class(store: Store, names: Sequence[str]) -> Drawing:
    """Clean and robust accuracy of every class under each of some evaluations, with 95% Wilson intervals.

    Raises BadInput for an evaluation that counts goals, and for evaluations of data with other classes.
    """
    found = stored(store, names)
    for one in found:
        if one.folder.about.metric != Measure.ROBUST:
            raise BadInput(
                f"The evaluation {one.folder.job_id} has an {one.folder.about.metric} and no robust accuracy by class; "
                "name another."
            )
        if one.classes() != found[0].classes():
            raise BadInput(
                f"The evaluations {found[0].folder.job_id} and {one.folder.job_id} are of other classes; name those of "
                "the same data."
            )
    records = [record for one in found for record in _classes_of(one)]
    caption = (
        *(one.told for one in found),
        "Percent of all n images of a class, with 95% Wilson intervals for each class by itself; a short line: clean.",
    )
    return Drawing("Robust accuracy by class", caption, records, (_width(found), 3.6),
                   lambda picture: _bars(picture, found, records))  # fmt: skip


def _width(found: Sequence[Stored]) -> float:
    return float(min(max(7.0, 0.24 * len(found[0].classes()) * (1 + len(found) / 3)), 24.0))


def _classes_of(one: Stored) -> list[dict[str, Any]]:
    records = []
    for place, name in enumerate(one.classes()):
        rows = one.rows[one.rows["label"] == place]
        if not len(rows):
            continue
        robust, clean = attack_figure(rows, Measure.ROBUST), clean_figure(rows)
        records.append(numbers({
            "evaluation": one.folder.job_id, "model": one.model, "class": place, "name": name, "n": len(rows),
            "clean_accuracy": clean.value, "robust_accuracy": robust.value, "low": robust.interval[0],
            "high": robust.interval[1],
        }))  # fmt: skip
    return records


def _bars(picture: Picture, found: Sequence[Stored], records: Sequence[dict[str, Any]]) -> None:
    axes = picture.add_subplot()
    names = found[0].classes()
    width = 0.8 / len(found)
    handles: list[Any] = []
    for i, one in enumerate(found):
        mine = [record for record in records if record["evaluation"] == one.folder.job_id]
        x = np.array([record["class"] for record in mine]) + (i - (len(found) - 1) / 2) * width
        y, low, high, clean = (
            100 * np.array([float(record[key]) for record in mine])
            for key in ("robust_accuracy", "low", "high", "clean_accuracy")
        )
        ends = [np.maximum(y - low, 0), np.maximum(high - y, 0)]
        bar: dict[str, Any] = {"color": GREYS[i % len(GREYS)], "edgecolor": "black", "hatch": HATCHES[i % len(HATCHES)]}
        if len(names) <= BARS:
            handles.append(axes.bar(x, y, width, linewidth=0.6, **bar))
            axes.errorbar(x, y, yerr=ends, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        else:
            handles.append(axes.errorbar(x, y, yerr=ends, fmt=MARKERS[i % len(MARKERS)], color="black", elinewidth=0.5,
                                         markersize=3, markerfacecolor=GREYS[i % len(GREYS)]))  # fmt: skip
        axes.hlines(clean, x - 0.45 * width, x + 0.45 * width, color="black", linewidth=1.2)
    named_ticks(axes.xaxis, names, rotation=90 if max(map(len, names)) > 3 else 0, size=7 if len(names) <= 60 else 4)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 102)
    axes.set_xlabel("class")
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y", alpha=0.3)
    legend(axes, handles, [one.title for one in found], loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)


def confusion(store: Store, name: str) -> Drawing:
    """Of the images that were classified correctly, which class the adversarial one is taken for.

    An answer that only a second verdict has counts as in figures. Raises BadInput where no clean image was right.
    """
    (one,) = stored(store, [name])
    right = one.rows[correct(one.rows)]
    if not len(right):
        raise BadInput(
            f"No clean image of evaluation {one.folder.job_id} was classified correctly, so attacks changed no class."
        )
    named = one.classes()
    answers = answered(right)
    names = [*named, *([REJECTED] if (answers == len(named)).any() else [])]
    names += [NOT_FINITE] if (answers < 0).any() else []
    answers = np.where(answers < 0, len(names) - 1, answers)
    labels: NDArray[np.int64] = right["label"].to_numpy()
    counts = np.zeros((len(named), len(names)), dtype=np.int64)
    np.add.at(counts, (labels, answers), 1)
    records = [
        numbers({"evaluation": one.folder.job_id, "model": one.model, "clean": i, "clean_name": named[i],
                 "adversarial": j, "adversarial_name": names[j], "count": int(counts[i, j]),
                 "share": float(counts[i, j] / counts[i].sum())})
        for i in range(len(named)) for j in range(len(names))
        if counts[i, j] or (len(named) <= WRITTEN and counts[i].any())
    ]  # fmt: skip
    kept = f"{int(np.trace(counts)):,} keep their class (the diagonal)"
    if REJECTED in names:  # which breaks nothing
        rejected = int(counts[:, names.index(REJECTED)].sum())
        kept = f"{int(np.trace(counts)) + rejected:,} stand: {kept} and {rejected:,} are rejected by the detector"
    caption = (
        one.told,
        f"Images by their class before (rows) and after the attack (columns): {len(right):,} of {len(one.rows):,} that "
        f"were classified correctly, of which {kept}. Grey: share of the row.",
    )
    side = min(max(4.5, 0.36 * len(names) + 1.6), 16.0)
    return Drawing("Class before and after the attack", caption, records, (side + 0.7, side - 0.4),
                   lambda picture: _matrix(picture, counts, named, names))  # fmt: skip


def answered(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The class of each adversarial image, int64 [n]: the first wrong one among the verdicts that there are."""
    found: NDArray[np.int64] = rows["adv_pred"].to_numpy().copy()
    for column in ("sealed_adv", "sealed_clean"):
        if column in rows:
            found = np.where(found == rows["label"].to_numpy(), rows[column].to_numpy(), found)
    return found


def _matrix(picture: Picture, counts: NDArray[np.int64], named: Sequence[str], names: Sequence[str]) -> None:
    axes = picture.add_subplot()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Greys", vmin=0, vmax=1)
    if len(names) <= WRITTEN:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                axes.text(j, i, f"{count:,}", ha="center", va="center", fontsize=7,
                          color="white" if share[i, j] > 0.55 else "black")  # fmt: skip
    small = 7 if len(names) <= 60 else 4
    named_ticks(axes.xaxis, names, rotation=90 if max(map(len, names)) > 2 else 0, size=small)
    named_ticks(axes.yaxis, named, size=small)
    axes.set_xlabel("class of the adversarial image")
    axes.set_ylabel("class of the clean image")
    as_is(picture.colorbar(drawn, ax=axes, shrink=0.8).ax.set_ylabel("", fontsize=8), "share of the row")

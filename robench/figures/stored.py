"""Stored evaluations as figures see them, and the sheet of examples: clean, adversarial, and what lies between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from robench.attack.base import check_count
from robench.data.dataset import open_dataset
from robench.data.draw import images_told
from robench.errors import BadInput, require
from robench.evaluation.attacks import label_of
from robench.figures.drawing import Drawing, as_is, numbers
from robench.norms import NORMS
from robench.results.accuracy import standing
from robench.results.rows import broken
from robench.store.labels import endings
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import draw_told
from robench.tables.model_names import told_apart
from robench.threat import ThreatModel
from robench.trust.origins import marked

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

Which = Literal["broken", "standing", "all"]
# images in a row of the sheet, and the most on one sheet
ACROSS, MOST = 8, 64
PARTS = ("clean", "adversarial", "perturbation")


# columns whose values are classes
ANSWERS = ("label", "clean_pred", "adv_pred", "sealed_clean", "sealed_adv")


@dataclass(frozen=True)
class Stored:
    """A complete evaluation: its folder, its rows, and what its model and its attack are called among others."""

    folder: EvaluationFolder
    rows: pd.DataFrame
    model: str
    attack: str

    @property
    def threat(self) -> ThreatModel:
        """What it was attacked within."""
        return ThreatModel.of(self.folder.spec["norm"], self.folder.spec["eps"])

    @property
    def title(self) -> str:
        """Model, attack and threat model in words."""
        return f"{self.model}, {self.attack}, {self.threat}"

    @property
    def told(self) -> str:
        """All that a caption says of it."""
        spec, about = self.folder.spec, self.folder.about
        last = spec["start"] + spec["count"] - 1
        which = images_told(spec["start"], last, len(self.rows), spec.get("draw"), draw_told(spec, about.images))
        return f"{self.title}; {about.dataset}, {which}; evaluation {self.folder.job_id}"

    def classes(self) -> list[str]:
        """What the classes are called: their names, or their numbers. Raises BadInput where rows have others."""
        about = self.folder.about
        seen = 1 + max(int(self.rows[name].max()) for name in ANSWERS if name in self.rows)
        labels, count = int(self.rows["label"].max()) + 1, about.classes or seen
        largest = max(labels, seen - 1 if self.folder.spec.get("detector") else seen)  # which rejects in one of its own
        if largest > count:
            raise BadInput(
                f"The evaluation {self.folder.job_id} has images or answers of class {largest - 1}, but its record "
                f"says that there are {count} classes, from 0 on; run 'robench verify', or delete its folder."
            )
        named = list(about.names or [])
        return [named[i] if i < len(named) else str(i) for i in range(count)]


def stored(store: Store, names: Sequence[str]) -> list[Stored]:
    """The evaluations of these ids or their beginnings, each once.

    Raises BadInput where none is named, one is not there, and one is not complete.
    """
    if not names:
        raise BadInput("No evaluation is named; give ids, which 'robench list evaluations' has.")
    folders = [store.evaluation(i) for i in dict.fromkeys(store.find_evaluation(name).job_id for name in names)]
    titles = told_apart((folder.spec["model_digest"], folder.about) for folder in folders)
    attacks = {folder.job_id: label_of(folder) + marked(folder) for folder in folders}
    named = {folder.job_id: titles[folder.about.model, folder.spec["model_digest"]] for folder in folders}
    ends = endings(
        folders, {f.job_id: (named[f.job_id], attacks[f.job_id], f.spec["norm"], f.spec["eps"]) for f in folders}
    )
    found = []
    for folder in folders:
        spec, rows, job_id = folder.spec, folder.rows(), folder.job_id
        if folder.result is None or len(rows) != spec["count"]:
            raise BadInput(
                f"The evaluation {folder.job_id} ({spec['attack']} on {folder.about.model}) is incomplete, or its rows "
                "and images are not whole; run its command again, then draw it."
            )
        found.append(Stored(folder, rows, named[job_id], attacks[job_id] + ends[job_id]))
    return found


def examples(store: Store, name: str, count: int, which: Which, data: Path | None) -> Drawing:
    """The first `count` images of an evaluation that were broken (or stood, or all), clean and adversarial, and the
    perturbation between, drawn as grey plus a multiple of it that fits all of them. Where an attack has goals, an image
    is broken by any wrong answer.

    Raises BadInput where no image is such a one, and where the data are not those that were attacked.
    """
    check_count("-n", count)
    require(count <= MOST, "-n", count, f"at most {MOST} images on a sheet")
    (one,) = stored(store, [name])
    rows = one.rows
    rejected = one.folder.about.classes if one.folder.spec.get("detector") else None
    chosen = {"broken": broken(rows, rejected), "standing": standing([rows], rejected),
              "all": np.ones(len(rows), dtype=bool)}[which]  # fmt: skip
    places = np.flatnonzero(chosen)[:count]
    if not len(places):
        raise BadInput(
            f"The evaluation {one.folder.job_id} has no image that is {which}; give --which all, or the other kind."
        )
    clean, adversarial = _clean(one.folder, places, data), _adversarial(one.folder, places)
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    largest = float(np.abs(change).max())
    scale = 0.5 / largest if largest else 1.0
    records = [_record(one, rows.iloc[place], change[i]) for i, place in enumerate(places)]
    caption = (
        one.told,
        f"{_first(len(places), int(chosen.sum()), which)} Above each: its place, its label, and the "
        f"answers to the clean and to the adversarial image. Perturbation: grey is none, x {scale:.3g} (largest change "
        f"{largest:.4g} of [0, 1]).",
    )
    sheets = np.stack([clean, adversarial, (0.5 + scale * change).astype(np.float32)])
    across = min(len(places), ACROSS)
    blocks = -(-len(places) // ACROSS)
    size = (max(1.05 * across + 0.6, 4.0), 3.45 * blocks)
    return Drawing("Clean, adversarial and perturbation", caption, records, size,
                   lambda picture: _sheet(picture, sheets, records, across, blocks))  # fmt: skip


def _first(shown: int, among: int, which: Which) -> str:
    """Which images are on the sheet, as a sentence."""
    kind = "" if which == "all" else f"{which} "
    if shown == among:
        return f"All {among} {kind}images." if among > 1 else f"The only {kind}image."
    return f"The first {shown} of {among:,} {kind}images." if shown > 1 else f"The first of {among:,} {kind}images."


def _clean(folder: EvaluationFolder, places: NDArray[np.int64], data: Path | None) -> NDArray[np.float32]:
    about, spec = folder.about, folder.spec
    split = open_dataset(about.at_hand(about.dataset), data).drawn(spec.get("draw"))
    if split.digest != spec["data_digest"]:
        raise BadInput(
            f"The data {about.dataset} are not those of evaluation {folder.job_id}; choose others with --data."
        )
    found: NDArray[np.float32] = split.pixels([int(spec["start"] + place) for place in places]).numpy()
    return found


def _adversarial(folder: EvaluationFolder, places: NDArray[np.int64]) -> NDArray[np.float32]:
    start = folder.spec["start"]
    found: NDArray[np.float32] = np.stack([
        folder.span(int(start + place), int(start + place) + 1)[0].numpy() for place in places
    ])  # fmt: skip
    return found


def _record(one: Stored, row: Any, change: NDArray[np.float64]) -> dict[str, Any]:
    names = one.classes()
    told = {
        "evaluation": one.folder.job_id, "model": one.model, "example_id": int(row["example_id"]),
        "label": int(row["label"]), "class": names[int(row["label"])], "clean_pred": int(row["clean_pred"]),
        "adv_pred": int(row["adv_pred"]), "success": bool(row["success"]),
        "largest_change": float(np.abs(change).max()),
        **{norm: float(row[norm]) for norm in NORMS if norm in row},
    }  # fmt: skip
    return numbers(told)


def _sheet(
    picture: Picture, sheets: NDArray[np.float32], records: list[dict[str, Any]], across: int, blocks: int
) -> None:
    grid = picture.subplots(3 * blocks, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, record in enumerate(records):
        block, column = divmod(i, across)
        for part in range(3):
            axes = grid[3 * block + part, column]
            show_image(axes, sheets[part, i])
            if column == 0:
                axes.set_axis_on()
                bare(axes)
                axes.set_ylabel(PARTS[part], fontsize=7)
        said = (
            f"{record['example_id']}: {record['label']}, {record['clean_pred']}\N{RIGHTWARDS ARROW}{record['adv_pred']}"
        )
        as_is(grid[3 * block, column].set_title("", fontsize=7), said)


def bare(axes: Axes) -> None:
    """Axes without ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def show_image(axes: Axes, image: NDArray[np.float32]) -> None:
    """An image [C, H, W] in [0, 1]: in colour of three channels, else the mean of its channels in grey."""
    shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)
    axes.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")

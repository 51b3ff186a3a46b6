"""A board's sheet of examples: the same images for every model, clean, adversarial, and what was added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robench.data.dataset import Split, open_dataset
from robench.errors import BadInput
from robench.page.pictures import perturbation, picture, spread
from robench.results.rows import Marks
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged

if TYPE_CHECKING:
    import pandas as pd

# examples are of the first so many images, whose shards are read alone
AMONG = 1000
# a stored distance is that of an image to its clean one, but for rounding
NEAR = 1e-3


@dataclass(frozen=True)
class Attacked:
    """One evaluation of a model: its column, whether it enters the worst case, the rows of its first images, and which
    of all images are right, and stand under the attack."""

    column: int
    enters: bool
    folder: EvaluationFolder
    rows: pd.DataFrame
    right: Marks
    standing: Marks
    value: float


@dataclass(frozen=True)
class Example:
    """One model's image of the sheet: pictures, what is drawn as white in that of the change (0 without one), answers
    before and after, the distance in the board's norm, and the column of the attack that made it."""

    adversarial: str
    change: str
    scale: float
    before: int
    after: int
    distance: float
    column: int


@dataclass(frozen=True)
class Sheet:
    """The images of a board: their ids, classes and clean pictures, "" without one; a list of examples per model.

    names: the classes' own. note: why clean pictures are missing.
    """

    ids: list[int]
    labels: list[int]
    clean: list[str]
    examples: list[list[Example | None]]
    names: list[str] = field(default_factory=list)
    note: str = ""


def sheet_of(models: Sequence[Sequence[Attacked]], data: Path | None, count: int) -> Sheet | None:
    """The sheet of a board's models, each with its complete evaluations; at most `count` images.

    None where no model has any. Images that cannot be read are left out.
    """
    known = [attacked for attacked in models if attacked]
    if not known or not count:
        return None
    first = known[0][0]
    n = min(len(each.rows) for attacked in known for each in attacked)
    places = spread(np.stack([_standing(each)[:n] for each in known]), count)
    clean, note = _clean(first.folder, first.rows.iloc[places], data)
    of = first.rows.iloc[places]
    examples = [_examples(each, places, clean) for each in models]
    if clean is not None and not any(example and example.change for each in examples for example in each):
        clean, note = None, f"The data {first.folder.about.dataset} are others than the images were made of."
    return Sheet(
        of["example_id"].tolist(), of["label"].tolist(),
        [picture(image) for image in clean] if clean is not None else [""] * len(places),
        examples, first.folder.about.names or [], note,
    )  # fmt: skip


def _standing(attacked: Sequence[Attacked]) -> Marks:
    found = np.logical_and.reduce([each.standing for each in _counting(attacked)])
    return np.asarray(found, dtype=bool)


def _counting(attacked: Sequence[Attacked]) -> Sequence[Attacked]:
    """Those that enter the worst case, the strongest first; all where none does."""
    return sorted([each for each in attacked if each.enters] or attacked, key=lambda each: each.value)


def _clean(folder: EvaluationFolder, rows: pd.DataFrame, data: Path | None) -> tuple[NDArray[np.float32] | None, str]:
    """The clean images of rows, [n, C, H, W], or a sentence on why there are none."""
    try:
        split: Split = open_dataset(folder.about.at_hand(folder.about.dataset), data).drawn(folder.spec.get("draw"))
        found: NDArray[np.float32] = split.pixels(rows["example_id"].tolist()).numpy()
    except BadInput as error:
        return None, str(error)
    except IndexError:
        return None, f"The data {folder.about.dataset} are others now."
    return found, ""


def _examples(
    attacked: Sequence[Attacked], places: Sequence[int], clean: NDArray[np.float32] | None
) -> list[Example | None]:
    """One model's images: of the strongest attack that broke each, or else of the strongest; None without any."""
    if not attacked:
        return [None] * len(places)
    order = _counting(attacked)
    chosen = {place: next((each for each in order if not each.standing[place]), order[0]) for place in places}
    images: dict[int, NDArray[np.float32]] = {}
    for each in {id(found): found for found in chosen.values()}.values():
        images |= _images(each, [place for place in places if chosen[place] is each])
    return [
        _example(chosen[place], place, images[place], None if clean is None else clean[i]) if place in images else None
        for i, place in enumerate(places)
    ]


def _images(attacked: Attacked, places: Sequence[int]) -> Mapping[int, NDArray[np.float32]]:
    """The adversarial images at places of an evaluation's rows, as far as they can be read."""
    start, found = attacked.folder.spec["start"], dict[int, NDArray[np.float32]]()
    for first, stop in attacked.folder.ranges():
        wanted = [place for place in places if first <= start + place < stop]
        if wanted:
            try:
                images = attacked.folder.images(first, stop)
            except Damaged:
                continue
            found |= {place: images[start + place - first].numpy() for place in wanted}
    return found


def _example(of: Attacked, place: int, image: NDArray[np.float32], clean: NDArray[np.float32] | None) -> Example:
    row, norm = of.rows.iloc[place], of.folder.spec["norm"]
    change, scale = "", 0.0
    if clean is not None and clean.shape == image.shape and _far(clean, image, norm, float(row[norm])):
        change, scale = perturbation(clean, image)
    return Example(
        picture(image), change, float(f"{scale:.4g}"), int(row["clean_pred"]), int(row["adv_pred"]),
        float(f"{row[norm]:.4g}"), of.column,
    )  # fmt: skip


def _far(clean: NDArray[np.float32], image: NDArray[np.float32], norm: str, stored: float) -> bool:
    """Whether two images are as far apart as was stored: else the clean one is another by the same name."""
    import torch

    from robench.norms import NORMS

    pair = (torch.from_numpy(each)[None] for each in (clean, image))
    return abs(float(NORMS[norm].distance(*pair)) - stored) < NEAR

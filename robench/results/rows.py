"""The columns of a row, one row per attacked image, and what they say: correct, broken, succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # takes its time to load, and what is intact needs none of it
    import pandas as pd

# one truth value per row
Marks = NDArray[np.bool_]

# column -> what it means; between "zero_pixels" and "forwards" stand the distances, one column per norm
COLUMNS = {
    "example_id": "the image's place in the draw, which is that in its split where the first ones are taken",
    "label": "its true class",
    "goal": "the class that a targeted attack aimed at, -1 for an untargeted one",
    "clean_pred": "the model's answer to the clean image, -1 where it is not finite",
    "adv_pred": "its answer to the adversarial image; the class after the last one is a detector's 'rejected'",
    "clean_correct": "whether the clean image was classified correctly",
    "success": "whether the attack reached what it aimed at: its goal class, or any wrong and accepted answer",
    "trial": "the trial that found the image, -1 where none was run, -2 where an earlier attack's was taken over",
    "step": "the step at which it was found, -1 for the last",
    "zero_pixels": "the share of pixels without a gradient at the first step, NaN where nobody looked",
    "forwards": "forward passes spent on it, a guide's among them",
    "backwards": "backward passes spent on it, all a guide's where there is one",
    "passes": "both in forward passes, a backward pass counted as two",
    "stages": "the attack's stages that were run on it, with semicolons between; empty where the attack has none",
    "flags": "marks of this image, with semicolons between",
}
# columns of rows whose verdict was taken a second time, beside the stored ones
SEALED = {
    "sealed_clean": "the answer to the clean image in a process that knows nothing of the attack",
    "sealed_adv": "the answer to the adversarial image there",
    "sealed_success": "whether the attack reached what it aimed at there",
}
# a mark of images that were not attacked, since the same attack left them standing within a larger eps
STOOD = "stood-at-larger-eps"
# ... and of images that fell all the same, so that what is said about the larger eps is too high
FELL = "fell-below-larger-eps"
# a mark of what stands and was not attacked to the end, since it ran out of its budget
CUT = "out-of-budget"
# a guide's gradient was zero, or not finite, at the first step
FLAT_GUIDE = "guide-zero-gradient"
# ranges of absent classes that are listed one by one
LISTED = 5
# absent classes that are called by their names
NAMED = 3
# those that clean accuracy, an attack's figure and the worst case are computed from
COUNTED = ("example_id", "label", "goal", "adv_pred", "clean_correct", "success", *SEALED)


def passes(forwards: Any, backwards: Any) -> Any:
    """Passes of both kinds in forward passes, of numbers, arrays or columns; a backward pass takes about two."""
    return forwards + 2 * backwards


def spent(rows: pd.DataFrame) -> NDArray[np.int64]:
    """What was spent on each image in forward passes, int64 [n], also of rows from before that was a column."""
    found: NDArray[np.int64] = passes(rows["forwards"].to_numpy(), rows["backwards"].to_numpy())
    return found


def correct(rows: pd.DataFrame) -> Marks:
    """Whether the clean image was classified correctly, bool [n]."""
    return rows["clean_correct"].to_numpy(dtype=bool)


def broken(rows: pd.DataFrame, rejected: int | None = None) -> Marks:
    """Whether an image that was classified correctly is misclassified under the attack, whatever it aimed at; bool [n].

    rejected: behind a detector, its class for what it rejects: such an answer breaks nothing. An answer that is not
    finite (-1) does, and so does a wrong one when the verdict was taken a second time.
    """
    return correct(rows) & misled(rows, rejected)


def misled(rows: pd.DataFrame, rejected: int | None = None) -> Marks:
    """Whether the adversarial image is answered wrongly and accepted, whatever became of the clean one; bool [n]."""
    found = _wrong(rows, "adv_pred", rejected) | misled_clean(rows, rejected)  # that one lies within any eps too
    return found | _wrong(rows, "sealed_adv", rejected) if "sealed_adv" in rows else found


def misled_clean(rows: pd.DataFrame, rejected: int | None = None) -> Marks:
    """Whether the clean image was answered wrongly, and accepted, in the second verdict; bool [n]."""
    none: Marks = np.zeros(len(rows), dtype=np.bool_)
    return _wrong(rows, "sealed_clean", rejected) if "sealed_clean" in rows else none


def _wrong(rows: pd.DataFrame, column: str, rejected: int | None) -> Marks:
    answers: NDArray[np.int64] = rows[column].to_numpy()
    wrong: Marks = answers != rows["label"].to_numpy()
    return wrong if rejected is None else wrong & (answers != rejected)


def succeeded(rows: pd.DataFrame) -> Marks:
    """Whether the attack reached what it aimed at, in either verdict where there are two, bool [n]."""
    found: Marks = rows["success"].to_numpy(dtype=bool)
    return found | rows["sealed_success"].to_numpy(dtype=bool) if "sealed_success" in rows else found


def success_of(rows: pd.DataFrame, rejected: int) -> Marks:
    """What `success` must be by the other columns, bool [n]: the goal reached, or, without a goal, the image broken."""
    aimed = rows["goal"].to_numpy() >= 0
    found = correct(rows) & _wrong(rows, "adv_pred", rejected)
    return np.where(aimed, (rows["adv_pred"] == rows["goal"]).to_numpy(), found)


def absent_classes(rows: pd.DataFrame, classes: int | None, titles: Sequence[str] | None = None) -> str:
    """The classes that no image of the rows has, in words: "classes 2-9 absent", the only one or two by their names if
    they have `titles`; "" where none is, or nobody knows."""
    missing = sorted(set(range(classes or 0)) - set(rows["label"].tolist())) if len(rows) else []
    runs: list[list[int]] = []
    for each in missing:
        if runs and runs[-1][-1] == each - 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    if len(runs) > LISTED:
        return f"{len(missing)} of {classes} classes absent"
    if titles and 0 < len(missing) <= NAMED and max(missing) < len(titles):
        words = [f"{each} ({titles[each]})" for each in missing]
        return f"class{'es' if len(missing) > 1 else ''} {', '.join(words)} absent"
    names = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"class{'es' if len(missing) > 1 else ''} {', '.join(names)} absent" if missing else ""


def contradictory(rows: pd.DataFrame, *, guarded: bool) -> Marks:
    """Whether a row says of itself what cannot be, bool [n]: a verdict that does not follow from its own answers.

    guarded: a detector may have rejected the image, so that a wrong answer need not be a success.
    """
    aimed = rows["goal"].to_numpy() >= 0
    due = np.where(aimed, (rows["adv_pred"] == rows["goal"]).to_numpy(), broken(rows))
    won = succeeded(rows)
    found: Marks = won & ~due if guarded else won != due
    if "passes" in rows:
        found = found | (rows["passes"].to_numpy() != spent(rows))
    if "clean_pred" in rows:
        found = found | (correct(rows) != (rows["clean_pred"] == rows["label"]).to_numpy())
    return found


def attacked(rows: pd.DataFrame, besides: Any = False) -> int:
    """How many images the attack worked on: a trial found the image, or passes were spent where none did better than
    the image that was taken over. besides: bool [n], images that count whatever was spent on them."""
    return int(((rows["trial"] >= 0) | (rows["forwards"] > 0) | besides).sum())


def marked(rows: pd.DataFrame, flag: str) -> Any:
    """Which images carry a flag, a boolean Series."""
    return rows["flags"].fillna("").astype(str).str.contains(flag, regex=False)

"""A stored evaluation written out: rows and adversarial images, as they were judged or in 8 bits, judged again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, predictions
from robench.data.dataset import open_dataset
from robench.device import choose_device, full_precision
from robench.errors import BadInput
from robench.errors import shown as shown_name
from robench.evaluation.recorded_command import command_of
from robench.exchange.rounding import rounded_inside
from robench.exchange.writers import FORMS, Array, check_place, writing
from robench.norms import NORMS
from robench.progress import bar, say
from robench.ranges import whole
from robench.results.accuracy import Figure, Measure, attack_figure
from robench.results.rows import SEALED, succeeded, success_of
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.opened import How, Opened, open_evaluation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rounded:
    """What became of an evaluation's finds in 8 bits: how many there were, how many survive, how many more images are
    broken that were not, and the figure. Of an attack success rate a find is a goal that was reached."""

    finds: int
    survive: int
    new: int
    figure: Figure

    @property
    def share(self) -> float:
        """The share of finds that survive, 1 where there was none."""
        return self.survive / self.finds if self.finds else 1.0

    def to_json(self) -> dict[str, Any]:
        """The counts, and the figure as a fraction with its interval."""
        return {
            "finds": self.finds, "survive": self.survive, "share": self.share, "new": self.new,
            "value": self.figure.value, "interval": list(self.figure.interval),
        }  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written where: the images' number and kind, the float figure, and what rounding made of it."""

    evaluation: str
    form: str
    out: Path
    images: int
    kind: str
    measure: str
    figure: Figure
    rounded: Rounded | None = None

    @property
    def note(self) -> str:
        """What is to be known of what was written."""
        return "" if self.kind == "uint8" else FORMS[self.form].note

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        found = {
            "evaluation": self.evaluation, "to": self.form, "out": str(self.out), "images": self.images,
            "pixels": self.kind, "measure": self.measure, "value": self.figure.value,
            "interval": list(self.figure.interval), "note": self.note,
        }  # fmt: skip
        return found | ({"uint8": self.rounded.to_json()} if self.rounded else {})


def export(
    store: Store, name: str, form: str, out: Path, *, uint8: bool = False, force: bool = False, how: How | None = None
) -> Exported:
    """Write an evaluation's rows and images to `out` in a form; with `uint8` as whole numbers of 255 inside the ball,
    judged again by the model, which is opened as `how` says.

    Raises BadInput for an evaluation that is not complete, a form that there is not, a place that is taken, and 8 bits
    of images that are no levels of 255.
    """
    check_place(out, form, force)
    folder = store.find_evaluation(name)
    if folder.result is None:
        raise BadInput(f"The evaluation {folder.job_id} is not complete; run its command again, then export it.")
    rows, metric = folder.rows(), folder.about.metric
    places = _places(folder, how or How())
    judge = _rounding(open_evaluation(store, folder, _checked(how or How()))) if uint8 else None
    kind, done = "uint8" if uint8 else "float32", 0
    shape = (len(rows), *folder.images(*folder.ranges()[0]).shape[1:])
    with bar(f"Exporting {folder.job_id}") as shown, writing(out, form, shape, kind, _about(folder, kind)) as add:
        for part, images in _parts(folder, rows):
            if places is not None:
                part = part.assign(index=places[part["example_id"].to_numpy()])
            add(*(judge.judged(part, images) if judge else (part, images.numpy())))
            done += len(part)
            shown.update(done / len(rows), f"{done:,} images")
    figure, rounded = attack_figure(rows, metric), judge.outcome() if judge else None
    return Exported(folder.job_id, form, out, len(rows), kind, Measure(metric), figure, rounded)


def _checked(how: How) -> How:
    """The same on a device that there is."""
    return How(how.model, whole("--batch-size", how.batch_size), choose_device(how.device), how.data, how.trust)


def _parts(folder: EvaluationFolder, rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, Tensor]]:
    """Rows and images, shard by shard."""
    at = 0
    for start, stop in folder.ranges():
        yield rows.iloc[at : at + stop - start].reset_index(drop=True), folder.images(start, stop)
        at += stop - start


def _places(folder: EvaluationFolder, how: How) -> Array | None:
    """Where the images of a draw stand in the data's own order, int64 [N]; None where they are in it, or the data are
    not at hand."""
    spec, about = folder.spec, folder.about
    if not spec.get("draw"):
        return None
    try:
        data = open_dataset(about.at_hand(about.dataset), how.data)
        if data.drawn(spec["draw"]).digest == spec["data_digest"]:
            return data.places(spec["draw"]).numpy()
    except BadInput:
        pass
    say(f"The data {about.dataset} are not at hand, so the export cannot say which of them its images are of (--data).")
    return None


def _about(folder: EvaluationFolder, kind: str) -> dict[str, Any]:
    """What is recorded beside an export."""
    spec, about = folder.spec, folder.about
    return {
        "evaluation": folder.job_id,
        "model": about.model,
        "model_digest": spec["model_digest"],
        "dataset": about.dataset,
        "data_digest": spec["data_digest"],
        "attack": folder.label,
        **({"draw": spec["draw"]} if spec.get("draw") else {}),
        "norm": spec["norm"],
        "eps": ThreatModel.of(spec["norm"], spec["eps"]).eps_text,
        "metric": about.metric,
        "pixels": kind,
        "command": command_of(folder),
    }


def _rounding(opened: Opened) -> _Rounding:
    """What rounds an evaluation's images. Raises BadInput for data whose own are no levels of 255."""
    if opened.split.images(slice(0, 1)).is_floating_point():
        raise BadInput(
            f"The images of {shown_name(opened.about.dataset)} are no levels of 255, so that what is within eps of "
            "them may not be so in 8 bits; export without --uint8, as float32."
        )
    return _Rounding(opened)


class _Rounding:
    """Rounds images inside the ball, and asks the model again."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.finds, self.survive, self.new, self.counted, self.n = opened, 0, 0, 0, 0, 0

    def judged(self, rows: pd.DataFrame, images: Tensor) -> tuple[pd.DataFrame, Array]:
        """The rows with the verdict on the rounded images, and those, uint8 [m, C, H, W]."""
        opened, ids = self.opened, torch.tensor(rows["example_id"].to_numpy().copy())
        original = opened.split.images(ids)
        found = rounded_inside(opened.threat, original, images)
        answers = predictions(self._asked(found.float() / 255))
        x0, x = original.float() / 255, found.float() / 255
        told = {
            "adv_pred": answers.numpy(),
            "float_success": succeeded(rows),
            **{name: norm.distance(x0, x).numpy() for name, norm in NORMS.items() if name in rows},
        }
        rows = rows.drop(columns=list(SEALED), errors="ignore").assign(**told)
        rows = rows.assign(success=success_of(rows, opened.classes))
        then, now = rows["float_success"].to_numpy(), rows["success"].to_numpy()
        self.finds += int(then.sum())
        self.survive += int((then & now).sum())
        self.new += int((~then & now).sum())
        self.counted += attack_figure(rows, opened.about.metric).count
        self.n += len(rows)
        return rows, found.numpy()

    def outcome(self) -> Rounded:
        """What came of all images."""
        return Rounded(self.finds, self.survive, self.new, Figure(self.counted, self.n))

    def _asked(self, images: Tensor) -> Tensor:
        """The model's logits in float32, as verdicts are taken."""
        opened = self.opened
        classifier = Classifier(opened.module, opened.classes, device=opened.how.device)
        try:
            with full_precision():
                classifier.check_mode()
                return clean_logits(classifier, images, opened.how.batch_size)
        finally:
            classifier.release()

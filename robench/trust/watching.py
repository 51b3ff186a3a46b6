"""What fitted detectors say of themselves and of an evaluation's images, beside what their tensors say of these."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from robench.attack.judge import Settings
from robench.detector.fitting import FITTING_SHARE, Watch, load, plain, right_ones, scored, shuffled
from robench.detector.measuring import KINDS, Detection, figures, kept, scores
from robench.detector.request import LEAST_BROKEN
from robench.device import full_precision
from robench.store.files import Damaged, read_sealed
from robench.store.records import ScoresRecord
from robench.trust.answers import too_many
from robench.trust.names import misnamed
from robench.trust.opened import Opened
from robench.trust.records import alike
from robench.trust.recount import steady

# scores may differ by this share of their spread, and of themselves, as kernels of other batch sizes round otherwise
APART, ROUNDING = 1e-2, 1e-4


@dataclass(frozen=True)
class Watched:
    """What is wrong with an evaluation's detectors: how many scores are not theirs, and fields of their records."""

    scores: int = 0
    records: tuple[str, ...] = ()


def watched(opened: Opened) -> Watched:
    """Look at the detector that was attacked, and at those that scored the evaluation's images without being known.

    Scores that no table shows, as they are of other images than the stored ones, are passed over. Raises BadInput where
    a detector cannot be loaded or fails.
    """
    found, settings = Watched(), _settings(opened)
    stable = steady(opened, ())
    watches = {opened.watch.spec.job_id: opened.watch} if opened.watch else {}
    paths = sorted(opened.store.detectors.glob(f"*/scores-{opened.folder.job_id}.json"))
    watches |= {path.parent.name: load(opened.store, path.parent.name) for path in paths}
    for job_id, watch in sorted(watches.items()):
        watch.score.to(settings.device)
        wrong = [f"detector {job_id}: {name}" for name in _misfitted(opened, watch, settings, stable=stable)]
        found = replace(found, records=(*found.records, *wrong))
        table = kept(watch, opened.folder)
        if table is None:
            continue
        told = [f"scores of {job_id}: {name}" for name in _mistold(opened, watch, table)]
        count = _differing(table, scores(watch, opened.model.module, opened.split, opened.folder, settings), watch)
        found = Watched(found.scores + (count if stable else 0), (*found.records, *told))
    return found


def _settings(opened: Opened) -> Settings:
    """As the images were scored, as far as anything tells: the batch size of the first shard."""
    size = next(iter(opened.folder.notes()), {}).get("batch_size") or opened.how.batch_size
    return plain(Settings(seed=opened.spec["seed"], batch_size=size, device=opened.how.device))


def _differing(stored: pd.DataFrame, now: pd.DataFrame, watch: Watch) -> int:
    """How many stored scores are not those of the images, or lie on the other side of what decides: beyond rounding."""
    values, theirs = (table[[f"score_{kind}" for kind in KINDS]].to_numpy() for table in (now, stored))
    found = np.abs(values - theirs) > _slack(values)
    for at in (0.0, float(watch.score.threshold)):
        found |= ((values > at) != (theirs > at)) & (np.abs(values - at) > _slack(values))
    return too_many(int(found.sum()), found.size)


def _slack(values: Any) -> Any:
    """By how much scores may differ, like `values`: of their spread without a tenth on each side, and of themselves."""
    low, high = np.quantile(values, [0.1, 0.9])
    return APART * (high - low) + ROUNDING * np.abs(values)


def _mistold(opened: Opened, watch: Watch, table: pd.DataFrame) -> list[str]:
    """The fields of a record of scores that do not follow from the scores, the detector and the evaluation."""
    stem = watch.folder / f"scores-{opened.folder.job_id}.json"
    try:
        stated = read_sealed(stem, ScoresRecord).value
    except Damaged:  # nobody reads it then
        return []
    found = Detection.of(
        figures(table, float(watch.score.threshold)), watch, opened.model.name, opened.dataset, opened.folder
    )
    expected = json.loads(json.dumps(found.to_json()))
    digest = opened.spec["model_digest"]
    if opened.store.model_digests()[0].get(stated.get("model", "")) == digest or opened.how.model is not None:
        expected.pop("model")  # it has several names, or somebody gave it one
    expected.pop("dataset")
    # an early record lacks some, and tables have them from the scores
    return [key for key, value in expected.items() if key in stated and not alike(value, stated[key])]


def _misfitted(opened: Opened, watch: Watch, settings: Settings, *, stable: bool) -> list[str]:
    """The fields of fitted.json that do not follow from the detector's tensors, its spec, the model and the data, and
    "the stored threshold" where that one does not reject the share of clean images that the spec says."""
    said, spec, data = watch.fitted, watch.spec, opened.dataset
    wrong = {
        "model": "model" in said and misnamed(opened.store, said["model"], spec.model_digest),
        "threshold": not alike(float(watch.score.threshold), said.get("threshold")),
        "classes": said["classes"] != opened.dataset.classes,
        "fitted_on": said["fitted_on"] > spec.images,
        "adversarial": not LEAST_BROKEN <= said["adversarial"] <= said["fitted_on"],
    }
    if data.val.digest == spec.validation_digest:
        val = shuffled(data.val)
        cut = int(FITTING_SHARE * len(val))
        wrong["threshold_images"] = said["threshold_images"] != len(val) - cut
        module = opened.model.module.to(settings.device)
        if stable:
            with full_precision():
                right = len(right_ones(module, val.subset(slice(0, cut)), settings)[: spec.images])
                clean = scored(watch.score, module, val.subset(slice(cut, None)).pixels(slice(None)), settings)
            wrong["fitted_on"] |= too_many(abs(said["fitted_on"] - right), cut) > 0
            due = float(torch.quantile(clean, 1 - spec.fpr, interpolation="higher"))
            apart = abs(due - float(watch.score.threshold))
            wrong["the stored threshold"] = apart > float(_slack(clean.numpy()).max())
    return [name for name, is_wrong in wrong.items() if is_wrong]

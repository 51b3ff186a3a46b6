"""What a fitted detector makes of an evaluation's images: a score per image, and the figures of all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from robench.attack.judge import Examples, Settings
from robench.data.dataset import Dataset, Split
from robench.data.repeated import fitted_flag
from robench.detector.fitting import Subject, Watch, noisy, plain, scored
from robench.device import full_precision
from robench.results.accuracy import Figure
from robench.results.rows import SEALED, correct, misled, misled_clean
from robench.store.files import Damaged, checksum, read_sealed, write_file, write_sealed
from robench.store.records import ScoresRecord
from robench.store.runs import EvaluationFolder

# the columns of an evaluation's rows that stand beside its scores, the second verdict's where there is one
SCORED = ("example_id", "label", "clean_pred", "adv_pred", "clean_correct", "success", *SEALED)
# what is scored, each in a column of its own
KINDS = ("clean", "noisy", "adversarial")


@dataclass(frozen=True)
class Figures:
    """What a detector finds on an evaluation's images: how many there are, were attacked and broken, the area under the
    curve of broken images against clean and noisy ones (None without some of both), and shares by name."""

    n: int
    attacked: int
    broken: int
    auc: float | None
    shares: dict[str, Figure]

    def value(self, name: str) -> float | None:
        """A share as a fraction, None where it is one of no image."""
        figure = self.shares[name]
        return figure.value if figure.n else None

    def to_json(self) -> dict[str, Any]:
        """Shares as fractions, each with its interval and its number of images."""
        found: dict[str, Any] = {"n": self.n, "attacked": self.attacked, "broken": self.broken, "auc": self.auc}
        for name, figure in self.shares.items():
            found |= {name: self.value(name), f"{name}_interval": list(figure.interval), f"{name}_n": figure.n}
        return found


@dataclass(frozen=True)
class Detection:
    """A detector on the images of one evaluation that did not know of it. fitted: the id of the fitted detector; flags:
    what its figures are to be doubted for."""

    figures: Figures
    model: str
    dataset: str
    detector: str
    detector_options: dict[str, Any]
    trained_on: str
    attack: str
    options: dict[str, Any]
    norm: str
    eps: str
    false_positive_target: float
    evaluation: str
    fitted: str
    flags: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, figures: Figures, watch: Watch, model: str, dataset: Dataset, folder: EvaluationFolder) -> Detection:
        """The figures with the names of all that they are about."""
        spec, about, fitted = folder.spec, folder.about, fitted_flag(dataset)
        flags = dict.fromkeys([*([fitted] if fitted else []), *(folder.result.flags if folder.result else ())])
        return cls(
            figures, model, dataset.name, watch.spec.detector, watch.spec.options, watch.spec.trained_on,
            spec["attack"], about.given_options, spec["norm"], about.eps, watch.spec.fpr, folder.job_id,
            watch.spec.job_id, tuple(flags), spec["seed"],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Figures and names as JSON types."""
        names = {each.name: getattr(self, each.name) for each in fields(self)}
        figures = names.pop("figures")
        return {**figures.to_json(), **names, "flags": list(self.flags)}


def measure(watch: Watch, subject: Subject, folder: EvaluationFolder, settings: Settings) -> Detection:
    """How the detector fares on the images of a finished evaluation that did not know of it.

    A row per image goes to the detector's folder. Images that the classifier gets wrong without an attack count for
    the false-positive rate and against robust accuracy, and nowhere else.
    """
    name = f"scores-{folder.job_id}"
    threshold = float(watch.score.threshold)
    names = subject.name, subject.dataset
    there = kept(watch, folder)
    if there is not None:
        return Detection.of(figures(there, threshold), watch, *names, folder)
    split = subject.dataset.drawn(folder.spec.get("draw"))
    table = scores(watch, subject.module, split, folder, settings)
    sums = write_file(watch.folder / f"{name}.parquet", lambda aside: table.to_parquet(aside, index=False))
    found = Detection.of(figures(table, threshold), watch, *names, folder)
    write_sealed(watch.folder / f"{name}.json", {**found.to_json(), "sha256": sums, "shards": folder.contents})
    return found


def scores(watch: Watch, module: nn.Module, split: Split, folder: EvaluationFolder, settings: Settings) -> pd.DataFrame:
    """A detector's scores of an evaluation's images, of the clean ones and of noisy ones, a row per image."""
    settings, rows = plain(settings), folder.rows()
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    examples = Examples(split.pixels(ids), split.labels[ids], ids)
    images = torch.cat([folder.images(start, stop) for start, stop in folder.ranges()])
    module = module.to(settings.device)
    watch.score.to(settings.device)
    attacked = torch.tensor(correct(rows))
    copies = examples.x.clone()
    broken = torch.tensor(misled(rows))
    copies[attacked] = noisy(
        Examples(examples.x[attacked], examples.y[attacked], ids[attacked]), images[attacked], settings.seed,
        broken[attacked],
    )  # fmt: skip
    with full_precision():
        found = {
            kind: scored(watch.score, module, x, settings).numpy()
            for kind, x in zip(KINDS, (examples.x, copies, images), strict=True)
        }
    table: pd.DataFrame = rows[[name for name in SCORED if name in rows]].copy()
    for kind, values in found.items():
        table[f"score_{kind}"] = values
    return table


def kept(watch: Watch, folder: EvaluationFolder) -> pd.DataFrame | None:
    """The scores of these very images by this detector, if they were measured before and are undamaged."""
    stem = watch.folder / f"scores-{folder.job_id}"
    try:
        made = read_sealed(stem.with_suffix(".json"), ScoresRecord).value
        same = (made["fitted"], made["shards"]) == (watch.spec.job_id, folder.contents)
        if same and made["sha256"] == checksum(stem.with_suffix(".parquet")):
            return _sound(pd.read_parquet(stem.with_suffix(".parquet")), folder)
    except (Damaged, OSError, KeyError, ValueError, TypeError):
        pass  # scores from before they said of which images they are are measured again, too
    return None


def _sound(table: pd.DataFrame, folder: EvaluationFolder) -> pd.DataFrame | None:
    """The scores of an evaluation's rows, None where they are of others, or no scores."""
    rows = folder.rows(SCORED)
    names = [f"score_{kind}" for kind in KINDS]
    same = list(table.columns) == [*rows.columns, *names] and table[[*rows.columns]].equals(rows)
    scores = [table[f"score_{kind}"].to_numpy() for kind in KINDS] if same else []
    return table if same and all(s.dtype == float and np.isfinite(s).all() for s in scores) else None


def figures(table: pd.DataFrame, threshold: float) -> Figures:
    """The figures of a detector from its rows, shares as fractions.

    acc_nadv: share of clean and noisy images taken for what they are, at even odds. acc_com: share of attacked images
    detected at even odds or still classified correctly. auc: of broken images against clean and noisy ones.
    detection_rate: share of broken images above `threshold`, which accepts all but a stated share of clean images.
    robust_accuracy: share of all images classified correctly and accepted, and not broken by an accepted image; the
    clean one breaks itself where a second verdict found another answer.
    """
    started = table[correct(table)]
    fallen = started[misled(started)]  # whatever class the attack aimed at
    honest = pd.concat([started["score_clean"], started["score_noisy"]])
    nadv = Figure(int((honest < 0).sum()), len(honest))
    com = Figure(int(((started["score_adversarial"] >= 0) | ~misled(started)).sum()), len(started))
    caught = Figure(int((fallen["score_adversarial"] > threshold).sum()), len(fallen))
    rejected = Figure(int((table["score_clean"] > threshold).sum()), len(table))
    accepted = correct(table) & (table["score_clean"] <= threshold)
    fooled = misled_clean(table) | (misled(table) & (table["score_adversarial"] <= threshold))
    robust = Figure(int((accepted & ~fooled).sum()), len(table))
    auc = None
    if len(fallen) and len(honest):
        from sklearn.metrics import roc_auc_score  # takes its time

        truth = [False] * len(honest) + [True] * len(fallen)
        auc = float(roc_auc_score(truth, [*honest, *fallen["score_adversarial"]]))
    shares = {
        "acc_nadv": nadv,
        "acc_com": com,
        "detection_rate": caught,
        "false_positive_rate": rejected,
        "clean_accuracy": Figure(int(accepted.sum()), len(table)),
        "robust_accuracy": robust,
    }
    return Figures(len(table), len(started), len(fallen), auc, shares)

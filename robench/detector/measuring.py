"""What a fitted detector makes of an evaluation's images: a score per image, and the figures of all of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from robench.attack.judge import Examples, Settings
from robench.detector.fitting import Subject, Watch, noisy, plain, scored
from robench.device import full_precision
from robench.results.accuracy import Figure
from robench.results.rows import correct, misled
from robench.store.files import Damaged, checksum, read_sealed, write_file, write_sealed
from robench.store.runs import EvaluationFolder


def measure(watch: Watch, subject: Subject, folder: EvaluationFolder, settings: Settings) -> dict[str, Any]:
    """How the detector fares on the images of a finished evaluation that did not know of it.

    A row per image goes to the detector's folder. Images that the classifier gets wrong without an attack count for
    the false-positive rate and against robust accuracy, and nowhere else.
    """
    name = f"scores-{folder.job_id}"
    threshold = float(watch.score.threshold)
    kept = _kept(watch, folder)
    if kept is not None:
        return {**figures(kept, threshold), **_names(watch, subject, folder)}
    settings, rows = plain(settings), folder.rows()
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    split = subject.dataset.test
    examples = Examples(split.pixels(ids), split.labels[ids], ids)
    images = torch.cat([folder.images(start, stop) for start, stop in folder.ranges()])
    module = subject.module.to(settings.device)
    watch.score.to(settings.device)
    attacked = torch.tensor(correct(rows))
    copies = examples.x.clone()
    broken = torch.tensor(misled(rows))
    copies[attacked] = noisy(
        Examples(examples.x[attacked], examples.y[attacked], ids[attacked]), images[attacked], settings.seed,
        broken[attacked],
    )  # fmt: skip
    with full_precision():
        scores = {
            kind: scored(watch.score, module, x, settings).numpy()
            for kind, x in (("clean", examples.x), ("noisy", copies), ("adversarial", images))
        }
    table = rows[["example_id", "label", "clean_pred", "adv_pred", "clean_correct", "success"]].copy()
    for kind, values in scores.items():
        table[f"score_{kind}"] = values
    sums = write_file(watch.folder / f"{name}.parquet", lambda aside: table.to_parquet(aside, index=False))
    result = {**figures(table, threshold), **_names(watch, subject, folder)}
    write_sealed(watch.folder / f"{name}.json", {**result, "sha256": sums, "shards": folder.contents})
    return result


def _kept(watch: Watch, folder: EvaluationFolder) -> pd.DataFrame | None:
    """The scores of these very images by this detector, if they were measured before and are undamaged."""
    stem = watch.folder / f"scores-{folder.job_id}"
    try:
        made = read_sealed(stem.with_suffix(".json")).value
        same = (made["fitted"], made["shards"]) == (watch.spec.job_id, folder.contents)
        if same and made["sha256"] == checksum(stem.with_suffix(".parquet")):
            return pd.read_parquet(stem.with_suffix(".parquet"))
    except (Damaged, OSError, KeyError):
        pass  # scores from before they said of which images they are are measured again, too
    return None


def _names(watch: Watch, subject: Subject, folder: EvaluationFolder) -> dict[str, Any]:
    spec = folder.spec
    return {
        "model": subject.name,
        "dataset": subject.dataset.name,
        "detector": watch.spec.detector,
        "detector_options": watch.spec.options,
        "trained_on": watch.spec.trained_on,
        "attack": spec["attack"],
        "options": folder.about.given_options,
        "norm": spec["norm"],
        "eps": folder.about.eps,
        "false_positive_target": watch.spec.fpr,
        "evaluation": folder.job_id,
        "fitted": watch.spec.job_id,
    }


def figures(table: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """The figures of a detector from its rows, shares as fractions.

    acc_nadv: share of clean and noisy images taken for what they are, at even odds. acc_com: share of attacked images
    detected at even odds or still classified correctly. auc: of broken images against clean and noisy ones.
    detection_rate: share of broken images above `threshold`, which accepts all but a stated share of clean images.
    robust_accuracy: share of all images classified correctly and accepted, and not broken by an accepted image.
    """
    started = table[correct(table)]
    fallen = started[misled(started)]  # whatever class the attack aimed at
    honest = pd.concat([started["score_clean"], started["score_noisy"]])
    nadv = Figure(int((honest < 0).sum()), len(honest))
    com = Figure(int(((started["score_adversarial"] >= 0) | ~misled(started)).sum()), len(started))
    caught = Figure(int((fallen["score_adversarial"] > threshold).sum()), len(fallen))
    rejected = Figure(int((table["score_clean"] > threshold).sum()), len(table))
    accepted = correct(table) & (table["score_clean"] <= threshold)
    fooled = misled(table) & (table["score_adversarial"] <= threshold)
    robust = Figure(int((accepted & ~fooled).sum()), len(table))
    auc = None
    if len(fallen) and len(honest):
        truth = [False] * len(honest) + [True] * len(fallen)
        auc = float(roc_auc_score(truth, [*honest, *fallen["score_adversarial"]]))
    found: dict[str, Any] = {"n": len(table), "attacked": len(started), "broken": len(fallen), "auc": auc}
    for name, figure in (
        ("acc_nadv", nadv), ("acc_com", com), ("detection_rate", caught), ("false_positive_rate", rejected),
        ("clean_accuracy", Figure(int(accepted.sum()), len(table))), ("robust_accuracy", robust),
    ):  # fmt: skip
        found[name] = figure.value if figure.n else None
        found[f"{name}_interval"] = list(figure.interval)
        found[f"{name}_n"] = figure.n
    return found

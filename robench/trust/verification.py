"""Re-check stored adversarial examples: still inside the threat model, and still answered as recorded?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robench import registry
from robench.attack.base import Attack
from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, predictions
from robench.data.dataset import Split, open_dataset
from robench.detector import fitting
from robench.device import choose_device, full_precision
from robench.errors import BadInput
from robench.models import LoadedModel, load_model
from robench.norms import NORMS
from robench.results.accuracy import Measure
from robench.results.rows import correct, success_of
from robench.results.summary import Summary
from robench.store.files import Damaged
from robench.store.runs import EvaluationFolder, Store
from robench.threat import TOLERANCE, ThreatModel

# a verdict may change with the batch size only where the two highest logits are this close, relative to their size
CLOSE = 1e-3

FAULTS = (
    "outside eps",
    "outside [0, 1]",
    "NaN pixels",
    "wrong label",
    "wrong verdict",
    "wrong distance",
    "wrong examples",
    "wrong goal",
    "wrong record",
    "damaged shard",
)


@dataclass(frozen=True)
class Verified:
    """The outcome for one evaluation: examples checked, faults by kind, and verdicts too close to call."""

    evaluation: str
    model: str
    attack: str
    examples: int
    expected: int
    faults: dict[str, int] = field(default_factory=dict)
    close: int = 0
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Checked, no fault, and every example of the spec is there."""
        return not self.reason and not any(self.faults.values()) and self.examples == self.expected

    @property
    def exit_code(self) -> int:
        """0 holds, 1 a fault, 2 could not be checked, 3 not finished."""
        if any(self.faults.values()):
            return 1
        return 2 if self.reason else 0 if self.holds else 3

    def to_json(self) -> dict[str, Any]:
        """The fields, and whether the check holds."""
        return {**asdict(self), "holds": self.holds}


def verify_all(
    store: Store,
    names: Sequence[str],
    model: str | None = None,
    batch_size: int = 97,
    device: str = "auto",
    data: Path | None = None,
) -> list[Verified]:
    """Check the named evaluations, or all of them. Raises BadInput where none of them can be checked."""
    if batch_size < 1:
        raise BadInput(f"--batch-size is {batch_size}, but must be at least 1.")
    ids = [store.find_evaluation(name).job_id for name in names] or store.evaluation_ids()
    if not ids:
        raise BadInput(f"There is no evaluation in {store.evaluations}; run 'robench evaluate' first.")
    checks = [_try(store, store.evaluation(i), model, batch_size, choose_device(device), data) for i in ids]
    if all(check.reason for check in checks):
        raise BadInput(checks[0].reason)
    return checks


def _try(
    store: Store, folder: EvaluationFolder, model: str | None, batch_size: int, device: str, data: Path | None
) -> Verified:
    """The check, or why there is none."""
    try:
        with full_precision():
            return verify(store, folder, model, batch_size, device, data)
    except BadInput as error:
        return Verified(folder.job_id, *_named(folder), 0, 0, reason=str(error))


def _named(folder: EvaluationFolder) -> tuple[str, str]:
    """Model and attack as recorded, as far as the record can be read."""
    try:
        return folder.about.model, folder.spec["attack"]
    except BadInput:
        return "", ""


def verify(
    store: Store, folder: EvaluationFolder, model: str | None, batch_size: int, device: str, data: Path | None
) -> Verified:
    """Check one evaluation's stored tensors against its rows, the data and the model."""
    spec, about = folder.spec, folder.about
    loaded = _model(store, model or about.at_hand(about.reference), spec["model_digest"], folder)
    dataset = loaded.on(open_dataset(about.at_hand(about.dataset), data))
    split = dataset.test
    if split.digest != spec["data_digest"]:
        raise BadInput(
            f"The data {about.dataset} are not those of evaluation {folder.job_id}; choose others with --data."
        )
    threat = ThreatModel.of(spec["norm"], spec["eps"])
    loaded.module.to(device)
    guard = fitting.load(store, spec["detector"]).guard(loaded.module).to(device) if spec.get("detector") else None
    classifier = Classifier(guard or loaded.module, dataset.classes, device=device)
    faults, close, examples = dict.fromkeys(FAULTS, 0), 0, 0
    attack: type[Attack] = registry.load("attack", spec["attack"]).base
    targeted = Measure(attack.metric) is Measure.SUCCESS
    access = "detector" if guard else "transfer" if spec.get("surrogate") else attack.access
    recorded = {"metric": attack.metric, "access": access, "eps": threat.eps_text}
    faults["wrong record"] += sum(getattr(about, key) != value for key, value in recorded.items())
    faults["damaged shard"] += len(folder.damaged())
    try:
        classifier.check_mode()
        rows = folder.rows()
        for start, stop in folder.ranges():
            part = rows[(rows["example_id"] >= start) & (rows["example_id"] < stop)]
            images = folder.images(start, stop)
            if part["example_id"].tolist() != list(range(start, stop)) or len(images) != stop - start:
                faults["wrong examples"] += stop - start
                continue
            faults["wrong goal"] += int(((part["goal"] >= 0) != targeted).sum())
            if targeted:
                faults["wrong goal"] += _wrong_goals(classifier, spec, split, part, batch_size)
            close += _check_shard(classifier, threat, split, images, part, batch_size, faults)
            examples += stop - start
    finally:
        classifier.release()
    if any("randomised" in note.get("flags", []) for note in folder.notes()):
        close, faults["wrong verdict"] = close + faults["wrong verdict"], 0  # another draw, another answer
    if examples == spec["count"]:
        faults["wrong record"] += _misstated(folder, folder.summarised(attack.metric))
    attack_name = spec["attack"] + about.against
    return Verified(folder.job_id, about.model, attack_name, examples, spec["count"], faults, close)


def _misstated(folder: EvaluationFolder, figures: Summary) -> bool:
    """Whether result.json is damaged or has other figures than the rows."""
    try:
        stated = folder.stated
    except Damaged:
        return True
    expected = figures.to_json()
    return stated is not None and any(expected[key] != stated.get(key) for key in expected if key != "seconds")


def _model(store: Store, reference: str, digest: str, folder: EvaluationFolder) -> LoadedModel:
    named = reference in store.model_names()
    if not reference:
        raise BadInput(
            f"Evaluation {folder.job_id} is of a model handed over in a program; give one that can be loaded "
            "with --model."
        )
    try:
        loaded = load_model(reference, store)
    except BadInput as error:
        raise BadInput(
            f"The model of evaluation {folder.job_id} is needed to verify it; say where it is with --model. {error}"
        ) from error
    if loaded.digest != digest:
        where = "was trained again" if named else "has changed"
        raise BadInput(
            f"The model {reference!r} {where} since evaluation {folder.job_id}; give the old one with --model."
        )
    return loaded


def _check_shard(
    classifier: Classifier,
    threat: ThreatModel,
    split: Split,
    images: Tensor,
    rows: pd.DataFrame,
    batch_size: int,
    faults: dict[str, int],
) -> int:
    """Add a shard's faults to `faults`; returns how many verdicts are too close to call."""
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    x0, labels = split.pixels(ids), split.labels[ids]
    flat = images.flatten(1)
    finite = flat.isfinite().all(1)
    faults["NaN pixels"] += int((~finite).sum())
    faults["outside [0, 1]"] += int((finite & ((flat < 0) | (flat > 1)).any(1)).sum())
    inside = threat.distance(x0, images) <= threat.radius + TOLERANCE
    faults["outside eps"] += int((finite & ~inside).sum())
    for name, norm in NORMS.items():
        if name not in rows and name != threat.norm:  # made before there was this norm
            continue
        recorded = torch.tensor(rows[name].to_numpy().copy())
        faults["wrong distance"] += int((~((norm.distance(x0, images) - recorded).abs() <= 1e-6)).sum())
    faults["wrong label"] += int((labels != torch.tensor(rows["label"].to_numpy().copy())).sum())
    clean = clean_logits(classifier, x0, batch_size)
    adversarial = clean_logits(classifier, images, batch_size)
    close = 0
    for logits, column in ((clean, "clean_pred"), (adversarial, "adv_pred")):
        differs = predictions(logits) != torch.tensor(rows[column].to_numpy().copy())
        top = logits.topk(2, dim=1).values
        tie = (top[:, 0] - top[:, 1]) <= CLOSE * logits.abs().amax(1)
        faults["wrong verdict"] += int((differs & ~tie).sum())
        close += int((differs & tie).sum())
    faults["wrong verdict"] += _inconsistent(rows, classifier.classes)
    return close


def _wrong_goals(
    classifier: Classifier, spec: dict[str, Any], split: Split, rows: pd.DataFrame, batch_size: int
) -> int:
    """How many goals are not those the attack draws."""
    attack = registry.load("attack", spec["attack"]).build(spec["attack_options"])
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    classifier.labels = split.labels[ids]
    logits = classifier.fold(clean_logits(classifier, split.pixels(ids), batch_size), torch.arange(len(ids)))
    goal = attack.trials(split.labels[ids], logits, ids, spec["seed"]).goal[:, 0]
    return int((goal != torch.tensor(rows["goal"].to_numpy().copy())).sum())


def _inconsistent(rows: pd.DataFrame, classes: int) -> int:
    """How many rows have a success or a clean verdict that does not follow from their own predictions."""
    right = (rows["clean_pred"] == rows["label"]).to_numpy()
    return int(((success_of(rows, classes) != rows["success"].to_numpy(dtype=bool)) | (right != correct(rows))).sum())

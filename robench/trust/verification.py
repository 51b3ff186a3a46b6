"""Re-check stored adversarial examples: still inside the threat model, and still answered as recorded?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, inspect, predictions
from robench.device import choose_device, full_precision, numbers_apart
from robench.errors import BadInput, first_line
from robench.norms import NORMS
from robench.ranges import Range, whole
from robench.results.rows import correct, success_of
from robench.store.known import secret
from robench.store.runs import EvaluationFolder, Store
from robench.threat import TOLERANCE
from robench.trust.again import attack_again, made_elsewhere
from robench.trust.answers import Chance, tied, too_many
from robench.trust.opened import How, Opened, open_evaluation
from robench.trust.origins import aged
from robench.trust.records import misrecorded, misstated, unjudged
from robench.trust.recount import impossible
from robench.trust.rungs import unsupported
from robench.trust.second_look import differing
from robench.trust.watching import watched

FAULTS = (
    "outside eps",
    "outside [0, 1]",
    "NaN pixels",
    "wrong label",
    "wrong verdict",
    "wrong distance",
    "wrong examples",
    "wrong goal",
    "wrong counts",
    "wrong scores",
    "wrong record",
    "damaged shard",
    "missing flag",
    "too many ties",
    "unlikely verdict",
    "broken again",
    "wrong when sealed",
    "fell within a larger eps",
)
# flags that asking the model shows at once. One is missing where most shards that do not note it show it: where answers
# differ by about as much as kernels do, one shard may show what another does not
SHOWN_AT_ONCE = ("randomised", "batch-dependent", "gradient-at-inference")


@dataclass(frozen=True)
class Verified:
    """The outcome for one evaluation: examples checked, faults by kind, and verdicts too close to call.

    records: the fields of about.json, of result.json and of detectors' records that are wrong. again: on how many
    images that are said to stand the attack was run once more. unsealed: why no process that knows nothing of the
    evaluation could be asked. made_by: whose code made it, "" where that is today's. elsewhere: its images were
    imported, so that there was no attack to run again.
    """

    evaluation: str
    model: str
    attack: str
    examples: int
    expected: int
    faults: dict[str, int] = field(default_factory=dict)
    close: int = 0
    reason: str = ""
    records: tuple[str, ...] = ()
    again: int = 0
    unsealed: str = ""
    made_by: str = ""
    elsewhere: bool = False

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
    trust: bool = False,
    again: int = 0,
) -> list[Verified]:
    """Check the named evaluations, or all of them; one that cannot be checked says why and stops no other.

    trust: run the code that records name, whoever wrote them. again: on how many images of each evaluation that are
    said to stand its attack is run once more. Raises BadInput where there is none, and for the only one where it cannot
    be checked.
    """
    batch_size, device = whole("--batch-size", batch_size), choose_device(device)
    again = whole("--again", again, Range(0, 100_000_000))
    ids = list(dict.fromkeys(store.find_evaluation(name).job_id for name in names)) or store.evaluation_ids()
    if not ids:
        raise BadInput(f"There is no evaluation in {store.evaluations}; run 'robench evaluate' first.")
    how = How(model, batch_size, device, data, trust, again)
    checks = [_try(store, store.evaluation(i), how) for i in ids]
    if len(checks) == 1 and checks[0].exit_code == 2 and not checks[0].examples:
        raise BadInput(checks[0].reason)
    return checks


def _try(store: Store, folder: EvaluationFolder, how: How) -> Verified:
    """The check, or why there is none."""
    try:
        with full_precision(), numbers_apart():
            torch.manual_seed(int.from_bytes(secret()[:6], "big"))  # for models that draw noise: the same every time
            return verify(store, folder, how)
    except BadInput as error:
        reason = str(error)
    except (Exception, SystemExit) as error:  # whatever a model does, and whatever the files of others hold
        reason = (
            f"The check of evaluation {folder.job_id} ended in {type(error).__name__} "
            f"({first_line(error, 160, end='.')}); its files are damaged, or its model fails on them."
        )
    return Verified(folder.job_id, *_named(folder), 0, 0, reason=reason)


def _named(folder: EvaluationFolder) -> tuple[str, str]:
    """Model and attack as recorded, as far as the record can be read."""
    try:
        return str(folder.about.model), str(folder.spec["attack"])
    except (BadInput, KeyError, TypeError, ValueError):
        return "", ""


def verify(store: Store, folder: EvaluationFolder, how: How) -> Verified:
    """Check one evaluation's stored tensors and records against its rows, its spec, the data and the model.

    Raises BadInput where it cannot be checked.
    """
    opened = open_evaluation(store, folder, how)
    spec, check = opened.spec, _Check(opened)
    attack = spec["attack"] + opened.about.against
    found = Verified(folder.job_id, opened.about.model, attack, 0, spec["count"], check.faults, made_by=aged(folder))
    rows, records = folder.rows(doubted=True), misrecorded(opened)
    check.run(rows)
    if check.examples == spec["count"]:
        records += misstated(folder, folder.summarised(opened.attacker.metric, doubted=True))
    reason = unjudged(opened)
    try:
        if check.examples == spec["count"]:
            behind = watched(opened)
            records += behind.records
            check.faults["wrong scores"] += behind.scores
        check.faults["fell within a larger eps"] += unsupported(store, spec, rows)
    except BadInput as error:
        reason = reason or str(error)
    check.faults["wrong record"] += len(records)
    unsealed = ""
    if not check.faults["wrong verdict"]:  # else it is known that the rows are not the model's
        check.faults["wrong when sealed"], unsealed = differing(opened, rows)
    found = replace(
        found, examples=check.examples, close=check.close, records=tuple(records), reason=reason, unsealed=unsealed
    )
    if not how.again or check.examples != spec["count"]:
        return found
    if made_elsewhere(opened):
        return replace(found, elsewhere=True)
    try:
        again = attack_again(opened, rows, how.again)
    except BadInput as error:
        return replace(found, reason=str(error))
    check.faults["broken again"] += again.broken
    check.faults["missing flag"] += again.flags
    check.faults["wrong counts"] += again.counts
    return replace(found, close=check.close + again.close, again=again.images)


class _Check:
    """The shards of one evaluation, looked at one after another; what is wrong with them so far."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.spec = opened, opened.spec
        self.faults = dict.fromkeys(FAULTS, 0)
        self.examples = self.close = self.tied = self.settled = 0
        self.chance = Chance()
        self.unnoted = dict.fromkeys(SHOWN_AT_ONCE, (0, 0))

    def run(self, rows: pd.DataFrame) -> None:
        """Check every shard, and what all of them say together."""
        opened, folder = self.opened, self.opened.folder
        classifier = Classifier(opened.module, opened.classes, device=opened.how.device)
        self.faults["damaged shard"] += len(folder.damaged())
        shape = opened.split.images(slice(0, 1)).shape[1:]
        first, last = self.spec["start"], self.spec["start"] + self.spec["count"]
        try:
            classifier.check_mode()
            for (start, stop), notes in zip(folder.ranges(), folder.notes(), strict=True):
                part = rows[(rows["example_id"] >= start) & (rows["example_id"] < stop)]
                images = folder.images(start, stop, doubted=True)
                whole = part["example_id"].tolist() == list(range(start, stop)) and images.shape == (
                    stop - start,
                    *shape,
                )
                if not whole or not first <= start < stop <= min(last, len(opened.split)):
                    self.faults["wrong examples"] += stop - start
                    continue
                self._shard(classifier, part.reset_index(drop=True), images, notes)
                self.examples += stop - start
        finally:
            classifier.release()
        self.faults["missing flag"] += sum(4 * shown >= 3 * lack > 0 for shown, lack in self.unnoted.values())
        self.faults["too many ties"] += too_many(self.tied, self.settled)
        self.faults["unlikely verdict"] += self.chance.unlikely

    def _shard(self, classifier: Classifier, rows: pd.DataFrame, images: Tensor, notes: dict[str, Any]) -> None:
        """Add what is wrong with one shard."""
        ids = _column(rows, "example_id")
        x0, labels = self.opened.split.pixels(ids), self.opened.split.labels[ids]
        self._pixels(rows, x0, images)
        self.faults["wrong label"] += int((labels != _column(rows, "label")).sum())
        size = self.opened.how.batch_size
        clean, adversarial = clean_logits(classifier, x0, size), clean_logits(classifier, images, size)
        noted = notes.get("flags", [])
        self.faults["wrong counts"] += impossible(self.opened, rows, noted)
        if bool(clean.isfinite().all()):
            found = inspect(classifier, x0, clean, size)
            for flag in set(SHOWN_AT_ONCE) - set(noted):
                shown, lack = self.unnoted[flag]
                self.unnoted[flag] = shown + (flag in found), lack + 1
        self.faults["wrong goal"] += int(((_column(rows, "goal") == -1) == self.opened.targeted).sum())
        if self.opened.targeted:
            self.faults["wrong goal"] += self._goals(classifier, rows, clean, labels, ids)
        random = "randomised" in noted
        for x, logits, column in ((x0, clean, "clean_pred"), (images, adversarial, "adv_pred")):
            recorded = _column(rows, column)
            differs = predictions(logits) != recorded
            near, excused = tied(logits, recorded), torch.zeros_like(differs)
            if random:
                draw = notes.get("batch_size")
                many = draw if isinstance(draw, int) and draw > 0 else size
                excused = self.chance.excused(classifier, column, x, recorded, labels, many)
            self.tied += int((differs & near & ~excused).sum())
            self.settled += len(rows)
            excused |= near
            self.faults["wrong verdict"] += int((differs & ~excused).sum())
            self.close += int((differs & excused).sum())
        self.faults["wrong verdict"] += _inconsistent(rows, classifier.classes)

    def _pixels(self, rows: pd.DataFrame, x0: Tensor, images: Tensor) -> None:
        """Add the faults of a shard's images [n, C, H, W] beside the clean ones."""
        threat, flat = self.opened.threat, images.flatten(1)
        finite = flat.isfinite().all(1)
        self.faults["NaN pixels"] += int((~finite).sum())
        self.faults["outside [0, 1]"] += int((finite & ((flat < 0) | (flat > 1)).any(1)).sum())
        inside = threat.distance(x0, images) <= threat.radius + TOLERANCE
        self.faults["outside eps"] += int((finite & ~inside).sum())
        for name, norm in NORMS.items():
            if name not in rows and name != threat.norm:  # made before there was this norm
                continue
            recorded = torch.tensor(rows[name].to_numpy().copy())
            self.faults["wrong distance"] += int((~((norm.distance(x0, images) - recorded).abs() <= 1e-6)).sum())

    def _goals(self, classifier: Classifier, rows: pd.DataFrame, clean: Tensor, labels: Tensor, ids: Tensor) -> int:
        """How many goals are not those the attack draws. Raises BadInput where it cannot be built."""
        attack = self.opened.attack or self.opened.plugin.build(self.spec["attack_options"])
        classifier.labels = labels
        logits = classifier.fold(clean, torch.arange(len(ids)))
        goal = attack.trials(labels, logits, ids, self.spec["seed"]).goal[:, 0]
        return int((goal != _column(rows, "goal")).sum())


def _column(rows: pd.DataFrame, name: str) -> Tensor:
    return torch.tensor(rows[name].to_numpy().copy())


def _inconsistent(rows: pd.DataFrame, classes: int) -> int:
    """How many rows have a success or a clean verdict that does not follow from their own predictions."""
    right = (rows["clean_pred"] == rows["label"]).to_numpy()
    return int(((success_of(rows, classes) != rows["success"].to_numpy(dtype=bool)) | (right != correct(rows))).sum())

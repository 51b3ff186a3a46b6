"""The attack of a stored evaluation run once more on some of the images that it is said to have left standing.

Stored images prove what was broken. That the others withstood the attack they cannot prove: an image that was never
attacked, or attacked within a smaller eps, is answered rightly too. Starts are a function of (seed, image, trial), so
whoever runs the attack again finds what it found.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robench.attack.classifier import Classifier
from robench.attack.inspection import clean_logits, predictions
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench.errors import BadInput
from robench.results.rows import FLAT_GUIDE, correct, marked, succeeded, success_of
from robench.results.summary import UNSTABLE
from robench.store.known import secret
from robench.store.specs import HARNESS, IMPORTED
from robench.trust import recount
from robench.trust.answers import DRAWS, FEW
from robench.trust.opened import Opened
from robench.trust.origins import aged

# flags of a model and of images that a run shows by itself, and that the stored ones must have then
OF_MODELS = (
    *UNSTABLE, "gradient-at-inference", "wrong-gradients", "unchecked-gradients", "squashed-outputs", "changes-torch",
    "changes-global-state", "reaches-outside",
)  # fmt: skip
OF_IMAGES = ("zero-gradient", FLAT_GUIDE, "non-finite")
# a share of pixels without a gradient that grew by more is noticed
FLATTER = 0.1
# of a model that answers at random, this share of the images may be broken for good by chance this time: at most 1% was
# seen, with noise from a fiftieth of the logits' own deviation up to all of it
BY_CHANCE = 0.05


@dataclass(frozen=True)
class Again:
    """What came of it: images attacked, those broken that are said to stand, those broken now and then with the batch
    they are in, flags that the stored rows lack, and rows that count other passes or steps than the attack takes."""

    images: int = 0
    broken: int = 0
    close: int = 0
    flags: int = 0
    counts: int = 0


def made_elsewhere(opened: Opened) -> bool:
    """Whether the images were imported, and are called so, so that there is no attack that could be run again."""
    return bool(opened.spec.get("imported")) and opened.spec["attack"].startswith(IMPORTED)


def attack_again(opened: Opened, rows: pd.DataFrame, count: int) -> Again:
    """Attack `count` of the images that `rows` say stand, or all of them where there are fewer.

    Raises BadInput where the attack cannot be run as it was.
    """
    won = succeeded(rows)
    standing = rows[~won if opened.targeted else correct(rows) & ~won]
    if standing.empty:
        return Again()
    _check(opened)
    chosen = standing.iloc[_draw(opened.folder.job_id, len(standing), count)]
    ids = torch.tensor(chosen["example_id"].to_numpy().copy())
    settings = _settings(opened, opened.folder.notes()[0])
    outcome, fell = _attack(opened, ids, chosen, settings)
    flags = _unflagged(opened, chosen, outcome)
    if "randomised" in outcome.flags:
        steady = _always(opened, chosen[fell.numpy()], outcome.images[fell], settings)
        return Again(len(ids), max(0, steady - max(FEW, int(BY_CHANCE * len(ids)))), 0, flags)
    counted = torch.zeros_like(fell)
    if recount.steady(opened, outcome.flags):
        counted = recount.suspicious(opened, chosen, outcome.rows)
    broken, wrong = _confirmed(opened, rows, ids[fell], ids[counted])
    return Again(len(ids), broken, int(fell.sum()) - broken, flags, recount.faulty(opened, wrong, len(ids)))


def _check(opened: Opened) -> None:
    """Raise BadInput where this robench would attack in another way than the evaluation did."""
    spec, job_id = opened.spec, opened.folder.job_id
    if opened.attack is None or spec["attack_version"] != opened.attack.edition or spec["harness"] != HARNESS:
        raise BadInput(
            f"The attack {spec['attack']} of evaluation {job_id} cannot be run again: it was made with another version "
            "of it, or of its library, than is installed."
        )
    if old := aged(opened.folder):
        raise BadInput(
            f"The attack {spec['attack']} of evaluation {job_id} cannot be run again as it was: it was made by {old}; "
            "evaluate anew, and verify that."
        )


def _draw(job_id: str, count: int, wanted: int) -> list[int]:
    """Which of `count` images: always the same for one user, and nobody else knows which."""
    key = hmac.new(secret(), job_id.encode(), hashlib.sha256).digest()
    generator = np.random.default_rng(int.from_bytes(key, "big"))
    found: list[int] = sorted(generator.permutation(count)[:wanted].tolist())
    return found


def _settings(opened: Opened, notes: Mapping[str, Any]) -> Settings:
    """As a shard was computed, as far as its notes tell."""
    spec, size = opened.spec, notes.get("batch_size")
    known = isinstance(size, int) and size > 0
    return Settings(
        seed=spec["seed"],
        batch_size=int(size) if size and known else opened.how.batch_size,
        device=opened.how.device,
        channels_last=opened.model.data is not None,
        draws=spec.get("eot") or 1,
        bpda=tuple(spec.get("bpda") or ()),
        precision=spec.get("search_precision") or "fp32",
        max_passes=spec.get("max_passes"),
    )


def _attack(opened: Opened, ids: Tensor, rows: pd.DataFrame, settings: Settings) -> tuple[ShardOutcome, Tensor]:
    """The attack on the examples `ids` [n], whose stored rows are `rows`; and which of them it wins, bool [n]."""
    split, attack = opened.split, opened.attack
    assert attack is not None
    examples = Examples(split.pixels(ids), split.labels[ids], split.ids[ids], opened.prior(ids), opened.spent(ids))
    if not opened.spec.get("surrogate"):
        if settings.channels_last:
            opened.module.to(memory_format=torch.channels_last)
        guide = opened.guide().module.to(settings.device) if opened.spec.get("guide") else None
        outcome = attack_shard(opened.module, opened.classes, attack, opened.threat, examples, settings, guide=guide)
        return outcome, torch.tensor(succeeded(outcome.rows))
    source = opened.surrogate().module.to(settings.device)
    crafting = replace(settings, channels_last=False, crafting=True)
    outcome = attack_shard(source, opened.classes, attack, opened.threat, examples, crafting)
    target = Classifier(opened.module, opened.classes, device=settings.device)
    try:
        answers = predictions(clean_logits(target, outcome.images, settings.batch_size))
    finally:
        target.release()
    judged = rows.assign(adv_pred=answers.numpy())
    return replace(outcome, flags=()), torch.tensor(success_of(judged, opened.classes))


def _confirmed(opened: Opened, rows: pd.DataFrame, fell: Tensor, counted: Tensor) -> tuple[int, int]:
    """How many of the images `fell` are broken in the batches that they were in, too, and how many of the images
    `counted` cost something else there, too: the same numbers come out of the same batches."""
    broken = wrong = 0
    for (start, stop), notes in zip(opened.folder.ranges(), opened.folder.notes(), strict=True):
        down, other = (each[(each >= start) & (each < stop)] - start for each in (fell, counted))
        if len(down) or len(other):
            part = rows[(rows["example_id"] >= start) & (rows["example_id"] < stop)]
            outcome, won = _attack(opened, torch.arange(start, stop), part, _settings(opened, notes))
            broken += int(won[down].sum())
            wrong += int(recount.wrong(opened, part, outcome.rows)[other].sum())
    return broken, wrong


def _always(opened: Opened, rows: pd.DataFrame, images: Tensor, settings: Settings) -> int:
    """On how many images [n, C, H, W] an attack on a model that answers at random wins whenever that is asked."""
    model = Classifier(opened.module, opened.classes, device=settings.device)
    won = np.ones(len(rows), dtype=bool)
    try:
        for _ in range(DRAWS if len(rows) else 0):
            answers = predictions(clean_logits(model, images, settings.batch_size))
            won &= success_of(rows.assign(adv_pred=answers.numpy()), opened.classes)
    finally:
        model.release()
    return int(won.sum())


def _unflagged(opened: Opened, stored: pd.DataFrame, outcome: ShardOutcome) -> int:
    """How many flags this run has that the stored one lacks: the model's, and those of more than a few images, among
    them gradients of which more is zero."""
    noted = {flag.partition(" (")[0] for note in opened.folder.notes() for flag in note.get("flags", [])}
    now = {flag.partition(" (")[0] for flag in outcome.flags}
    missing = sum(flag in now - noted for flag in OF_MODELS)
    more = [int(marked(outcome.rows, flag).sum()) - int(marked(stored, flag).sum()) for flag in OF_IMAGES]
    if "zero_pixels" in stored:
        flatter = outcome.rows["zero_pixels"].to_numpy() - stored["zero_pixels"].to_numpy() > FLATTER
        more.append(int(flatter.sum()))
    return missing + sum(count for count in more if count > max(1, len(stored) // 20))

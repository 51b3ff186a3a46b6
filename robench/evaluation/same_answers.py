"""Whether a model still answers as it did when what is in the store was computed. A digest does not see everything that
a module computes with; its answers do, to clean images and to the stored adversarial ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robench.attack.classifier import Classifier
from robench.attack.inspection import TOLERANCE, first_answers, predictions
from robench.device import choose_device, full_precision, numbers_apart
from robench.errors import Changed
from robench.evaluation.address import How
from robench.evaluation.jobs import Job
from robench.progress import say
from robench.results.statistics import mcnemar
from robench.results.summary import UNSTABLE
from robench.store.evaluation_folder import Shard

# of the images of an evaluation of a model that robench trained, whose weights and code are known, about as many are
# looked at; of any other model all are
LOOKED = 500
# answers may turn where the two highest logits are nearer than this share of a row's spread, for so many in a hundred
CLOSE, TURNED = 1e-3, 5
# rounding of float32, as a share of the largest logit
ROUNDING = 1e-6
# a random model's answers are other than they were where they agree so improbably with those that were stored
IMPROBABLE = 1e-3


@dataclass(frozen=True)
class _Compared:
    """How many answers were looked at and how many differ; of these, as many as `close` are too close to call.

    fell, rose: of a model that answers at random, how often two of its answers of today agree and the stored one does
    not, and how often one agrees with the stored one and the other does not.
    """

    looked: int = 0
    differ: int = 0
    close: int = 0
    fell: int = 0
    rose: int = 0

    def __add__(self, other: _Compared) -> _Compared:
        return _Compared(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Recall:
    """Compares stored answers with the model's; those to the clean images of one model only once."""

    def __init__(self) -> None:
        self._compared: dict[tuple[Any, ...], _Compared] = {}
        self._answers: dict[tuple[Any, ...], dict[int, Tensor]] = {}

    def check(self, job: Job, how: How) -> None:
        """Raise Changed where the model answers other than when the rows of `job`, finished or not, were made.

        Every clean image is asked again, and every stored adversarial one; of a model that robench trained about
        LOOKED of each. A model that was flagged as giving other answers each time is compared by how often it does,
        which is said.
        """
        stride = math.ceil(job.spec.count / LOOKED) if job.model.data is not None else 1
        exact = random = _Compared()
        flags: set[str] = set()
        for shard in job.folder.shards():
            unstable = set(UNSTABLE) & set(shard.notes.get("flags", []))
            flags |= unstable
            if unstable:
                random += self._drawn(job, how, shard)
            else:
                exact += self._exact(job, how, shard, stride)
        if exact.differ - exact.close or exact.close > exact.looked * TURNED / 100:
            raise _changed(job, exact)
        if random.looked:
            if random.fell > random.rose and mcnemar(random.fell, random.rose) < IMPROBABLE:
                raise _changed(job, random)
            say(
                f"{job.title} ({job.folder.job_id}) is flagged {', '.join(sorted(flags))}, so its stored answers are "
                f"compared as draws: {random.differ} of {random.looked} are others today; --fresh computes it again."
            )

    def _exact(self, job: Job, how: How, shard: Shard, stride: int) -> _Compared:
        places = [i for i in range(shard.start, shard.stop) if i % stride == 0]
        key = (*_subject(job), shard.start, shard.stop, stride, shard.notes.get("answers"))
        logits = job.folder.logits(shard)
        if shard.notes.get("answers") is None or key not in self._compared or logits is not None:
            then = torch.tensor(job.folder.column(shard, "clean_pred"))
            self._compared[key] = _compare(places, shard, then, logits, "clean", self._now(job, how, places))
        images = job.folder.images(shard.start, shard.stop)[[i - shard.start for i in places]]
        then = torch.tensor(job.folder.column(shard, "adv_pred"))
        return self._compared[key] + _compare(places, shard, then, logits, "adversarial", _ask(job, how, images))

    def _drawn(self, job: Job, how: How, shard: Shard) -> _Compared:
        """In the batches of then: what an answer depends on may be its company."""
        how = replace(how, batch_size=shard.notes.get("batch_size") or how.batch_size)
        clean = job.split.pixels(slice(shard.start, shard.stop))
        found = _Compared()
        for images, column in ((clean, "clean_pred"), (job.folder.images(shard.start, shard.stop), "adv_pred")):
            then = torch.tensor(job.folder.column(shard, column))
            one, two = (predictions(_ask(job, how, images, draw)) for draw in (1, 2))
            fell, rose = (then != one) & (one == two), (then == one) & (one != two)
            found += _Compared(len(then), int((then != one).sum()), fell=int(fell.sum()), rose=int(rose.sum()))
        return found

    def _now(self, job: Job, how: How, places: list[int]) -> Tensor:
        """The logits of the test images at these places, [n, classes]."""
        known = self._answers.setdefault(_subject(job), {})
        asked = [i for i in places if i not in known]
        if asked:
            known |= dict(zip(asked, _ask(job, how, job.split.pixels(asked)), strict=True))
        return torch.stack([known[i] for i in places]) if places else torch.zeros(0, job.classes)


def _ask(job: Job, how: How, images: Tensor, draw: int = 0) -> Tensor:
    """The model's logits, [n, classes]; draw: the seed of what it draws."""
    device = choose_device(how.device)
    model = Classifier(job.model.module.to(device), job.classes, device=device)
    try:
        with full_precision(), numbers_apart():
            torch.manual_seed(draw)
            return first_answers(model, images, how.batch_size) if len(images) else torch.zeros(0, job.classes)
    finally:
        model.release()


def _compare(
    places: list[int], shard: Shard, then: Tensor, logits: dict[str, Tensor] | None, kind: str, now: Tensor
) -> _Compared:
    """then: the stored predictions of a shard; logits: the stored logits by kind, if there are; now: today's logits at
    the places."""
    at = torch.tensor([i - shard.start for i in places], dtype=torch.int64)
    differs = then[at] != predictions(now)
    if not len(now):
        return _Compared()
    if logits is not None and logits[kind].shape[1] != now.shape[1]:  # of a model with other classes
        return _Compared(len(now), len(now))
    ordered = now.nan_to_num().sort(1, descending=True).values
    spread, rounding = ordered[:, 0] - ordered[:, -1], ROUNDING * now.nan_to_num().abs().amax(1)
    close = differs & (ordered[:, 0] - ordered[:, 1] <= CLOSE * spread + rounding)
    if logits is not None:  # what all logits have in common decides nothing
        a, b = (each - each.amax(1, keepdim=True) for each in (logits[kind][at], now))
        finite = a.isfinite().all(1) & b.isfinite().all(1)
        moved = finite & ((a - b).abs().amax(1).nan_to_num() > TOLERANCE * spread + rounding)
        differs, close = differs | moved, close & ~moved
    return _Compared(len(now), int(differs.sum()), int(close.sum()))


def _changed(job: Job, found: _Compared) -> Changed:
    return Changed(
        f"The model {job.model.name!r} answers {found.differ} of {found.looked} stored images differently than when "
        f"evaluation {job.folder.path} was made; compute it again with --fresh, or give another --runs."
    )


def _subject(job: Job) -> tuple[Any, ...]:
    return job.spec.model_digest, job.spec.detector, job.spec.data_digest

"""Whether a model still answers as it did when what is in the store was computed. A digest does not see everything that
a module computes with; its predictions do."""

from __future__ import annotations

import math
from typing import Any

from robench.attack.classifier import Classifier
from robench.attack.inspection import first_answers, predictions
from robench.device import choose_device
from robench.errors import Changed
from robench.evaluation.address import How
from robench.evaluation.jobs import Job
from robench.results.summary import UNSTABLE
from robench.store.evaluation_folder import Shard

# of an evaluation's images, about as many are looked at
LOOKED = 500
# of so many clean predictions one may differ, by rounding; of fewer than FEW none
SHARE, FEW = 200, 20


class Recall:
    """Compares stored clean predictions with the model's, those of one model only once."""

    def __init__(self) -> None:
        self._compared: dict[tuple[Any, ...], tuple[int, int]] = {}
        self._answers: dict[tuple[Any, ...], dict[int, int]] = {}

    def check(self, job: Job, how: How) -> None:
        """Raise Changed where the model answers other than when the rows of `job`, finished or not, were made."""
        stride = math.ceil(job.spec.count / LOOKED)
        found = [self._compare(job, how, shard, stride) for shard in job.folder.shards()]
        differing, looked = (sum(counts) for counts in zip(*found, strict=True)) if found else (0, 0)
        if differing > (math.ceil(looked / SHARE) if looked >= FEW else 0):
            raise Changed(
                f"The model {job.model.name!r} answers {differing} of {looked} clean images differently than when "
                f"evaluation {job.folder.path} was made; delete that folder, or give another --runs."
            )

    def _compare(self, job: Job, how: How, shard: Shard, stride: int) -> tuple[int, int]:
        """How many of the clean predictions in a shard differ, of how many that were looked at."""
        if set(UNSTABLE) & set(shard.notes.get("flags", [])):
            return 0, 0  # its figures are marked with that
        kept = shard.notes.get("answers")
        key = (*_subject(job), shard.start, shard.stop, stride, kept)
        if kept is None or key not in self._compared:
            places = [i for i in range(shard.start, shard.stop) if i % stride == 0]
            then = job.folder.column(shard, "clean_pred")
            now = self._now(job, how, places)
            self._compared[key] = sum(then[i - shard.start] != now[i] for i in places), len(places)
        return self._compared[key]

    def _now(self, job: Job, how: How, places: list[int]) -> dict[int, int]:
        """The predicted classes of the test images at these places, and of others."""
        known = self._answers.setdefault(_subject(job), {})
        asked = [i for i in places if i not in known]
        if asked:
            device = choose_device(how.device)
            model = Classifier(job.model.module.to(device), job.classes, device=device)
            try:
                found = predictions(first_answers(model, job.split.pixels(asked), how.batch_size))
            finally:
                model.release()
            known |= dict(zip(asked, found.tolist(), strict=True))
        return known


def _subject(job: Job) -> tuple[Any, ...]:
    return job.spec.model_digest, job.spec.detector, job.spec.data_digest

"""What is in the store and must not answer for what is asked today: it is set aside, and computed anew."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robench.errors import disk_error
from robench.evaluation.address import How
from robench.evaluation.jobs import Job
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.progress import say
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.runs import ASIDE, Store
from robench.trust.origins import aged


@dataclass
class Renewal:
    """What one command sets aside; `fresh`: everything it asks for, each thing once."""

    fresh: bool = False
    _seen: set[Path] = field(default_factory=set)

    def of(self, wanted: Wanted) -> Wanted:
        """The evaluations, after those were set aside that were made in other batches or, with `fresh`, at all. Says of
        which there is a figure that other code made, which stays where it is. Raises DiskError."""
        return replace(wanted, evaluations=tuple(map(self._renewed, wanted.evaluations)))

    def _renewed(self, planned: PlannedEvaluation) -> PlannedEvaluation:
        job, how = planned.job, planned.address.how
        if job.craft is not None:
            self._look(job.craft.folder, f"The images of {job.title}", job, how)
        self._look(job.folder, job.title, job, how)
        return replace(planned, stored=planned.stored and not planned.missing)

    def _look(self, folder: EvaluationFolder, title: str, job: Job, how: How) -> None:
        if folder.path in self._seen:
            return
        self._seen.add(folder.path)
        if not folder.path.is_dir():
            if folder is job.folder:
                _tell_of_older(job, title)
            return
        reason = "asked for anew" if self.fresh else _reason(folder, job, how)
        if reason:
            place = _set_aside(folder)
            say(f"{title} ({folder.job_id}) is computed again, as it was {reason}; the old one lies in {place}.")


def _set_aside(folder: EvaluationFolder) -> Path:
    """Move all of an evaluation out of the way, where nothing reads it as a figure; returns the place. Raises
    DiskError."""
    place = folder.root / ASIDE / f"{folder.path.name}-{uuid.uuid4().hex[:8]}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder.path, place)
    except OSError as error:
        raise disk_error(error, place) from error
    return place


def _tell_of_older(job: Job, title: str) -> None:
    """Say where the same evaluation by other code is in the store."""
    if not job.spec.sources:
        return
    wanted = _but_code(job.spec.to_json())
    for folder in Store(job.folder.root).intact()[0]:
        if (
            folder.job_id != job.spec.job_id
            and _but_code(folder.spec) == wanted
            and folder.complete
            and (old := aged(folder))
        ):
            say(f"{title} is computed anew; the stored figure {folder.job_id} was made by {old}, and stays its figure.")


def _but_code(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "sources"}


def _reason(folder: EvaluationFolder, job: Job, how: How) -> str:
    """Why what is stored does not answer for a job, "" where it does."""
    for shard in folder.shards():
        size = shard.notes.get("batch_size")
        if job.attack.batched and size is not None and size != how.batch_size:
            return f"made in batches of {size} images, on which this attack's figures depend"
        regular = shard.start % how.shard_size == 0 and shard.stop - shard.start <= how.shard_size
        if job.attack.batched and not regular:
            return f"made in shards of other sizes than {how.shard_size}, on which this attack's figures depend"
    return ""

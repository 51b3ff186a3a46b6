"""What is in the store and must not answer for what is asked today: it is set aside, and computed anew."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from robench.errors import disk_error
from robench.evaluation.address import How
from robench.evaluation.jobs import Job
from robench.evaluation.origins import PluginName, foreign
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.progress import say
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.runs import ASIDE


@dataclass
class Renewal:
    """What one command sets aside; `fresh`: everything it asks for, each thing once."""

    fresh: bool = False
    _seen: set[Path] = field(default_factory=set)

    def of(self, wanted: Wanted) -> Wanted:
        """The evaluations, after those were set aside that were made by other code, in other batches or, with `fresh`,
        at all. Raises DiskError."""
        return replace(wanted, evaluations=tuple(map(self._renewed, wanted.evaluations)))

    def _renewed(self, planned: PlannedEvaluation) -> PlannedEvaluation:
        job, how = planned.job, planned.address.how
        if job.craft is not None:
            plugins = [plugin for plugin in job.plugins if f"{plugin[0]} {plugin[1]}" in job.craft.sources]
            self._look(job.craft.folder, f"The images of {job.title}", plugins, job, how)
        self._look(job.folder, job.title, job.plugins, job, how)
        return replace(planned, stored=planned.stored and not planned.missing)

    def _look(self, folder: EvaluationFolder, title: str, plugins: Iterable[PluginName], job: Job, how: How) -> None:
        if folder.path in self._seen or not folder.path.is_dir():
            return
        self._seen.add(folder.path)
        reason = "asked for anew" if self.fresh else _reason(folder, tuple(plugins), job, how)
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


def _reason(folder: EvaluationFolder, plugins: tuple[PluginName, ...], job: Job, how: How) -> str:
    """Why what is stored does not answer for a job, "" where it does."""
    for shard in folder.shards():
        found = foreign(shard.notes, plugins)
        if found:
            return f"made by {found}"
        size = shard.notes.get("batch_size")
        if job.attack.batched and size is not None and size != how.batch_size:
            return f"made in batches of {size} images, on which this attack's figures depend"
        regular = shard.start % how.shard_size == 0 and shard.stop - shard.start <= how.shard_size
        if job.attack.batched and not regular:
            return f"made in shards of other sizes than {how.shard_size}, on which this attack's figures depend"
    return ""

"""What a process has open while it works: models with their data, and the jobs that are made of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from robench.data.dataset import Dataset, open_dataset
from robench.data.repeated import fitted_flag, repeated_flag, seen_flag
from robench.device import choose_device
from robench.errors import BadInput
from robench.evaluation.address import Address
from robench.evaluation.attacks import attack_at
from robench.evaluation.jobs import Job, Target, make_job, open_target, watched
from robench.models.pixels import Asking, Doubt, doubt
from robench.store.runs import Store

# models that a process keeps open
KEPT = 4

# what tells models that are open from one another: the reference, the data's name if one was given, their folder, and
# the number of their classes if it was given
Opened = tuple[str | nn.Module, str | None, Path | None, int | None]


@dataclass
class Bench:
    """What a process has open: models with their data, and the jobs made of them. `keep` models at most."""

    store: Store
    keep: int = KEPT
    _targets: OrderedDict[Opened, Target] = field(default_factory=OrderedDict)
    _jobs: dict[str, tuple[Address, Job]] = field(default_factory=dict)
    _datasets: dict[tuple[str, Path | None, int | None], Dataset] = field(default_factory=dict)
    _doubts: dict[tuple[str, str], Doubt | None] = field(default_factory=dict)

    def target(
        self,
        reference: str | nn.Module,
        dataset: str | None = None,
        data_root: Path | None = None,
        classes: int | None = None,
    ) -> Target:
        """The model and its data, opened once. Raises BadInput where they cannot be loaded."""
        key = (reference, dataset, data_root, classes)
        if key not in self._targets:
            while len(self._targets) >= self.keep:
                self._forget(next(iter(self._targets)))
            self._targets[key] = open_target(reference, self.store, dataset, data_root, classes, self._dataset)
        self._targets.move_to_end(key)
        return self._targets[key]

    def doubt(self, target: Target, asking: Asking) -> Doubt | None:
        """Whether a stranger's model looks as if it wanted other pixels, asked once; None for one of robench's own."""
        key = target.digest, target.dataset.test.digest
        if target.model.data is None and key not in self._doubts:
            self._doubts[key] = doubt(target.model, target.dataset, asking)
        return self._doubts.get(key)

    def make(self, address: Address) -> Job:
        """The job at an address, of what is open or opened for it. Raises BadInput where it cannot be made."""
        source = None if address.surrogate is None else self.target(*_key(address.surrogate, address))
        guide = None if address.guide is None else self.target(*_key(address.guide, address))
        target = self.target(*_key(address.model, address))
        if address.guard is not None:
            target = watched(target, address.guard, address.threat, address.settings, self.store)
        return make_job(address, self.store, target, attack_at(address), source, guide)

    def take(self, address: Address, job: Job) -> None:
        """Use a job that was made in this process, for as long as its models stay open."""
        self._jobs[job.spec.job_id] = address, job

    def found_of(self, address: Address, job: Job) -> list[str]:
        """Flags of a whole evaluation that are known before its attack: about its images, and about the pixels that its
        model gets."""
        spec, target = job.spec, self.target(*_key(address.model, address))
        asking = Asking(choose_device(address.how.device), address.how.batch_size, (address.threat, job.threat))
        wanted = self.doubt(target, asking)
        accuracy = self.store.card(target.name)["accuracy"] if target.defense else {}
        found = [
            repeated_flag(job.split, spec.start, spec.count),
            seen_flag(accuracy, target.dataset.test),
            fitted_flag(target.dataset) if spec.detector else "",
            wanted.flag if wanted else "",
        ]
        return [flag for flag in found if flag]

    def job(self, address: Address, job_id: str) -> Job:
        """The job of that id, which is made of its address unless this process has it already.

        Raises BadInput where the address comes to another id.
        """
        if job_id not in self._jobs:
            found = self.make(address)
            if found.spec.job_id != job_id:  # what is open here may be from before a change
                self.clear()
                found = self.make(address)
            if found.spec.job_id != job_id:
                raise BadInput(
                    f"The evaluation {job_id} of {found.title} is {found.spec.job_id} where it is computed: the "
                    "model, the data or robench changed meanwhile; run the command again."
                )
            self.take(address, found)
        return self._jobs[job_id][1]

    def clear(self) -> None:
        """Close everything."""
        self._targets.clear()
        self._jobs.clear()
        self._datasets.clear()

    def _dataset(self, name: str, root: Path | None, classes: int | None) -> Dataset:
        key = (name, root, classes)
        if key not in self._datasets:
            self._datasets[key] = open_dataset(*key)
        return self._datasets[key]

    def _forget(self, key: Opened) -> None:
        """Give up a model and the jobs that hold it."""
        self._targets.pop(key).model.release()
        for job_id, (address, job) in list(self._jobs.items()):
            if key in [_key(model, address) for model in address.models]:
                job.model.release()  # whoever planned the job still has it
                del self._jobs[job_id]


def _key(model: str | nn.Module, address: Address) -> Opened:
    return model, address.dataset, address.how.data_root, address.classes

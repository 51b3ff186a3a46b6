"""What became of the evaluations of a model: their summaries, detections and findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robench.data.dataset import Split
from robench.detector.measuring import Detection, measure
from robench.evaluation.jobs import Job
from robench.evaluation.sealing import seal
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.progress import say
from robench.results.accuracy import Measure
from robench.results.rows import absent_classes
from robench.results.summary import Summary, label
from robench.store.about import About
from robench.store.runs import Store
from robench.store.specs import draw_told
from robench.trust.bounds import upper_bound
from robench.trust.diagnosis import record
from robench.trust.gates import Finding


@dataclass(frozen=True)
class Result:
    """An evaluation with its names and what came of it, as reports, suites and checks read it.

    boundary: whether an attack along the decision boundary tried it. split: the images that it is about, None for one
    that was read from a store.
    """

    evaluation: str
    attack: str
    norm: str
    model_digest: str
    about: About
    summary: Summary
    boundary: bool = False
    absent: str = ""
    drawn: str = ""
    seed: int = 0
    split: Split | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, job: Job, summary: Summary) -> Result:
        """The result of a job. `absent`: the classes that its images lack, `drawn`: which images they are, in words."""
        spec, rows = job.spec, job.folder.rows(("label",)) if summary.complete else None
        absent = "" if rows is None else absent_classes(rows, job.classes, job.about.names)
        drawn, about = draw_told(spec.to_json(), job.about.images), job.about
        return cls(
            spec.job_id, spec.attack, spec.norm, spec.model_digest, about, summary, job.boundary, absent, drawn,
            spec.seed, job.split,
        )  # fmt: skip

    @property
    def note(self) -> str:
        """What is to be said beside the figure: that it is an upper bound alone, or nothing."""
        return upper_bound(self.norm, self.metric, self.boundary)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.about.model

    @property
    def access(self) -> str:
        """What the attack was up against."""
        return self.about.access

    @property
    def metric(self) -> str:
        """What its figure counts."""
        return self.about.metric

    @property
    def label(self) -> str:
        """The attack with the options that were given."""
        return label(self.attack, self.about.given_options)

    def to_json(self) -> dict[str, Any]:
        """Names and figures as JSON types."""
        about = self.about
        return {
            "model": about.model,
            "dataset": about.dataset,
            "attack": self.attack,
            "options": about.given_options,
            "metric": about.metric,
            "access": about.access,
            "against": about.against,
            "surrogate": about.surrogate,
            "kind": about.kind,
            "surrogate_digest": about.surrogate_digest,
            "norm": self.norm,
            "eps": about.eps,
            "model_digest": self.model_digest,
            **self.summary.to_json(),
            **({"absent": self.absent} if self.absent else {}),
            **({"note": self.note} if self.note else {}),
            **({"seed": self.seed} if self.seed else {}),
            "evaluation": self.evaluation,
        }


@dataclass
class Evaluated:
    """A result per evaluation, one per detector and evaluation, what the diagnostics found about each model, and a
    sentence per model that could not be used."""

    results: list[Result] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The results as JSON types."""
        return [result.to_json() for result in self.results]

    @property
    def complete(self) -> bool:
        """Whether every evaluation is."""
        return all(result.summary.complete for result in self.results)


def collect(wanted: Wanted, store: Store, found: Evaluated) -> None:
    """Add to `found` what became of a model's evaluations."""
    seal(wanted)
    plain = [planned for planned in wanted.evaluations if not planned.address.behind]
    results = [conclude(planned, tell=True) for planned in plain]
    done = [planned for planned, result in zip(plain, results, strict=True) if result.summary.complete]
    detections: list[Detection] = []
    if wanted.behind is not None and wanted.behind.watch is not None:
        watch = wanted.behind.watch
        detections = [measure(watch, wanted.target, each.job.folder, each.address.settings) for each in done]
    results += [conclude(planned, tell=True) for planned in wanted.evaluations if planned.address.behind]
    found.results += results
    found.detections += detections
    found.findings += record(store, wanted.target.model.name, done[0].job.folder) if done else []
    if wanted.target.model.data is not None:
        wanted.target.model.release()


def conclude(planned: PlannedEvaluation, *, tell: bool = False) -> Result:
    """What became of an evaluation, written to its folder once it is complete; `tell`: say if it was in the store."""
    job, folder = planned.job, planned.job.folder
    if planned.missing:
        return Result.of(job, Summary(Measure(job.attack.metric), len(folder.rows())))
    found = folder.result or folder.summarised(job.attack.metric)
    if planned.stored and tell:
        say(f"{job.title} ({folder.job_id}) was in the store.")
    folder.finish(found)
    return Result.of(job, found)

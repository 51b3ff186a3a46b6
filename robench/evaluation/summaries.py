"""What became of the evaluations of a model: their summaries, detections and findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robench.detector.measuring import measure
from robench.evaluation.jobs import Job
from robench.evaluation.wanted import PlannedEvaluation, Wanted
from robench.progress import say
from robench.results.summary import summarise
from robench.store.runs import Store
from robench.trust.diagnosis import record


@dataclass
class Evaluated:
    """One summary per evaluation, as in `result.json`, one per detector and evaluation, what the diagnostics found
    about each model, and a sentence per model that could not be used."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)


def collect(wanted: Wanted, store: Store, found: Evaluated) -> None:
    """Add to `found` what became of a model's evaluations."""
    plain = [planned for planned in wanted.evaluations if not planned.address.behind]
    rows = [summary(planned, tell=True) for planned in plain]
    done = [planned for planned, row in zip(plain, rows, strict=True) if row["status"] == "complete"]
    detections: list[dict[str, Any]] = []
    if wanted.behind is not None and wanted.behind.watch is not None:
        watch = wanted.behind.watch
        detections = [measure(watch, wanted.target, each.job.folder, each.address.settings) for each in done]
    rows += [summary(planned, tell=True) for planned in wanted.evaluations if planned.address.behind]
    found.rows += rows
    found.detections += detections
    found.findings += record(store, wanted.target.model.name, done[0].job.folder) if done else []
    if wanted.target.model.data is not None:
        wanted.target.model.release()


def summary(planned: PlannedEvaluation, *, tell: bool = False) -> dict[str, Any]:
    """What became of an evaluation, written to its folder once it is complete; `tell`: say if it was in the store."""
    job, folder = planned.job, planned.job.folder
    if planned.missing:
        figure = "robust_accuracy" if job.attack.metric == "robust accuracy" else "attack_success_rate"
        unknown = dict.fromkeys(("clean_accuracy", figure, "interval", "forwards", "backwards", "seconds"))
        return _row(job, {**unknown, "n": len(folder.rows()), "status": "incomplete", "flags": []})
    result = folder.result or summarise(folder.rows(), job.attack.metric, folder.notes())
    if planned.stored and tell:
        say(f"{job.title} ({folder.job_id}) was in the store.")
    folder.finish(result)
    return _row(job, result)


def _row(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """A summary with the names a reader needs."""
    about = job.about
    return {
        "model": about["model"],
        "dataset": about["dataset"],
        "attack": job.spec.attack,
        "options": about["given_options"],
        "metric": about["metric"],
        "access": about["access"],
        "against": about["against"],
        "surrogate": about["surrogate"],
        "kind": about["kind"],
        "surrogate_digest": about["surrogate_digest"],
        "norm": job.spec.norm,
        "eps": about["eps"],
        "model_digest": job.spec.model_digest,
        **result,
        "evaluation": job.spec.job_id,
    }

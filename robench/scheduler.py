"""Jobs through the store: what is missing is computed shard by shard, what is there is checked and summarised."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch

from robench.classifier import Classifier
from robench.detection import measure
from robench.diagnostics import record
from robench.environment import choose_device
from robench.errors import BadInput, DiskError, RobenchError
from robench.evaluation import Examples, attack_shard, clean_logits, predictions
from robench.jobs import Job, NamedAttack, Request, Target, attacks_of, make_job, open_target, references, watched
from robench.progress import Bar, bar, say
from robench.results import summarise
from robench.store import Store


@dataclass
class Evaluated:
    """One summary per evaluation, as in `result.json`, one per detector and evaluation, what the diagnostics found
    about each model, and a sentence per model that could not be used."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)


def evaluate(request: Request, store: Store) -> Evaluated:
    """Compute what is missing of every (model, attack).

    A shard that fails makes its evaluation "incomplete"; a model that cannot be used does not keep the others from
    being evaluated. Raises BadInput for input that cannot be used, and where no model can.
    """
    attacks = attacks_of(request)
    sources = [open_target(reference, request, store) for reference in request.surrogates]
    found, refused = Evaluated(), []
    for reference in references(request, store):
        try:
            _evaluate_one(open_target(reference, request, store), attacks, sources, request, store, found)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    if refused and not found.rows:
        raise refused[0]
    found.refused = [str(error) for error in refused]
    return found


def _evaluate_one(
    target: Target,
    attacks: Sequence[NamedAttack],
    sources: Sequence[Target],
    request: Request,
    store: Store,
    found: Evaluated,
) -> None:
    """Add to `found` what a target makes of the attacks: by themselves or from every source, then behind a detector."""
    places: Sequence[Target | None] = sources or [None]
    jobs = [make_job(request, store, target, named, source) for source in places for named in attacks]
    behind = watched(target, request, store)  # before the attacks: what it refuses costs nothing to find
    rows = [_run(job, request) for job in jobs]
    found.rows += rows
    if behind is not None and behind.watch is not None:
        complete = [job for job, row in zip(jobs, rows, strict=True) if row["status"] == "complete"]
        found.detections += [measure(behind.watch, target.subject, job.folder, request.settings) for job in complete]
        if request.guard and request.guard.adaptive:
            found.rows += [_run(make_job(request, store, behind, named), request) for named in attacks]
    done = [job.folder for job, row in zip(jobs, rows, strict=False) if row["status"] == "complete"]
    found.findings += record(store, target.model.name, done[0]) if done else []


def _run(job: Job, request: Request) -> dict[str, Any]:
    """Compute the missing shards of a job, then its summary."""
    folder, failures = job.folder, 0
    missing = folder.missing(job.spec.start, job.spec.start + job.spec.count, request.shard_size)
    if folder.result is None or missing:
        with bar(job.title) as shown:
            done = job.spec.count - sum(stop - start for start, stop in missing)
            for start, stop in missing:
                try:
                    _compute(job, request, start, stop, _Shown(shown, done, stop - start, job.spec.count))
                except (RobenchError, OSError):
                    raise
                except torch.OutOfMemoryError:
                    raise BadInput(
                        f"The device ran out of memory with --batch-size {request.batch_size}; give a smaller one."
                    ) from None
                except Exception as error:  # whatever a user's model does: a crash is not robustness
                    failures += 1
                    _begin(job)
                    say(f"Examples {start}-{stop} of {job.title} failed: {type(error).__name__}: {error}")
                done += stop - start
    if failures or folder.missing(job.spec.start, job.spec.start + job.spec.count, request.shard_size):
        figure = "robust_accuracy" if job.attack.metric == "robust accuracy" else "attack_success_rate"
        unknown = dict.fromkeys(("clean_accuracy", figure, "interval", "forwards", "backwards", "seconds"))
        return _row(job, {**unknown, "n": len(folder.rows()), "status": "incomplete", "flags": []})
    rows = folder.rows()
    if not missing:
        say(f"{job.title} ({folder.job_id}) was in the store.")
        _check_stored(job, rows, request)
    result = summarise(rows, job.attack.metric, folder.notes())
    if folder.result != result:
        folder.finish(result)
    return _row(job, result)


def _check_stored(job: Job, rows: pd.DataFrame, request: Request) -> None:
    """Raise BadInput unless the model still answers the clean images as it did when the rows were made.

    A digest does not see everything a module computes with; its predictions do.
    """
    device = choose_device(request.device)
    model = Classifier(job.model.module.to(device), job.classes, device=device)
    x = job.split.pixels(slice(job.spec.start, job.spec.start + job.spec.count))
    try:
        now = predictions(clean_logits(model, x, request.batch_size))
    finally:
        model.release()
    differing = int((now.numpy() != rows["clean_pred"].to_numpy()).sum())
    if differing > max(2, len(rows) // 200):  # a randomised model is not stored under a stable answer either
        raise BadInput(
            f"The model {job.model.name!r} answers {differing} of {len(rows)} clean images differently than when "
            f"evaluation {job.folder.path} was made; delete that folder, or give another --runs."
        )


class _Shown:
    """A shard's progress as a share of its evaluation."""

    def __init__(self, shown: Bar, done: int, size: int, count: int) -> None:
        self.shown, self.done, self.size, self.count, self.began = shown, done, size, count, time.monotonic()

    def __call__(self, share: float) -> None:
        images = share * self.size
        rate = images / max(time.monotonic() - self.began, 1e-9)
        self.shown.update((self.done + images) / self.count, f"{self.done + images:,.0f} images  {rate:,.1f}/s")


def _compute(job: Job, request: Request, start: int, stop: int, show: Any) -> None:
    part = slice(start, stop)
    examples = Examples(job.split.pixels(part), job.split.labels[part], job.split.ids[part])
    settings = replace(request.settings, channels_last=job.model.data is not None)
    job.model.module.to(settings.device)
    if settings.channels_last:  # faster convolutions; a stranger's model may not bear it
        job.model.module.to(memory_format=torch.channels_last)
    began = time.monotonic()
    crafted = None
    if job.craft:
        crafted = job.craft.images(start, stop, replace(settings, channels_last=False, crafting=True), show)
        settings = replace(settings, bpda=(), draws=1)  # they were the crafting's
    attack = crafted or job.attack
    shard = attack_shard(
        job.model.module, job.classes, attack, job.threat, examples, settings, None if crafted else show
    )
    rows = crafted.charge(shard.rows) if crafted else shard.rows
    notes = {
        "flags": list(shard.flags),
        "seconds": round(time.monotonic() - began, 3),
        "batch_size": request.batch_size,
    }
    _begin(job)
    job.folder.save_shard(start, stop, rows, shard.images, notes)


def _begin(job: Job) -> None:
    """Record the job, once there is something of it to keep; a model that is refused leaves no trace."""
    job.folder.begin(job.spec.to_json(), job.about)


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

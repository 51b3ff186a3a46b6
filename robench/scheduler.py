"""From what a user asks for to specs, from specs to what is missing in the store, and through it shard by shard."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from robench import registry
from robench.attack import Attack
from robench.classifier import Classifier, check_eval_mode
from robench.data import Dataset, Split, open_dataset
from robench.environment import choose_device, command, environment
from robench.errors import BadInput, DiskError, RobenchError
from robench.evaluation import Examples, Settings, attack_shard, clean_logits, predictions
from robench.models import LoadedModel, load_model
from robench.progress import Bar, bar, say
from robench.results import summarise
from robench.specs import EvalSpec
from robench.store import EvaluationFolder, Store
from robench.threat import ThreatModel


@dataclass(frozen=True)
class Request:
    """What `robench evaluate` was asked for. `count` None means every test image; `models` empty, every trained one."""

    models: Sequence[str | nn.Module]
    attacks: Sequence[str]
    threat: ThreatModel
    dataset: str | None = None
    count: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 250
    shard_size: int = 250
    device: str = "auto"
    data_root: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("-n", self.count), ("--batch-size", self.batch_size), ("--shard-size", self.shard_size)):
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}, but must be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"--seed is {self.seed}, but must be between 0 and 2^63 - 1.")
        if not self.attacks:
            raise BadInput(
                f"No attack is named; give --attack with one or more of: {', '.join(registry.names('attack'))}."
            )


@dataclass(frozen=True)
class Job:
    """One evaluation: a model, an attack, the data, and the folder its shards go to."""

    spec: EvalSpec
    model: LoadedModel
    attack: Attack
    threat: ThreatModel
    split: Split
    classes: int
    folder: EvaluationFolder
    about: dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One summary per evaluation, as in `result.json`, and a sentence per model that could not be used."""

    rows: list[dict[str, Any]]
    refused: list[str]


def evaluate(request: Request, store: Store) -> Evaluated:
    """Compute what is missing of every (model, attack).

    A shard that fails makes its evaluation "incomplete"; a model that cannot be used does not keep the others from
    being evaluated. Raises BadInput for input that cannot be used, and where no model can.
    """
    attacks = _attacks(request)
    results: list[dict[str, Any]] = []
    refused: list[BadInput] = []
    for reference in _references(request, store):
        try:
            model, dataset = _open(reference, request, store)
            jobs = [_job(request, store, model, dataset, name, attack, given) for name, attack, given in attacks]
            results += [_run(job, request) for job in jobs]
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    if refused and not results:
        raise refused[0]
    return Evaluated(results, [str(error) for error in refused])


def _attacks(request: Request) -> list[tuple[str, Attack, dict[str, Any]]]:
    """Every attack with the given options that it has; an option that none of them has is refused."""
    found = []
    used: set[str] = set()
    for name in dict.fromkeys(request.attacks):
        plugin = registry.load("attack", name)
        known = plugin.options({})
        given = {k: v for k, v in request.options.items() if k in known or len(request.attacks) == 1}
        used |= set(given)
        attack = plugin.build(given)
        if request.threat.norm not in attack.norms:
            raise BadInput(
                f"The attack {name!r} does not support norm {request.threat.norm}; it supports {attack.norms}."
            )
        found.append((name, attack, {k: plugin.options(given)[k] for k in given}))
    unused = [name for name in request.options if name not in used]
    if unused:
        raise BadInput(f"Option {unused[0]!r} belongs to none of the attacks {', '.join(request.attacks)}; remove it.")
    return found


def _references(request: Request, store: Store) -> list[str | nn.Module]:
    if request.models:
        return list(request.models)
    names = store.model_names()
    if request.dataset is not None:
        names = [name for name in names if store.card(name)["data"]["name"] == request.dataset]
    if not names:
        on = f" trained on {request.dataset!r}" if request.dataset else ""
        raise BadInput(
            f"There is no model{on} in {store.models}; name one, such as file.py:factory, or train one with "
            "'robench train standard --dataset digits'."
        )
    return list(names)


def _open(reference: str | nn.Module, request: Request, store: Store) -> tuple[LoadedModel, Dataset]:
    model = load_model(reference, store)
    check_eval_mode(model.module)  # here too: a stored figure must not answer for a model in another mode
    name = request.dataset or (model.data.name if model.data else None)
    if name is None:
        raise BadInput(f"The model {model.name!r} was not trained by robench; say which data with --dataset NAME.")
    dataset = open_dataset(name, request.data_root)
    if model.data is not None and (model.data.shape, model.data.classes) != (_shape(dataset), dataset.classes):
        raise BadInput(
            f"The model {model.name!r} takes images {model.data.shape} of {model.data.classes} classes, but {name} has "
            f"{_shape(dataset)} of {dataset.classes}; choose other data."
        )
    return model, dataset


def _shape(dataset: Dataset) -> tuple[int, ...]:
    return tuple(dataset.test.images(slice(0, 1)).shape[1:])


def _job(
    request: Request,
    store: Store,
    model: LoadedModel,
    dataset: Dataset,
    name: str,
    attack: Attack,
    given: dict[str, Any],
) -> Job:
    split = dataset.test
    count = len(split) if request.count is None else request.count
    if count > len(split):
        raise BadInput(f"-n is {count}, but {dataset.name} has {len(split)} test images; give at most that.")
    request.threat.check_shape(_shape(dataset))
    spec = EvalSpec(
        model_digest=model.digest,
        data_digest=split.digest,
        count=count,
        norm=request.threat.norm,
        eps=str(request.threat.eps),
        attack=name,
        attack_version=attack.version,
        attack_options=registry.load("attack", name).options(given),
        seed=request.seed,
    )
    about = {
        "model": model.name,
        "reference": model.reference,
        "dataset": dataset.name,
        "eps": request.threat.eps_text,
        "given_options": given,
        "metric": attack.metric,
        "access": attack.access,
        "command": command(),
        "environment": environment(),
        "batch_size": request.batch_size,
        "device": choose_device(request.device),
    }
    return Job(spec, model, attack, request.threat, split, dataset.classes, store.evaluation(spec.job_id), about)


def _run(job: Job, request: Request) -> dict[str, Any]:
    """Compute the missing shards of a job, then its summary."""
    folder, failures = job.folder, 0
    missing = folder.missing(job.spec.start, job.spec.start + job.spec.count, request.shard_size)
    if folder.result is None or missing:
        title = f"{job.model.name}  {job.spec.attack}"
        with bar(title) as shown:
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
                    say(f"Examples {start}-{stop} of {title} failed: {type(error).__name__}: {error}")
                done += stop - start
    if failures or folder.missing(job.spec.start, job.spec.start + job.spec.count, request.shard_size):
        figure = "robust_accuracy" if job.attack.metric == "robust accuracy" else "attack_success_rate"
        unknown = dict.fromkeys(("clean_accuracy", figure, "interval", "forwards", "backwards", "seconds"))
        return _row(job, {**unknown, "n": len(folder.rows()), "status": "incomplete", "flags": []})
    rows = folder.rows()
    if not missing:
        say(f"{job.model.name} {job.spec.attack} ({folder.job_id}) was in the store.")
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
    device = choose_device(request.device)
    settings = Settings(request.seed, request.batch_size, device, channels_last=job.model.data is not None)
    job.model.module.to(settings.device)
    if settings.channels_last:  # faster convolutions; a stranger's model may not bear it
        job.model.module.to(memory_format=torch.channels_last)
    began = time.monotonic()
    shard = attack_shard(job.model.module, job.classes, job.attack, job.threat, examples, settings, show)
    notes = {
        "flags": list(shard.flags),
        "seconds": round(time.monotonic() - began, 3),
        "batch_size": request.batch_size,
    }
    _begin(job)
    job.folder.save_shard(start, stop, shard.rows, shard.images, notes)


def _begin(job: Job) -> None:
    """Record the job, once there is something of it to keep; a model that is refused leaves no trace."""
    job.folder.begin(job.spec.model_dump(mode="json"), job.about)


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
        "norm": job.spec.norm,
        "eps": about["eps"],
        "model_digest": job.spec.model_digest,
        **result,
        "evaluation": job.spec.job_id,
    }

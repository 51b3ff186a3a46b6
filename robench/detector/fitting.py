"""Detectors under test: fitted on validation images and their attacked copies, and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robench import randomness, registry
from robench.attack.base import Attack
from robench.attack.judge import Examples, Settings, attack_shard
from robench.data.dataset import Dataset, Split
from robench.data.repeated import fitted_told
from robench.detector.base import Detector
from robench.detector.request import LEAST_BROKEN, DetectorRequest
from robench.device import full_precision
from robench.environment import command, environment
from robench.errors import BadInput, first_line, require
from robench.norms import NORMS
from robench.progress import bar, say
from robench.results.rows import succeeded
from robench.store.claims import claim
from robench.store.files import (
    Damaged,
    checksum,
    identity,
    read_json,
    read_sealed,
    write_json,
    write_sealed,
    write_tensors,
)
from robench.store.reach import plugin_digest
from robench.store.records import DetectorRecord, FittedRecord
from robench.store.released import unreleased
from robench.store.runs import Store
from robench.store.specs import DetectorSpec
from robench.threat import ThreatModel

if TYPE_CHECKING:  # it loads scikit-learn, which nobody waits for who asks for no detector
    from robench.detector.score import Guarded, Score

# of the validation images, this share fits the regression; the others set the threshold
FITTING_SHARE = 0.8
# fixed for good: another key would move images between the two
SPLIT_KEY = 20182
# images per batch where nothing else is said
USUAL = 250
# detectors that were told of
_told: set[Path] = set()
# a threshold from fewer clean images than this is told to be rough
FEW = 200


class Subject(Protocol):
    """What a detector asks of a classifier that it is to watch, and of its data."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def module(self) -> nn.Module:
        """The classifier."""

    @property
    def digest(self) -> str:
        """What its answers depend on."""

    @property
    def defense(self) -> str:
        """The defense that it is, "" for a model that robench did not train."""

    @property
    def dataset(self) -> Dataset:
        """The data, whose validation images the detector is fitted on."""


@dataclass(frozen=True)
class Watch:
    """A fitted detector: its score, its spec, and the folder it is kept in."""

    score: Score
    spec: DetectorSpec
    folder: Path
    fitted: dict[str, Any]

    @property
    def name(self) -> str:
        """The detector and what it learnt from: "er-kde (pgd)"."""
        return f"{self.spec.detector} ({self.spec.trained_on})"

    def guard(self, module: nn.Module) -> Guarded:
        """The classifier and this detector as one model."""
        from robench.detector.score import Guarded

        return Guarded(module, self.score).eval()


@dataclass(frozen=True)
class _Lesson:
    """What a detector is fitted with: its score, whom it watches, and the attack it learns from."""

    score: Score
    subject: Subject
    attack: Attack
    threat: ThreatModel
    guard: DetectorRequest
    settings: Settings


def watch(
    guard: DetectorRequest,
    subject: Subject,
    threat: ThreatModel,
    settings: Settings,
    store: Store,
    *,
    anew: bool = False,
) -> Watch:
    """The detector fitted for a classifier, from the store or made now, which it is where that is asked for (`anew`).

    Raises BadInput for a classifier it cannot watch, options out of range, and an attack too weak to learn from.
    """
    lesson, spec = _plan(guard, subject, threat, settings)
    if fitted(spec, store) and not anew:
        return load(store, spec.job_id)
    with claim(store.root, f"detector-{spec.job_id}", wait=True):
        if fitted(spec, store) and not anew:
            return load(store, spec.job_id)  # made by another process meanwhile
        return _make(lesson, spec, store)


def fitted(spec: DetectorSpec, store: Store) -> bool:
    """Whether a detector is in the store."""
    return (store.detectors / spec.job_id / "fitted.json").exists()


def fitting(
    guard: DetectorRequest, subject: Subject, threat: ThreatModel, settings: Settings, store: Store
) -> tuple[bool, int, int | None]:
    """What `watch` would have to do: whether the detector is there, on how many images it is fitted at the most, and
    the gradients that takes at the most, None where nobody knows."""
    lesson, spec = _plan(guard, subject, threat, settings)
    images = min(guard.images, int(FITTING_SHARE * len(subject.dataset.val)))
    each = lesson.attack.cost(lesson.threat, subject.dataset.classes).backwards
    return fitted(spec, store), images, None if each is None else each * images


def _plan(
    guard: DetectorRequest, subject: Subject, threat: ThreatModel, settings: Settings
) -> tuple[_Lesson, DetectorSpec]:
    """What a detector is to be fitted with, and what tells it from others; raises BadInput as `watch`."""
    name, trained = guard.attack_and_threat(threat)
    plugin, attack = registry.load("detector", guard.detector), registry.load("attack", name)
    options = plugin.options(guard.options)
    detector = plugin.build(options, subject.dataset.classes)
    attack_options = attack.options(guard.attack_options)
    built = attack.build(attack_options)
    assert isinstance(built, Attack)
    if trained.norm not in built.norms:
        raise BadInput(
            f"The attack {name!r} does not support norm {trained.norm}; give its own threat model, such as "
            f"--trained-on {name}@{built.norms[0]}:{NORMS[built.norms[0]].wide}."
        )
    spec = DetectorSpec(
        model_digest=subject.digest,
        train_digest=subject.dataset.train.digest,
        validation_digest=subject.dataset.val.digest,
        detector=guard.detector,
        detector_version=detector.version,
        options=options,
        trained_on=guard.trained_on if "@" in guard.trained_on else f"{name}@{trained.norm}:{trained.eps_text}",
        attack_version=built.edition,
        attack_options=attack_options,
        images=guard.images,
        fpr=guard.fpr,
        seed=settings.seed,
        batch_size=settings.batch_size if built.batched and settings.batch_size != USUAL else None,
        sources=_unreleased(_made_of(detector, built, subject)),
    )
    return _Lesson(_score_of(detector), subject, built, trained, guard, plain(settings)), spec


def _made_of(detector: Detector, attack: Attack, subject: Subject) -> dict[str, type]:
    """The classes behind a fitted detector, by the kind of plugin."""
    found: dict[str, type] = {"detector": type(detector), "attack": type(attack)}
    return found | ({"defense": registry.load("defense", subject.defense).base} if subject.defense else {})


def _unreleased(bases: Mapping[str, type]) -> dict[str, str] | None:
    """The digests of their code, as far as their versions do not speak for it."""
    found = {kind: unreleased(base) for kind, base in bases.items()}
    return {kind: digest for kind, digest in found.items() if digest is not None} or None


def _make(lesson: _Lesson, spec: DetectorSpec, store: Store) -> Watch:
    """Fit a detector and keep it."""
    folder = store.detectors / spec.job_id
    for scores in folder.glob("scores-*"):  # of an earlier fit
        scores.unlink(missing_ok=True)
    score, subject = lesson.score, lesson.subject
    with bar(f"{subject.name}  {spec.detector}") as shown, full_precision():
        fitted = _fit(lesson, shown.update)
    tensors = {key: value.cpu().contiguous() for key, value in score.state_dict().items()}
    digest = write_tensors(folder / "detector.safetensors", tensors)
    record = {"command": command(), "environment": environment(), "model": subject.name, "digest": digest}
    bases = _made_of(score.detector, lesson.attack, subject)
    record |= {"sources": {kind: plugin_digest(base) for kind, base in bases.items()}, "fitted": spec.job_id}
    write_json(folder / "spec.json", spec.to_json())
    write_sealed(folder / "fitted.json", {**fitted, **record})
    return Watch(score, spec, folder, fitted)


def load(store: Store, job_id: str) -> Watch:
    """A fitted detector from the store. Raises BadInput where it is missing or damaged."""
    folder = store.detectors / job_id
    advice = f"delete the folder {folder} and run the command again"
    plain = read_json(folder / "spec.json", DetectorRecord, advice)
    fitted, _, sealed = read_sealed(folder / "fitted.json", FittedRecord, advice)
    weights = folder / "detector.safetensors"
    same = identity(plain) == job_id and (not sealed or fitted.pop("fitted", None) == job_id)
    if not same or not weights.is_file() or checksum(weights) != fitted["digest"]:
        raise Damaged(f"The detector in {folder} is missing or damaged; {advice}.")
    try:
        spec = DetectorSpec(**plain)
    except ValidationError:
        raise BadInput(f"The detector in {folder} is of another version of robench; {advice}.") from None
    detector = registry.load("detector", spec.detector).build(spec.options, fitted["classes"])
    score = _score_of(detector)
    try:
        _restore(score, load_file(weights))
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise Damaged(
            f"The tensors of the detector in {folder} are damaged ({first_line(error, 120)}); {advice}."
        ) from error
    return Watch(score, spec, folder, fitted)


def _score_of(detector: Detector) -> Score:
    from robench.detector.score import Score

    return Score(detector.eval())


def _restore(score: Score, tensors: dict[str, Tensor]) -> None:
    """Give a score and its detector their fitted tensors; raises ValueError for those of something else."""
    own = dict(score.named_buffers(recurse=False))
    theirs = {name.removeprefix("detector."): t for name, t in tensors.items() if name.startswith("detector.")}
    mine = {name: tensor for name, tensor in tensors.items() if not name.startswith("detector.")}
    if mine.keys() != own.keys():
        raise ValueError(f"the tensors are {', '.join(sorted(mine))} and not {', '.join(own)}")
    for name, tensor in mine.items():
        size = mine["weight"].numel() if name in ("shift", "scale", "weight") else 1
        if tensor.dtype != torch.float64 or tensor.shape != (size,) or not tensor.isfinite().all():
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
    for name in theirs:
        if not isinstance(getattr(score.detector, name, None), Tensor | None):
            raise ValueError(f"{name} is no tensor of a detector")
    score.detector.restore(theirs)
    for name, tensor in mine.items():
        setattr(score, name, tensor)


def _fit(lesson: _Lesson, show: Any) -> dict[str, Any]:
    """Fit the detector, its regression and its threshold; returns what there is to tell about it."""
    score, subject, guard, settings = lesson.score, lesson.subject, lesson.guard, lesson.settings
    module, device = subject.module.to(settings.device), settings.device
    with torch.no_grad():
        score.detector.fit(module, subject.dataset.train)
    score.to(device)
    val = shuffled(subject.dataset.val)
    cut = int(FITTING_SHARE * len(val))
    right = right_ones(module, val.subset(slice(0, cut)), settings)[: guard.images]
    require(len(right) >= LEAST_BROKEN, "the number of validation images that the model classifies correctly",
            len(right), f"at least {LEAST_BROKEN} to fit a detector; use more data or a better model")  # fmt: skip
    part = val.subset(right)
    examples = Examples(part.pixels(slice(None)), part.labels, part.ids)
    shard = attack_shard(
        module, subject.dataset.classes, lesson.attack, lesson.threat, examples, settings, lambda s: show(0.9 * s)
    )
    broken = torch.tensor(succeeded(shard.rows))
    if int(broken.sum()) < LEAST_BROKEN:
        raise BadInput(
            f"The attack {guard.trained_on!r} broke {int(broken.sum())} of {len(part)} validation images of "
            f"{subject.name}, too few to learn from (at least {LEAST_BROKEN}); give a stronger --trained-on or "
            "more --detector-images."
        )
    noise = noisy(examples, shard.images, settings.seed, broken)
    kinds = (examples.x, noise, shard.images[broken])
    features = [_features(score, module, x, settings) for x in kinds]
    labels = torch.cat([torch.full((len(f),), kind == 2) for kind, f in enumerate(features)])
    score.calibrate(torch.cat(features).cpu(), labels)
    score.to(device)
    clean = scored(score, module, val.subset(slice(cut, None)).pixels(slice(None)), settings)
    score.set_threshold(clean, guard.fpr)
    return {
        "classes": subject.dataset.classes,
        "fitted_on": len(part),
        "adversarial": int(broken.sum()),
        "threshold": float(score.threshold),
        "threshold_images": len(clean),
        "noise_l2": float((noise - examples.x).flatten(1).norm(dim=1).mean()),
    }


def plain(settings: Settings) -> Settings:
    """Without what an evaluation's own attacks do about the model's gradients."""
    return replace(settings, bpda=(), draws=1, precision="fp32")


def shuffled(split: Split) -> Split:
    """The split in an order that is always the same, since some data come class by class."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_KEY))
    return split.subset(order)


@torch.no_grad()
def right_ones(module: nn.Module, split: Split, settings: Settings) -> list[int]:
    """Positions of the images that the model classifies correctly."""
    answers = [
        module(split.pixels(slice(i, i + settings.batch_size)).to(settings.device)).argmax(1).cpu()
        for i in range(0, len(split), settings.batch_size)
    ]
    found: list[int] = (torch.cat(answers) == split.labels).nonzero()[:, 0].tolist()
    return found


@torch.no_grad()
def _features(score: Score, module: nn.Module, x: Tensor, settings: Settings) -> Tensor:
    parts = torch.split(x, settings.batch_size)
    return torch.cat([score.detector.features(module, part.to(settings.device))[1].cpu() for part in parts])


def scored(score: Score, module: nn.Module, x: Tensor, settings: Settings) -> Tensor:
    """Scores [N] on the CPU, float64."""
    found = score.of(_features(score, module, x, settings).to(score.weight.device)).cpu()
    wrong = int((~found.isfinite()).sum())
    if wrong:
        raise BadInput(
            f"The detector {type(score.detector).__name__} gave scores that are not finite for {wrong} of {len(x)} "
            "images; choose other options for it."
        )
    return found


def noisy(examples: Examples, adversarial: Tensor, seed: int, broken: Tensor) -> Tensor:
    """The images with clipped Gaussian noise as long, on average, as the perturbations of `adversarial` [n, C, H, W].

    Only those of `broken` images, bool [n], count where there are any. The standard deviation is found by bisection
    after clipping (Ma et al., 2018, tune it to the same end).
    """
    lengths = (adversarial - examples.x).flatten(1).norm(dim=1)
    wanted = float((lengths[broken] if bool(broken.any()) else lengths).mean())
    shape = tuple(examples.x.shape[1:])
    draws = randomness.gaussian(seed, examples.ids.tolist(), [0] * len(examples), "detector-noise", shape)

    def at(std: float) -> Tensor:
        return (examples.x + std * draws).clamp(0, 1)

    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        norm = float((at(middle) - examples.x).flatten(1).norm(dim=1).mean())
        low, high = (middle, high) if norm < wanted else (low, middle)
    return at(high)


def explain(watch: Watch, dataset: Dataset) -> None:
    """A line about a detector fitted on these data, and one where it saw test images: when it is first heard of."""
    fitted = watch.fitted
    if watch.folder in _told:
        return
    _told.add(watch.folder)
    say(
        f"{watch.name}: fitted on {fitted['fitted_on']} validation images, {fitted['adversarial']} of them broken; "
        f"threshold {fitted['threshold']:.3g} from {fitted['threshold_images']} others"
        + ("." if fitted["threshold_images"] >= FEW else ", so few that the false-positive rate is a rough guess.")
    )
    if told := fitted_told(dataset):
        say(told)

"""Adversarial images made elsewhere, judged under the same rules as an attack's and kept as an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robench.data.dataset import Dataset, Split
from robench.data.draw import WAYS
from robench.errors import BadInput, shown
from robench.evaluation.address import Address, How
from robench.evaluation.attacks import attack_at, label_of
from robench.evaluation.bench import Bench
from robench.evaluation.scheduler import evaluate_one
from robench.exchange.readers import Reading, read
from robench.progress import bar, say
from robench.registry import OPEN_NAME
from robench.results.accuracy import Figure, entering, standing
from robench.results.rows import COUNTED
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.imported import CHUNK, content_digest
from robench.store.labels import why_not_whole
from robench.store.runs import Store
from robench.store.specs import IMPORTED
from robench.tables.report import Report
from robench.threat import ThreatModel


@dataclass(frozen=True)
class Outside:
    """How many of n images lie outside eps or [0, 1], and how far the farthest and the nearest of all are."""

    count: int
    farthest: float
    nearest: float
    n: int


@dataclass(frozen=True)
class Together:
    """The worst case on the imported images, over them and the stored white-box attacks that were made on all of them;
    without: over the latter alone, None where there is none."""

    attacks: tuple[str, ...]
    figure: Figure
    without: Figure | None

    def to_json(self) -> dict[str, Any]:
        """The figures as fractions."""
        alone = {"without": self.without.value} if self.without else {}
        ends = list(self.figure.interval)
        found = {"attacks": list(self.attacks), "n": self.figure.n, "robust_accuracy": self.figure.value}
        return {**found, "interval": ends, **alone}


@dataclass(frozen=True)
class ImportedReport:
    """What came of the images: the report on them alone, and the worst case with what was stored before."""

    report: Report
    outside: Outside
    together: Together | None


@dataclass(frozen=True)
class Source:
    """What is imported: the file, and the name that it goes by; eps None for what the file says, or the norm's own."""

    file: Path
    model: str
    name: str | None
    dataset: str | None = None
    norm: str | None = None
    eps: str | None = None
    classes: int | None = None


def import_images(source: Source, store: Store, how: How | None = None) -> ImportedReport:
    """Judge the images in a file, and keep them as the evaluation of an attack "imported:NAME".

    Raises BadInput for a file that cannot be used, images that are not of the model's test images, and a name that
    other images of the model go by already.
    """
    how = how or How()
    name = _name(source)
    target = Bench(store).target(source.model, source.dataset, how.data_root, source.classes)
    target.dataset.tell()
    reading = read(source.file, target.shape)
    for sentence in reading.told:
        say(sentence)
    threat = _threat(source, reading)
    threat.check_shape(target.shape)
    draw = _draw(reading, target.dataset)
    split = target.dataset.drawn(draw)
    start, order = _matched(reading, split, target.dataset.name)
    chunk = _ordered(reading, order)
    outside = _distances(reading, chunk, split, start, threat)
    digest = content_digest(start, reading.shape, chunk)
    address = Address(
        model=source.model, attack=f"{IMPORTED}{name}", options={}, threat=threat, dataset=source.dataset,
        count=len(reading), classes=source.classes, start=start, imported=digest,
        draw=draw, how=how,
    )  # fmt: skip
    attack_at(address)
    _check_free(store, address, target.digest, split.digest)
    images = store.imported(digest)
    if not images.there:
        images.save(start, reading.shape, chunk, source.file.name)
    done = evaluate_one(address, store)
    report = Report.of(done, store)
    together = _together(store, store.evaluation(done.results[0].evaluation)) if report.complete else None
    return ImportedReport(report, outside, together)


def _name(source: Source) -> str:
    name = source.file.stem if source.name is None else source.name
    if not OPEN_NAME.fullmatch(name):
        raise BadInput(
            f"--name is {shown(name)}, but must be of letters, digits, '.', '_' and '-', beginning with a letter or a "
            "digit."
        )
    return name


def _threat(source: Source, reading: Reading) -> ThreatModel:
    """As asked for, or as an export says of itself."""
    said = reading.about
    norm = source.norm or (str(said["norm"]) if "norm" in said else "linf")
    eps = source.eps
    if eps is None and said.get("norm") == norm and "eps" in said:
        eps = str(said["eps"])
        say(f"{reading.path} says {norm} eps {eps}, which the images are judged under.")
    return ThreatModel.of(norm, eps)


def _draw(reading: Reading, dataset: Dataset) -> str | None:
    """Of which order of the test images the file's ids are: an export of a draw says so, or the name of the data."""
    said = reading.about.get("draw", dataset.asked_way)
    if said not in (None, *WAYS):
        raise BadInput(f"{reading.path} says that its images are drawn {shown(said)}, but there are {', '.join(WAYS)}.")
    return None if said in (None, "first") else str(said)


def _matched(reading: Reading, split: Split, dataset: str) -> tuple[int, Tensor]:
    """The first test image, and the order in which the file's images follow the test images. Raises BadInput."""
    said, count = reading.about, len(reading)
    if said.get("data_digest") not in (None, split.digest):
        raise BadInput(
            f"{reading.path} was exported from {shown(said.get('dataset'))}, whose test images are not those of "
            f"{dataset}; give the right --dataset."
        )
    if reading.ids is None:
        if count > len(split):
            raise BadInput(f"{reading.path} has {count:,} images, but {dataset} has {len(split):,} test images.")
        say(f"{reading.path} names no example ids: its images are taken for the first {count:,} of {dataset}.")
        ids = torch.arange(count)
    else:
        ids = torch.tensor(reading.ids)
    order = ids.argsort()
    ordered = ids[order]
    if int(ordered[0]) < 0 or int(ordered[-1]) >= len(split):
        wrong = int(ordered[0]) if int(ordered[0]) < 0 else int(ordered[-1])
        raise BadInput(f"{reading.path} has the example id {wrong}, but {dataset} has 0 to {len(split) - 1}.")
    if count > 1 and not bool((ordered.diff() == 1).all()):
        at = int((ordered.diff() != 1).nonzero()[0, 0])
        before, after = int(ordered[at]), int(ordered[at + 1])
        what = f"twice {before}" if before == after else f"{after} after {before}"
        raise BadInput(
            f"{reading.path} has example ids that do not follow one another ({what}); split it into files of images "
            "in a row, and import each under a name of its own."
        )
    _check_labels(reading, split.labels[ids], dataset)
    return int(ordered[0]), order


def _check_labels(reading: Reading, labels: Tensor, dataset: str) -> None:
    """Raise BadInput where a file's labels are not those of the images that it is matched to."""
    if reading.labels is None:
        return
    differ = int((torch.tensor(reading.labels) != labels).sum())
    if differ:
        raise BadInput(
            f"{reading.path} has other labels than {dataset} for {differ:,} of {len(reading):,} images, so they are of "
            "other images or in another order; give their places in the test set as 'example_id'."
        )


def _ordered(reading: Reading, order: Tensor) -> Any:
    """Chunks in the order of the test images."""
    if bool((order == torch.arange(len(order))).all()):
        return reading.chunk

    def chunk(start: int, stop: int) -> Tensor:
        return torch.cat([reading.chunk(i, i + 1) for i in order[start:stop].tolist()])

    return chunk


def _distances(reading: Reading, chunk: Any, split: Split, start: int, threat: ThreatModel) -> Outside:
    """How far the images are from those that they are taken for. Raises BadInput where none of several is near."""
    found, inside = list[Tensor](), 0
    with bar(f"Reading {reading.path.name}") as shown_bar:
        for at in range(0, len(reading), CHUNK):
            stop = min(at + CHUNK, len(reading))
            x0, x = split.pixels(slice(start + at, start + stop)), chunk(at, stop)
            found.append(threat.distance(x0, x.nan_to_num()))
            inside += int(threat.contains(x0, x).sum())
            shown_bar.update(stop / len(reading))
    far = torch.cat(found)
    outside = Outside(len(far) - inside, float(far.max()), float(far.min()), len(far))
    if inside == 0 and outside.nearest > 2 * threat.radius:
        raise BadInput(
            f"None of the {len(far):,} images of {reading.path} is within {threat} of the test image it is taken for "
            f"(the nearest is {outside.nearest:.4g} away); check their order, --eps and --dataset, whose name with "
            "?draw=balanced says that places are those of a draw."
        )
    if outside.count:
        say(
            f"{outside.count:,} of {len(far):,} images of {reading.path} lie outside {threat} or [0, 1] (up to "
            f"{outside.farthest:.6g} away); they are projected before they are judged, and flagged."
        )
    return outside


def _check_free(store: Store, address: Address, model: str, data: str) -> None:
    """Raise BadInput where the name stands for other images of the same model within the same threat model."""
    asked = {"attack": address.attack, "model_digest": model, "data_digest": data, "norm": address.threat.norm,
             "eps": str(address.threat.eps)}  # fmt: skip
    for folder in store.intact()[0]:
        spec = folder.spec
        if all(spec[key] == value for key, value in asked.items()) and spec.get("imported") != address.imported:
            raise BadInput(
                f"{address.attack} stands for other images of this model already (evaluation {folder.job_id}); give "
                "another --name."
            )


@dataclass(frozen=True)
class _Entry:
    """An evaluation as a worst case asks about it."""

    folder: EvaluationFolder
    access: str
    metric: str


def _together(store: Store, imported: EvaluationFolder) -> Together | None:
    """The worst case on the imported images, over all that was tried on every one of them and is whole; what is not is
    said."""
    mine, about = imported.spec, ("model_digest", "data_digest", "split", "norm", "eps", "draw")
    first, last = mine["start"], mine["start"] + mine["count"]
    entries = []
    folders, damaged = store.intact()
    for reason in damaged.values():
        say(f"Left out of the worst case: {reason}")
    for folder in folders:
        spec = folder.spec
        covers = spec["start"] <= first and spec["start"] + spec["count"] >= last
        same = all(spec.get(name) == mine.get(name) for name in about)
        if not covers or not same or folder.about.probes:
            continue
        if reason := why_not_whole(folder):
            say(f"Left out of the worst case: {reason}")
        else:
            entries.append(_Entry(folder, folder.about.access, folder.about.metric))
    chosen = [each.folder for each in entering(entries)]
    others = [folder for folder in chosen if folder.job_id != imported.job_id]

    def figure(folders: Sequence[EvaluationFolder]) -> Figure:
        tables = [folder.rows(COUNTED) for folder in folders]
        kept = [rows[rows["example_id"].between(first, last - 1)].reset_index(drop=True) for rows in tables]
        return Figure(int(standing(kept).sum()), last - first)

    if not others:
        return None
    names = sorted({label_of(folder) for folder in others})
    return Together((*names, label_of(imported)), figure([*others, imported]), figure(others))

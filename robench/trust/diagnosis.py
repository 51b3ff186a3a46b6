"""The gates over a store: all runs of a model on the same images, and what was found, kept as JSON."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from robench.errors import BadInput
from robench.results.accuracy import Measure
from robench.results.rows import absent_classes
from robench.results.summary import label
from robench.store.files import Damaged, digest, read_sealed, write_sealed
from robench.store.records import DiagnosticsRecord
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import leans
from robench.threat import ThreatModel
from robench.trust import bounds, flagged, gates
from robench.trust import newest as versions
from robench.trust.bounds import walked
from robench.trust.gates import WHITE, AttackRun, Finding, diagnose
from robench.trust.newest import newest

# findings of other gates than these, or of runs collected in another way, are not taken from the store
_SOURCES = [
    Path(gates.__file__), Path(flagged.__file__), Path(bounds.__file__), Path(versions.__file__), Path(__file__),
]  # fmt: skip
GATES_SOURCE = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]


def run_of(folder: EvaluationFolder) -> AttackRun:
    """The run behind a complete evaluation of the store."""
    spec, about, result = folder.spec, folder.about, folder.result
    assert result is not None
    how = {name: spec[name] for name in ("eot", "bpda", "search_precision") if spec.get(name)}
    name = label(spec["attack"], {**about.given_options, **how}, about.against)
    threat, kind = ThreatModel.of(spec["norm"], spec["eps"]), about.kind
    options = {**spec["attack_options"], **how}
    pixels = pixels_of(folder) if threat.geometry.largest is None else 0  # takes reading images
    rows = folder.rows()
    absent = absent_classes(rows, about.classes, about.names)
    walks = kind in WHITE and walked(folder)
    return AttackRun(
        name, spec["attack"], kind, options, threat, rows, result.flags, pixels, absent, walks, about.images,
        about.chance,
    )  # fmt: skip


def collect(store: Store, model_digest: str, data_digest: str, norm: str, count: int) -> list[AttackRun]:
    """All complete runs of a model on the same examples within one norm, but those against a detector and those of an
    attack's older version beside the same of a newer one."""
    runs = []
    for folder in _folders(store, model_digest, data_digest, norm, count):
        with contextlib.suppress(Damaged):  # whose figure is summed up, but not from these rows
            runs.append(run_of(folder))
    return [run for run in runs if len(run.rows) == count]


def _folders(store: Store, model_digest: str, data_digest: str, norm: str, count: int) -> Iterator[EvaluationFolder]:
    yield from newest(_complete(store, model_digest, data_digest, norm, count))


def _complete(store: Store, model_digest: str, data_digest: str, norm: str, count: int) -> Iterator[EvaluationFolder]:
    for job_id in store.evaluation_ids():
        try:
            subject = _SUBJECTS.get(job_id) or _subject(store.evaluation(job_id).spec)
        except BadInput:
            continue  # a damaged folder of another evaluation
        _SUBJECTS[job_id] = subject
        if subject == (model_digest, data_digest, norm, 0, count, False):
            folder = store.evaluation(job_id)
            with contextlib.suppress(Damaged):  # until its command is run again
                if folder.result is not None and folder.about.metric == Measure.ROBUST:
                    yield folder


# by evaluation, whose id is made from its spec
_SUBJECTS: dict[str, tuple[Any, ...]] = {}


def _subject(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an evaluation is about, and whether it stands apart: against a detector, only on what another attack left
    standing, or for a bounded number of passes, which is not to be compared with the others."""
    apart = bool(spec.get("detector") or leans(spec) or spec.get("max_passes"))
    return spec["model_digest"], spec["data_digest"], spec["norm"], spec["start"], spec["count"], apart


def pixels_of(folder: EvaluationFolder) -> int:
    """How many numbers an image of a complete evaluation has."""
    return math.prod(folder.images(*folder.ranges()[0]).shape[1:])


def wider(threat: ThreatModel, pixels: int) -> list[ThreatModel]:
    """Twice the eps, and one that makes every image grey, as far as they differ."""
    largest = threat.geometry.grey(pixels)
    return [ThreatModel(threat.norm, eps) for eps in sorted({min(2 * threat.eps, largest), largest})]


def record(store: Store, name: str, folder: EvaluationFolder) -> list[Finding]:
    """Every gate for the model behind an evaluation, from all runs on the same examples.

    Kept in the store as JSON, with what it was made from, and read from there as long as that is the same.
    """
    if folder.spec["start"]:
        return []  # gates ask about the first images
    path, kept, new = _findings(store, name, folder)
    if new:
        write_sealed(path, kept)
    return _named(kept, name, folder)


def findings(store: Store, name: str, folder: EvaluationFolder) -> list[Finding]:
    """The same, with nothing written: for who only looks at a store."""
    return [] if folder.spec["start"] else _named(_findings(store, name, folder)[1], name, folder)


def _findings(store: Store, name: str, folder: EvaluationFolder) -> tuple[Path, dict[str, Any], bool]:
    """Where findings are kept, what is or would be kept there, and whether that is new."""
    spec = folder.spec
    same = (spec["model_digest"], spec["data_digest"], spec["norm"], spec["count"])
    source = {
        "gates": GATES_SOURCE,
        "results": {f.job_id: digest(r.to_json()) for f in _folders(store, *same) if (r := f.result)},
    }
    path = store.diagnostics / f"{spec['model_digest']}-{spec['data_digest']}-{spec['norm']}-n{spec['count']}.json"
    try:
        kept = read_sealed(path, DiagnosticsRecord).value
    except Damaged:
        kept = {}
    if kept.get("source") == source:
        return path, kept, False
    runs = collect(store, *same)
    whose = {"model": name, "model_digest": spec["model_digest"]}
    told = [replace(finding, **whose).to_json() for finding in diagnose(runs)]
    return path, {"model": name, "runs": [run.at for run in runs], "findings": told, "source": source}, True


def _named(kept: Mapping[str, Any], name: str, folder: EvaluationFolder) -> list[Finding]:
    """Findings by the name that the model has now."""
    whose = {"model": name, "model_digest": folder.spec["model_digest"]}
    return [Finding(**{**finding, **whose}) for finding in kept["findings"]]

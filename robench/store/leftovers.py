"""What a runs folder holds that no table needs, and how to be rid of it. A finished model is never among it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.errors import BadInput, disk_error
from robench.norms import NORMS
from robench.progress import say
from robench.store.claims import LOCKS, held
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import Damaged, read_json, read_sealed
from robench.store.marker import ID, carries_our_spec, check_runs_folder, is_runs_folder
from robench.store.parts import abandoned, aside_of, written
from robench.store.records import CheckRecord, Watching
from robench.store.runs import ASIDE, CHECK, KINDS, NAME, Store
from robench.store.specs import CraftSpec

SHARD_FILE = re.compile(r"(shard-\d+-\d+)\.(json|parquet|safetensors)")
# names of what is written in a runs folder, of artifacts and of folders that are removed
WRITTEN = re.compile(
    r"shard-\d+-\d+\.(json|parquet|safetensors)|(spec|about|result|model|fitted|check|sealed|imported)\.json|DONE"
    r"|last\.ckpt|images-\d+\.safetensors"
    r"|(model|detector)\.safetensors|sealed\.parquet|scores-[0-9a-f]{12}\.(json|parquet)|[\w-]+-n\d+\.json"
    r"|[0-9a-f]{12}(-[0-9a-f]{8})?|training"
)
DIAGNOSTICS = re.compile(r"\S+-(" + "|".join(NORMS) + r")-n\d+\.json")


@dataclass(frozen=True)
class Leftover:
    """Something that no table needs: files or one folder, why, their size in bytes, and the work it belongs to.

    work: what the lock of that work has in its name; "" for what any work may be about to use.
    """

    paths: tuple[Path, ...]
    reason: str
    size: int
    work: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields, paths as text."""
        return {"paths": [str(path) for path in self.paths], "reason": self.reason, "bytes": self.size}


def leftovers(store: Store) -> list[Leftover]:
    """Everything that no table needs and nobody works on now, by kind; of files that robench made, and no others.

    Raises BadInput for what is no runs folder.
    """
    check_runs_folder(store.root)
    busy = working(store)
    found = [each for each in _all(store) if not _in_use(each, busy)]
    folders = {path for each in found for path in each.paths if path.is_dir()}
    return [each for each in found if not folders & {parent for path in each.paths for parent in path.parents}]


def remove(store: Store, found: Iterable[Leftover]) -> list[Leftover]:
    """Delete leftovers, but those that are needed by now, or worked on; returns what was deleted.

    Raises DiskError where the system refuses.
    """
    gone, now = [], {(each.paths, each.reason): each for each in leftovers(store)}
    for each in found:
        if now.get((each.paths, each.reason)) != each or _in_use(each, working(store)):
            continue
        for path in each.paths:
            try:
                _delete(path)
            except OSError as error:
                raise disk_error(error, path) from error
        gone.append(each)
    return gone


def sizes(store: Store) -> dict[str, tuple[int, int]]:
    """Per kind of artifact, how many there are and their size in bytes."""
    found = {kind: list((store.root / kind).glob("[!.]*")) for kind in KINDS}
    return {kind: (len(paths), sum(map(_size, paths))) for kind, paths in found.items()}


def working(store: Store) -> list[str]:
    """What is being worked on now, by the names of the locks."""
    return [path.stem for path in (store.root / LOCKS).glob("*.lock") if held(store.root, path.stem)]


def _in_use(each: Leftover, busy: Sequence[str]) -> bool:
    return any(each.work in key for key in busy)


def _delete(path: Path) -> None:
    """A folder is moved out of sight first: nobody sees half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = aside_of(path)
    os.replace(path, aside)
    shutil.rmtree(aside)


def _all(store: Store) -> Iterator[Leftover]:
    yield from _parts(store)
    digests = _digests(store)
    for name in store.model_names():
        training = store.models / name / "training"
        if training.is_dir() and not training.is_symlink() and digests[name] is not None:
            yield _leftover([training], f"checkpoints of model {name!r}, which is finished", f"train-{name}")
    yield from _checks(store)
    for path in sorted((store.root / ASIDE).glob("[!.]*")):
        if carries_our_spec(path):
            model = (path / "model.safetensors").exists()
            what = "a model that was trained" if model else "an evaluation that was made"
            yield _leftover([path], f"{what} anew since", path.name.partition("-")[0])
    kept: list[EvaluationFolder] = []
    damaged = list(digests.values()).count(None)
    for job_id in store.evaluation_ids():
        folder = store.evaluation(job_id)
        try:
            reason = _unneeded(folder, store, digests)
        except BadInput:  # what it needs cannot be known
            damaged += 1
            continue
        if reason:
            yield _leftover([folder.path], reason, job_id)
        else:
            kept.append(folder)
            yield from _shards(folder)
    for path in sorted(store.evaluations.glob("[!.]*")):
        begun = not (path / "spec.json").exists() and not EvaluationFolder(path).named()
        if begun and carries_our_spec(path):
            yield _leftover([path], "an evaluation without spec and shards", path.name)
    if damaged:
        say(
            f"Models or evaluations are damaged ({damaged}, see 'robench list'); until they are made again or deleted, "
            "no crafted images, detectors or diagnostics are called unneeded."
        )
        return
    specs = {folder.job_id: folder.spec for folder in kept}
    yield from _crafted(store, specs.values())
    yield from _imported(store, specs.values())
    yield from _detectors(store, specs, set(digests.values()))
    yield from _diagnostics(store, specs.values())


def _parts(store: Store) -> Iterator[Leftover]:
    """What writers left that were killed."""
    for kind in KINDS:
        for path in sorted((store.root / kind).rglob(".*.part")):
            ours = WRITTEN.fullmatch(written(path)) or (path.parent == store.models and NAME.fullmatch(written(path)))
            if ours and not path.is_symlink() and abandoned(path):
                yield _leftover([path], "half-written by a process that is gone")


def _digests(store: Store) -> dict[str, str | None]:
    """The digests of the finished models; None where the card is damaged."""
    found: dict[str, str | None] = {}
    for name in store.model_names():
        try:
            found[name] = store.model_digest(name)
        except BadInput:
            found[name] = None
    return found


def _unneeded(folder: EvaluationFolder, store: Store, digests: dict[str, str | None]) -> str:
    """Why no table needs an evaluation; "" where one may. Raises BadInput where its record is damaged."""
    spec, reference = folder.spec, folder.about.reference
    if not folder.shards():
        return "an evaluation without a single whole shard"
    if not reference or ":" in reference or {spec["model_digest"], None} & set(digests.values()):
        return ""  # a model whose card is damaged may be the one
    if reference in digests:
        return f"an evaluation of an earlier model {reference!r}, which was trained again since"
    if (store.models / reference).exists():
        return ""  # unfinished or damaged: it may come back
    return f"an evaluation of model {reference!r}, which is gone"


def _checks(store: Store) -> Iterator[Leftover]:
    """Folders of checks that are finished: the next check begins anew."""
    for path in sorted(store.checks.glob("[!.]*")):
        try:
            done = read_sealed(path / CHECK, CheckRecord).value["finished"]
        except Damaged:
            done = is_runs_folder(path)  # cut short before anything was computed, or half removed
        if done and ID.fullmatch(path.name) and not path.is_symlink():
            yield _leftover([path], "a check that is finished", f"check-{path.name}")


def _shards(folder: EvaluationFolder) -> Iterator[Leftover]:
    """Files of shards that count for nothing: cut short, damaged, or computed again in other pieces."""
    used, unused = folder.contents, []
    for path in sorted(folder.path.glob("shard-*")):
        match = SHARD_FILE.fullmatch(path.name)
        if match and match[1] not in used:
            unused.append(path)
    if unused:
        yield _leftover(unused, f"shards of evaluation {folder.job_id} that do not count", folder.job_id)


def _crafted(store: Store, specs: Iterable[dict[str, Any]]) -> Iterator[Leftover]:
    used = {CraftSpec.of(spec).job_id for spec in specs if spec.get("surrogate")}
    for path in sorted(store.crafted.glob("[!.]*")):
        if path.name not in used and carries_our_spec(path):
            yield _leftover([path], "crafted images that no evaluation was made from")


def _imported(store: Store, specs: Iterable[dict[str, Any]]) -> Iterator[Leftover]:
    used = {spec.get("imported") for spec in specs}
    for path in sorted((store.root / "imported").glob("[!.]*")):
        if path.name not in used and store.imported(path.name).there and not path.is_symlink():
            yield _leftover([path], "imported images that no evaluation is about")


def _detectors(store: Store, specs: dict[str, dict[str, Any]], models: set[str | None]) -> Iterator[Leftover]:
    used = {spec.get("detector") for spec in specs.values()}
    models = models | {spec["model_digest"] for spec in specs.values()}
    for path in sorted(store.detectors.glob("[!.]*")):
        if not carries_our_spec(path):
            continue
        try:
            watches = read_json(path / "spec.json", Watching)["model_digest"]
        except BadInput:
            watches = None
        if path.name not in used and watches not in models:
            yield _leftover([path], "a detector of a model that is gone")
            continue
        for scores in sorted(path.glob("scores-*.json")):
            if WRITTEN.fullmatch(scores.name) and scores.stem.removeprefix("scores-") not in specs:
                yield _leftover([scores, scores.with_suffix(".parquet")], "scores on an evaluation that is gone")


def _diagnostics(store: Store, specs: Iterable[dict[str, Any]]) -> Iterator[Leftover]:
    used = {f"{s['model_digest']}-{s['data_digest']}-{s['norm']}-n{s['count']}" for s in specs}
    for path in sorted(store.diagnostics.glob("[!.]*.json")):
        if path.stem not in used and DIAGNOSTICS.fullmatch(path.name) and _are_findings(path):
            yield _leftover([path], "diagnostics of evaluations that are gone")


def _are_findings(path: Path) -> bool:
    try:
        return isinstance(read_sealed(path).value.get("findings"), list)
    except BadInput:
        return False


def _leftover(paths: Sequence[Path], reason: str, work: str = "") -> Leftover:
    return Leftover(tuple(paths), reason, sum(map(_size, paths)), work)


def _size(path: Path) -> int:
    """The size of a file, or of all files in a folder, in bytes."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())

"""Damage of every kind to every artifact of a store: never a traceback and never another figure.

Whatever reads the damaged store either comes to the figures of the undamaged one or says in a sentence that it cannot;
and `robench evaluate` or `robench train` makes the artifact anew, after which everything is as it was, or refuses.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from robench.detector.request import DetectorRequest
from robench.errors import RobenchError
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.results.summary import NOT_SEALED
from robench.store.files import FORMAT, digest, identity
from robench.store.runs import Store
from robench.tables import leaderboard
from robench.threat import ThreatModel
from robench.training.jobs import TrainRequest, train
from tests.unit.store.readers import READERS, agrees, assert_sentence, figures_of

PLAIN = Request(["plain"], ["fgsm"], ThreatModel.of("linf", "0.1"), count=20, shard_size=10, device="cpu")
TRANSFER = replace(PLAIN, surrogates=["other"])
REPLAYED = replace(TRANSFER, models=["other"])  # not in the store: it needs the images that were crafted for TRANSFER
GUARD = DetectorRequest("kd", trained_on="fgsm@linf:0.3", images=100, adaptive=False)
WATCHED = replace(PLAIN, guard=GUARD)
ELSEWHERE = replace(PLAIN, threat=ThreatModel.of("linf", "0.2"))  # another evaluation, for files out of place

# where an artifact is under runs/, which request reads it, and whether that request makes it anew, refuses, or does
# without it
ARTIFACTS: dict[str, tuple[str, Request, str]] = {
    "model.safetensors": ("models/plain/model.safetensors", ELSEWHERE, "refused"),
    "model.json": ("models/plain/model.json", PLAIN, "refused"),
    "DONE": ("models/plain/DONE", PLAIN, "refused"),
    "spec.json": ("evaluations/{plain}/spec.json", PLAIN, "recomputed"),
    "about.json": ("evaluations/{plain}/about.json", PLAIN, "recomputed"),
    "result.json": ("evaluations/{plain}/result.json", PLAIN, "recomputed"),
    "manifest": ("evaluations/{plain}/shard-000010-000020.json", PLAIN, "recomputed"),
    "rows": ("evaluations/{plain}/shard-000010-000020.parquet", PLAIN, "recomputed"),
    "images": ("evaluations/{plain}/shard-000010-000020.safetensors", PLAIN, "recomputed"),
    "transferred rows": ("evaluations/{transfer}/shard-000010-000020.parquet", TRANSFER, "recomputed"),
    "crafted manifest": ("crafted/{crafted}/shard-000010-000020.json", REPLAYED, "recomputed"),
    "crafted rows": ("crafted/{crafted}/shard-000010-000020.parquet", REPLAYED, "recomputed"),
    "crafted images": ("crafted/{crafted}/shard-000010-000020.safetensors", REPLAYED, "recomputed"),
    "crafted spec.json": ("crafted/{crafted}/spec.json", TRANSFER, "not needed"),
    "crafted about.json": ("crafted/{crafted}/about.json", TRANSFER, "not needed"),
    "detector spec.json": ("detectors/{detector}/spec.json", WATCHED, "refused"),
    "fitted.json": ("detectors/{detector}/fitted.json", WATCHED, "refused"),
    "detector.safetensors": ("detectors/{detector}/detector.safetensors", WATCHED, "refused"),
    "scores.json": ("detectors/{detector}/scores-{plain}.json", WATCHED, "recomputed"),
    "scores.parquet": ("detectors/{detector}/scores-{plain}.parquet", WATCHED, "recomputed"),
    "diagnostics": ("diagnostics/{diagnostics}.json", PLAIN, "recomputed"),
}


@dataclass(frozen=True)
class Kept:
    """The undamaged store, the ids in it, and what its readers say."""

    root: Path
    ids: dict[str, str]
    answers: dict[str, Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Two small models, and evaluations of one: plain, at another eps, from images of the other, and watched."""
    root = tmp_path_factory.mktemp("kept") / "runs"
    store = Store(root)
    for seed, name in enumerate(("plain", "other")):
        train(TrainRequest("standard", "digits", epochs=2, seed=seed, name=name, device="cpu"), store)
    found = {
        name: evaluate(request, store).rows[0]["evaluation"]
        for name, request in (("plain", PLAIN), ("transfer", TRANSFER), ("elsewhere", ELSEWHERE))
    }
    evaluate(WATCHED, store)
    evaluate(replace(WATCHED, guard=replace(GUARD, fpr=0.1)), store)  # another detector, for files out of place
    ids = {
        **found,
        "crafted": _only(root / "crafted"),
        "diagnostics": _only(root / "diagnostics").removesuffix(".json"),
    }
    for path in (root / "detectors").iterdir():
        ids["detector" if json.loads((path / "spec.json").read_text())["fpr"] == 0.05 else "watching"] = path.name
    evaluate(replace(TRANSFER, seed=1), store)
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return Kept(root, ids, {name: READERS[name](root, ids) for name in READERS})


def _only(folder: Path) -> str:
    (path,) = folder.iterdir()
    return path.name


def read_all(root: Path, kept: Kept) -> list[str]:
    """Ask every reader; those that do not give the whole answer, none of them a wrong one."""
    partly = []
    for name, reader in READERS.items():
        try:
            now = reader(root, kept.ids)
        except RobenchError as error:
            assert_sentence(error)
            partly.append(name)
            continue
        assert agrees(now, kept.answers[name]), f"{name} says {now}, but {kept.answers[name]} is right"
        partly += [name] if now != kept.answers[name] else []
    return partly


# --- damage ----------------------------------------------------------------------------------------------------------


def _flip(path: Path, seed: int) -> None:
    noise = random.Random(f"{path.name} {seed}")
    content = bytearray(path.read_bytes())
    content[noise.randrange(len(content))] ^= 1 << noise.randrange(8)
    path.write_bytes(content)


def _number(path: Path, kept: Kept) -> None:
    """One digit of a file that stays JSON: the first after a decimal point, of an accuracy if there is one."""
    del kept
    text = path.read_text()
    at = text.find(".", text.find("accuracy") if "accuracy" in text else 0) + 1
    at = next(i for i in (*range(at, len(text)), *range(len(text))) if text[i].isdigit())
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def _word(path: Path, kept: Kept) -> None:
    """A name in a file that stays JSON."""
    text = path.read_text()
    swaps = {'"plain"': '"other"', '"fgsm"': '"pgd"', '"complete"': '"Complete"', '"seconds"': '"secends"'}
    known = next((old for old in swaps if old in text), None)
    first = re.findall(r'"[a-z_]{4,}"', text)[0]
    path.write_text(text.replace(known, swaps[known]) if known else text.replace(first, first.upper()))


def _sibling(path: Path, kept: Kept) -> None:
    """The file that has this name elsewhere, or the next shard's."""
    others = {
        "plain": "other", kept.ids["plain"]: kept.ids["elsewhere"], kept.ids["transfer"]: kept.ids["elsewhere"],
        kept.ids["detector"]: kept.ids["watching"],
    }  # fmt: skip
    if path.parent.name in others:
        shutil.copy(kept.root / path.parent.parent.name / others[path.parent.name] / path.name, path)
    elif path.parent.name == "diagnostics":
        path.write_text('{"model": "other", "runs": [], "findings": []}')
    else:  # crafted
        (other,) = (p for p in (kept.root / "crafted").iterdir() if p.name != path.parent.name)
        shutil.copy(other / path.name, path)


def _shard_before(path: Path, kept: Kept) -> None:
    """Another shard of the same evaluation."""
    del kept
    assert "000010-000020" in path.name
    shutil.copy(path.with_name(path.name.replace("000010-000020", "000000-000010")), path)


def _later(path: Path, kept: Kept) -> None:
    """What a later version might write, whole and under its seal; in a spec, another harness."""
    del kept
    value = json.loads(path.read_text())
    if "seal" in value:
        value = {**{k: v for k, v in value.items() if k != "seal"}, "format": FORMAT + 1}
        value["seal"] = digest(value)
    else:
        value["harness"] = value.get("harness", 0) + 1
    path.write_text(json.dumps(value))


DAMAGE: dict[str, Callable[[Path, Kept], object]] = {
    "gone": lambda path, kept: path.unlink(),
    "empty": lambda path, kept: path.write_bytes(b""),
    "truncated": lambda path, kept: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path, kept: path.write_bytes(path.read_bytes()[:-2]),
    "flipped": lambda path, kept: _flip(path, 0),
    "flipped elsewhere": lambda path, kept: _flip(path, 1),
    "a picture": lambda path, kept: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4),
    "from elsewhere": _sibling,
    "another shard's": _shard_before,
    "a number": _number,
    "a name": _word,
    "a later format": _later,
}
TEXTS = ("a number", "a name", "a later format")
CASES = [
    (artifact, kind)
    for artifact, (place, _, _) in ARTIFACTS.items()
    for kind in DAMAGE
    if (kind != "another shard's" or "shard" in place) and (kind not in TEXTS or place.endswith(".json"))
]


@pytest.mark.parametrize(("artifact", "kind"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_damage_is_noticed(
    artifact: str, kind: str, kept: Kept, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    place, request, outcome = ARTIFACTS[artifact]
    root = tmp_path / "runs"
    shutil.copytree(kept.root, root)
    path = root / place.format(**kept.ids)
    written = path.read_bytes()
    DAMAGE[kind](path, kept)
    damaged = path.read_bytes() if path.exists() else b""
    same = _meaning(damaged) == _meaning(written)

    partly, files = read_all(root, kept), _files(root)
    before = _undamaged(request, kept, tmp_path / "undamaged")
    refused, rows, detections = [], [], []
    try:
        done = evaluate(request, Store(root))
        refused, rows, detections = done.refused, [figures_of(row) for row in done.rows], done.detections
    except RobenchError as error:
        assert_sentence(error)
        refused = [str(error)]
    assert agrees(rows, before["rows"]) or not rows
    anew = path.exists() and path.read_bytes() != damaged
    found = "same content" if same else "refused" if refused else "recomputed" if anew else "not needed"
    record_property("outcome", found)
    fitted_again = (artifact, kind) == ("fitted.json", "gone")  # as if the fitting had never ended
    later = kind == "a later format" and artifact != "spec.json"  # whose id does not fit any more
    expected = "refused" if later and outcome == "recomputed" else outcome
    assert found in (expected, "same content") or fitted_again, refused
    if not refused:
        assert rows == before["rows"]
        assert detections == before["detections"]
        for job_id in set(Store(root).evaluation_ids()) - set(Store(kept.root).evaluation_ids()):
            shutil.rmtree(root / "evaluations" / job_id)
        if _files(root) != files:  # readers would answer as before
            partly = read_all(root, kept)
        assert partly == [], "what was made anew is not as it was"


def _files(root: Path) -> dict[Path, tuple[int, int]]:
    """The store's files, when they were written and how large they are."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


def _undamaged(request: Request, kept: Kept, place: Path) -> Any:
    """What a request gives on the undamaged store."""
    if str(request) not in kept.answers:
        kept.answers[str(request)] = _evaluated(request, shutil.copytree(kept.root, place))
    return kept.answers[str(request)]


def _meaning(content: bytes) -> object:
    """What JSON says, whatever its layout; other content as it is."""
    try:
        return json.loads(content)
    except ValueError:
        return content


def _evaluated(request: Request, root: Path) -> dict[str, Any]:
    done = evaluate(request, Store(root))
    return {"rows": [figures_of(row) for row in done.rows], "detections": done.detections}


# --- stores from before there were seals -----------------------------------------------------------------------------


@pytest.fixture
def old(kept: Kept, tmp_path: Path) -> Path:
    """The store as the first version wrote it: no seals, and nothing that says where a file belongs."""
    root = tmp_path / "runs"
    shutil.copytree(kept.root, root)
    for path in [*root.rglob("sealed.json"), *root.rglob("sealed.parquet")]:
        path.unlink()
    for path in root.rglob("*.json"):
        value = json.loads(path.read_text())
        if "seal" not in value:
            continue
        added = {"seal", "format", "shards", "range"} | ({"fitted"} if path.name == "fitted.json" else set())
        added |= {"evaluation"} if path.parent.parent.name in ("evaluations", "crafted") else set()
        path.write_text(json.dumps({k: v for k, v in value.items() if k not in added}))
    for path in root.rglob("DONE"):
        path.write_text(path.read_text().split()[0] + "\n")
    return root


def test_old_stores_are_read(old: Path, kept: Kept) -> None:
    found = Store(old).evaluation(kept.ids["plain"]).result
    assert found is not None
    assert found.flags == (NOT_SEALED,)
    for request in (PLAIN, TRANSFER, WATCHED):
        assert _evaluated(request, old) == _evaluated(request, kept.root)
    assert read_all(old, kept) == []
    assert "seal" in json.loads((old / "evaluations" / kept.ids["plain"] / "result.json").read_text())


def test_the_figures_of_old_stores_are_taken_from_their_rows(old: Path, kept: Kept) -> None:
    path = old / "evaluations" / kept.ids["plain"] / "result.json"
    _number(path, kept)
    assert Store(old).evaluation(kept.ids["plain"]).stated != Store(kept.root).evaluation(kept.ids["plain"]).result
    assert _evaluated(PLAIN, old) == _evaluated(PLAIN, kept.root)
    assert read_all(old, kept) == []


def test_a_renamed_shard_of_an_old_store_is_missing(old: Path, kept: Kept) -> None:
    folder = Store(old).evaluation(kept.ids["plain"])
    for suffix in ("json", "parquet", "safetensors"):
        shutil.copy(folder.path / f"shard-000000-000010.{suffix}", folder.path / f"shard-000010-000020.{suffix}")
    assert folder.ranges() == [(0, 10)]
    assert folder.damaged() == [(10, 20)]


# --- whole shards in the wrong place ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["elsewhere", "plain"])
def test_a_shard_that_is_whole_but_of_elsewhere_is_missing(source: str, kept: Kept, tmp_path: Path) -> None:
    """All three files of a shard of another evaluation, or of other examples."""
    shutil.copytree(kept.root, tmp_path / "runs")
    folder = Store(tmp_path / "runs").evaluation(kept.ids["plain"])
    examples = "000010-000020" if source == "elsewhere" else "000000-000010"
    for suffix in ("json", "parquet", "safetensors"):
        shutil.copy(
            folder.path.parent / kept.ids[source] / f"shard-{examples}.{suffix}",
            folder.path / f"shard-000010-000020.{suffix}",
        )
    assert folder.ranges() == [(0, 10)]
    assert folder.missing(0, 20, 10) == [(10, 20)]
    assert folder.result is None
    assert _evaluated(PLAIN, tmp_path / "runs") == _evaluated(PLAIN, kept.root)


def test_an_evaluation_under_another_id_is_left_out(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(kept.root, tmp_path / "runs")
    folder = Store(tmp_path / "runs").evaluation(kept.ids["plain"])
    assert identity(folder.spec) == kept.ids["plain"]
    renamed = shutil.copytree(folder.path, folder.path.with_name("0" * 12))
    boards = leaderboard.build(Store(tmp_path / "runs"))
    assert f"{renamed.name}/spec.json is damaged" in capsys.readouterr().err
    assert [board.name for board in boards] == [board.name for board in leaderboard.build(Store(kept.root))]
    lines = {line.model: line for board in boards for line in board.rows}
    assert "1 damaged left out" in lines["plain"].worst.note  # it says in about.json whose it is
    assert lines["plain"].partial

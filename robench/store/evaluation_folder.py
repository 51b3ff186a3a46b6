"""One evaluation's folder: shards of rows and images, each under a manifest, and the summary of them.

Every JSON file is under a seal, says what it belongs to, and holds the checksums of the files it describes, so that any
changed byte and any file from elsewhere is noticed. Shards are then computed again and figures taken from the rows.
Files from before there were seals are read as far as they can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from robench.results.rows import SEALED
from robench.results.summary import Summary, label, summarise
from robench.store import second_verdict
from robench.store.about import About
from robench.store.files import (
    Damaged,
    Memory,
    Record,
    Required,
    Signature,
    checksum,
    identity,
    read_json,
    read_sealed,
    signature,
    write_file,
    write_json,
    write_sealed,
)  # fmt: skip
from robench.store.second_verdict import SecondVerdict

# of all folders, since every question about one evaluation of many reads the specs of all
_SPECS = Memory()
SHARD = re.compile(r"shard-(\d+)-(\d+)\.json")
# what readers rely on in each file; a spec needs none, since its id says whether it is the one that was written
ABOUT: Required = {
    "model": str, "reference": str, "dataset": str, "eps": str, "given_options": dict, "metric": str, "access": str,
    "command": str, "environment.commit": str, "environment.packages.torch": str,
}  # fmt: skip
RESULT: Required = {
    "n": int, "status": str, "flags": list, "interval": list, "clean_accuracy": (int, float), "backwards": int,
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """A whole shard: the examples [start, stop), what was noted when it was computed, and its manifest's digest."""

    start: int
    stop: int
    notes: dict[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """What the names of its files begin with."""
        return _stem(self.start, self.stop)


def _stem(start: int, stop: int) -> str:
    return f"shard-{start:06d}-{stop:06d}"


@dataclass(frozen=True)
class EvaluationFolder:
    """One evaluation: spec.json, about.json, a pair of files and a manifest per shard, result.json written last."""

    path: Path
    _memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    @property
    def job_id(self) -> str:
        """The evaluation's id, the folder's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The runs folder it lies in."""
        return self.path.parent.parent

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as JSON; raises Damaged where it is damaged, or another evaluation's."""
        path = f"{self.path}/spec.json"

        def read() -> dict[str, Any]:
            spec = read_json(path, advice=self._advice)
            if identity(spec) != self.job_id:
                raise Damaged(f"The file {path} is damaged (its content has the id {identity(spec)}); {self._advice}.")
            return spec

        return dict(_SPECS.of(path, signature(path), read))

    @property
    def about(self) -> About:
        """What is recorded beside the spec: names, command, environment. Raises Damaged where it is damaged."""
        return About.from_json(self._own("about.json", ABOUT).value)

    @property
    def label(self) -> str:
        """The attack with the options that were given and what it was up against. Raises Damaged."""
        about = self.about
        return label(self.spec["attack"], about.given_options, about.against)

    @property
    def stated(self) -> dict[str, Any] | None:
        """What result.json says, of whatever shards: the figures, and in "shards" the digests of their manifests.

        None where there is no such file; raises Damaged.
        """
        return dict(self._own("result.json", RESULT).value) if os.path.exists(f"{self.path}/result.json") else None

    @property
    def result(self) -> Summary | None:
        """The summary, or None while the evaluation is unfinished: no result.json, or examples without a whole shard.

        A result.json that is damaged or of other shards is not believed: the rows are summarised again.
        """
        try:
            stated = self.stated
        except Damaged:
            stated = {}
        shards = self.shards()
        if stated is None or not self._covered(shards):
            return None
        second = self.second
        if (stated.pop("shards", None), stated.pop("second", None)) == (_contents(shards), second and second.digest):
            with contextlib.suppress(KeyError):
                return Summary.from_json(stated, self.about.metric)
        return self.summarised(self.about.metric)

    @property
    def complete(self) -> bool:
        """Whether every example of the spec is in a whole shard."""
        return self._covered(self.shards())

    def _covered(self, shards: list[Shard]) -> bool:
        at, stop = self.spec["start"], self.spec["start"] + self.spec["count"]
        for shard in shards:
            if shard.start > at:
                break
            at = max(at, shard.stop)
        return bool(at >= stop)

    def begin(self, spec: dict[str, Any], about: About) -> None:
        """Record the spec and what goes with it, unless they are there; what is damaged is made anew.

        A record made after the first shard says so ("mended"), since its environment need not be theirs. A probe that
        is asked for as a figure is none any more.
        """
        if not self._readable("about"):
            self._record(replace(about, mended=bool(self.named())))
        elif self.about.probes and not about.probes:
            self._record(replace(self.about, probe=False, command=about.command))
        if not self._readable("spec"):
            write_json(self.path / "spec.json", spec)

    def _record(self, about: About) -> None:
        write_sealed(self.path / "about.json", {**about.to_json(), "evaluation": self.job_id})

    def named(self) -> list[tuple[int, int]]:
        """The ranges of all shards that have a manifest, whole or not, in order."""
        return _ranges(self._signatures())

    def shards(self) -> list[Shard]:
        """The shards that are whole, undamaged and this evaluation's own, in order, without overlap.

        Raises BadInput for one of a later format.
        """
        files = self._signatures()
        now = None if None in files.values() else files

        def read() -> list[Shard]:
            whole = [shard for a, b in _ranges(files) if (shard := self._shard(a, b))]
            return whole if all(a.stop <= b.start for a, b in pairwise(whole)) else _apart(whole)

        return list(self._memory.of("shards", now, read))

    @property
    def contents(self) -> dict[str, str]:
        """What all whole shards hold: the digests of their manifests by name."""
        return _contents(self.shards())

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of examples whose shards are whole, in order, without overlap."""
        return [(shard.start, shard.stop) for shard in self.shards()]

    def missing(self, start: int, stop: int, size: int) -> list[tuple[int, int]]:
        """The ranges of at most `size` examples still to compute in [start, stop)."""
        gaps, at = [], start
        for begin, end in [*self.ranges(), (stop, stop)]:
            while at < min(begin, stop):
                gaps.append((at, min(at + size, begin, stop)))
                at = gaps[-1][1]
            at = max(at, end)
        return gaps

    def damaged(self) -> list[tuple[int, int]]:
        """The ranges of the shards that are there but not whole, or not this evaluation's, unless others stand in."""
        return [(a, b) for a, b in self.named() if self.missing(a, b, b - a) and self._shard(a, b) is None]

    def save_shard(
        self, start: int, stop: int, rows: Any, images: Any, notes: dict[str, Any], logits: Mapping[str, Any] = {}
    ) -> None:
        """Write rows (a DataFrame), images (float32 [n, C, H, W]), logits by the kind of image they are of (float32
        [n, classes]) and notes; the manifest, with checksums, last."""
        from safetensors.torch import save_file

        manifest, parquet, tensors = self._files(start, stop)
        kept = {"adversarial": images.contiguous()}
        kept |= {f"{kind} logits": each.contiguous() for kind, each in logits.items()}
        sums = {
            "parquet": write_file(Path(parquet), lambda aside: rows.to_parquet(aside, index=False)),
            "safetensors": write_file(Path(tensors), lambda aside: save_file(kept, aside)),
        }
        belongs = {"evaluation": self.job_id, "range": [start, stop], "sha256": sums}
        write_sealed(Path(manifest), {**notes, **belongs})

    @property
    def second(self) -> SecondVerdict | None:
        """The second verdict on these very shards, None where there is none."""
        if not os.path.exists(f"{self.path}/{second_verdict.MANIFEST}"):
            return None
        try:
            manifest = self._own(second_verdict.MANIFEST, second_verdict.SECOND)
        except Damaged:
            return None
        return second_verdict.read(str(self.path), manifest, self.contents)

    def save_second(self, answers: Any, notes: Mapping[str, Any]) -> None:
        """Keep a second verdict on the shards that are there; see `second_verdict.write`."""
        second_verdict.write(self.path, self.job_id, self.contents, answers, notes)

    def rows(self, columns: Sequence[str] | None = None) -> Any:
        """Rows of all whole shards as one DataFrame, in the order of the examples; with `columns`, only those.

        Where the verdict was taken a second time, and is to count, the columns of `SEALED` stand beside the others.
        """
        wanted = [name for name in columns if name not in SEALED] if columns is not None else None
        found, second = self._rows(wanted).drop(columns=list(SEALED), errors="ignore"), self.second
        return second.beside(found, columns) if second else found

    def _rows(self, wanted: Sequence[str] | None) -> Any:
        import pandas as pd
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        parts = [
            ParquetFile(self._files(start, stop)[1]).read(columns=wanted, use_threads=False)
            for start, stop in self.ranges()
        ]
        if not parts:
            return pd.DataFrame()
        if all(part.schema.equals(parts[0].schema) for part in parts):
            return pa.concat_tables(parts).to_pandas(use_threads=False)
        return pd.concat([part.to_pandas(use_threads=False) for part in parts], ignore_index=True)

    def column(self, shard: Shard, name: str) -> list[Any]:
        """A column of the rows of one whole shard."""
        from pyarrow.parquet import ParquetFile

        rows = ParquetFile(self._files(shard.start, shard.stop)[1])
        found: list[Any] = rows.read(columns=[name], use_threads=False).column(name).to_pylist()
        return found

    def images(self, start: int, stop: int) -> Any:
        """The adversarial images of one whole shard, float32 [n, C, H, W]."""
        from safetensors.torch import load_file

        return load_file(self._files(start, stop)[2])["adversarial"]

    def logits(self, shard: Shard) -> dict[str, Any] | None:
        """The model's logits of one whole shard to its clean and adversarial images, each float32 [n, classes]; None
        where they were not kept."""
        from safetensors import safe_open

        with safe_open(self._files(shard.start, shard.stop)[2], framework="pt") as kept:
            names = {kind: f"{kind} logits" for kind in ("clean", "adversarial")}
            if not set(names.values()) <= set(kept.keys()):
                return None
            return {kind: kept.get_tensor(name) for kind, name in names.items()}

    def span(self, start: int, stop: int) -> Any:
        """The adversarial images of the examples [start, stop), float32 [n, C, H, W], of all shards that hold some."""
        import torch

        parts = [(a, self.images(a, b)) for a, b in self.ranges() if a < stop and b > start]
        return torch.cat([part[max(start - a, 0) : stop - a] for a, part in parts])

    def notes(self) -> list[dict[str, Any]]:
        """What was noted with every whole shard."""
        return [dict(shard.notes) for shard in self.shards()]

    def summarised(self, metric: str) -> Summary:
        """The summary of the rows of all whole shards."""
        second = self.second
        return summarise(self.rows(), metric, self.notes(), second.flags if second else ())

    def finish(self, result: Summary) -> None:
        """Write the summary, unless it is there; the evaluation is then complete."""
        second = self.second
        full = {**result.to_json(), "shards": self.contents} | ({"second": second.digest} if second else {})
        try:
            known = self.stated == json.loads(json.dumps(full))
        except Damaged:
            known = False
        if not known:
            write_sealed(self.path / "result.json", {**full, "evaluation": self.job_id})

    @property
    def _advice(self) -> str:
        return f"run the command of evaluation {self.job_id} again, or delete its folder"

    def _own(self, name: str, required: Required) -> Record:
        """A sealed file of this evaluation; raises Damaged where it is damaged or another's."""
        path = f"{self.path}/{name}"

        def read() -> Record:
            found = read_sealed(path, required, self._advice)
            if found.sealed and found.value.pop("evaluation", None) != self.job_id:
                raise Damaged(f"The file {path} is another evaluation's; {self._advice}.")
            return found

        return self._memory.of(name, signature(path), read)

    def _readable(self, name: str) -> bool:
        try:
            getattr(self, name)
        except Damaged:
            return False
        return True

    def _signatures(self) -> dict[str, Signature]:
        """The signatures of all shards' files."""
        try:
            with os.scandir(self.path) as entries:
                return {e.name: signature(e) for e in entries if e.name.startswith("shard-")}
        except OSError:
            return {}

    def _files(self, start: int, stop: int) -> tuple[str, str, str]:
        """The manifest of a shard, its rows and its images."""
        stem = f"{self.path}/{_stem(start, stop)}"
        return f"{stem}.json", f"{stem}.parquet", f"{stem}.safetensors"

    def _shard(self, start: int, stop: int) -> Shard | None:
        """The shard if its files are what its manifest says, and the manifest belongs here."""
        manifest, parquet, tensors = self._files(start, stop)
        try:
            notes, digest, sealed = read_sealed(manifest)
            sums = notes.pop("sha256")
            whole = checksum(parquet) == sums["parquet"] and checksum(tensors) == sums["safetensors"]
            if sealed:
                belongs = [notes.pop(key) for key in ("evaluation", "range")]
                whole &= belongs == [self.job_id, [start, stop]]
            else:  # from before manifests said what they belong to
                whole = whole and _example_ids(parquet) == list(range(start, stop))
        except (Damaged, OSError, KeyError, TypeError):
            return None
        return Shard(start, stop, notes, digest) if whole else None


def _apart(shards: Sequence[Shard]) -> list[Shard]:
    """Of shards that overlap, as two shard sizes leave them, those that do not and hold the most examples, in order."""
    best: list[tuple[int, list[Shard]]] = [(0, [])]  # by how many shards, in the order of their ends, were looked at
    ordered = sorted(shards, key=lambda shard: (shard.stop, shard.start))
    ends = [shard.stop for shard in ordered]
    for i, shard in enumerate(ordered):
        held, before = best[bisect_right(ends, shard.start, hi=i)]
        held += shard.stop - shard.start
        best.append((held, [*before, shard]) if held > best[i][0] else best[i])
    return best[-1][1]


def _ranges(names: Iterable[str]) -> list[tuple[int, int]]:
    return sorted((int(match[1]), int(match[2])) for match in map(SHARD.fullmatch, names) if match)


def _contents(shards: list[Shard]) -> dict[str, str]:
    return {shard.name: shard.digest for shard in shards}


def _example_ids(parquet: str) -> list[int]:
    from pyarrow.parquet import ParquetFile

    found: list[int] = ParquetFile(parquet).read(columns=["example_id"])["example_id"].to_pylist()
    return found

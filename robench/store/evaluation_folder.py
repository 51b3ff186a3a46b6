"""One evaluation's folder: shards of rows and images, each under a manifest, and the summary of them.

Every JSON file is under a seal, says what it belongs to, and holds the checksums of the files it describes, so that any
changed byte and any file from elsewhere is noticed. Shards are then computed again and figures taken from the rows.
Files from before there were seals are read as far as they can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.results.rows import SEALED
from robench.results.summary import NOT_SEALED, Summary, label, summarise
from robench.store import second_verdict, shard_files
from robench.store.about import About
from robench.store.files import (
    Damaged,
    Memory,
    Record,
    Signature,
    checksum,
    identity,
    read_json,
    read_sealed,
    signature,
    write_file,
    write_json,
    write_sealed,
    write_tensors,
)  # fmt: skip
from robench.store.records import AboutRecord, CraftRecord, ManifestRecord, ResultRecord, SecondRecord, SpecRecord
from robench.store.second_verdict import SecondVerdict
from robench.store.shards import Shard as Shard
from robench.store.shards import apart, contents_of, ranges_of, stem_of

if TYPE_CHECKING:
    from pydantic import BaseModel

# of all folders, since every question about one evaluation of many reads the specs of all
_SPECS = Memory()
# the folder of craftings, whose specs are others than evaluations'
CRAFTED = "crafted"


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
            shape = CraftRecord if self.path.parent.name == CRAFTED else SpecRecord
            spec = read_json(path, shape, self._advice)
            if identity(spec) != self.job_id:
                raise Damaged(f"The file {path} is damaged (its content has the id {identity(spec)}); {self._advice}.")
            return spec

        return dict(_SPECS.of(path, signature(path), read))

    @property
    def about(self) -> About:
        """What is recorded beside the spec: names, command, environment. Raises Damaged where it is damaged."""
        return About.from_json(self._own("about.json", AboutRecord).value)

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
        return (
            dict(self._own("result.json", ResultRecord).value) if os.path.exists(f"{self.path}/result.json") else None
        )

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
        if (stated.pop("shards", None), stated.pop("second", None)) == (contents_of(shards), second and second.digest):
            with contextlib.suppress(KeyError):
                found = Summary.from_json(stated, self.about.metric)
                told = second is not None or NOT_SEALED in found.flags
                if found.n == self.spec["count"] and found.consistent and told:
                    return found
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
        return ranges_of(self._signatures())

    def shards(self) -> list[Shard]:
        """The shards that are whole, undamaged and this evaluation's own, in order, without overlap.

        Raises BadInput for one of a later format.
        """
        files = self._signatures()
        now = None if None in files.values() else files

        def read() -> list[Shard]:
            named = [(a, b) for a, b in ranges_of(files) if self._within(a, b)]
            whole = [shard for a, b in named if (shard := self._shard(a, b))]
            return whole if all(a.stop <= b.start for a, b in pairwise(whole)) else apart(whole)

        return list(self._memory.of("shards", now, read))

    @property
    def contents(self) -> dict[str, str]:
        """What all whole shards hold: the digests of their manifests by name."""
        return contents_of(self.shards())

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
        lacking = [(a, b) for a, b in self.named() if self.missing(a, b, b - a)]
        return [(a, b) for a, b in lacking if not self._within(a, b) or self._shard(a, b) is None]

    def save_shard(
        self, start: int, stop: int, rows: Any, images: Any, notes: dict[str, Any], logits: Mapping[str, Any] = {}
    ) -> None:
        """Write rows (a DataFrame), images (float32 [n, C, H, W]), logits by the kind of image they are of (float32
        [n, classes]) and notes; the manifest, with checksums, last."""
        manifest, parquet, tensors = self._files(start, stop)
        kept = {shard_files.IMAGES: images.contiguous()}
        kept |= {shard_files.LOGITS[kind]: each.contiguous() for kind, each in logits.items()}
        sums = {
            "parquet": write_file(Path(parquet), lambda aside: rows.to_parquet(aside, index=False)),
            "safetensors": write_tensors(Path(tensors), kept),
        }
        belongs = {"evaluation": self.job_id, "range": [start, stop], "sha256": sums}
        write_sealed(Path(manifest), {**notes, **belongs})

    @property
    def second(self) -> SecondVerdict | None:
        """The second verdict on these very shards, None where there is none."""
        if not os.path.exists(f"{self.path}/{second_verdict.MANIFEST}"):
            return None
        try:
            manifest = self._own(second_verdict.MANIFEST, SecondRecord)
        except Damaged:
            return None
        return second_verdict.read(str(self.path), manifest, self.contents)

    def save_second(self, answers: Any, notes: Mapping[str, Any]) -> None:
        """Keep a second verdict on the shards that are there; see `second_verdict.write`."""
        second_verdict.write(self.path, self.job_id, self.contents, answers, notes)

    def rows(self, columns: Sequence[str] | None = None, *, doubted: bool = False) -> Any:
        """Rows of all whole shards as one DataFrame, in the order of the examples; with `columns`, only those.

        Where the verdict was taken a second time, and is to count, the columns of `SEALED` stand beside the others.
        Raises Damaged where a file holds other than rows, or rows that contradict themselves; with `doubted`, which
        is for who looks for that, those are returned.
        """
        wanted = [name for name in columns if name not in SEALED] if columns is not None else None
        found, second = self._rows(wanted, doubted).drop(columns=list(SEALED), errors="ignore"), self.second
        return second.beside(found, columns, self._advice) if second else found

    def _rows(self, columns: Sequence[str] | None, doubted: bool) -> Any:
        import pandas as pd
        import pyarrow as pa

        parts = [self._table(shard.start, shard.stop, columns, doubted) for shard in self.shards()]
        if not parts:
            return pd.DataFrame()
        if all(part.schema.equals(parts[0].schema) for part in parts):
            return pa.concat_tables(parts).to_pandas(use_threads=False)
        return pd.concat([part.to_pandas(use_threads=False) for part in parts], ignore_index=True)

    def column(self, shard: Shard, name: str) -> list[Any]:
        """A column of the rows of one whole shard. Raises Damaged as `rows`."""
        found: list[Any] = self._table(shard.start, shard.stop, [name], True).column(name).to_pylist()
        return found

    def images(self, start: int, stop: int, *, doubted: bool = False) -> Any:
        """The adversarial images of one whole shard, float32 [n, C, H, W]; `doubted`, n need not be that of the shard.

        Raises Damaged for anything else.
        """
        return shard_files.images(self._files(start, stop)[2], None if doubted else stop - start, self._advice)

    def discard_unsound(self, shape: Sequence[int]) -> list[str]:
        """Give up shards that are whole, but hold other than rows, and images of `shape`, [C, H, W], of their examples.

        They are then missing, to be computed again; returns a sentence for each.
        """
        told = []
        try:
            if (second := self.second) is not None:
                second.beside(self._rows(None, True), None, self._advice)
        except Damaged as error:
            told.append(f"{str(error).partition(';')[0]}; it is taken again.")
            with contextlib.suppress(OSError):
                os.unlink(self.path / second_verdict.MANIFEST)
        for shard in self.shards():
            manifest, _, tensors = self._files(shard.start, shard.stop)
            try:
                self._table(shard.start, shard.stop, None, False)
                shard_files.check_images(tensors, (shard.stop - shard.start, *shape), self._advice)
            except Damaged as error:
                told.append(f"{str(error).partition(';')[0]}; its examples are computed again.")
                with contextlib.suppress(OSError):
                    os.unlink(manifest)
        return told

    def _table(self, start: int, stop: int, columns: Sequence[str] | None, doubted: bool) -> Any:
        """The rows of one whole shard as a table."""
        expected = shard_files.Expected(range(start, stop), self._advice, *self._meaning(doubted), not doubted)
        return shard_files.rows(self._files(start, stop)[1], expected, columns)

    def _meaning(self, doubted: bool) -> tuple[str | None, float | None, bool]:
        """What rows are held against: the norm, the radius, and whether a detector may reject; nothing if doubted."""
        if doubted or self.path.parent.name == CRAFTED:
            return None, None, True
        try:
            spec = self.spec
        except Damaged:  # which is told where it is asked for
            return None, None, True
        return spec["norm"], float(Fraction(spec["eps"])), bool(spec.get("detector"))

    def _within(self, start: int, stop: int) -> bool:
        """Whether a range is one of the spec's examples; of an evaluation whose spec cannot be read, any is."""
        try:
            spec = self.spec
        except Damaged:
            return start < stop
        first = spec.get("start", 0)
        return bool(first <= start < stop <= first + spec.get("count", stop))

    def logits(self, shard: Shard) -> dict[str, Any] | None:
        """The model's logits of one whole shard to its clean and adversarial images, each float32 [n, classes]; None
        where they were not kept. Raises Damaged for anything else."""
        return shard_files.logits(self._files(shard.start, shard.stop)[2], shard.stop - shard.start, self._advice)

    def span(self, start: int, stop: int) -> Any:
        """The adversarial images of the examples [start, stop), float32 [n, C, H, W], of all shards that hold some."""
        import torch

        parts = [(a, self.images(a, b)) for a, b in self.ranges() if a < stop and b > start]
        if len({part.shape[1:] for _, part in parts}) > 1:
            raise Damaged(f"The images of evaluation {self.job_id} are of several shapes; {self._advice}.")
        return torch.cat([part[max(start - a, 0) : stop - a] for a, part in parts])

    def notes(self) -> list[dict[str, Any]]:
        """What was noted with every whole shard."""
        return [dict(shard.notes) for shard in self.shards()]

    def summarised(self, metric: str, *, doubted: bool = False) -> Summary:
        """The summary of the rows of all whole shards; see `rows`. It is flagged where there is no second verdict, so
        that who takes one out of a folder gains nothing."""
        second = self.second
        return summarise(self.rows(doubted=doubted), metric, self.notes(), second.flags if second else (NOT_SEALED,))

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

    def _own(self, name: str, shape: type[BaseModel]) -> Record:
        """A sealed file of this evaluation; raises Damaged where it is damaged or another's."""
        path = f"{self.path}/{name}"

        def read() -> Record:
            found = read_sealed(path, shape, self._advice)
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
        stem = f"{self.path}/{stem_of(start, stop)}"
        return f"{stem}.json", f"{stem}.parquet", f"{stem}.safetensors"

    def _shard(self, start: int, stop: int) -> Shard | None:
        """The shard if its files are what its manifest says, and the manifest belongs here."""
        manifest, parquet, tensors = self._files(start, stop)
        try:
            notes, digest, sealed = read_sealed(manifest, ManifestRecord)
            sums = notes.pop("sha256")
            whole = checksum(parquet) == sums["parquet"] and checksum(tensors) == sums["safetensors"]
            if sealed:
                belongs = [notes.pop(key) for key in ("evaluation", "range")]
                whole &= belongs == [self.job_id, [start, stop]]
            else:  # from before manifests said what they belong to
                whole = whole and shard_files.example_ids(parquet, stop - start) == list(range(start, stop))
        except (Damaged, OSError, KeyError, TypeError):
            return None
        return Shard(start, stop, notes, digest) if whole else None

"""The runs folder: trained models and evaluations, each artifact whole or absent, checked by checksum when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robench.errors import BadInput, unknown
from robench.files import Required, checksum, read_json, write_file, write_json, write_text

SHARD = re.compile(r"shard-(\d+)-(\d+)\.json")
# what readers rely on in each file
CARD: Required = {
    "name": str, "defense": str, "options": dict, "digest": str, "data": dict, "data.name": str,
    "seconds": (int, float), "accuracy.test": (int, float), "accuracy.test_count": int, "accuracy.test_interval": list,
}  # fmt: skip
SPEC: Required = {
    "harness": int, "model_digest": str, "data_digest": str, "split": str, "start": int, "count": int,
    "norm": str, "eps": str, "attack": str, "attack_version": int, "attack_options": dict, "seed": int,
}  # fmt: skip
ABOUT: Required = {
    "model": str, "reference": str, "dataset": str, "eps": str, "given_options": dict, "metric": str, "access": str,
    "command": str, "environment.commit": str, "environment.packages.torch": str,
}  # fmt: skip
RESULT: Required = {
    "n": int,
    "status": str,
    "flags": list,
    "interval": list,
    "clean_accuracy": (int, float),
    "backwards": int,
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def runs_root(given: Path | None = None) -> Path:
    """The runs folder: as given, else ROBENCH_RUNS, else runs/ in the working directory."""
    return given or Path(os.environ.get("ROBENCH_RUNS") or "runs")


@dataclass(frozen=True)
class Store:
    """Everything under one runs folder."""

    root: Path

    @property
    def models(self) -> Path:
        """The folder of trained models."""
        return self.root / "models"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations."""
        return self.root / "evaluations"

    @property
    def detectors(self) -> Path:
        """The folder of fitted detectors."""
        return self.root / "detectors"

    @property
    def diagnostics(self) -> Path:
        """The folder of what was found about models' gradients."""
        return self.root / "diagnostics"

    @property
    def crafted(self) -> Path:
        """The folder of images crafted on surrogates."""
        return self.root / "crafted"

    def model_names(self) -> list[str]:
        """Names of the models whose training finished."""
        return sorted(p.parent.name for p in self.models.glob("*/DONE"))

    def model_folder(self, name: str) -> Path:
        """The folder of a model, whether or not it exists. Raises BadInput for a name that cannot be a folder's."""
        if not NAME.fullmatch(name):
            raise BadInput(
                f"The model name {name!r} cannot be used; use letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit."
            )
        return self.models / name

    def card(self, name: str) -> dict[str, Any]:
        """A finished model's card. Raises BadInput for an unknown name, an unfinished model or a damaged card."""
        folder = self.model_folder(name)
        if not (folder / "DONE").exists():
            if folder.is_dir():
                raise BadInput(
                    f"The training of model {name!r} has not finished; run its train command again to resume."
                )
            raise unknown("model", name, self.model_names())
        return read_json(folder / "model.json", CARD)

    def model_digest(self, name: str) -> str:
        """What a finished model's figures depend on: 16 hex digits over weights, defense and options."""
        card = self.card(name)
        identity = json.dumps([card["digest"], card["defense"], card["options"]], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def weights(self, name: str) -> Path:
        """The file of a finished model's weights, its checksum compared with the card's; raises BadInput if damaged."""
        card, path = self.card(name), self.model_folder(name) / "model.safetensors"
        if not path.is_file() or checksum(path) != card.get("digest"):
            raise BadInput(
                f"The weights of model {name!r} ({path}) are missing or damaged; delete the folder and train it again."
            )
        return path

    def finish_model(self, name: str, card: dict[str, Any]) -> None:
        """Write the card, then mark the model as done."""
        folder = self.model_folder(name)
        write_json(folder / "model.json", card)
        write_text(folder / "DONE", card["spec_id"] + "\n")
        shutil.rmtree(folder / "training", ignore_errors=True)

    def evaluation(self, job_id: str) -> EvaluationFolder:
        """The folder of an evaluation, whether or not it exists."""
        return EvaluationFolder(self.evaluations / job_id)

    def evaluation_ids(self) -> list[str]:
        """Ids of all evaluations, finished or not."""
        return sorted(p.parent.name for p in self.evaluations.glob("*/spec.json"))

    def find_evaluation(self, text: str) -> EvaluationFolder:
        """The evaluation whose id begins with `text`. Raises BadInput where none or several do."""
        matches = [i for i in self.evaluation_ids() if i.startswith(text)] if text else []
        if len(matches) != 1:
            if matches:
                raise BadInput(f"The evaluation {text!r} could be any of {', '.join(matches)}; give more of its id.")
            raise unknown("evaluation", text, self.evaluation_ids())
        return self.evaluation(matches[0])


@dataclass(frozen=True)
class EvaluationFolder:
    """One evaluation: spec.json, about.json, a pair of files and a manifest per shard, result.json written last."""

    path: Path

    @property
    def job_id(self) -> str:
        """The evaluation's id, the folder's name."""
        return self.path.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The spec as JSON; raises BadInput where it is damaged."""
        return read_json(self.path / "spec.json", SPEC)

    @property
    def about(self) -> dict[str, Any]:
        """What is recorded beside the spec: names, command, environment."""
        return read_json(self.path / "about.json", ABOUT)

    @property
    def result(self) -> dict[str, Any] | None:
        """The summary, or None while the evaluation is unfinished."""
        return read_json(self.path / "result.json", RESULT) if (self.path / "result.json").exists() else None

    def begin(self, spec: dict[str, Any], about: dict[str, Any]) -> None:
        """Record the spec, unless it is there, and what goes with it."""
        if not (self.path / "spec.json").exists():
            write_json(self.path / "about.json", about)
            write_json(self.path / "spec.json", spec)

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of examples whose shards are whole and undamaged, in order, without overlap."""
        found: list[tuple[int, int]] = []
        named = [(SHARD.fullmatch(path.name), path) for path in self.path.glob("shard-*.json")]
        for start, stop, path in sorted((int(match[1]), int(match[2]), path) for match, path in named if match):
            if (not found or start >= found[-1][1]) and self._intact(path):
                found.append((start, stop))
        return found

    def missing(self, start: int, stop: int, size: int) -> list[tuple[int, int]]:
        """The ranges of at most `size` examples still to compute in [start, stop)."""
        gaps, at = [], start
        for begin, end in [*self.ranges(), (stop, stop)]:
            while at < min(begin, stop):
                gaps.append((at, min(at + size, begin, stop)))
                at = gaps[-1][1]
            at = max(at, end)
        return gaps

    def save_shard(self, start: int, stop: int, rows: Any, images: Any, notes: dict[str, Any]) -> None:
        """Write rows (a DataFrame), images (float32 [n, C, H, W]) and notes; the manifest, with checksums, last."""
        from safetensors.torch import save_file

        stem = f"shard-{start:06d}-{stop:06d}"
        parquet, tensors = self.path / f"{stem}.parquet", self.path / f"{stem}.safetensors"
        sums = {
            "parquet": write_file(parquet, lambda aside: rows.to_parquet(aside, index=False)),
            "safetensors": write_file(tensors, lambda aside: save_file({"adversarial": images.contiguous()}, aside)),
        }
        write_json(self.path / f"{stem}.json", {"sha256": sums, **notes})

    def rows(self) -> Any:
        """Rows of all whole shards as one DataFrame, in the order of the examples."""
        import pandas as pd

        parts = [pd.read_parquet(self.path / f"shard-{a:06d}-{b:06d}.parquet") for a, b in self.ranges()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def images(self, start: int, stop: int) -> Any:
        """The adversarial images of one whole shard, float32 [n, C, H, W]."""
        from safetensors.torch import load_file

        return load_file(self.path / f"shard-{start:06d}-{stop:06d}.safetensors")["adversarial"]

    def notes(self) -> list[dict[str, Any]]:
        """The manifests of all whole shards."""
        return [read_json(self.path / f"shard-{a:06d}-{b:06d}.json") for a, b in self.ranges()]

    def finish(self, result: dict[str, Any]) -> None:
        """Write the summary; the evaluation is then complete."""
        write_json(self.path / "result.json", result)

    def _intact(self, manifest: Path) -> bool:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            sums = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
            return all(checksum(manifest.with_suffix(f".{kind}")) == sums[kind] for kind in ("parquet", "safetensors"))
        return False

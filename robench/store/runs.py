"""The runs folder: trained models and evaluations, each artifact whole or absent, checked by checksum when read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robench.errors import BadInput, unknown
from robench.store.evaluation_folder import EvaluationFolder as EvaluationFolder
from robench.store.files import Damaged, Record, checksum, plain_file, read_sealed, write_sealed, write_text
from robench.store.imported import ImportedSet
from robench.store.marker import check_folder
from robench.store.records import CardRecord

# where evaluations lie that were made anew
ASIDE = "superseded"
# the kinds of artifacts that a runs folder holds, each in a folder of that name
KINDS = ("models", "evaluations", "crafted", "detectors", "diagnostics", "checks", "imported", ASIDE)
# in the folder of a check: what it is a check of, and whether it is finished
CHECK = "check.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def runs_root(given: Path | None = None) -> Path:
    """The runs folder: as given, else ROBENCH_RUNS, else runs/ in the working directory.

    Raises BadInput for a file.
    """
    root = given or Path(os.environ.get("ROBENCH_RUNS") or "runs")
    check_folder(root)
    return root


@dataclass(frozen=True)
class Store:
    """Everything under one runs folder; with `trained`, the models of that runs folder instead.

    Raises BadInput for a folder whose name no library of files can be given.
    """

    root: Path
    trained: Path | None = None

    def __post_init__(self) -> None:
        if any("\udc80" <= letter <= "\udcff" for letter in str(self.root)):
            raise BadInput(
                f"The runs folder {self.root} has a name that is not UTF-8, which the files of images and rows need; "
                "give another with --runs."
            )

    @property
    def models(self) -> Path:
        """The folder of trained models."""
        return (self.trained or self.root) / "models"

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

    @property
    def checks(self) -> Path:
        """The folder of checks, each a runs folder of its own."""
        return self.root / "checks"

    def imported(self, digest: str) -> ImportedSet:
        """Images that were made elsewhere, by their digest, whether or not they are there."""
        return ImportedSet((self.trained or self.root) / "imported" / digest)

    def model_names(self) -> list[str]:
        """Names of the models whose training finished."""
        return sorted(p.parent.name for p in self.models.glob("[!.]*/DONE"))

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
            if not (known := self.model_names()):
                raise BadInput(
                    f"There is no model named {name!r}, and none is trained in {self.models}; train one with 'robench "
                    "train', or give a model of your own ('robench list sources' says how)."
                )
            raise unknown("model", name, known)
        advice = f"delete the folder {folder} and train {name!r} again"
        card = read_sealed(folder / "model.json", CardRecord, advice)
        try:
            with plain_file(folder / "DONE") as mark:
                done = mark.read().decode()
        except (OSError, ValueError) as error:
            raise Damaged(f"The file {folder / 'DONE'} is damaged ({error}); {advice}.") from error
        if done != _mark(card):
            raise Damaged(f"The files DONE and model.json of model {name!r} do not belong together; {advice}.")
        return card.value

    def model_digest(self, name: str) -> str:
        """What a finished model's figures depend on: 16 hex digits over weights, defense and options."""
        return digest_of_card(self.card(name))

    def weights(self, name: str, card: Mapping[str, Any]) -> Path:
        """The file of a finished model's weights, which are those of `card`; raises BadInput where they are not."""
        path = self.model_folder(name) / "model.safetensors"
        if not path.is_file() or checksum(path) != card.get("digest"):
            if self.card(name) != card:
                raise BadInput(f"The model {name!r} was trained again meanwhile; run the command again.")
            raise BadInput(
                f"The weights of model {name!r} ({path}) are missing or damaged; delete the folder and train it again."
            )
        return path

    def finish_model(self, name: str, card: dict[str, Any]) -> None:
        """Write the card, then mark the model as done."""
        folder = self.model_folder(name)
        seal = write_sealed(folder / "model.json", card)
        write_text(folder / "DONE", _mark(Record(card, seal, sealed=True)))
        shutil.rmtree(folder / "training", ignore_errors=True)

    def evaluation(self, job_id: str) -> EvaluationFolder:
        """The folder of an evaluation, whether or not it exists."""
        return EvaluationFolder(self.evaluations / job_id)

    def evaluation_ids(self) -> list[str]:
        """Ids of all evaluations, finished or not."""
        return sorted(p.parent.name for p in self.evaluations.glob("[!.]*/spec.json"))

    def model_digests(self) -> tuple[dict[str, str], list[str]]:
        """The digests of the finished models by name, and a sentence on each whose card is damaged."""
        found, damaged = dict[str, str](), list[str]()
        for name in self.model_names():
            try:
                found[name] = self.model_digest(name)
            except BadInput as error:
                damaged.append(str(error))
        return found, damaged

    def intact(self) -> tuple[list[EvaluationFolder], dict[str, str]]:
        """The evaluations whose spec and record can be read, and, by the ids of the others, a sentence on why not."""
        found: list[EvaluationFolder] = []
        damaged: dict[str, str] = {}
        for folder in map(self.evaluation, self.evaluation_ids()):
            try:
                assert folder.spec
                assert folder.about
                folder.shards()
            except BadInput as error:
                damaged[folder.job_id] = str(error)
            else:
                found.append(folder)
        return found, damaged

    def find_evaluation(self, text: str) -> EvaluationFolder:
        """The evaluation whose id begins with `text`. Raises BadInput where none or several do."""
        matches = [i for i in self.evaluation_ids() if i.startswith(text)] if text else []
        if len(matches) != 1:
            if matches:
                raise BadInput(f"The evaluation {text!r} could be any of {', '.join(matches)}; give more of its id.")
            raise unknown("evaluation", text, self.evaluation_ids())
        return self.evaluation(matches[0])


def _mark(card: Record) -> str:
    """What DONE holds: the training's id and, since cards are sealed, the card's digest."""
    return f"{card.value['spec_id']} {card.digest}\n" if card.sealed else f"{card.value['spec_id']}\n"


def digest_of_card(card: Mapping[str, Any]) -> str:
    """What the figures of a model with this card depend on: 16 hex digits over weights, defense and options."""
    identity = json.dumps([card["digest"], card["defense"], card["options"]], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]

"""A stored evaluation with all that it is about: its model, data, threat model, attack, and what stands before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench import registry
from robench.attack.base import Attack
from robench.data.dataset import Dataset, Split, open_dataset
from robench.detector import fitting
from robench.detector.fitting import Watch
from robench.errors import BadInput
from robench.models import LoadedModel, load_model
from robench.results.accuracy import Measure
from robench.store.about import About
from robench.store.chains import spent_on
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.known import allow
from robench.store.runs import Store
from robench.store.specs import HARNESS, CraftSpec, access_of
from robench.threat import ThreatModel


@dataclass(frozen=True)
class How:
    """How evaluations are checked. model: where theirs is now, None for where they say. trust: run the code that they
    name. again: on how many images of each the attack is run once more."""

    model: str | None = None
    batch_size: int = 97
    device: str = "cpu"
    data: Path | None = None
    trust: bool = False
    again: int = 0


@dataclass(frozen=True)
class Opened:
    """An evaluation whose model and data are there and are those that its spec is about.

    attack: built with the spec's options, None where the installed plugin refuses them.
    """

    store: Store
    folder: EvaluationFolder
    spec: dict[str, Any]
    about: About
    how: How
    model: LoadedModel
    dataset: Dataset
    split: Split
    classes: int
    threat: ThreatModel
    plugin: registry.Plugin
    attack: Attack | None
    watch: Watch | None

    @cached_property
    def module(self) -> nn.Module:
        """What was attacked, on the device: the model, or the model behind its detector."""
        module = self.model.module.to(self.how.device)
        return self.watch.guard(module).to(self.how.device) if self.watch else module

    @property
    def attacker(self) -> Any:
        """What tells how the attack counts: itself, or its class where it cannot be built."""
        return self.attack or self.plugin.base

    @property
    def targeted(self) -> bool:
        """Whether its figure counts the goals that it reached."""
        return Measure(self.attacker.metric) is Measure.SUCCESS

    @property
    def access(self) -> str:
        """What the attack was up against."""
        crafted, guided = (bool(self.spec.get(name)) for name in ("surrogate", "guide"))
        return access_of(self.watch is not None, crafted, guided) or str(self.attacker.access)

    @cached_property
    def chain(self) -> list[EvaluationFolder]:
        """The evaluations that this one goes on from, the first one first. Raises BadInput where one is missing."""
        found: list[EvaluationFolder] = []
        after = self.spec.get("after")
        while after:
            before = self.store.evaluation(after)
            if before in found:
                raise BadInput(f"The evaluation {self.folder.job_id} goes on from itself; delete its folder.")
            found.insert(0, before)
            after = before.spec.get("after")
        return found

    def prior(self, ids: Tensor) -> Tensor | None:
        """What the attack before this one made of the examples `ids`, [n, C, H, W]; None without one.

        Raises BadInput where it is not there.
        """
        if not self.chain:
            return None
        found: dict[int, Tensor] = {}
        for start, stop in self.chain[-1].ranges():
            wanted = [i for i in ids.tolist() if start <= i < stop]
            images = self.chain[-1].images(start, stop) if wanted else None
            found |= {i: images[i - start] for i in wanted} if images is not None else {}
        if len(found) < len(ids):
            raise BadInput(
                f"The evaluation {self.chain[-1].job_id}, which {self.folder.job_id} goes on from, is not complete."
            )
        return torch.stack([found[i] for i in ids.tolist()])

    def spent(self, ids: Tensor) -> Tensor | None:
        """What the attacks before this one spent on the examples `ids`, int64 [n], where it had a budget. Raises
        Damaged."""
        if not self.chain or not self.spec.get("max_passes"):
            return None
        return torch.from_numpy(spent_on(self.chain, ids.tolist()))

    def surrogate(self) -> LoadedModel:
        """The model that the images were crafted on. Raises BadInput where it cannot be loaded or is another."""
        crafted = EvaluationFolder(self.store.crafted / CraftSpec.of(self.spec).job_id)
        reference, whose = (
            crafted.about.at_hand(crafted.about.reference),
            f"The images of evaluation {self.folder.job_id}",
        )
        if not reference:
            raise BadInput(f"{whose} were crafted on a model handed over in a program, which cannot be loaded again.")
        allow(reference, f"The record of the images behind evaluation {self.folder.job_id}",
              "evaluate that surrogate yourself", self.how.trust)  # fmt: skip
        found = load_model(reference, self.store)
        if found.digest != self.spec["surrogate"]:
            raise BadInput(f"{whose} were crafted on another model than {reference!r} is now.")
        return found

    def guide(self) -> LoadedModel:
        """The model whose gradients were followed. Raises BadInput where it cannot be loaded or is another."""
        reference = self.about.at_hand(self.about.guide_reference)
        whose = f"The attack of evaluation {self.folder.job_id}"
        if not reference:
            raise BadInput(f"{whose} followed a model handed over in a program, which cannot be loaded again.")
        allow(reference, f"The record of evaluation {self.folder.job_id}", "evaluate with that guide yourself",
              self.how.trust)  # fmt: skip
        found = load_model(reference, self.store)
        if found.digest != self.spec["guide"]:
            raise BadInput(f"{whose} followed another model than {reference!r} is now.")
        return found


def open_evaluation(store: Store, folder: EvaluationFolder, how: How) -> Opened:
    """Open what an evaluation is about. Raises BadInput where something is missing or another, or may not be run."""
    spec, about = folder.spec, folder.about
    plugin = registry.load("attack", spec["attack"])
    attack = _built(plugin, spec)
    if spec["harness"] > HARNESS or (attack is not None and spec["attack_version"] > attack.edition):
        raise BadInput(
            f"The evaluation {folder.job_id} was made by a later version of robench or of {spec['attack']} than is "
            "installed; verify it with that one."
        )
    threat = ThreatModel.of(spec["norm"], spec["eps"])
    model = _model(store, folder, how)
    dataset = model.on(open_dataset(about.at_hand(about.dataset), how.data))
    split = dataset.drawn(spec.get("draw"))
    if split.digest != spec["data_digest"]:
        raise BadInput(
            f"The data {about.dataset} are not those of evaluation {folder.job_id}; choose others with --data."
        )
    watch = fitting.load(store, spec["detector"]) if spec.get("detector") else None
    if watch is not None and watch.spec.model_digest != spec["model_digest"]:
        raise BadInput(f"The detector {spec['detector']} of evaluation {folder.job_id} watches another model.")
    return Opened(
        store, folder, spec, about, how, model, dataset, split, dataset.classes, threat, plugin, attack, watch
    )


def _built(plugin: registry.Plugin, spec: dict[str, Any]) -> Attack | None:
    try:
        attack = plugin.build(spec["attack_options"])
    except BadInput:
        return None
    assert isinstance(attack, Attack)
    return attack


def _model(store: Store, folder: EvaluationFolder, how: How) -> LoadedModel:
    """The model of an evaluation; code that only the record names is not run unless that is known or trusted."""
    about, digest = folder.about, folder.spec["model_digest"]
    reference = how.model or about.at_hand(about.reference)
    if not reference:
        raise BadInput(
            f"Evaluation {folder.job_id} is of a model handed over in a program; give one that can be loaded "
            "with --model."
        )
    if how.model is None:
        allow(reference, f"The record of evaluation {folder.job_id}", "say where the model is with --model", how.trust)
    named = reference in store.model_names()
    try:
        loaded = load_model(reference, store)
    except BadInput as error:
        raise BadInput(
            f"The model of evaluation {folder.job_id} is needed to verify it; say where it is with --model. {error}"
        ) from error
    if loaded.digest != digest:
        where = "was trained again" if named else "has changed"
        raise BadInput(
            f"The model {reference!r} {where} since evaluation {folder.job_id}; give the old one with --model."
        )
    return loaded

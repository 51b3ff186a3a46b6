"""What stored runs are known by stays what it was: ids of specs, digests of models and data, options of attacks.

identities.json holds them as a runs folder of commit 82ff12c had them, which the smoke scale of all suites had filled,
and digests of modules that were filled with ones, as they are since a digest covers what a module is and no file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robench import DataInfo, Normalize, ThreatModel, build_backbone, open_dataset, registry
from robench.detector.score import Guarded, Score
from robench.evaluation.attacks import attacks_of
from robench.evaluation.jobs import kind_of
from robench.models import digest_of
from robench.store.files import identity
from robench.store.runs import digest_of_card
from robench.store.specs import CraftSpec, DetectorSpec, EvalSpec, TrainSpec

KEPT: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "identities.json").read_text())
GREY = DataInfo("digits", 1, 8, 8, 10, (0.5,), (0.5,), "digits")
COLOUR = DataInfo("cifar10", 3, 32, 32, 10, (0.5,) * 3, (0.25,) * 3, "cifar10")
# training settings that a plugin's author may change from one version to the next are not held here, only their ids
SPECS = [("evaluations", EvalSpec), ("crafted", CraftSpec), ("detectors", DetectorSpec), ("trainings", TrainSpec)]


@pytest.mark.parametrize(("kind", "record"), SPECS)
def test_a_spec_has_the_id_it_had(kind: str, record: Any) -> None:
    assert len(KEPT[kind]) > 5
    for job_id, kept in KEPT[kind].items():
        spec = kept["spec"] if kind == "evaluations" else kept
        assert identity(spec) == job_id
        assert record(**spec).job_id == job_id


@pytest.mark.parametrize("job_id", KEPT["evaluations"])
def test_an_attack_comes_to_the_spec_it_came_to(job_id: str) -> None:
    """The options that were given, today's defaults, and the version of the attack."""
    kept = KEPT["evaluations"][job_id]
    spec = kept["spec"]
    threat = ThreatModel.of(spec["norm"], spec["eps"])
    (named,) = attacks_of([spec["attack"]], kept["given"], threat)
    assert json.loads(json.dumps(named.options)) == spec["attack_options"]
    assert named.attack.version == spec["attack_version"]
    assert (named.attack.metric, kind_of(named.attack, threat, kept["access"])) == (kept["metric"], kept["kind"])


def test_a_card_has_the_digest_it_had() -> None:
    for digest, card in KEPT["cards"].items():
        assert digest_of_card(card) == digest


def test_data_have_the_digests_they_had() -> None:
    digits = open_dataset("digits")
    assert {part: getattr(digits, part).digest for part in KEPT["data"]} == KEPT["data"]


def _module(name: str) -> nn.Module:
    if name == "normalize":
        return nn.Sequential(Normalize((0.5,), (0.25,)), nn.Flatten())
    if name in ("standard", "guarded"):
        standard: nn.Module = registry.load("defense", "standard").build({}, GREY)
        detector = registry.load("detector", "lid").build({}, 10)
        return standard if name == "standard" else Guarded(standard, Score(detector))
    backbone, _, data = name.partition(" ")
    return build_backbone(backbone, GREY if data == "digits" else COLOUR)


@pytest.mark.parametrize("name", KEPT["modules"])
def test_a_module_has_the_digest_it_had(name: str) -> None:
    """It covers the code of robench's own classes: editing one that a stranger's model may be made of takes all stored
    figures of that model from it."""
    module = _module(name)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(1)
    assert digest_of(module.eval()) == KEPT["modules"][name]

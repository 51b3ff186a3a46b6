"""A trained classifier broken in many ways, through what `robench diagnose` runs: no liar gets away with a figure."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, open_dataset, registry
from robench.attack.judge import Examples, attack_shard
from robench.evaluation import imitation
from robench.evaluation.battery import battery
from robench.evaluation.request import Request
from robench.evaluation.summaries import Evaluated
from robench.results.rows import correct
from robench.results.summary import evaluation_flags
from robench.store.runs import Store
from robench.tables.report import Report
from robench.trust.gates import AttackRun, diagnose
from tests.integration.conftest import Run
from tests.liars.zoo import SCALES, TRUTH, ZOO
from tests.plain_net import plain_net

COUNT, EPS = 40, {"linf": "0.2", "l2": "1.5"}  # at which the honest model keeps no image
FLAT = "logits too small for a cross-entropy"
ZERO, QUERIES, ANYTHING = "zero gradient", "queries beat gradients", "robust at eps that allows anything"

REFUSED = {"batch norm in train mode": "train mode", "probabilities": "probabilities", "one-hot": "probabilities"}
FOUND = {
    "rounding": {ZERO, QUERIES, ANYTHING},
    "saturated sigmoid": {ZERO, QUERIES, ANYTHING},
    "logits times 1e4": {ZERO, ANYTHING},
    "noise at inference": {"randomised output"},
    "sigmoid": {"squashed outputs"},
    "seeds": {"changed global state"},
    "replaces clamp": {"replaced functions"},
    "batch statistics": {"answers that depend on the batch"},
    "constant output": {ZERO},
    "nan when perturbed": {ZERO},
    "counts its calls": {"gradients that do not fit the answers"},
    "jpeg": {ZERO, QUERIES, ANYTHING},
    "one-hot times 10": {ZERO, QUERIES, ANYTHING},
    "staircase": {QUERIES, ANYTHING},
    "thermometer": {ZERO, QUERIES, ANYTHING},
    "optimises at inference": {"optimisation during inference"},
}
# whose figure is the true one in spite of the trick: below 5%
BROKEN = {
    "logits times 1e4", "logits over 1e4", "logits plus 3e4", "nan when perturbed", "sigmoid", "seeds",
    "replaces clamp", "writes into its input",
}  # fmt: skip


# on top of which no share of the images may be gained unseen: those that are refused without it too
SCALED = sorted(ZOO.keys() - {"batch norm in train mode"})


@dataclass(frozen=True)
class Diagnosis:
    """Robust accuracy under CE-PGD alone and in the worst case at eps, the gates that fired, and the flags of rows."""

    alone: float
    worst: float
    gates: set[str]
    flags: set[str]


def diagnosed(module: nn.Module, folder: Path, norm: str = "linf") -> Diagnosis:
    """What the command finds out about a module in memory."""
    store, threat = Store(folder), ThreatModel.of(norm, EPS[norm])
    results, findings = battery(
        Request([module], ["diagnosis"], threat, dataset="digits?draw=first", count=COUNT), store
    )
    assert {result.summary.status for result in results} == {"complete"}
    at_eps = [result for result in results if result.about.eps == EPS[norm]]
    worst = Report.of(Evaluated(at_eps), store).worst[0]["robust_accuracy"]
    alone = next(result.summary.value for result in at_eps if result.about.given_options == {"steps": 40})
    fired = {finding.gate for finding in findings if finding.fired}
    return Diagnosis(alone, worst, fired, {flag for result in results for flag in result.summary.flags})


@pytest.fixture(scope="module", autouse=True)
def _taught_once() -> Iterator[None]:
    """Liars with their base's answers have their base's substitute, which is taught once."""
    found: dict[str, nn.Module] = {}
    teach = imitation._taught

    def taught(network: imitation.Imitation, x: Tensor, answers: Tensor, device: torch.device) -> nn.Module:
        whole = hashlib.sha256(x.numpy().tobytes() + answers.numpy().tobytes())
        key = f"{whole.hexdigest()} {torch.initial_seed()} {device}"
        if key not in found:
            found[key] = teach(network, x, answers, device)
        return copy.deepcopy(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imitation, "_taught", taught)
        yield


@pytest.fixture
def base(store: Path) -> nn.Module:
    """An honest model, trained for a few seconds."""
    return plain_net()


def test_every_liar_has_its_line() -> None:
    assert set(ZOO) == REFUSED.keys() | FOUND.keys() | BROKEN
    assert set(TRUTH) < set(ZOO)


@pytest.fixture(autouse=True)
def nothing_is_replaced() -> Iterator[None]:
    """What liars put in the place of torch's own, where no guard stands, is gone before and after."""
    kept = torch.clamp, Tensor.clamp
    yield
    torch.clamp, Tensor.clamp = kept  # type: ignore[method-assign]


@pytest.mark.parametrize("norm", EPS)
def test_the_honest_model_raises_nothing(base: nn.Module, tmp_path: Path, norm: str) -> None:
    found = diagnosed(base, tmp_path / "found", norm)
    assert found.gates == found.flags == set()
    assert found.worst < 0.05


@pytest.mark.parametrize("name", REFUSED)
def test_refused(base: nn.Module, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name]):
        diagnosed(ZOO[name](base), tmp_path / "found")


@pytest.mark.parametrize("name", sorted(FOUND.keys() | BROKEN))
def test_found_out(base: nn.Module, tmp_path: Path, name: str) -> None:
    found = diagnosed(ZOO[name](base), tmp_path / "found")
    assert found.gates >= FOUND.get(name, set())
    assert name not in BROKEN or found.worst < 0.05
    assert found.gates or found.worst < 0.05


def test_wrong_gradients_are_found_in_l2(base: nn.Module, tmp_path: Path) -> None:
    found = diagnosed(ZOO["staircase"](base), tmp_path / "found", "l2")
    assert found.alone >= 0.75
    assert found.gates >= {QUERIES, ANYTHING}


@pytest.mark.parametrize("name", sorted(ZOO.keys() - TRUTH.keys() - {"batch norm in train mode"}))
def test_a_liar_decides_as_its_base(base: nn.Module, name: str) -> None:
    """Which makes the base's robust accuracy the truth about it, on clean images and on others."""
    clean = open_dataset("digits").test.pixels(slice(0, 200))
    noisy = (clean + 0.4 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)) - 0.2).clamp(0, 1)
    with torch.no_grad():
        agree = [(base(x).argmax(1) == ZOO[name](base)(x).argmax(1)).float().mean() for x in (clean, noisy)]
    assert min(agree) > 0.95


def glanced(module: nn.Module) -> tuple[float, set[str]]:
    """Robust accuracy under three short attacks together, and the gates that fire on them: a short diagnosis."""
    part, threat, runs = slice(0, COUNT), ThreatModel.of("linf", EPS["linf"]), []
    test = open_dataset("digits").test
    examples = Examples(test.pixels(part), test.labels[part], test.ids[part])
    short = {"restarts": 1, "steps": 20, "schedule": "0.1"}
    for name, options in (("pgd", {"steps": 20}), ("untargeted", short), ("square", {"queries": 150})):
        attack = registry.load("attack", name).build(options)
        shard = attack_shard(module, 10, attack, threat, examples)
        flags = tuple(evaluation_flags(shard.rows, [list(shard.flags)]))
        runs.append(AttackRun(name, name, attack.kind, options, threat, shard.rows, flags))
    standing = correct(runs[0].rows) & ~np.any([run.broken for run in runs], axis=0)
    return float(standing.mean()), {finding.gate for finding in diagnose(runs) if finding.fired}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SCALED)
def test_no_offset_or_scale_hides_a_liar(base: nn.Module, name: str, scale: str) -> None:
    try:
        robust, gates = glanced(SCALES[scale](ZOO[name](base)))
    except BadInput:
        return
    assert gates or robust < 0.05


@pytest.mark.parametrize("scale", SCALES)
def test_no_offset_or_scale_makes_an_honest_model_a_liar(base: nn.Module, scale: str) -> None:
    robust, gates = glanced(SCALES[scale](base))
    assert robust <= 0.05
    assert gates <= {"times 1e4": {ZERO}, "over 1e4": {FLAT}}.get(scale, set())  # for which pgd is no attack


LIAR = """
from my_model import Flat


class Rounded(Flat):
    def forward(self, x):
        return super().forward((x * 15).round() / 15)


def load():
    return Rounded().eval()
"""


def test_the_command_says_what_fired_and_what_to_do(robench: Run, model_file: Path) -> None:
    model_file.with_name("liar.py").write_text(LIAR)
    command = ("diagnose", "liar.py:load", "--dataset", "digits", "--eps", "0.2", "-n", "40")
    done = robench(*command)
    assert done.code == 1
    assert "! liar.py:load: zero gradient" in done.out
    assert "BPDA" in done.out
    assert robench(*command, "--json").code == 1

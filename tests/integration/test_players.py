"""Classifiers that play against the judge, as `robench evaluate` sees them: none gets a good figure without a flag."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from robench import BadInput, ThreatModel
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.results.summary import DIFFERS, UNSTABLE
from robench.store.runs import Store
from robench.tables.report import Report
from tests.liars.cheats import CHEATS, Keeping, KeepingInAFile
from tests.liars.players import PLAYERS, Remembering, ToDisk
from tests.liars.zoo import SCALES
from tests.plain_net import plain_net

# at which the honest model keeps no image
EPS, COUNT = "0.2", 40
WRONG = "wrong-gradients"
# what is said of each, among other things; of those that are not named, the figure is the true one
SAID = {
    "remembers images": {DIFFERS, WRONG},
    "by batch size": {DIFFERS},
    "by grad mode": {DIFFERS},
    "counts on its class": {DIFFERS},
    "counts copy-proof": {DIFFERS},
    "by the clock": {DIFFERS},
    "by the call stack": {DIFFERS},
    "by loaded modules": {DIFFERS},
    "by its command line": {DIFFERS},
    "by a thread": {DIFFERS},
    "by the grid of grey levels": {DIFFERS},
    "remembers on disk": {WRONG},
    "reads labels in frames": {DIFFERS},
    "reads labels in memory": {DIFFERS},
    "patches clamp": {"changes-torch"},
    "patches the judge": {"changes-torch"},
    "one-hot with a decoy": {WRONG},
    "another's gradient": {WRONG},
    "a gradient for a few pixels": {WRONG},
    "a gradient that turns round": {WRONG},
    "keeps images, with a gradient": {DIFFERS},
    "keeps images in a file, with a gradient": {"reaches-outside"},
}
TRUE = {"answers of its own class", "patches clamp", "patches the judge"}
REFUSED = {"claims a detector": "shape", "shrinks eps": "what the judge goes by"}
EVERYBODY = PLAYERS | CHEATS


@pytest.fixture
def base(store: Path) -> nn.Module:
    """An honest model, trained for a few seconds."""
    return plain_net()


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What players keep on their classes and on disk is gone before and after; the command line is a tool's."""
    monkeypatch.setattr("sys.argv", ["pytest"])
    yield
    Remembering.seen.clear()
    ToDisk.kept.unlink(missing_ok=True)
    Keeping.first = None
    KeepingInAFile.kept.unlink(missing_ok=True)


def judged(module: nn.Module, folder: Path, attacks: str) -> tuple[float, set[str]]:
    """The worst case of a module in memory, and what is said of it: flags, without shares and details, and gates."""
    options = {"queries": 150} if "square" in attacks else {}
    threat, data = ThreatModel.of("linf", EPS), "digits?draw=first"
    request = Request([module], attacks.split(), threat, data, count=COUNT, device="cpu", options=options)
    done = evaluate(request, Store(folder))
    assert done.complete
    flags = {flag for result in done.results for flag in result.summary.flags}
    short = {flag if flag == DIFFERS else flag.partition(" ")[0] for flag in flags}
    worst = Report.of(done, Store(folder)).worst[0]["robust_accuracy"]
    return worst, short | {finding.gate for finding in done.findings if finding.fired}


def test_every_player_has_its_line() -> None:
    assert set(EVERYBODY) == SAID.keys() | TRUE | REFUSED.keys()


@pytest.mark.parametrize("name", sorted(SAID.keys() | TRUE))
def test_a_player_is_found_or_gains_nothing(base: nn.Module, tmp_path: Path, name: str) -> None:
    worst, said = judged(EVERYBODY[name](base), tmp_path / "runs", "fgsm pgd square")
    assert said >= SAID.get(name, set())
    assert name not in TRUE or worst <= 0.05


@pytest.mark.parametrize("name", REFUSED)
def test_what_claims_a_detector_is_refused(base: nn.Module, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name]):
        judged(EVERYBODY[name](base), tmp_path / "runs", "pgd")


def under_scales() -> list[tuple[str, str]]:
    """The players, each under one of the scales; where the search is long, under all."""
    names, scales = sorted(SAID.keys() | TRUE), list(SCALES)
    if "ROBENCH_FUZZ" in os.environ:
        return [(name, scale) for name in names for scale in scales]
    return [(name, scales[turn % len(scales)]) for turn, name in enumerate(names)]


@pytest.mark.fuzz
@pytest.mark.parametrize(("name", "scale"), under_scales())
def test_no_offset_or_scale_hides_a_player(base: nn.Module, tmp_path: Path, name: str, scale: str) -> None:
    wrapped: Callable[[nn.Module], nn.Module] = SCALES[scale]
    worst, said = judged(wrapped(EVERYBODY[name](base)), tmp_path / "runs", "pgd")
    assert said or worst <= 0.05


def test_the_honest_model_raises_nothing(base: nn.Module, tmp_path: Path) -> None:
    worst, said = judged(base, tmp_path / "runs", "fgsm pgd square")
    assert (worst <= 0.05, said) == (True, set())


def test_a_flag_of_a_player_keeps_it_out_of_baselines() -> None:
    assert DIFFERS in UNSTABLE

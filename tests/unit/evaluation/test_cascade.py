"""A cascade: every attack only sees what the ones before it left standing, and the last figure is the worst case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import Tensor, nn

from robench.attack.judge import TAKEN_OVER
from robench.errors import BadInput
from robench.evaluation.address import Address, After
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate, evaluate_one
from robench.results.accuracy import worst_case
from robench.results.rows import attacked
from robench.store.runs import Store
from robench.tables.leaderboard import build
from robench.threat import ThreatModel
from robench.trust.verification import verify_all
from tests.unit.evaluation.small_net import SMALL, Small, small

ATTACKS = ("fgsm", "r-fgsm", "step-rand")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict], list[dict]]:
    """A store with the attacks one by one and as a cascade, and the summaries of both."""
    store = Store(tmp_path_factory.mktemp("cascade"))
    request = Request([SMALL], ATTACKS, ThreatModel.of("linf", "0.06"), dataset="digits", count=120, shard_size=50)
    apart = evaluate(request, store).rows
    return store, apart, evaluate(replace(request, cascade=True), store).rows


def rows_of(store: Store, row: dict) -> pd.DataFrame:
    return store.evaluation(row["evaluation"]).rows()


def test_the_last_figure_is_the_worst_case(runs: tuple[Store, list[dict], list[dict]]) -> None:
    store, apart, cascade = runs
    tables = [rows_of(store, row) for row in apart]
    assert cascade[-1]["robust_accuracy"] == worst_case(tables).value
    broken = np.any([table["success"] for table in tables], axis=0)
    assert broken.sum() > max(table["success"].sum() for table in tables), "the attacks must differ to test this"
    np.testing.assert_array_equal(rows_of(store, cascade[-1])["success"], broken)


def test_figures_only_fall(runs: tuple[Store, list[dict], list[dict]]) -> None:
    _, _, cascade = runs
    figures = [row["robust_accuracy"] for row in cascade]
    assert figures == sorted(figures, reverse=True)
    assert figures[-1] < figures[0]


def test_what_fell_costs_no_gradients(runs: tuple[Store, list[dict], list[dict]]) -> None:
    store, apart, cascade = runs
    before, last = rows_of(store, cascade[1]), rows_of(store, cascade[2])
    fell = before["success"].to_numpy()
    assert fell.any()
    assert (last["backwards"][fell] == 0).all()
    assert (last["trial"][fell] == TAKEN_OVER).all()
    assert (last["backwards"][~fell & last["clean_correct"]] > 0).all()
    assert cascade[2]["backwards"] < apart[2]["backwards"]


def test_the_first_is_the_attack_alone(runs: tuple[Store, list[dict], list[dict]]) -> None:
    _, apart, cascade = runs
    assert cascade[0]["evaluation"] == apart[0]["evaluation"]
    assert cascade[1]["evaluation"] != apart[1]["evaluation"]
    assert cascade[2]["against"] == " after fgsm, r-fgsm"


def test_stored_images_are_evidence_for_all_of_it(runs: tuple[Store, list[dict], list[dict]]) -> None:
    store, _, cascade = runs
    checks = verify_all(store, [cascade[2]["evaluation"]], SMALL, 33, "cpu", None)
    assert [check.holds for check in checks] == [True]


def test_a_leaderboard_shows_the_last_one_only(runs: tuple[Store, list[dict], list[dict]]) -> None:
    store, _, _ = runs
    columns = build(store)[0].headers
    assert "step-rand after fgsm, r-fgsm" in columns
    assert "r-fgsm after fgsm" not in columns


class Flat(Small):
    """The net, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 16).round() / 16)


def flat() -> nn.Module:
    """The net of rounded pixels, fitted as the other."""
    model = Flat()
    model.load_state_dict(small().state_dict())
    return model.eval()


def test_every_image_without_a_gradient_counts_once(tmp_path: Path) -> None:
    """pgd starts at random and so moves a few images that fgsm left; the others stay as they were taken over."""
    request = Request([flat()], ["fgsm", "pgd"], ThreatModel.of("linf", "0.03"), "digits", 120, cascade=True)
    first, second = evaluate(request, Store(tmp_path)).results
    assert first.summary.flags == ("moved-nothing", "zero-gradient 100%")
    assert second.summary.flags == ("zero-gradient 100%",)
    rows = Store(tmp_path).evaluation(second.evaluation).rows()
    assert (rows["trial"] == TAKEN_OVER).sum() > 0
    assert attacked(rows) == (rows["backwards"] > 0).sum()


def test_an_earlier_attack_must_be_complete(tmp_path: Path) -> None:
    address = Address(SMALL, "fgsm", {}, ThreatModel.of("linf", "0.06"), "digits", 20,
                      after=After("0123456789ab", "pgd"))  # fmt: skip
    with pytest.raises(BadInput, match=r"0123456789ab.*not complete"):
        evaluate_one(address, Store(tmp_path))


def test_not_with_a_surrogate() -> None:
    with pytest.raises(BadInput, match="--cascade"):
        Request([SMALL], ATTACKS, ThreatModel.of("linf", "0.06"), surrogates=["other"], cascade=True)

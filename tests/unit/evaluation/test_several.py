"""Several eps, norms and seeds of one command: what texts name, and that figures are those of separate runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from robench import open_dataset, registry
from robench.attack.judge import Examples, attack_shard
from robench.attack.rungs import to_check
from robench.errors import BadInput
from robench.evaluation.recorded_command import command_of
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.several import requests_of, seeds_of, threats_of
from robench.evaluation.summaries import Evaluated
from robench.results.rows import FELL, STOOD, marked
from robench.store.runs import Store
from robench.tables.report import Report
from robench.threat import ThreatModel
from robench.trust.rungs import unsupported
from robench.trust.verification import verify_all
from tests.unit.evaluation.small_net import SMALL, small

EPS = ("0.02", "0.04", "0.06")


@pytest.mark.parametrize(
    ("norm", "eps", "found"),
    [
        (None, None, ["linf eps 8/255"]),
        (None, "2/255, 4/255", ["linf eps 2/255", "linf eps 4/255"]),
        ("linf", [2 / 255, "4/255", Fraction(8, 255), 4 / 255], ["linf eps 2/255", "linf eps 4/255", "linf eps 8/255"]),
        (None, "linf:8/255,l2:0.5", ["linf eps 8/255", "l2 eps 0.5"]),
        ("linf,l2", "l2:0.5,l2:1", ["linf eps 8/255", "l2 eps 0.5", "l2 eps 1"]),
        (["l2", "linf"], {"l2": [0.5, 1], "linf": "0.1"}, ["l2 eps 0.5", "l2 eps 1", "linf eps 0.1"]),
        ("l2", np.float32(0.5), ["l2 eps 0.5"]),
    ],
)
def test_threat_models_by_name(norm: Any, eps: Any, found: list[str]) -> None:
    assert [str(each) for each in threats_of(norm, eps)] == found


@pytest.mark.parametrize(
    ("norm", "eps", "says"),
    [("linf,l2", "0.1", "whose it is"), ("l2", "linf:0.1", "add linf to --norm"), (None, "0.1,", "''"),
     (None, "l3:0.1", "l3"), (None, b"0.1", "b'0.1'")],
)  # fmt: skip
def test_threat_models_that_are_none(norm: Any, eps: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        threats_of(norm, eps)


def test_seeds() -> None:
    assert seeds_of("0, 2,2") == [0, 2]
    assert seeds_of(range(3)) == [0, 1, 2]
    assert seeds_of(7) == [7]
    for wrong in ("0,x", [], -1, True):
        with pytest.raises(BadInput, match="--seed"):
            seeds_of(wrong)  # type: ignore[arg-type]


def run(store: Store, model: Any, attack: str, eps: str, **more: Any) -> Evaluated:
    threats = threats_of("linf", eps)
    first, *others = requests_of(
        Request([model], [attack], threats[0], dataset="digits", count=120, **more), threats, [0]
    )
    return evaluate(first, store, None, others)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Evaluated, Evaluated]:
    """Three eps of one command, and each by itself in a store of its own."""
    store, other = Store(tmp_path_factory.mktemp("several")), Store(tmp_path_factory.mktemp("apart"))
    apart = Evaluated([run(other, SMALL, "pgd", eps).results[0] for eps in EPS])
    return store, run(store, SMALL, "pgd", ",".join(EPS)), apart


def test_figures_are_those_of_separate_runs_at_less_cost(ladder: tuple[Store, Evaluated, Evaluated]) -> None:
    store, several, apart = ladder
    assert [r.about.eps for r in several.results] == ["0.06", "0.04", "0.02"]
    mine = {r.about.eps: r for r in several.results}
    for other in apart.results:
        assert mine[other.about.eps].summary.value == other.summary.value
    assert mine["0.06"].evaluation == apart.results[2].evaluation, "the largest is the run by itself"
    assert mine["0.04"].evaluation != apart.results[1].evaluation
    assert mine["0.04"].about.against == " [below 0.06]"
    rows = store.evaluation(mine["0.02"].evaluation).rows()
    held = marked(rows, STOOD)
    assert held.sum() > 20
    assert (rows["forwards"][held] == 0).all()
    assert not rows["success"][held].any()
    cost = {name: sum(r.summary.backwards or 0 for r in each.results) for name, each in (("a", several), ("b", apart))}
    assert cost["a"] < 0.6 * cost["b"]


def test_they_verify_and_their_command_comes_to_them(ladder: tuple[Store, Evaluated, Evaluated]) -> None:
    store, several, _ = ladder
    last = several.results[-1]
    checks = verify_all(store, [r.evaluation for r in several.results], SMALL, 33, "cpu", None, again=5)
    assert [check.holds for check in checks] == [True] * 3
    assert "--eps 0.02,0.04,0.06" in command_of(store.evaluation(last.evaluation))


def test_what_fell_within_the_larger_eps_does_not_stand_below_it(
    ladder: tuple[Store, Evaluated, Evaluated], tmp_path: Path
) -> None:
    store, several, _ = ladder
    high, middle, _ = (r.evaluation for r in several.results)
    shutil.copytree(store.root, tmp_path / "runs")
    copied = Store(tmp_path / "runs")
    spec, rows = copied.evaluation(middle).spec, copied.evaluation(middle).rows()
    assert unsupported(copied, spec, rows) == 0
    fell = copied.evaluation(high).rows()["success"].to_numpy()
    rows.loc[np.flatnonzero(fell)[:3], "flags"] = STOOD
    assert unsupported(copied, spec, rows) == 3
    held = int(marked(rows, STOOD).sum())
    for other in ({"eps": "9/10"}, {"seed": 1}, {"below": None}):
        assert unsupported(copied, {**spec, **other}, rows) == held
    shutil.rmtree(copied.evaluation(high).path)
    (check,) = verify_all(copied, [middle, several.results[2].evaluation], SMALL, 33, "cpu", None)[:1]
    assert not check.holds
    assert high in check.reason


def test_a_report_has_a_table_for_each_and_rows_of_each(ladder: tuple[Store, Evaluated, Evaluated]) -> None:
    store, several, _ = ladder
    report = Report.of(several, store)
    assert str(report).count("95% interval") == 3
    assert report.frame["eps"].tolist() == [0.06, 0.04, 0.02]
    assert len(report.rows()) == 360
    assert len(report.rows(attack="pgd", eps="0.04")) == 120
    with pytest.raises(BadInput, match="3 evaluations are meant"):
        report.images()
    clean, adversarial, ids = report.images(eps=0.04)
    assert clean.shape == adversarial.shape == (120, 1, 8, 8)
    assert float((clean - adversarial).abs().max()) <= 0.04 + 1e-6
    assert ids.tolist() == list(range(120))


@pytest.mark.parametrize(("attack", "more"), [("fgsm", {}), ("pgd", {"options": {"success": "last"}}),
                                              ("random-noise", {}), ("pgd", {"max_passes": 30})])  # fmt: skip
def test_what_need_not_reach_further_is_run_by_itself(attack: str, more: dict[str, Any], tmp_path: Path) -> None:
    found = run(Store(tmp_path), small(), attack, "0.02,0.06", **more)
    assert all("below" not in r.about.against for r in found.results)


def shard(eps: str, stood: Tensor | None) -> pd.DataFrame:
    """Rows of 60 digits under pgd, as if those marked in `stood` had stood within a larger eps as they are."""
    split = open_dataset("digits").test
    part = slice(0, 60)
    x = split.pixels(part)
    examples = Examples(x, split.labels[part], split.ids[part], None if stood is None else x, None, stood)
    attack = registry.load("attack", "pgd").build({"steps": 10})
    return attack_shard(small(), 10, attack, ThreatModel.of("linf", eps), examples).rows


def test_where_one_falls_all_are_attacked() -> None:
    """That a larger eps left an image standing is believed only as far as those that are drawn stand."""
    alone = shard("0.06", None)
    stood = torch.tensor(alone["clean_correct"].to_numpy())
    assert alone["success"].sum() > 20
    rows = shard("0.06", stood)
    np.testing.assert_array_equal(rows["success"], alone["success"])
    assert not marked(rows, STOOD).any()
    np.testing.assert_array_equal(marked(rows, FELL), rows["success"])
    assert not marked(rows, "borderline").any()


def test_where_none_falls_one_in_a_hundred_is_attacked() -> None:
    alone = shard("0.001", None)
    stood = torch.tensor((alone["clean_correct"] & ~alone["success"]).to_numpy())
    rows = shard("0.001", stood)
    np.testing.assert_array_equal(rows["success"], alone["success"])
    assert marked(rows, STOOD).sum() == int(stood.sum()) - 1
    assert (rows["forwards"][stood.numpy()] > 0).sum() == 1


def test_finds_within_a_smaller_eps_count_beside_the_worst_case_of_a_larger_one(tmp_path: Path) -> None:
    """A single step overshoots: what falls to a short one stands against a long one."""
    store = Store(tmp_path)
    done = run(store, SMALL, "fgsm", "0.1,0.9")
    low, high = (next(r for r in done.results if r.about.eps == eps) for eps in ("0.1", "0.9"))
    report = Report.of(done, store)
    (worst,) = [case for case in report.worst_cases if case.eps == "0.9"]
    rows = [store.evaluation(r.evaluation).rows() for r in (low, high)]
    missed = rows[0]["success"] & ~rows[1]["success"]
    assert missed.any()
    assert worst.figure is not None
    assert worst.nested is not None
    assert worst.nested.count == worst.figure.count - missed.sum()
    assert "with finds within smaller eps" in str(report)


def test_the_drawn_ones_do_not_depend_on_their_company() -> None:
    stood, ids = torch.ones(300, dtype=torch.bool), torch.arange(300)
    found = to_check(stood, ids, 0)
    assert int(found.sum()) == 3
    assert torch.equal(to_check(stood.flip(0), ids.flip(0), 0).flip(0), found)
    assert not to_check(~stood, ids, 0).any()


def test_seeds_have_mean_and_spread(tmp_path: Path) -> None:
    request = Request(
        [SMALL], ["pgd"], ThreatModel.of("linf", "0.06"), dataset="digits", count=60, options={"steps": 2}
    )
    done = evaluate(request, Store(tmp_path), None, [replace(request, seed=1)])
    report = Report.of(done, Store(tmp_path))
    assert report.frame["seed"].tolist() == [0, 1]
    assert "seeds 0, 1" in str(report)
    assert "±" in str(report)
    assert "±" in report._repr_html_()

"""What evaluations cost: robust accuracy against passes, by hand and from a store, side by side and by stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robench import evaluate
from robench.attack.orbits import LAG
from robench.cli.app import main
from robench.errors import BadInput
from robench.store.runs import Store
from robench.tables.costs import Spending, collect, points_of, tables
from robench.training.jobs import TrainRequest, train

N = 40


def spending(passes: list[int], clean: list[bool], standing: list[bool], stages: tuple[str, ...] = ()) -> Spending:
    cost = np.array(passes)
    names = stages or ("",) * len(passes)
    return Spending("id", "m", "a", "linf eps 0.1", cost, cost, np.array(clean), np.array(standing), names)


BY_HAND = spending([0, 5, 10, 11, 400, 1000], [False] + [True] * 5, [False, False, False, False, True, False])


@pytest.mark.parametrize(
    ("most", "robust", "attacked", "mean"),
    [(0, 5, 5, 0.0), (4, 5, 5, 4.0), (5, 4, 4, 5.0), (10, 3, 3, 9.0), (100, 2, 2, 45.2), (1000, 1, 0, 285.2)],
)
def test_a_broken_image_is_broken_from_what_was_spent_on_it_on(
    most: int, robust: int, attacked: int, mean: float
) -> None:
    assert BY_HAND.at(most).count == robust
    assert BY_HAND.at(most).n == 6
    assert BY_HAND.attacked(most) == attacked
    assert BY_HAND.mean(most) == pytest.approx(mean)


def test_points_end_before_the_dearest_image() -> None:
    assert BY_HAND.points() == [10, 30, 100, 300]
    assert spending([0, 3], [True] * 2, [True] * 2).points() == []
    nothing = spending([0, 0], [True] * 2, [True] * 2)
    assert nothing.totals() == {"images": 0, "mean": 0.0, "median": 0.0, "max": 0, "standing": 2, "mean_standing": 0.0}
    assert nothing.at(0).count == 2


def test_totals_are_of_the_images_that_were_attacked() -> None:
    assert BY_HAND.totals() == {
        "images": 5, "mean": 285.2, "median": 11.0, "max": 1000, "standing": 1, "mean_standing": 400.0,
    }  # fmt: skip


def test_stages_are_told_in_their_order() -> None:
    """An image ends in the last stage that was run on it; a stage may be skipped."""
    stages = ("", "quick", "quick;last", "quick;slow", "quick;slow;last", "slow;last")
    found = spending([0, 3, 30, 10, 100, 50], [True] * 6, [True, False, True, False, True, False], stages).by_stage()
    assert [(one["stage"], one["entered"], one["ended"], one["broken"], one["mean_passes"]) for one in found] == [
        ("quick", 4, 1, 1, 3.0), ("slow", 3, 1, 1, 10.0), ("last", 3, 3, 1, 60.0),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[str]]:
    """A small model and what was run on it: PGD, a cascade, PGD in L2, a targeted attack."""
    root = tmp_path_factory.mktemp("runs")
    train(TrainRequest("standard", "digits", epochs=2, name="plain", device="cpu"), Store(root))
    found = []
    for attacks, norm, more in (
        (["pgd"], "linf", {"options": {"steps": 10}}),
        (["fgsm", "pgd"], "linf", {"options": {"steps": 20}, "cascade": True}),
        (["pgd"], "l2", {"options": {"steps": 5}}),
        (["random-targeted"], "linf", {"options": {"steps": 3, "restarts": 1}}),
    ):
        rows = evaluate("plain", None, attacks, "0.1", norm, count=N, device="cpu", runs=root, **more).rows
        found += [row["evaluation"] for row in rows]
    return Store(root), found


def test_the_passes_of_a_cascade_add_up(store: tuple[Store, list[str]]) -> None:
    kept, (_, fgsm, cascade, *_) = store
    first, second = collect(kept, [fgsm]), collect(kept, [cascade])
    assert second[0].passes.tolist() == (first[0].passes + second[0].own).tolist()
    assert second[0].at(3).count == first[0].at(3).count == int(first[0].standing.sum())  # what FGSM took 3 passes for
    assert second[0].attacked(3) == int(first[0].standing.sum()) > 0
    assert second[0].at(0).count == first[0].at(0).count == int(first[0].clean.sum())


def test_the_command_shows_evaluations_side_by_side(
    store: tuple[Store, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, (pgd, _, cascade, *_) = store
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["cost", pgd, cascade, pgd, "--runs", str(kept.root)]) == 0
    shown = capsys.readouterr().out
    assert "pgd (steps=10)" in shown
    assert "pgd (steps=20) after fgsm" in shown
    assert main(["cost", pgd, cascade, "--runs", str(kept.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["evaluations"]
    assert [each["evaluation"] for each in told] == [pgd, cascade]
    for each in told:
        rows, folder = kept.evaluation(each["evaluation"]).rows(), kept.evaluation(each["evaluation"])
        assert folder.result is not None
        assert each["points"][-1]["robust_accuracy"] == folder.result.value
        assert each["points"][-1]["attacked"] == 0
        assert each["passes"]["standing"] == int((rows["clean_correct"] & ~rows["success"]).sum())
    assert told[0]["passes"]["max"] == 31
    assert [point["passes"] for point in told[0]["points"]] == [10, 30, 31]


def test_old_rows_without_the_columns_are_read(store: tuple[Store, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from robench.store.evaluation_folder import EvaluationFolder

    kept, (pgd, *_) = store
    (now,) = collect(kept, [pgd])
    whole = EvaluationFolder.rows

    def older(self: EvaluationFolder, *arguments: object, **more: object) -> object:
        return whole(self, *arguments, **more).drop(columns=["passes", "stages"], errors="ignore")  # type: ignore[arg-type]

    monkeypatch.setattr(EvaluationFolder, "rows", older)
    (then,) = collect(kept, [pgd])
    assert then.passes.tolist() == now.passes.tolist()
    assert then.stages == now.stages


def test_what_cannot_be_compared_is_said_in_a_sentence(
    store: tuple[Store, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept, (pgd, _, _, wide, targeted) = store
    for names, said in (
        ([], "No evaluation is named"),
        ([pgd, wide], "differ in norm"),
        ([targeted], "attack success rate"),
        (["0123456789ab"], "0123456789ab"),
    ):
        capsys.readouterr()
        assert main(["cost", *names, "--runs", str(kept.root)]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert said in told[0]
    with pytest.raises(BadInput, match="No evaluation"):
        collect(Store(tmp_path), [])


def test_an_evaluation_with_stages_has_a_table_of_them() -> None:
    stages = ("", "quick", "quick;slow")
    staged = spending([0, 3, 30], [False, True, True], [False, False, True], stages)
    assert len(list(tables([staged]))) == 2
    assert len(list(tables([BY_HAND]))) == 1
    assert points_of([staged, BY_HAND]) == [10, 30, 100, 300]


def test_what_a_larger_eps_cost_counts_below_it(
    store: tuple[Store, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that stood within the larger eps are not attacked again: what they cost there is what they cost."""
    kept, _ = store
    rows = evaluate("plain", None, ["pgd"], "0.03,0.06,0.09", count=N, options={"restarts": 2}, runs=kept.root).rows
    ids = {row["eps"]: row["evaluation"] for row in rows}
    below, middle, above = (collect(kept, [ids[eps]])[0] for eps in ("0.03", "0.06", "0.09"))
    assert above.passes.tolist() == above.own.tolist()
    assert middle.passes.tolist() == (middle.own + above.own).tolist()
    assert below.passes.tolist() == (below.own + middle.own + above.own).tolist()
    held = below.standing & (below.own == 0)
    assert held.sum() > 5
    assert (below.passes[held] == (middle.own + above.own)[held]).all()
    assert (below.passes[held] >= 2 * 3 * (LAG + 1)).all()  # both searches went on at least until they came round
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["cost", ids["0.03"], "--runs", str(kept.root)]) == 0
    assert "below a larger eps with that one's" in " ".join(capsys.readouterr().out.split())

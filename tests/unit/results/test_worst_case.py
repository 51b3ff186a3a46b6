"""One worst case: report, leaderboard, check and suite table find the same in any rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from robench.evaluation.summaries import Evaluated, Result
from robench.regression.baseline import keep
from robench.regression.pairs import Pair, lines_of
from robench.regression.verdict import WORST
from robench.results.accuracy import Figure, Measure
from robench.results.rows import success_of
from robench.results.summary import summarise
from robench.store.about import About
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import EvalSpec
from robench.suites import reproduce
from robench.tables.leaderboard import build
from robench.tables.report import Report

N, CLASSES = 8, 4
# what an attack is up against, and what it counts
KINDS = [("white-box", Measure.ROBUST), ("white-box", Measure.SUCCESS), ("noise", Measure.ROBUST),
         ("transfer", Measure.ROBUST)]  # fmt: skip
answers = some.lists(some.integers(-1, CLASSES - 1), min_size=N, max_size=N)
attacks = some.lists(some.tuples(some.sampled_from(KINDS), answers, answers), min_size=1, max_size=5)


def rows_of(clean: list[int], adversarial: list[int], goals: list[int], measure: Measure) -> pd.DataFrame:
    """Rows of images of class 0; a goal is never the true class."""
    rows = pd.DataFrame({
        "example_id": range(N), "label": 0,
        "goal": [max(goal, 1) if measure is Measure.SUCCESS else -1 for goal in goals],
        "clean_pred": clean, "adv_pred": adversarial, "clean_correct": [answer == 0 for answer in clean],
    })  # fmt: skip
    rows["success"] = success_of(rows, rejected=CLASSES)
    return rows.assign(trial=0, step=-1, zero_pixels=np.nan, linf=0.1, l2=0.1, forwards=2, backwards=1, flags="")


def add(store: Store, number: int, access: str, rows: pd.DataFrame, measure: Measure) -> EvaluationFolder:
    """A finished evaluation of one model; transfer from a model of its own."""
    spec = EvalSpec(
        model_digest="a" * 16, data_digest="d" * 16, count=N, norm="linf", eps="1/10", attack=f"attack-{number}",
        attack_version=1, attack_options={}, seed=0, surrogate="b" * 16 if access == "transfer" else None,
    )  # fmt: skip
    about = About(
        model="m", reference="m", dataset="digits", eps="0.1", given_options={}, metric=measure, access=access,
        kind=access, command="", environment={"commit": "", "packages": {"torch": ""}},
    )  # fmt: skip
    folder = store.evaluation(spec.job_id)
    folder.begin(spec.to_json(), about)
    folder.save_shard(0, N, rows, torch.zeros(N, 1, 1, 1), {"flags": [], "seconds": 0.0})
    folder.finish(summarise(rows, measure, folder.notes()))
    return folder


def result_of(folder: EvaluationFolder) -> Result:
    assert folder.result is not None
    spec = folder.spec
    return Result(folder.job_id, spec["attack"], spec["norm"], spec["model_digest"], folder.about, folder.result)


def by_hand(clean: list[int], found: list[tuple[tuple[str, Measure], list[int], list[int]]]) -> Figure | None:
    """Image by image, over white-box attacks of which one at least counts robust accuracy."""
    entered = [(measure, adversarial) for (access, measure), adversarial, _ in found if access == "white-box"]
    if not any(measure is Measure.ROBUST for measure, _ in entered):
        return None
    stands = [clean[i] == 0 and all(adversarial[i] == 0 for _, adversarial in entered) for i in range(N)]
    return Figure(sum(stands), N)


def in_a_report(store: Store, folders: list[EvaluationFolder]) -> Figure | None:
    report = Report.of(Evaluated([result_of(folder) for folder in folders]), store)
    return report.worst_cases[0].figure if report.worst_cases else None


def in_a_leaderboard(store: Store, folders: list[EvaluationFolder]) -> Figure | None:
    (board,) = build(store)
    return board.rows[0].worst.figure


def in_a_suite(store: Store, folders: list[EvaluationFolder]) -> Figure | None:
    """A column of several attacks that are not a cascade."""
    request = SimpleNamespace(cascade=False, surrogates=[], guide=None)
    place = SimpleNamespace(column=SimpleNamespace(by_image=True), asked=SimpleNamespace(request=request))
    planned = [
        SimpleNamespace(
            address=SimpleNamespace(behind=False), job=SimpleNamespace(spec=SimpleNamespace(job_id=f.job_id), folder=f)
        )
        for f in folders
    ]
    wanted = SimpleNamespace(behind=None, evaluations=planned)
    stood = reproduce._stood(cast(Any, place), cast(Any, wanted), [result_of(folder) for folder in folders])
    return None if stood is None else Figure(int(stood.sum()), len(stood))


def in_a_check(store: Store, folders: list[EvaluationFolder]) -> Figure | None:
    """Of a baseline with the same evaluations; it has no line where one attack alone is the worst case."""
    kept = [keep(folder, store) for folder in folders if not folder.spec.get("surrogate")]
    pairs = [Pair.of(each, result_of(store.evaluation(each.evaluation)), store) for each in kept]
    lines = [line for line in lines_of(pairs) if line.attack.startswith(WORST)]
    if lines:
        assert lines[0].now == lines[0].then
        return Figure(round(lines[0].then * N), N)
    entering = [pair for pair in pairs if pair.access == "white-box"]
    if len(entering) == 1 and entering[0].metric == Measure.ROBUST:
        return Figure(int(entering[0].then.robust.sum()), N)
    return None


@settings(max_examples=30, deadline=None)
@given(clean=answers, found=attacks)
def test_the_same_worst_case_everywhere(
    clean: list[int], found: list[tuple[tuple[str, Measure], list[int], list[int]]]
) -> None:
    clean = [max(answer, 0) for answer in clean]  # a model whose clean answers are not finite is refused
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        folders = [
            add(store, i, access, rows_of(clean, adversarial, goals, measure), measure)
            for i, ((access, measure), adversarial, goals) in enumerate(found)
        ]
        expected = by_hand(clean, found)
        assert in_a_report(store, folders) == expected
        assert in_a_leaderboard(store, folders) == expected
        assert in_a_check(store, folders) == expected
        white = [folder for folder in folders if folder.about.access == "white-box"]
        if len(white) > 1:  # a column is of several attacks on the model alone
            assert in_a_suite(store, white) == expected

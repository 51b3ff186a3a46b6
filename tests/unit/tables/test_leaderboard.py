"""Tables: figures, incomplete cells, worst case, and the four formats of a leaderboard."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from robench.errors import BadInput
from robench.evaluation.summaries import Evaluated, Result
from robench.results.accuracy import Measure
from robench.results.summary import Summary, summarise
from robench.store.about import About
from robench.store.runs import EvaluationFolder, Store
from robench.store.specs import EvalSpec
from robench.tables.index import Entry
from robench.tables.leaderboard import Board, build
from robench.tables.rendering import write
from robench.tables.report import Report
from tests.made import whole

N = 10


def rows_of(broken: set[int], wrong: set[int] = frozenset()) -> pd.DataFrame:
    """Rows of ten images of class 0, of which some are misclassified to begin with and some broken."""
    ids = list(range(N))
    return whole(
        pd.DataFrame(
            {
                "example_id": ids,
                "label": 0,
                "goal": -1,
                "clean_pred": [1 if i in wrong else 0 for i in ids],
                "adv_pred": [1 if i in broken | wrong else 0 for i in ids],
                "clean_correct": [i not in wrong for i in ids],
                "success": [i in broken - wrong for i in ids],
                "forwards": 2,
                "backwards": 1,
                "trial": 0,
                "flags": ["zero-gradient" if i == 0 else "" for i in ids],
            }
        )
    )


def add(
    store: Store,
    model: str,
    attack: str,
    rows: pd.DataFrame,
    access: str = "white-box",
    shards: int = 2,
    norm: str = "linf",
    after: str | None = None,
    kind: str = "iterative",
    sealed: bool = False,
) -> EvaluationFolder:
    """Put an evaluation of ten images into the store, of which the first `shards` halves are finished."""
    spec = EvalSpec(
        model_digest=model, data_digest="d", count=N, norm=norm, eps="8/255", attack=attack, attack_version=1,
        attack_options={"steps": 3}, seed=0, after=after,
    )  # fmt: skip
    folder = store.evaluation(spec.job_id)
    metric = "attack success rate" if attack == "random-targeted" else "robust accuracy"
    about = About(
        model=model, reference=model, dataset="npz:data/my_images.npz", eps="8/255", given_options={}, metric=metric,
        access=access, kind=kind, command=f"robench evaluate {model} --data /home/me/x -a {attack} --runs='my runs'",
        environment={"commit": "abc", "packages": {"torch": "2"}},
    )  # fmt: skip
    folder.begin(spec.model_dump(mode="json"), about)
    for k in range(shards):
        part = rows.iloc[k * N // 2 : (k + 1) * N // 2]
        folder.save_shard(k * N // 2, (k + 1) * N // 2, part, torch.zeros(N // 2, 1, 2, 2), {"flags": [], "seconds": 1})
    if sealed:
        folder.save_second(None, {"flags": [], "counts": False, "passes": 0, "seconds": 0.0})
    if shards == 2:
        folder.finish(summarise(rows, metric, folder.notes()))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two models: one attacked by two attacks that break different images, one with an unfinished attack."""
    store = Store(tmp_path)
    add(store, "strong_&_honest", "pgd", rows_of({0, 1}, wrong={9}))
    add(store, "strong_&_honest", "untargeted", rows_of({1, 2}, wrong={9}))
    add(store, "strong_&_honest", "random-noise", rows_of({3, 4, 5}, wrong={9}), access="noise")
    add(store, "killed", "pgd", rows_of({0}))
    add(store, "killed", "untargeted", rows_of({0}), shards=1)
    return store


def only(store: Store) -> Board:
    """The one table of the store."""
    (board,) = build(store)
    return board


def test_worst_case_is_image_by_image_over_white_box_attacks(store: Store) -> None:
    row = next(r for r in only(store).rows if r.model == "strong_&_honest")
    assert [row.clean.figure.count, *(row.attacks[name].figure.count for name in ("pgd", "untargeted"))] == [9, 7, 7]
    assert row.worst.figure.count == 6, "images 0, 1, 2 and the misclassified 9 are gone; noise does not count"
    assert row.attacks["random-noise"].figure.count == 6


def test_the_first_column_of_equally_strong_ones_is_the_strongest(store: Store) -> None:
    """However they were evaluated: pgd and untargeted leave 7 each."""
    (row,) = (each for each in only(store).rows if each.model == "strong_&_honest")
    assert row.strongest == "pgd"


def test_targeted_attacks_alone_have_no_worst_case_and_say_when_one_is_unfinished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "aimed", "random-targeted", rows_of({0}), shards=1)
    (row,) = only(store).rows
    assert row.worst.text == "incomplete"
    add(store, "whole", "random-targeted", rows_of({0}))
    assert [row.worst.text for row in only(store).rows] == ["incomplete", "-"]


def test_an_unfinished_attack_makes_its_cell_and_the_worst_case_incomplete(store: Store) -> None:
    row = next(r for r in only(store).rows if r.model == "killed")
    assert row.attacks["untargeted"].text == "incomplete"
    assert row.worst.text == "incomplete"
    assert row.attacks["pgd"].figure.count == 9
    (noise,) = (column for column in only(store).columns if column.name == "random-noise")
    assert noise.cell(row).text == "-"


def test_a_damaged_shard_makes_the_cell_incomplete(store: Store) -> None:
    folder = next(f for f in map(store.evaluation, store.evaluation_ids()) if f.spec["attack"] == "random-noise")
    path = next(folder.path.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    row = next(r for r in only(store).rows if r.model == "strong_&_honest")
    assert row.attacks["random-noise"].text == "incomplete"
    assert row.worst.figure.count == 6


def test_rows_are_ranked_by_worst_case_with_incomplete_last(store: Store) -> None:
    assert [row.model for row in only(store).rows] == ["strong_&_honest", "killed"]


@pytest.fixture
def unlike(tmp_path: Path) -> Store:
    """Two models whose figures rest on attacks that share nothing, and one with fewer than its neighbour."""
    store = Store(tmp_path)
    add(store, "weakly attacked", "fgsm", rows_of({0}))
    add(store, "strongly attacked", "pgd", rows_of({0, 1, 2}))
    return store


def test_figures_of_unlike_attacks_are_not_ranked_in_one_table(unlike: Store) -> None:
    boards = build(unlike)
    assert [[row.model for row in board.rows] for board in boards] == [["weakly attacked"], ["strongly attacked"]]
    assert [board.title.rpartition(", under ")[2] for board in boards] == ["fgsm", "pgd"]
    assert len({board.name for board in boards}) == 2
    assert [column.name for column in boards[0].columns] == ["clean", "worst case", "fgsm"]


def test_one_model_that_shares_nothing_does_not_part_the_others(unlike: Store) -> None:
    """fgsm ranks three, however much some of them were attacked with besides; who lacks it stands alone."""
    add(unlike, "strongly attacked", "fgsm", rows_of({0, 1}))
    add(unlike, "hardly attacked", "fgsm", rows_of({0, 1, 2}))
    add(unlike, "otherwise attacked", "untargeted", rows_of({0}))
    boards = build(unlike)
    assert [[row.model for row in board.rows] for board in boards] == [
        ["weakly attacked", "strongly attacked", "hardly attacked"], ["otherwise attacked"],
    ]  # fmt: skip
    assert [board.title.rpartition(", under ")[2] for board in boards] == ["fgsm", "untargeted"]


def test_models_that_lack_attacks_are_ranked_by_what_all_share(unlike: Store) -> None:
    """fgsm breaks 1 of three and 2 of one, whose larger worst case is that of fewer attacks; it breaks 4 of the last,
    which stands below them though it lacks nothing."""
    add(unlike, "strongly attacked", "fgsm", rows_of({0}))
    add(unlike, "weakly attacked", "untargeted", rows_of({0, 1, 2, 3}))
    add(unlike, "hardly attacked", "fgsm", rows_of({0, 1}))
    for attack in ("fgsm", "pgd", "untargeted"):
        add(unlike, "broken at once", attack, rows_of({0, 1, 2, 3}))
        add(unlike, "whole", attack, rows_of({0}))
    (board,) = build(unlike)
    assert [(row.model, row.worst.figure.count) for row in board.rows] == [
        ("whole", 9), ("strongly attacked", 7), ("weakly attacked", 6), ("hardly attacked", 8), ("broken at once", 6),
    ]  # fmt: skip
    assert "A model that lacks attacks is ranked by fgsm, which all have: below every model that is as" in board.note


def test_one_of_which_a_damaged_evaluation_is_left_out_is_ranked_with_those_that_lack_some(unlike: Store) -> None:
    """Over fgsm, which all three have, and not over what it happens to have besides."""
    add(unlike, "strongly attacked", "fgsm", rows_of({0}))
    add(unlike, "hardly attacked", "fgsm", rows_of({0, 1}))
    damaged = add(unlike, "strongly attacked", "untargeted", rows_of({0, 1, 2, 3, 4}))
    (damaged.path / "spec.json").write_text("{")
    (board,) = build(unlike)
    assert [(row.model, row.worst.figure.count, row.shared.count, row.worst.note) for row in board.rows] == [
        ("weakly attacked", 9, 9, " (1/2 attacks)"),
        ("hardly attacked", 8, 8, " (1/2 attacks)"),
        ("strongly attacked", 7, 9, " (1 damaged left out)"),
    ]  # fmt: skip
    assert "One of which damaged evaluations are left out stands last." in board.note


def test_what_a_cascade_goes_on_from_may_be_damaged(tmp_path: Path) -> None:
    """Then nobody knows whether it walked along the decision boundary, so the figure is called an upper bound."""
    store = Store(tmp_path)
    first = add(store, "mine", "fab-t", rows_of({0}), norm="l2")
    add(store, "mine", "pgd", rows_of({0, 1}), norm="l2", after=first.job_id)
    assert only(store).rows[0].attacks["pgd"].note == ""
    (first.path / "spec.json").write_text("{")
    assert only(store).rows[0].attacks["pgd"].note == " (upper bound)"


def test_one_that_has_all_stands_above_those_that_lack_some(unlike: Store) -> None:
    add(unlike, "strongly attacked", "fgsm", rows_of({0}))
    (board,) = build(unlike)
    assert [row.model for row in board.rows] == ["strongly attacked", "weakly attacked"]


def test_in_l2_a_figure_without_a_boundary_attack_says_so_in_every_format(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, "alone", "pgd", rows_of({0}), norm="l2")
    paths = write(only(store), tmp_path)
    csv_text, md, tex, html = (path.read_text() for path in paths)
    for text, count in ((md, 2), (tex, 2), (html, 2)):
        assert text.count("(upper bound)") == count, "in the worst case and in the attack's own cell"
        assert "Upper bound: no boundary attack (FAB) tried it." in text
    (record,) = csv.DictReader(io.StringIO(csv_text))
    assert (record["worst case note"], record["pgd note"]) == ("upper bound", "upper bound")
    assert only(store).to_json()["rows"][0]["worst case"]["note"] == " (upper bound)"
    out = io.StringIO()
    Console(width=140, file=out).print(only(store).table())
    assert "(upper bound)" in out.getvalue()


def test_with_one_the_worst_case_is_no_upper_bound(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, "both", "pgd", rows_of({0}), norm="l2")
    add(store, "both", "fab-t", rows_of({0, 1}), norm="l2")
    (row,) = only(store).rows
    assert [row.worst.note, row.attacks["pgd"].note, row.attacks["fab-t"].note] == ["", " (upper bound)", ""]


def test_in_linf_nothing_is_said(store: Store) -> None:
    assert not any("upper" in cell.note for row in only(store).rows for cell in (row.worst, *row.attacks.values()))


def test_a_worst_case_of_single_steps_says_so_and_leads_no_board(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, "hasty", "fgsm", rows_of({0}).assign(flags=""), kind="single-step", sealed=True)
    board = only(store)
    assert [board.rows[0].worst.note, board.rows[0].attacks["fgsm"].note] == [" (one step)", ""]
    assert "One step: no attack took a second one" in board.note
    assert Entry.of(board).top == "single steps alone"
    add(store, "hasty", "pgd", rows_of({0, 1}).assign(flags=""), sealed=True)
    board = only(store)
    assert board.rows[0].worst.note == ""
    assert "One step" not in board.note
    assert Entry.of(board).top == "hasty"


def test_what_is_flagged_leads_no_index(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, "masked", "pgd", rows_of(set()))
    assert Entry.of(only(store)).top == "none without a flag"
    add(store, "honest", "pgd", rows_of({0, 1}).assign(flags=""), sealed=True)
    assert [row.model for row in only(store).rows] == ["masked", "honest"]
    assert Entry.of(only(store)).top == "honest"


def test_csv_has_fractions_with_intervals_and_what_made_them(store: Store, tmp_path: Path) -> None:
    paths = write(only(store), tmp_path / "boards")
    assert [p.suffix for p in paths] == [".csv", ".md", ".tex", ".html"]
    assert paths[0].stem == "my-images-linf-8-255-n10"
    first, second = csv.DictReader(io.StringIO(paths[0].read_text()))
    assert float(first["worst case value"]) == 0.6
    assert float(first["worst case low"]) == pytest.approx(0.3127, abs=1e-4)
    assert second["worst case value"] == "incomplete"
    assert second["commands"].split("; ") == [
        f"robench evaluate killed --dataset npz:data/my_images.npz -a {attack} --eps 8/255 -n 10"
        for attack in ("pgd", "untargeted")
    ]


def test_markdown_latex_and_html_carry_the_same_figures(store: Store, tmp_path: Path) -> None:
    _, md, tex, html = (p.read_text() for p in write(only(store), tmp_path))
    figure = "60.0 [31.3, 83.2]"
    assert figure in md
    assert r"strong\_\&\_honest & " in tex
    assert figure in tex
    assert re.search(r"60\.0\* <small>\[31\.3, 83\.2\]</small>", html)
    assert "strong_&amp;_honest" in html


def test_the_page_loads_nothing_from_elsewhere(store: Store, tmp_path: Path) -> None:
    html = write(only(store), tmp_path)[3].read_text()
    assert not re.search(r"(src|href)=|url\(|@import|https?:", html)


def test_flags_mark_the_cell(store: Store) -> None:
    row = next(r for r in only(store).rows if r.model == "strong_&_honest")
    assert row.attacks["pgd"].text.endswith("*")


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run 'robench evaluate' first"):
        build(Store(tmp_path))


def test_a_report_ranks_models_and_marks_success_rates(store: Store) -> None:
    folders = {(f.about.model, f.spec["attack"]): f for f in map(store.evaluation, store.evaluation_ids())}

    def result(model: str, attack: str) -> Result:
        folder = folders[model, attack]
        found = folder.result or Summary(Measure.ROBUST, len(folder.rows()))
        return Result(folder.job_id, attack, "linf", model, folder.about, found)

    name = "strong_&_honest"
    results = [result(name, "pgd"), result(name, "untargeted"), result("killed", "untargeted")]
    report = Report.of(Evaluated(results), store)
    by_model = {w["model"]: w for w in report.to_json()["worst_case"]}
    assert by_model[name]["robust_accuracy"] == 0.6
    assert by_model["killed"]["status"] == "incomplete"
    assert by_model["killed"]["robust_accuracy"] is None
    assert not report.complete
    text = str(report)
    assert text.index(name) < text.index("killed")
    assert "incomplete" in text

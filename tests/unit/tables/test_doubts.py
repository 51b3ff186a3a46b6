"""What speaks against a figure stands beside it in every table: gates, smaller eps, other code, other access."""

from __future__ import annotations

from pathlib import Path

import pytest

from robench.store.runs import Store
from robench.tables.comparison import compare
from robench.tables.index import Entry
from robench.tables.leaderboard import build
from robench.trust.diagnosis import collect
from robench.trust.newest import newest
from tests.pages import N, add

OLD = {"attack pgd": "0" * 16}  # a digest that no code of today's has


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_a_gate_that_fired_is_a_flag_of_the_worst_case_and_no_top_of_the_index(store: Store) -> None:
    add(store, "masked", "a" * 16, "0.3", [0])
    add(store, "masked", "a" * 16, "0.3", list(range(10, 30)), "fgsm", kind="single-step")
    add(store, "plain", "b" * 16, "0.3", list(range(35)))
    add(store, "plain", "b" * 16, "0.3", list(range(5)), "fgsm", kind="single-step")
    (board,) = build(store)
    rows = {row.model: row for row in board.rows}
    assert rows["masked"].worst.flags == ("single step beats iteration",)
    assert rows["plain"].worst.flags == ()
    assert [(model, flag) for model, flag, _ in board.doubts] == [("masked", "single step beats iteration")]
    assert "worst case: single step beats iteration" in board.records()[0]["flags"]
    assert "Before it is trusted, explain single step beats iteration: masked." in str(board.table().caption)
    assert Entry.of(board).top == "plain"
    (found,) = compare(store, "masked", "plain")
    assert any("masked is not to be trusted before this is explained: single step" in note for note in found.notes)
    assert not any("plain is not to be trusted" in note for note in found.notes)


def test_a_figure_above_that_of_a_smaller_eps_is_flagged(store: Store) -> None:
    add(store, "one", "a" * 16, "0.1", list(range(12)))
    add(store, "one", "a" * 16, "0.3", list(range(5)), "multi-targeted")
    add(store, "other", "b" * 16, "0.3", list(range(12)), "multi-targeted")
    add(store, "other", "b" * 16, "0.1", list(range(12)))
    small, large = sorted(build(store), key=lambda board: board.eps)
    assert all(row.worst.flags == () for row in small.rows)
    assert {row.model: row.worst.flags for row in large.rows} == {"one": ("less-within-0.1",), "other": ()}
    assert large.doubts[0][2].startswith("70.0 % there; more of the same images fall within this smaller eps")
    assert Entry.of(large).top == "other"


def test_who_keeps_more_within_a_larger_eps_is_told_where_it_was_not_attacked(store: Store) -> None:
    add(store, "here", "a" * 16, "0.1", list(range(30)))
    add(store, "strong", "b" * 16, "0.3", list(range(4)))
    boards = sorted(build(store), key=lambda board: board.eps)
    told = "here (of those here; strong keeps 90.0 [76.9, 96.0] within the larger eps 0.3)"
    assert Entry.of(boards[0], boards).top == told
    assert Entry.of(boards[1], boards).top == "strong"
    add(store, "strong", "b" * 16, "0.1", list(range(35)))  # within the smaller one it was attacked, and fell
    boards = sorted(build(store), key=lambda board: board.eps)
    assert Entry.of(boards[0], boards).top == "here"


def test_images_from_elsewhere_alone_put_nobody_on_top(store: Store) -> None:
    add(store, "vain", "a" * 16, "0.3", [0], "imported:noise", kind="imported")
    (board,) = build(store)
    assert not board.rows[0].searched
    assert board.rows[0].worst.note == " (images from elsewhere)"
    assert "no attack of this model was run here" in board.note
    assert (Entry.of(board).top, Entry.of(board).worst) == ("images from elsewhere alone", "")
    add(store, "vain", "a" * 16, "0.3", [1])
    (board,) = build(store)
    assert board.rows[0].searched
    assert board.rows[0].worst.note == ""


def test_only_what_todays_code_made_counts_beside_the_same_of_other_code(store: Store) -> None:
    for model, digest, now, then in (("one", "a" * 16, 20, 3), ("other", "b" * 16, 10, 30)):
        add(store, model, digest, "0.3", list(range(then)), sources=OLD)
        add(store, model, digest, "0.3", list(range(now)))
    kept = newest(store.intact()[0])
    assert [folder.spec.get("sources") for folder in kept] == [None, None]
    assert [int(run.broken.sum()) for run in collect(store, "a" * 16, "d" * 16, "linf", N)] == [20]
    (found,) = compare(store, "one", "other")
    assert found.pairs[1].shares == (0.5, 0.75)
    assert not any("made by" in note for note in found.notes)


def test_what_only_other_code_made_is_said(store: Store) -> None:
    add(store, "one", "a" * 16, "0.3", [0], sources=OLD)
    add(store, "other", "b" * 16, "0.3", [0, 1])
    (found,) = compare(store, "one", "other")
    assert [note for note in found.notes if "made by another source" in note] == [
        "one: made by another source of the attack 'pgd'; today's code of a plugin is another than made it: run its "
        "command again for today's figure."
    ]


def test_an_attack_by_its_name_is_compared_once_for_each_access(store: Store) -> None:
    for model, digest, white, crafted in (("one", "a" * 16, 20, 8), ("other", "b" * 16, 10, 30)):
        add(store, model, digest, "0.3", list(range(white)))
        add(store, model, digest, "0.3", list(range(N - crafted, N)), access="transfer", against=" from x",
            surrogate="c" * 16)  # fmt: skip
    first, second = compare(store, "one", "other", "pgd")
    assert [each.pairs[1].shares for each in (first, second)] == [(0.5, 0.75), (0.8, 0.25)]
    assert [each.pairs[1].question for each in (first, second)] == [first.a.labels[0], second.a.labels[0]]
    (alone,) = compare(store, "one", "other")
    assert alone.pairs[1].shares == (0.5, 0.75)


def test_flags_and_upper_bounds_are_said_where_models_are_compared(store: Store) -> None:
    add(store, "one", "a" * 16, "0.3", [0], "fgsm", kind="single-step", flags=("wrong-gradients",))
    add(store, "other", "b" * 16, "0.3", [0, 1], "fgsm", kind="single-step")
    (found,) = compare(store, "one", "other")
    assert any(note.startswith("one is flagged wrong-gradients: ") for note in found.notes)
    assert [note for note in found.notes if "upper bound" in note] == [
        "one: upper bound: attacks of a single step alone.", "other: upper bound: attacks of a single step alone.",
    ]  # fmt: skip

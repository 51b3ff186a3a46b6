"""Who leads a board, and whom it is told apart from, on the page in a real Chromium: flags, seeds, other eps."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from robench.page.writing import write_page
from robench.store.runs import Store, digest_of_card
from robench.tables.leaderboard import build
from tests.pages import N, add, card


def test_where_no_image_stands_no_model_is_most_robust(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "glass", "c" * 64, "0.3", list(range(N)))
    add(store, "straw", "d" * 64, "0.3", list(range(N)))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").last).to_have_text("none")
    expect(page.locator(".answer")).to_have_text(
        f"No model here is right on any of {N} images in the worst case, which leaves [0.0, 8.8] %."
    )
    page.close()


def test_no_model_is_most_robust_where_single_steps_alone_were_taken(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "hasty", "e" * 64, "0.3", [0], attack="fgsm", kind="single-step")
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").last).to_have_text("single steps alone")
    expect(page.locator(".answer")).to_contain_text("No model was searched here")
    expect(page.locator("td.worst").last).to_contain_text("(one step)")
    page.close()


def test_a_flagged_model_is_passed_over_and_told(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "masked", "a" * 64, "0.3", [], flags=("wrong-gradients",))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").last).to_have_text("none without a flag")
    expect(page.locator(".answer")).to_contain_text("No model here is without a flag. On top stands masked")
    add(store, "honest", "b" * 64, "0.3", [0, 1, 2])
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").last).to_have_text("honest")
    expect(page.locator(".answer")).to_contain_text("Most robust: honest")
    expect(page.locator(".answer")).to_contain_text("Above it stands masked, right on 100.0 %")
    expect(page.locator(".answer")).to_contain_text("explained: wrong-gradients")
    page.close()


def test_a_model_that_fell_in_another_board_is_passed_over(tmp_path: Path, browser: Browser) -> None:
    """On other images, by another attack, within the same eps: its figure here is no worst case."""
    store = Store(tmp_path / "runs")
    add(store, "vain", "a" * 64, "0.3", [])
    add(store, "honest", "b" * 64, "0.3", [0, 1, 2])
    add(store, "vain", "a" * 64, "0.3", list(range(20)), attack="cw", count=20)
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    said = page.locator("[id='board-digits-linf-0.3-n40'] .answer")
    expect(said).to_contain_text("Most robust: honest")
    expect(said).to_contain_text("Above it stands vain, right on 100.0 %")
    expect(said).to_contain_text("explained: 0.0 % of 20 images in another board of this eps")
    page.close()


def test_seeds_of_one_training_are_told_together_and_not_held_against_each_other(
    tmp_path: Path, browser: Browser
) -> None:
    store = Store(tmp_path / "runs")
    lost = {"first": (card("first"), 4), "second": (card("second", seed=8, weights="c"), 8),
            "longer": (card("longer", weights="e", steps=9), 10)}  # fmt: skip
    for name, (its, fallen) in lost.items():
        store.finish_model(name, its)
        add(store, name, digest_of_card(its), "0.3", list(range(fallen)))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").last).to_have_text("first3 epochs, one of 2 seeds: 85.0 ± 7.1 %")
    expect(page.locator("#boards td.lead")).to_contain_text("over longer")
    said = page.locator(".answer")
    expect(said).to_contain_text("It is one of 2 seeds, which are right on 85.0 ± 7.1 % (mean and standard deviation).")
    expect(said).to_contain_text("first is ahead of longer by 15.0 points")
    page.get_by_role("button", name="first").click()
    expect(page.locator(".detail").first).to_contain_text("2 trainings that differ in the seed alone")
    expect(page.locator(".detail").first).to_contain_text("90.0 (first), 80.0 (second)")
    page.get_by_role("button", name="longer").click()
    expect(page.locator(".detail").last).not_to_contain_text("differ in the seed")
    add(store, "second", digest_of_card(lost["second"][0]), "0.3", [], attack="cw")
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator(".answer")).not_to_contain_text("seeds")  # other attacks: no two figures of one kind
    page.close()


def test_whom_the_first_is_not_ahead_of_is_told_whatever_its_place(tmp_path: Path, browser: Browser) -> None:
    """Of two that are next the one that is least surely behind, and whoever else is not surely behind."""
    store = Store(tmp_path / "runs")
    add(store, "first", "a" * 64, "0.3", list(range(8)))
    add(store, "sure", "b" * 64, "0.3", list(range(16)))  # loses what the first one loses, and eight images more
    add(store, "open", "c" * 64, "0.3", list(range(24, 40)))  # others altogether
    add(store, "far", "d" * 64, "0.3", list(range(22, 40)))
    add(store, "last", "e" * 64, "0.3", list(range(39)))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards td.lead")).to_contain_text("over open, p = 0.15")
    expect(page.locator("#boards td.lead")).to_contain_text("not told apart from 2 of 4 rivals")
    said = page.locator(".answer")
    expect(said).to_contain_text("first is ahead of open by 20.0 points")
    expect(said).to_contain_text("Nor is it to be told apart from far (p = 0.075, 0.15 with Holm\u2019s correction).")
    expect(said).not_to_contain_text("training")  # nobody knows how these came to be
    page.close()


def test_a_model_that_keeps_more_within_a_larger_eps_is_told(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "here", "a" * 64, "0.1", list(range(30)))
    add(store, "strong", "b" * 64, "0.3", list(range(4)))
    add(store, "flagged", "c" * 64, "0.3", [], flags=("wrong-gradients",))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards .top").nth(1)).to_contain_text(
        "of those here; strong, not in this table, keeps 90.0 % within 0.3"
    )
    said = page.locator("[id='board-digits-linf-0.1-n40'] .answer")
    expect(said).to_contain_text("Most robust of the 1 model here: here")
    expect(said).to_contain_text("But strong, which is not in this table, keeps 90.0 % within eps 0.3")
    add(store, "strong", "b" * 64, "0.1", list(range(2)))
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(said).to_contain_text("Most robust: strong")
    page.close()


def test_a_figure_above_that_of_a_smaller_eps_opens_to_what_to_do(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "one", "a" * 64, "0.1", list(range(12)))
    add(store, "one", "a" * 64, "0.3", list(range(5)), "multi-targeted")
    page, wrong = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    board = page.locator("[id='board-digits-linf-0.3-n40']")
    board.get_by_role("button", name="one").click()
    expect(board.locator(".warnings")).to_contain_text("less-within-0.1 (worst case): more of the same images fall")
    assert wrong == []
    page.close()


def test_one_seed_twice_is_no_two_seeds(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    for name, weights, fallen in (("first", "b", 4), ("second", "c", 8)):
        its = card(name, weights=weights)
        store.finish_model(name, its)
        add(store, name, digest_of_card(its), "0.3", list(range(fallen)))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards td.lead")).to_contain_text("over second")
    expect(page.locator(".answer")).not_to_contain_text("seeds")
    page.close()


def test_boards_that_differ_in_their_attacks_say_so_at_the_top(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "one", "a" * 64, "0.3", [0])
    add(store, "other", "b" * 64, "0.3", [0, 1], attack="cw")
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards td.top")).to_have_text(["otherunder cw", "oneunder pgd"])
    page.close()


def test_long_names_at_the_top_are_broken_and_hide_no_column(tmp_path: Path, browser: Browser) -> None:
    store = Store(tmp_path / "runs")
    add(store, "a_public_model_trained_with_certification/model.py:load", "a" * 64, "0.3", [0])
    add(store, "another_public_model_trained_with_certification/model.py:load", "b" * 64, "0.3", [0, 1])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    table = page.locator("#boards table")
    assert table.evaluate("(table) => table.offsetWidth <= table.parentElement.clientWidth")
    page.close()


def test_one_of_several_rivals_may_differ_by_chance(tmp_path: Path, browser: Browser) -> None:
    """Each loses six images more, p = 0.031, which one of three does by chance."""
    store = Store(tmp_path / "runs")
    add(store, "first", "a" * 64, "0.3", list(range(8)))
    add(store, "alone", "b" * 64, "0.3", list(range(14)))
    page = browser.new_page()
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards td.lead")).to_contain_text("told apart from all 1 rivals")
    expect(page.locator(".answer")).to_contain_text("more than chance explains")
    for name in "cd":
        add(store, name, name * 64, "0.3", list(range(14)))
    page.goto(write_page(store, build(store), tmp_path / "index.html", None).as_uri())
    expect(page.locator("#boards td.lead")).to_contain_text("not told apart from 3 of 3 rivals")
    expect(page.locator(".answer")).to_contain_text("0.031, 0.094 with Holm\u2019s correction: not to be told apart")
    page.close()

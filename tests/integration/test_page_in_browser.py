"""The page in a real Chromium: sorted, filtered, opened, compared, by keyboard, narrow, dark, with hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from robench.page.claims import COLUMNS
from robench.page.writing import write_page
from robench.tables.leaderboard import build
from tests.pages import HOSTILE, MODELS, page_store

CLAIMS = (
    "CNN under FGSM,guess-first,73.9,74.1,73.2,75.0,reproduced,robench reproduce guess-first,abc,2.1",
    "CNN < Alemi < C-DV,guess-first,order,no,,,not reproduced,robench reproduce guess-first,abc,2.1",
    f"PARADISE-PM {HOSTILE},{HOSTILE},71,,,,untested,,,",
)
# a page that lets a name run would set one of these
TOLD = "() => document.title + ' ' + document.querySelectorAll('img[src=x], script[src], iframe, object').length"


@dataclass
class Opened:
    """The page, and all that went wrong or went out: messages of the console, errors, dialogs, requests."""

    page: Page
    wrong: list[str] = field(default_factory=list)

    def board(self, eps: str) -> Locator:
        """The section of one of the boards."""
        return self.page.locator(f"[id='board-digits-linf-{eps}-n40']")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "claims.csv").write_text("\n".join([",".join(COLUMNS), *CLAIMS]))
    store = page_store(folder / "runs")
    return write_page(store, build(store), folder / "index.html", folder / "claims.csv")


@pytest.fixture
def opened(browser: Browser, written: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page in a window of its own, 1280 pixels wide or as the test says; at its end nothing may have gone wrong."""
    width = getattr(request, "param", 1280)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    context.set_default_timeout(5000)
    page = context.new_page()
    found = Opened(page)
    page.on("console", lambda message: found.wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.wrong.append(str(error)))
    page.on("dialog", lambda dialog: (found.wrong.append("a dialog"), dialog.dismiss()))
    address = written.as_uri()
    page.on(
        "request", lambda asked: None if asked.url.startswith((address, "data:")) else found.wrong.append(asked.url)
    )
    page.goto(address)
    yield found
    assert page.evaluate(TOLD) == "robench: measured robustness 0"
    assert found.wrong == []
    context.close()


def names(board: Locator) -> list[str]:
    """The models of a board from top to bottom."""
    return [text.lstrip("▸▾") for text in board.locator("tbody .open").all_inner_texts()]


def test_what_is_most_robust_and_how_sure_is_told_at_the_top(opened: Opened) -> None:
    line = opened.page.locator("#boards tbody tr").filter(has_text="0.3")
    expect(line.locator(".top")).to_have_text("sturdy3 epochs, one training")
    expect(line).to_contain_text("67.5")
    expect(line).to_contain_text("over middling, p = 0.22")
    expect(line).to_contain_text("not told apart from 1 of 2 rivals")
    said = opened.board("0.3").locator(".answer")
    expect(said).to_contain_text("not to be told apart on these images")
    expect(said).to_contain_text("It is one training: what another one would give is not known.")
    expect(opened.board("0.3").locator(".grid svg.bar").first).to_be_visible()


def test_sorting(opened: Opened) -> None:
    board = opened.board("0.3")
    assert names(board) == ["sturdy", "middling", HOSTILE, "weak"]
    heading = board.get_by_role("button", name="worst case %")
    heading.click()
    assert names(board)[0] == "sturdy"
    expect(board.locator("th[aria-sort=descending]")).to_contain_text("worst case %")
    heading.click()
    assert names(board) == ["weak", HOSTILE, "middling", "sturdy"]
    board.get_by_role("button", name="model").first.click()
    assert names(board)[0] == HOSTILE


def test_filtering(opened: Opened) -> None:
    board = opened.board("0.1")
    board.get_by_label("Find").fill("MADRY steps=5")
    assert names(board) == ["sturdy"]
    expect(board.locator(".told")).to_have_text("1 of 4 shown")
    board.get_by_label("Find").fill("")
    board.get_by_label("worst case at least").fill("77")
    assert names(board) == ["sturdy", "middling"]
    board.get_by_label("worst case at least").fill("")
    board.get_by_role("combobox", name="flags").select_option("flagged")
    assert names(board) == [HOSTILE]
    board.get_by_label("Find").fill("nothing like it")
    expect(board.locator("tbody")).to_contain_text("Nothing fits the filters.")
    board.locator("summary", has_text="columns").click()
    board.get_by_label("pgd %").uncheck()
    expect(board.get_by_role("button", name="pgd %")).to_have_count(0)


def test_a_line_opens_to_all_that_is_known_of_it(opened: Opened) -> None:
    board = opened.board("0.3")
    board.get_by_role("button", name="sturdy").click()
    detail = board.locator(".detail")
    for text in (
        "madry", "eps=0.3, steps=5", "1.11 hours", "cpu, 2 cores", "robench train madry", "robench evaluate sturdy",
        "abc1234", "falls, image", "stands, image",
    ):  # fmt: skip
        expect(detail).to_contain_text(text)
    expect(detail.locator(".plot canvas")).to_have_count(3)  # accuracy against eps, the loss and its accuracy
    loaded = "images => images.length > 20 && images.every(image => image.complete && image.naturalWidth === 8)"
    assert detail.locator(".triple img").evaluate_all(loaded)
    detail.get_by_role("button", name="Copy").first.click()
    board.get_by_role("button", name=HOSTILE).click()
    expect(board.locator(".warnings")).to_contain_text("randomised output: the figure is of single draws")


def test_two_models_are_compared_image_by_image(opened: Opened) -> None:
    board = opened.board("0.3")
    expect(board.locator(".chosen")).to_be_hidden()
    board.get_by_label("Compare middling").check()
    expect(board.locator(".comparison")).to_contain_text("tick another model")
    expect(board.locator(".chosen")).to_have_text("middling: tick another model to compare.")
    board.get_by_label("Compare sturdy").check()
    found = board.locator(".comparison")
    expect(found).to_contain_text("sturdy is ahead of middling by 10.0 points")
    expect(board.locator(".chosen")).to_contain_text("sturdy is ahead of middling by 10.0 points")
    expect(board.locator(".chosen")).to_be_in_viewport()
    board.locator(".chosen a").click()
    expect(found.locator("h3")).to_be_in_viewport()
    # middling, ticked first, is A
    worst = found.locator("tbody tr").filter(has_text="worst case").locator("td").all_inner_texts()
    assert worst[:6] == ["22", "1", "5", "12", "57.5", "67.5"]
    titles = found.locator("h4").all_inner_texts()
    assert titles == [
        "Both stand: 22 images",
        "Only A stands: 1 image",
        "Only B stands: 5 images",
        "Neither stands: 12 images",
    ]
    section = found.locator("section").nth(1)
    section.locator("summary").click()
    expect(section.locator(".ids")).to_have_text("0")  # the one image that FGSM took from sturdy
    expect(found.locator(".triple img").first).to_be_visible()
    board.get_by_label("Compare weak").check()
    expect(found.locator("h3")).to_have_text("A: sturdy, B: weak")


def test_keyboard_alone(opened: Opened) -> None:
    page, board = opened.page, opened.board("0.1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    board.get_by_label("Find").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Compare sturdy":
            break
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").endswith("sturdy")
    page.keyboard.press("Enter")
    expect(board.locator(".detail")).to_have_count(1)
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(board.locator(".detail")).to_have_count(0)
    assert page.evaluate("document.activeElement.textContent").endswith("sturdy")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(board.locator(".comparison h3")).to_have_text("A: sturdy, B: middling")


def test_dark_and_light(opened: Opened) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(colour)
    opened.page.get_by_role("button", name="Switch to dark colours").click()
    dark = opened.page.evaluate(colour)
    assert dark != light
    opened.page.reload()
    assert opened.page.evaluate(colour) == dark
    opened.page.get_by_role("button", name="Switch to light colours").click()
    opened.page.emulate_media(color_scheme="dark")
    assert opened.page.evaluate(colour) == light


def test_claims(opened: Opened) -> None:
    claims = opened.page.locator("#claims")
    expect(claims.locator(".answer")).to_have_text("3 claims: 1 reproduced, 1 not reproduced, 1 untested.")
    expect(claims).to_contain_text("A verdict is about what was run")
    claims.get_by_label("verdict").select_option("untested")
    assert names(claims) == [f"PARADISE-PM {HOSTILE}"]
    claims.get_by_label("verdict").select_option("reproduced")
    claims.get_by_role("button", name="CNN under FGSM").click()
    expect(claims.locator(".command code")).to_have_text("robench reproduce guess-first")


@pytest.mark.parametrize("opened", [380], indirect=True)
def test_a_telephone_scrolls_tables_and_not_the_page(opened: Opened) -> None:
    board = opened.board("0.3")
    board.get_by_role("button", name=HOSTILE).click()
    board.get_by_label("Compare sturdy").check()
    board.get_by_label("Compare weak").check()
    opened.page.locator("#claims .open").last.click()
    wide = opened.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert wide == [380, 380, 380]
    assert board.locator(".detail").evaluate("node => node.getBoundingClientRect().width") <= 380
    assert board.locator("td.worst .value").first.is_visible()


@pytest.mark.parametrize("opened", [380], indirect=True)
def test_a_telephone_shows_who_is_most_robust_and_how_sure_without_scrolling(opened: Opened) -> None:
    boards = opened.page.locator("#boards")
    line = boards.get_by_role("row").filter(has=opened.page.get_by_role("link", name="0.3", exact=True))
    for part in (".eps a", ".top", ".worst .value", ".worst .ends", ".lead"):
        box = line.locator(part).first.bounding_box()
        assert box, part
        assert 0 <= box["x"] <= 380 - box["width"], (part, box)
    boards.get_by_role("button", name="worst case").click()
    expect(boards.get_by_role("columnheader", name="worst case")).to_have_attribute("aria-sort", "descending")


def test_no_name_runs_and_nothing_can_be_reached(opened: Opened) -> None:
    assert HOSTILE in names(opened.board("0.1"))
    refused = """async () => {
        const tries = [() => fetch("http://127.0.0.1:9/"), () => { document.body.innerHTML = "<b>x</b>"; },
                       () => { document.createElement("script").textContent = "1"; },
                       () => document.body.setAttribute("onclick", "1")];
        const outcomes = [];
        for (const attempt of tries)
            outcomes.push(await Promise.resolve().then(attempt).then(() => "done", () => "refused"));
        return outcomes;
    }"""
    assert opened.page.evaluate(refused) == ["refused"] * 4
    assert all("Content Security Policy" in text or "requires 'Trusted" in text for text in opened.wrong), opened.wrong
    opened.wrong.clear()


def test_it_prints(opened: Opened) -> None:
    opened.board("0.3").get_by_role("button", name="sturdy").click()
    assert opened.page.pdf().startswith(b"%PDF")
    opened.page.emulate_media(media="print")
    expect(opened.page.get_by_label("Find").first).to_be_hidden()
    expect(opened.board("0.3").locator(".detail")).to_contain_text("robench train madry")


def test_every_model_is_there_once_in_each_board(opened: Opened) -> None:
    for eps in ("0.1", "0.3"):
        assert sorted(names(opened.board(eps))) == sorted(MODELS)

"""Tables of hostile names, in every format: every name comes back, and no row, column, link or element is added."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Tree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from robench.detector.measuring import Detection
from robench.evaluation.summaries import Evaluated, Result
from robench.figures import curves
from robench.figures.curves import Curve
from robench.regression.report import HEADERS, Checked
from robench.regression.verdict import Line as Compared
from robench.regression.verdict import Terms, Verdict
from robench.results.accuracy import Figure
from robench.results.summary import summarise
from robench.store.about import About
from robench.store.runs import Store
from robench.store.specs import EvalSpec
from robench.suites.claims import Claims
from robench.suites.provenance import Made
from robench.suites.schema import Column, Order
from robench.suites.suite import RowPlan, ScaledSuite
from robench.suites.table import Entry, SuiteTable
from robench.tables.leaderboard import Board, build
from robench.tables.rendering import grid, write
from robench.tables.report import Report, WorstCase, detection_table, findings_text, transfer_table, verified_table
from robench.text.escaping import visible
from robench.threat import ThreatModel
from robench.trust.gates import Finding
from robench.trust.verification import Verified
from tests.hostile import NAMES, Document, Page, on_lines, shown, typeset

N = 4
WIDE = 4000


def rows() -> pd.DataFrame:
    """Four images of class 0: one wrong from the start, one broken."""
    return pd.DataFrame({
        "example_id": range(N), "label": 0, "goal": -1, "clean_pred": [1, 0, 0, 0], "adv_pred": [1, 1, 0, 0],
        "clean_correct": [False, True, True, True], "success": [False, True, False, False], "forwards": 2,
        "backwards": 1, "trial": 0, "step": 0, "flags": "", "linf": 0.1, "l2": 0.2,
    })  # fmt: skip


def add(store: Store, place: int, name: str, options: dict[str, Any] | None = None) -> None:
    """An evaluation whose record says the name in every field that is free text."""
    spec = EvalSpec(
        model_digest=f"{place:016x}", data_digest="d", count=N, norm="linf", eps="1/10", attack="pgd", attack_version=1,
        attack_options={"o": name, name: 1}, seed=0,
    )  # fmt: skip
    about = About(
        model=name, reference=name, dataset=f"npz:{name}", eps="0.1", given_options=options or {},
        metric="robust accuracy", access="white-box", command=f"robench evaluate {name}", surrogate=name,
        environment={"commit": name, "packages": {"torch": name}},
    )  # fmt: skip
    folder = store.evaluation(spec.job_id)
    folder.begin(spec.model_dump(mode="json"), about)
    folder.save_shard(0, N, rows(), torch.zeros(N, 1, 2, 2), {"flags": [name], "seconds": 1})
    folder.save_second(None, {"flags": [], "counts": False, "passes": 0, "seconds": 0.0})
    folder.finish(summarise(rows(), "robust accuracy", folder.notes()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An evaluation of a model by every name."""
    store = Store(tmp_path_factory.mktemp("hostile"))
    for place, name in enumerate(NAMES):
        add(store, place, name)
    return store


@pytest.fixture(scope="module")
def board(store: Store) -> Board:
    (board,) = build(store)
    return board


def text_of(shown: Any, width: int = WIDE) -> str:
    """What a user's own console makes of it, which knows markup and emoji."""
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    assert on_lines(out.getvalue())
    return out.getvalue()


def tex_rows(text: str) -> list[list[str]]:
    """The cells of the one table of a LaTeX file."""
    assert text.count(r"\end{tabular}") == 1
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0].replace("\\midrule\n", "")
    return [[typeset(cell) for cell in line.split(" & ")] for line in body.lstrip("\n").split(" \\\\\n")[:-1]]


def check_written(paths: list[Path], tables: int, elements: Callable[[str], Page]) -> tuple[list[list[str]], Document]:
    """What holds for every file: text, in lines, of the expected shape; returns the csv's rows and the document."""
    texts = {path.suffix: path.read_bytes().decode() for path in paths}
    assert all(map(on_lines, texts.values()))
    found = list(csv.reader(io.StringIO(texts[".csv"])))
    assert len({len(line) for line in found}) == 1
    assert len(found) == texts[".csv"].count("\n")
    document = Document(texts[".md"])
    assert document.blocks.count("table_open") == tables
    assert len(document.blocks) - document.blocks.count("tr_open") == len(document.blocks) - len(document.rows)
    elements(texts[".html"])
    return found, document


def test_a_leaderboard_of_hostile_names_has_a_line_for_each(board: Board, tmp_path: Path) -> None:
    paths = write(board, tmp_path)
    width = len(board.headers)

    def page(text: str) -> Page:
        found = Page(text)
        assert {tag for tag, _ in found.tags} <= {
            "html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "table", "thead", "tbody", "tr", "th",
            "td", "p", "code", "small",
        }  # fmt: skip
        assert sum(tag == "tr" for tag, _ in found.tags) == 2 * (len(NAMES) + 1)
        assert sum(attributes == ("scope",) for tag, attributes in found.tags if tag == "th") == width + len(NAMES)
        assert {visible(name) for name in NAMES} <= set(found.of("th"))
        assert set(found.titles) == {visible(name) for name in NAMES}
        return found

    found, document = check_written(paths, 2, page)
    models = [line[0] for line in found[1:]]
    assert sorted(model.removeprefix("'") for model in models) == sorted(visible(n).removeprefix("'") for n in NAMES)
    assert not [model for model in models if len(model) > 1 and model.lstrip()[:1] in tuple("=+@＝＋－＠")]  # noqa: RUF001
    first = document.rows[: len(NAMES) + 1]
    assert {len(row) for row in first} == {width}
    assert sorted(row[0] for row in first[1:]) == sorted(map(visible, NAMES))
    assert {len(row) for row in document.rows[len(NAMES) + 1 :]} == {10}
    tex = paths[2].read_text()
    table = tex_rows(tex)
    assert {len(row) for row in table} == {width}
    assert sorted(row[0] for row in table[1:]) == sorted(map(visible, NAMES))
    after = tex.partition("\\end{table}\n")[2].splitlines()
    assert len(after) == len(NAMES)
    assert all(line.startswith("% ") for line in after)


def test_a_leaderboard_in_the_terminal_shows_every_name(board: Board) -> None:
    out = text_of(board.table())
    for name in NAMES:
        assert shown(name) in " ".join(out.split())
    lines = [line for line in out.splitlines() if re.search(r"75\.0 +50\.0", line)]
    assert len(lines) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_leaderboard_with_a_hostile_title_column_and_options(board: Board, tmp_path: Path, name: str) -> None:
    (line, *_), (setting, *_) = board.rows, board.settings
    column = replace(board.columns[-1], name=name)
    told = replace(setting, model=line.model, column=name, attack=name, command=name, commit=name, options={name: name})
    one = replace(board, name=name, dataset=name, columns=(*board.columns[:2], column), rows=(line,), settings=(told,))
    paths = write(one, tmp_path)
    assert [path.parent for path in paths] == [tmp_path] * 4
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", path.name) for path in paths)

    def page(text: str) -> Page:
        found = Page(text)
        assert found.of("title") == found.of("h1") == [visible(one.title)]
        assert found.of("th")[3] == visible(name)
        assert sum(tag == "tr" for tag, _ in found.tags) == 4
        return found

    _, document = check_written(paths, 2, page)
    assert document.texts[0] == visible(one.title)
    assert document.rows[0] == ["model", "clean", "worst case", visible(name)]
    assert {len(row) for row in document.rows[2:]} == {10}
    assert [kind for kind in document.blocks if kind.startswith(("heading", "code", "fence", "bullet", "hr"))] == [
        *["heading_open", "heading_close"] * 2, *["code_block"] * bool(visible(name).strip()),
    ]  # fmt: skip
    assert tex_rows(paths[2].read_text())[0][3] == visible(name)
    assert shown(one.title) in " ".join(text_of(one.table()).split())


def suite(name: str) -> SuiteTable:
    """A table that says a name wherever a suite's file has free text."""
    row = RowPlan(name, "standard", name, "quick", {}, None, None, (0,), None, {}, True)
    column = Column.model_construct(name=name, attacks=("pgd",), eps="0.1", options={"x": name}, surrogate=name)
    other = Column.model_construct(name=f"{name} too")
    made = ScaledSuite(
        name, name, name, name, name, name, name, None, (row,), (column, other), {name: {column.name: 1.5}}, {},
        orders=(Order.model_construct(claim=name, columns=(column.name,), rows=(name, name)),), paper_data=name,
        reference=name,
    )  # fmt: skip
    marks, work = np.array([True, False]), (Made(name, 60.0, name, name),)
    entries = [
        Entry(name, 0, name, each.name, Figure(1, 2), "complete", (name,), (name,), 5, name, stood=marks, made=work)
        for each in (column, other)
    ]
    return SuiteTable.of(made, entries, [Finding(name, True, name, name, name, name)])


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_suites_table_of_hostile_text(name: str, tmp_path: Path) -> None:
    table = suite(name)
    paths = write(table, tmp_path)
    assert [path.parent for path in paths] == [tmp_path] * 4

    def page(text: str) -> Page:
        found = Page(text)
        assert found.of("title") == found.of("h1") == [visible(table.title)]
        assert found.of("th")[:4] == [visible(each) for each in (*table.headers, name)]
        assert found.of("li") == [visible(line) for line in table.settings()]
        assert sum(tag == "tr" for tag, _ in found.tags) == 7
        assert sum(tag in ("a", "script", "img") for tag, _ in found.tags) == 0
        return found

    found, document = check_written(paths, 3, page)
    assert len(found) == 3
    assert document.rows[0] == [visible(header) for header in table.headers]
    assert document.rows[1][0] == document.rows[3][0] == visible(name)
    assert [len(row) for row in document.rows[2:]] == [6, 6, 9, 9, 9]
    assert document.texts[0] == visible(table.title)
    assert document.blocks.count("heading_open") == 4
    assert document.blocks.count("code_block") == 1
    assert document.blocks.count("list_item_open") == 1 + len(table.settings())
    tex = tex_rows(paths[2].read_text())
    assert tex[0] == [visible(header) for header in table.headers]
    assert tex[1][0] == visible(name)
    out = " ".join(text_of(table.table()).split())
    assert shown(name) in out


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_claims_of_hostile_text(name: str, tmp_path: Path) -> None:
    claims = Claims.of([suite(name)])
    assert len(claims.claims) == 2

    def page(text: str) -> Page:
        found = Page(text)
        assert visible(f"{name}: {name}") in found.of("th")
        assert visible(f"{name} ({name})") in found.of("th")
        assert sum(tag in ("a", "script", "img") for tag, _ in found.tags) == 0
        return found

    found, document = check_written(write(claims, tmp_path), 2, page)
    assert len(found) == 3
    assert [len(row) for row in document.rows] == [4, 4, 9, 9, 9]
    assert document.rows[3][0] == visible(f"{name}: {name}")
    assert len(tex_rows((tmp_path / "claims.tex").read_text())) == 2
    assert shown(name) in " ".join(text_of(claims.table()).split())


def checked(name: str) -> Checked:
    """A comparison in which everything has the name."""
    line = Compared(
        name, name, 4, "robust accuracy", 0.5, 0.25, 1, 0, 1, 0.5, 0.5, Verdict.FELL, name, (name,), (name,)
    )
    return Checked(name, (line, replace(line, now=None, verdict=Verdict.INCOMPLETE)), Terms(), (name,))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_check_of_hostile_names(name: str) -> None:
    found = checked(name)
    told = text_of(found.tables())
    assert shown(name) in " ".join(told.split())
    document = Document(found.markdown())
    assert [len(row) for row in document.rows] == [1 + len(HEADERS)] * 3
    assert [row[:2] for row in document.rows[1:]] == [[visible(name)] * 2] * 2
    assert document.blocks.count("heading_open") == 1
    assert document.blocks.count("list_item_open") == 3
    assert document.texts[1] == visible(found.verdict)
    xml = Tree.fromstring(found.junit())
    assert [case.get("name") for case in xml.iter("testcase")] == [visible(name)] * 2
    assert len(list(xml.iter())) == 1 + 1 + 1 + 2 + 2 + 2 + len(list(xml.iter("property")))
    outputs = [node.text for node in xml.iter("system-out")]
    assert outputs == [visible(name) or None]
    assert on_lines(found.junit())


def test_messages_of_a_failed_check_are_visible_in_pytest() -> None:
    from robench.pytest_plugin import _text

    for name in NAMES:
        assert on_lines(_text(checked(name)))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_reports_in_the_terminal(name: str) -> None:
    worst = WorstCase(name, name, "linf", "0.1", 4, (name,), Figure(1, 4), (name,), name)
    finding = Finding(name, True, name, name, name, name)
    verified = Verified(name, name, name, 4, 4, {name: 1}, reason=name)
    for each in (
        transfer_table([worst, replace(worst, surrogate="b"), replace(worst, surrogate="c")]),
        findings_text([finding, replace(finding, fired=False)], name),
        verified_table([verified]),
    ):
        assert shown(name) in " ".join(text_of(each).split())
    assert text_of(findings_text([finding], name)).count("\n") == 7
    figures: Any = type("Figures", (), {"broken": 1, "attacked": 2, "auc": 0.5, "value": lambda self, key: 0.5})()
    detection = Detection(figures, name, name, name, {}, name, name, {name: name}, "linf", "0.1", 0.05, name, name)
    assert shown(name) in " ".join(text_of(detection_table([detection])).split())


def test_a_report_of_hostile_names_has_a_line_for_each(store: Store) -> None:
    folders = [store.evaluation(job_id) for job_id in store.evaluation_ids()]
    results = [
        Result(each.job_id, "pgd", "linf", each.spec["model_digest"], each.about, each.result)
        for each in folders
        if each.result is not None
    ]
    report = Report.of(Evaluated(results), store)
    out = text_of(report.tables())
    assert len([line for line in out.splitlines() if re.search(r" pgd +75\.0 +50\.0 ", line)]) == len(NAMES)
    assert on_lines(str(report))


def test_findings_of_a_model_with_a_number_sign_in_its_name_reach_its_worst_case(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, 0, "c#sharp.py:load")
    (folder,) = map(store.evaluation, store.evaluation_ids())
    result = Result(folder.job_id, "pgd", "linf", "0", folder.about, folder.result)  # type: ignore[arg-type]
    finding = Finding("zero gradient", True, "seen", "none", "look", "c#sharp.py:load")
    (worst,) = Report.of(Evaluated([result], findings=[finding]), store).worst
    assert "zero gradient" in worst["flags"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


def curve(name: str) -> Curve:
    return Curve(name, name, name, name, ThreatModel.of("linf", "0.1"), rows())


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 100], ids=ascii)
def test_a_figure_shows_titles_as_plain_text_and_leaves_none_out(name: str, pictures: Path) -> None:
    drawn = curves.draw([curve(name), curve("b")], [Fraction(0), Fraction("0.1")])
    (axes,) = drawn.axes
    legend = axes.get_legend()
    assert legend is not None
    titles = [text.get_text() for text in legend.get_texts()]
    assert titles == [visible(curve(name).title), visible(curve("b").title)]
    title, caption = drawn._suptitle, drawn._supxlabel
    assert "".join(title.get_text().split()) == "".join(visible(f"Accuracy against eps (linf), {name}, b").split())
    assert "".join(visible(f"evaluation {name}").split()) in "".join(caption.get_text().split())
    assert not any(text.get_parse_math() for text in (*legend.get_texts(), title, caption))
    path = pictures / "c.png"
    drawn.savefig(path, format="png", dpi=20)
    with Image.open(path) as image:
        image.verify()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_curves_csv_and_table(name: str) -> None:
    points = [Fraction(0), Fraction("0.1")]
    found = list(csv.reader(io.StringIO(curves.csv_text([curve(name)], points))))
    assert [len(line) for line in found] == [11] * 3
    assert [cell.removeprefix("'") for cell in found[1][:4]] == [visible(name).removeprefix("'")] * 4
    assert shown(name) in " ".join(text_of(curves.table([curve(name)], points)).split())


def test_a_grid_takes_lines_and_texts_as_they_are() -> None:
    shown = grid("[b]title[/b]", ("one [/x]", "two\n"))
    shown.add_column("[i]head[/i]")
    shown.add_row(["first", "second\x1b"])
    out = [line.strip() for line in text_of(shown, 40).splitlines()]
    assert [line for line in out if line and "─" not in line] == [
        "[b]title[/b]", "[i]head[/i]", "first", r"second\x1b", "one [/x]", r"two\n",
    ]  # fmt: skip

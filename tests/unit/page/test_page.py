"""What a page holds: the figures of the tables, comparisons as `robench compare` makes them, and nothing that runs."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robench.errors import BadInput
from robench.page import vendored
from robench.page.claims import COLUMNS, Claim, read
from robench.page.contents import Contents, contents_of
from robench.page.pictures import perturbation, picture, spread
from robench.page.writing import html, write_page
from robench.store.runs import Store
from robench.suites.claims import Claim as Said
from robench.suites.claims import Claims, Verdict
from robench.tables.comparison import compare
from robench.tables.leaderboard import build
from robench.tables.rendering import csv_text
from robench.text.escaping import script_json, visible
from robench.trust.flagged import FLAGGED
from robench.trust.flags import advice
from tests.hostile import NAMES
from tests.pages import HOSTILE, MODELS, N, page_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return page_store(tmp_path_factory.mktemp("page") / "runs")


@pytest.fixture(scope="module")
def contents(store: Store) -> Contents:
    return contents_of(store, build(store))


def told(page: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="contents">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_the_vendored_files_are_the_pinned_ones() -> None:
    assert vendored.altered() == []
    assert sum((vendored.FOLDER / name).stat().st_size for each in vendored.pinned() for name in each.sha256) < 1e6
    for package in vendored.pinned():
        assert any(name.endswith(".LICENSE") for name in package.files.values())
        assert package.integrity.startswith("sha512-")


def test_a_vendored_file_that_was_changed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in vendored.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "uplot.js").write_text("alert(1)")
    (tmp_path / "more.js").write_text("")
    monkeypatch.setattr(vendored, "FOLDER", tmp_path)
    assert vendored.altered() == ["more.js", "uplot.js"]


@pytest.mark.parametrize("name", [*NAMES, HOSTILE, "<!--<script>", "a&amp;b"])
def test_json_for_a_script_ends_no_element_and_comes_back(name: str) -> None:
    text = script_json({name: [name, 1, None, {"in": name}]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == {visible(name): [visible(name), 1, None, {"in": visible(name)}]}
    assert script_json([float("nan"), float("-inf"), True, 0.5]) == "[null,null,true,0.5]"


def test_the_page_has_no_markup_of_others_and_reaches_nothing(contents: Contents) -> None:
    page = html(contents)
    assert HOSTILE not in page
    assert told(page)["boards"][0]["rows"]
    assert page.count("<script") == 4 + sum(vendored.text(f"{n}.js").count("<script") for n in ("table-core", "uplot"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"/\*.*?\*/|xmlns|http://www\.w3\.org/2000/svg|http-equiv", "", page, flags=re.DOTALL)
    assert "sourceMappingURL" not in page


def test_the_same_store_makes_the_same_page(store: Store, contents: Contents) -> None:
    assert html(contents_of(store, build(store))) == html(contents)


def test_figures_are_those_of_the_tables(store: Store, contents: Contents) -> None:
    for board, page in zip(build(store), contents.boards, strict=True):
        assert [row.model for row in page.rows] == [line.model for line in board.rows]
        for line, row in zip(board.rows, page.rows, strict=True):
            assert [cell["text"] for cell in row.cells] == [column.cell(line).text for column in board.columns]
            assert row.cells[1]["value"] == pytest.approx(line.worst.figure.value if line.worst.figure else None)


def test_pairs_are_what_compare_says(store: Store, contents: Contents) -> None:
    for page in contents.boards:
        names = [row.model for row in page.rows]
        assert len(page.pairs) == len(MODELS) * (len(MODELS) - 1) // 2
        for pair in page.pairs:
            found = compare(store, names[pair.a], names[pair.b])
            (same,) = (each.to_json() for each in found if each.threat.eps_text == page.eps)
            for ours, theirs in zip(map(dict, pair.paired[:2]), same["pairs"], strict=True):
                assert ours.pop("interval") == pytest.approx(theirs.pop("interval"), abs=1e-4)
                assert {ours.pop("question"), theirs.pop("question")} <= {"clean", "worst case"}
                assert ours == pytest.approx(theirs, rel=1e-2)


def test_marks_say_image_by_image_what_the_counts_say(contents: Contents) -> None:
    def marks(text: str | None) -> Any:
        assert text is not None
        return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:N].astype(bool)

    for page in contents.boards:
        for pair in page.pairs:
            a, b = (
                np.logical_and.reduce([marks(page.rows[i].standing[c]) for c in pair.shared]) for i in (pair.a, pair.b)
            )
            worst = pair.paired[1]
            assert [worst[k] for k in ("both", "only_a", "only_b", "neither")] == [
                (a & b).sum(), (a & ~b).sum(), (b & ~a).sum(), (~a & ~b).sum(),
            ]  # fmt: skip


def test_a_model_s_card_flags_and_commands_are_there(contents: Contents) -> None:
    rows = {row.model: row for row in contents.boards[0].rows}
    model = contents.models[rows["sturdy"].digest]
    assert model.defense == "madry"
    assert model.facts["training"] == "1.11 hours"
    assert model.facts["hardware"] == "cpu, 2 cores, x86_64, torch 2.15.0"
    assert model.command.startswith("robench train madry")
    assert model.curves
    assert set(model.curves.terms) == {"total", "val_accuracy"}
    assert "randomised output" in contents.advice["randomised"]
    assert contents.models[rows["weak"].digest].facts["reference"] == "weak"
    assert all(made.setting.command.startswith("robench evaluate") for row in rows.values() for made in row.made)
    fired = {f.gate for found in contents.findings.values() for f in found if f.fired}
    assert "randomised output" in fired


def test_the_sheet_shows_the_stored_images(store: Store, contents: Contents) -> None:
    page = contents.boards[1]
    sheet = page.sheet
    assert sheet
    assert sheet.note == ""
    assert len(sheet.ids) == len(set(sheet.ids)) == 24
    place, at = 0, sheet.ids[0]
    row = page.rows[0]
    example = sheet.examples[0][place]
    assert example
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(example.adversarial.partition(",")[2]))))
    folder = store.evaluation(row.made[0].setting.evaluation)
    assert np.array_equal(shown, np.rint(255 * np.clip(folder.span(at, at + 1)[0, 0].numpy(), 0, 1)))
    assert example.scale == pytest.approx(0.3)
    assert example.change.startswith("data:image/png;base64,")


def test_without_data_there_are_adversarial_images_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise BadInput("The dataset digits was not found in nowhere; fetch it.")

    monkeypatch.setattr("robench.page.sheets.open_dataset", missing)
    sheet = contents_of(store, build(store)).boards[0].sheet
    assert sheet
    assert "was not found" in sheet.note
    assert set(sheet.clean) == {""}
    assert all(each and each.adversarial and not each.change for each in sheet.examples[0])


def test_data_that_are_others_by_the_name_are_not_shown_as_what_was_added(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robench.data.dataset import open_dataset

    class Others:
        def drawn(self, way: str | None) -> Any:
            split = open_dataset("digits").drawn(way)
            return split.subset(slice(N, None))

    monkeypatch.setattr("robench.page.sheets.open_dataset", lambda *_: Others())
    sheet = contents_of(store, build(store)).boards[0].sheet
    assert sheet
    assert not any(each and each.change for each in sheet.examples[0])
    assert "others" in sheet.note
    assert set(sheet.clean) == {""}


def test_examples_are_spread_over_what_two_models_do() -> None:
    standing = np.zeros((2, 1000), dtype=bool)
    standing[:, :900] = True
    standing[0, 950], standing[1, 960] = True, True
    found = spread(standing, 8)
    assert {950, 960} <= set(found)
    assert found == sorted(found)
    assert spread(standing[:1], 2) == [0, 900]
    assert len(spread(standing, 2000)) == 1000


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 300, 200), (5, 4, 4)])
def test_pictures_are_small_and_of_any_channels(shape: tuple[int, int, int]) -> None:
    image = np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape)
    made = Image.open(io.BytesIO(base64.b64decode(picture(image).partition(",")[2])))
    assert max(made.size) <= 96
    assert made.mode == ("RGB" if shape[0] == 3 else "L")
    text, most = perturbation(image, image)
    assert most == 0
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))
    assert (grey == 128).all()
    picture(np.full(shape, np.nan, dtype=np.float32))


def test_every_flag_of_a_gate_has_the_gate_s_words() -> None:
    for flag, gate, text in FLAGGED:
        assert advice(flag) == f"{gate}: {text}"
    assert "upper bound" in advice("borderline 3%")
    assert "no gradient" in advice("zero-gradient 30%")
    assert "not explained" in advice("made up")


def test_claims_are_read_and_what_they_lack_is_told(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    with pytest.raises(BadInput, match=r"claims\.csv cannot be read \(No such file or directory\); give another"):
        read(path)
    head = ",".join(COLUMNS)
    path.write_text(f"{head}\n{HOSTILE},s,1,2,0,3,reproduced,robench,abc,1.5\n")
    assert [claim.claim for claim in read(path)] == [HOSTILE]
    path.write_text(f"{head}\na,s,1,2,0,3,maybe,robench,abc,1.5\n")
    with pytest.raises(BadInput, match=r"Line 2 of .* has the verdict 'maybe', but it must be one of reproduced, "):
        read(path)
    path.write_text("claim,suite\na,s\n")
    with pytest.raises(BadInput, match="lacks the column 'printed'"):
        read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read(path)


def test_the_table_that_reproduce_writes_is_read(tmp_path: Path) -> None:
    said = Said(
        "suite",
        "cpu",
        "a: b",
        "71",
        "70.1",
        (69.0, 72.5),
        Verdict.REPRODUCED,
        "one seed",
        "robench",
        ("abc",),
        1.5,
        "0a1b",
    )
    path = tmp_path / "claims.csv"
    path.write_text(csv_text(Claims((said,)).records()))
    (found,) = read(path)
    assert found == Claim(
        "a: b", "suite", "71", "70.1", "69.0", "72.5", "reproduced", "robench", "abc", "1.5", "cpu", "one seed", "0a1b"
    )
    assert found.measured() == said


def test_another_s_file_is_not_written_over(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("<p>mine</p>")
    with pytest.raises(BadInput, match="is no page of robench's"):
        write_page(store, build(store), path)
    assert path.read_text() == "<p>mine</p>"
    path.unlink()
    write_page(store, build(store), path)
    write_page(store, build(store), path)
    assert told(path.read_text())["claims"] is None

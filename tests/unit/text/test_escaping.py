"""Every format shows hostile text as it is, or as Python writes what cannot be printed, and nothing else changes."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robench.text import escaping
from robench.text.escaping import visible
from tests.hostile import FUZZ, NAMES, Document, Page, typeset

# text of every kind, and text made of what formats are made of
MARKS = st.text(st.sampled_from("ab1 |\\`*_[](){}<>#+-=.!&;:~@/$%^\"'\n\r\t\x1b\x9b\u202e\udcff,"), max_size=40)
TEXTS = st.one_of(st.text(st.characters(), max_size=40), MARKS, st.sampled_from(NAMES))
FUZZED = settings(max_examples=FUZZ, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def check_visible(text: str) -> None:
    found = visible(text)
    assert found.isprintable()
    found.encode()
    assert visible(found) == found, "applied twice it changes nothing more"
    assert not text.isprintable() or found == text
    if "\\" not in text:  # then Python reads what was written, and gives back the text
        assert "".join(eval(f"'{part}'") if part[0] == "\\" else part for part in _parts(found)) == text


def _parts(found: str) -> list[str]:
    return re.findall(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\[nrt]|[^\\]+", found)


def check_csv(text: str) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([escaping.csv(text), "next"])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    cell, after = row
    assert after == "next"
    assert out.getvalue().count("\n") == 1
    if cell != visible(text):
        assert cell == f"'{visible(text)}"
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell, re.ASCII)
    assert number or len(cell) < 2 or cell.lstrip()[:1] not in tuple("=+-@＝＋－＠")  # noqa: RUF001


def check_markdown(text: str) -> None:
    told = f"# {escaping.markdown(text)}\n\n{escaping.markdown(text)}\n\n- {escaping.markdown(text)}\n"
    cell = escaping.markdown(text, cell=True)
    empty = not visible(text)
    table = Document(f"| a | b |\n|---|---|\n| {cell} | next |\n| {cell} | {cell} |\n")
    assert table.rows[1:] == [[visible(text), "next"], [visible(text), visible(text)]]
    page = Document(told)
    kinds = [kind.removesuffix("_open") for kind in page.blocks if kind.endswith("_open")]
    assert kinds == ["heading", *["paragraph"] * (not empty), "bullet_list", "list_item", *["paragraph"] * (not empty)]
    assert [each for each in page.texts if each] == [visible(text)] * (0 if empty else 3)


def check_latex(text: str) -> None:
    assert typeset(escaping.latex(text)) == visible(text)
    comment = escaping.latex_comment(text)
    assert comment in (visible(text), f"\\{visible(text)}")
    assert not re.match(r"\s*[!&]", comment)


def check_html(text: str) -> None:
    page = Page(f'<p title="{escaping.html(text)}"><b>{escaping.html(text)}</b></p>')
    assert page.tags == [("p", ("title",)), ("b", ())]
    assert page.titles == [visible(text)]
    assert page.of("b") == [visible(text)]


def check_file_name(text: str) -> None:
    name = escaping.file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert len(name) <= escaping.LONGEST


def check_command(text: str) -> None:
    line = escaping.command_line(["robench", text, "after"])
    assert line.isprintable()
    if text.isprintable():
        assert shlex.split(line) == ["robench", text, "after"]


CHECKS = [check_visible, check_csv, check_markdown, check_latex, check_html, check_file_name, check_command]


@pytest.mark.parametrize("text", NAMES, ids=ascii)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_hostile_name_comes_back_as_it_is_or_visible(check, text: str) -> None:
    check(text)


@pytest.mark.fuzz
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_any_text_comes_back_as_it_is_or_visible(check) -> None:
    FUZZED(given(TEXTS)(check))()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("new\nline", r"new\nline"),
        ("\u202egnp", r"\u202egnp"),
        ("\udcff", r"\udcff"),
        ("\x9b\x7f", r"\x9b\x7f"),
        ("日本語 [/x]", "日本語 [/x]"),
    ],
)
def test_what_cannot_be_printed_is_written_as_python_writes_it(text: str, told: str) -> None:
    assert visible(text) == told


@pytest.mark.parametrize("number", [0.5, -0.5, -3, None, "-0.25", "+1e-3", "-5", "1.5", "-"])
def test_numbers_stay_numbers_in_a_csv_file(number: object) -> None:
    assert escaping.csv(number) == number


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("60.0 [31.3, 83.2]*", r"60.0 [31.3, 83.2]\*"),
        ("random_start=True, step=1/255", "random_start=True, step=1/255"),
        ("model.py:load", "model.py:load"),
        ("[1]: x", r"\[1\]: x"),
        ("![1](x)", r"!\[1\](x)"),
        ("12", "12"),
    ],
)
def test_markdown_leaves_figures_and_settings_readable(text: str, told: str) -> None:
    assert escaping.markdown(text) == told


def test_a_command_says_the_same_bytes_to_a_shell() -> None:
    """bash reads back every name of a file, which may hold anything but the byte 0."""
    words = [name for name in NAMES if "\0" not in name and "\ud800" not in name]
    line = escaping.command_line(["printf", r"%s\0", *words])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_long_names_of_files_are_cut_and_told_apart() -> None:
    names = {escaping.file_name("a" * 300), escaping.file_name("a" * 301), escaping.file_name("a")}
    assert len(names) == 3

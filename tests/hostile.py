"""Names that mean something to a terminal, a format or a parser, and readers that say what a format shows."""

from __future__ import annotations

import html.parser
import os
import re

from markdown_it import MarkdownIt

from robench.text.escaping import visible

# examples that a search with random text looks at; `make fuzz` gives more
FUZZ = int(os.environ.get("ROBENCH_FUZZ") or 200)

NAMES = [
    "plain",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "bell\x07 back\x08\x08\x08space",
    "c1 \x9b31m \x85 line",
    "del\x7f",
    "carriage\rreturn",
    "new\nline",
    "two\n\nparagraphs",
    "tab\tstop",
    "vertical\x0bform\x0cfeed",
    "separators\u2028and\u2029more",
    "\u202egnp.txt\u202c",
    "\u2066isolate\u2069 \u200fmark",
    "zero\u200bwidth\ufeff",
    "not utf-8 \udcff\udc80",
    "lone \ud800 surrogate",
    "nul\x00byte",
    "no\xa0break",
    "non\ufffecharacter",
    "[/x]",
    "[bold red]markup[/bold red]",
    "[link=https://evil.example]here[/link]",
    ":smile: :warning:",
    "a|b||c",
    "back\\slash\\|pipe",
    "[text](https://evil.example)",
    "![image](x.png)",
    "[ref]: https://evil.example",
    "<https://evil.example>",
    "https://evil.example www.evil.example",
    "@everyone #12 GH-3 a@b.example",
    "# heading",
    "closing #",
    "#",
    "##",
    "## a\n## b",
    "- item",
    "+ item",
    "1. item",
    "* star **bold** _it_ __bo__ ~~gone~~",
    "===",
    "---",
    "```\nfence",
    "~~~",
    "> quote",
    "    code by four spaces",
    "`tick` ``ticks`` `",
    "| --- | --- |",
    "a & b &amp; &lt;i&gt; &#33;",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert('1')>",
    "' onmouseover='alert(1)",
    "</title></td></table><!-- -->",
    "<!-- comment",
    "]]> <![CDATA[ x",
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "＝1+1",  # noqa: RUF001
    " =1+1",
    '"quoted", with; commas',
    "$x$ $$y$$ $\\foo$",
    "% comment",
    "\\end{document}",
    "\\input{/etc/passwd}",
    "a_b^c~d{e}f#g$h%i&j\\k",
    "[2em] argument",
    "* starred row",
    "^^M ^^0d",
    "!TEX program = pdflatex --shell-escape",
    "& another & cell \\\\",
    "{{ 7 * 7 }} {% raw %}",
    "%s %d {} {0} {name}",
    "../../escape",
    ".hidden",
    "-rf",
    "a:b:c",
    "C:\\con",
    "x@32",
    "name=value",
    "name#abcdef",
    "_underscore",
    " spaces  within and around ",
    "日本語 ünïcödé 😀",
    "e\u0301 combining\u0336",
    "long " * 60,
    "'",
    "",
]


def shown(text: str) -> str:
    """The text as a format that joins spaces shows it."""
    return " ".join(visible(text).split())


def on_lines(out: str) -> bool:
    """Whether a terminal gets nothing but printable text in lines."""
    return all(letter.isprintable() or letter == "\n" for letter in out)


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and the text of every cell, heading and paragraph."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.titles: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.titles += [value or "" for name, value in attrs if name == "title"]
        if tag not in self.VOID:
            self._open.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        name, parts = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        self.texts.append((tag, "".join(parts)))

    def handle_data(self, data: str) -> None:
        for _, parts in self._open:
            parts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        assert decl == "DOCTYPE html"

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def of(self, *tags: str) -> list[str]:
        """The texts of all elements of these kinds."""
        return [text for tag, text in self.texts if tag in tags]


# what GitHub links in text that is no code, which a parser of plain Markdown does not
LINKED = re.compile(r"://|www\.|@\w|#\d+\b|\$", re.IGNORECASE)
PLAIN = {"text", "code_inline", "softbreak"}


class Document:
    """What a Markdown text shows: its blocks in order, and the text of each; no link, picture or HTML may be in it."""

    def __init__(self, text: str) -> None:
        self.blocks: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        for token in MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(text):
            if token.type == "tr_open":
                self.rows.append([])
            if token.type == "inline":
                assert token.children is not None
                kinds = {child.type for child in token.children}
                assert kinds <= PLAIN, f"{kinds - PLAIN} in {token.content!r}"
                for child in token.children:
                    assert child.type == "code_inline" or not LINKED.search(child.content), child.content
                found = "".join(child.content for child in token.children)
                (self.rows[-1] if self.blocks[-1] in ("th_open", "td_open") else self.texts).append(found)
            else:
                assert token.type != "html_block", token.content
                self.blocks.append(token.type)
                if token.type in ("code_block", "fence"):
                    self.texts.append(token.content)


TEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\char34{}": '"',
    "{[}": "[",
    "{*}": "*",
    **{f"\\{letter}": letter for letter in "&%$#_{}"},
}


def typeset(text: str) -> str:
    """What LaTeX prints of escaped text; raises AssertionError for a special character that is not escaped."""
    found, at = "", 0
    assert not re.match(r"\s*[\[*]", text), f"an argument of the command before: {text!r}"
    while at < len(text):
        name = next((name for name in TEX if text.startswith(name, at)), "")
        assert name or text[at] not in '\\&%$#_{}~^<>|"', f"{text[at]!r} is not escaped in {text!r}"
        found += TEX.get(name, text[at])
        at += len(name) or 1
    return found

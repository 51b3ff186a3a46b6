"""The page as one file: its style, its scripts and what it shows, with a policy that lets it reach nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from robench.errors import BadInput
from robench.page import vendored
from robench.page.claims import read
from robench.page.contents import Contents, contents_of
from robench.store.files import write_text
from robench.store.runs import Store
from robench.tables.board import Board
from robench.text.escaping import script_json

ASSETS = Path(__file__).parent / "assets"
# in the order in which they are read; all share one scope
SCRIPTS = (
    "elements.js", "figures.js", "grid.js", "plots.js", "images.js", "compare.js", "lead.js", "details.js",
    "board.js", "claims.js", "page.js",
)  # fmt: skip
# what tells a page of robench's from other files by its name
MARK = '<meta name="generator" content="robench">'


def write_page(
    store: Store, boards: Sequence[Board], path: Path, claims: Path | None = None, data: Path | None = None
) -> Path:
    """Write the page of a store's boards, with a table of claims if there is one; returns its path.

    data: where datasets are, None for the usual place. Raises BadInput for a file there that is no page, and for claims
    that cannot be read; DiskError.
    """
    _check_place(path)
    told = None if claims is None else read(claims)
    write_text(path, html(contents_of(store, boards, told, data)))
    return path


def _check_place(path: Path) -> None:
    if path.exists() and MARK not in path.read_text("utf-8", errors="replace")[:2000]:
        raise BadInput(f"The file {path} is there and is no page of robench's; give another folder with --out.")


def html(contents: Contents) -> str:
    """The page's text."""
    libraries = [_licensed(name) for name in ("table-core", "uplot")]
    own = "\n".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    scripts = [*libraries, f'(() => {{\n"use strict";\n{own}}})();\n']
    style = vendored.text("uplot.css") + "\n" + (ASSETS / "page.css").read_text("utf-8")
    parts = {
        "policy": _policy(scripts, style),
        "mark": MARK,
        "style": style,
        "data": script_json(contents.to_json()),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    page = (ASSETS / "page.html").read_text("utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], page)


def _licensed(name: str) -> str:
    """A vendored script behind its licence."""
    return f"/*!\n{vendored.text(f'{name}.LICENSE')}\n*/\n{vendored.text(f'{name}.js')}\n"


def _policy(scripts: list[str], style: str) -> str:
    """Scripts and style of this page alone, pictures in the text, no connection, and no text taken for markup."""
    allowed = " ".join(map(_source, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_source(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

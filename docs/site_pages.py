"""What the site has beside docs/*.md: the README as its first page, what lies at the root, the boards, and two pages
made from the program, its commands and its Python names.

A hook of mkdocs (mkdocs.yml). On GitHub a page of docs/ links to `../README.md` or `../leaderboards/...`, and the
README to `docs/...`; on the site all of these are pages, so that such links are brought to their places here.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
AT_ROOT = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
AS_THEY_ARE = ("CITATION.cff", "LICENSE")
BOARDS = "leaderboards"
# what GitHub shows of its own accord, by the page that shows it here
FOLDERS = {"README.md": "index.md", BOARDS: f"{BOARDS}/index.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)#])")
WIDTH = 80


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what docs/ has not."""

    def add(place: str, text: str) -> None:
        files.append(File.generated(config, place, content=text))

    add("index.md", brought((ROOT / "README.md").read_text(), ""))
    for name in AT_ROOT:
        add(name, brought((ROOT / name).read_text(), ""))
    for name in AS_THEY_ARE:
        add(name, (ROOT / name).read_text())
    boards = sorted(path for path in (ROOT / BOARDS).rglob("*") if path.suffix in (".md", ".csv", ".tex"))
    for path in boards:
        folder = posixpath.dirname(path.relative_to(ROOT).as_posix())
        text = path.read_text()
        add(path.relative_to(ROOT).as_posix(), brought(text, folder) if path.suffix == ".md" else text)
    if ROOT / BOARDS / "index.md" not in boards:
        add(f"{BOARDS}/index.md", index([path for path in boards if path.suffix == ".md"]))
    add("commands.md", commands())
    add("names.md", names())
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page of docs/ to what lies outside of it."""
    inside = (ROOT / "docs" / page.file.src_uri).is_file()
    return brought(markdown, "docs") if inside else markdown


def brought(markdown: str, folder: str) -> str:
    """A page's links as they are on the site; folder: where the page lies in the repository."""

    def place(found: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(folder, found[1]))
        there = FOLDERS.get(there, there.removeprefix("docs/"))
        here = folder if folder != "docs" else ""
        return posixpath.relpath(there, here or ".")

    return LINK.sub(place, markdown)


def index(boards: list[Path]) -> str:
    """A line per board, by its title."""
    lines = []
    for path in boards:
        title = next((line[2:] for line in path.read_text().splitlines() if line.startswith("# ")), path.stem)
        lines.append(f"- [{title}]({path.relative_to(ROOT / BOARDS).as_posix()})")
    return "\n".join(["# Leaderboards", "", "[How the tables were made](../made.md).", "", *lines, ""])


# --- the program -----------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command's help, as a terminal of 80 columns shows it."""
    from robench.cli.app import app

    parts = ["# Commands", "What `robench COMMAND --help` prints."]
    for path, context in leaves(typer.main.get_command(app), "robench"):
        parts += [f"## {path}", f"```text\n{context.get_help().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def leaves(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, Any]]:
    """The commands that do something, with a context that their help is written in."""
    context = command.context_class(
        command, info_name=name.split()[-1], parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    inner = getattr(command, "commands", {})
    if not inner:
        yield name.removeprefix("robench "), context
    for each in inner:
        yield from leaves(inner[each], f"{name} {each}", context)


def names() -> str:
    """The public names of `robench`, with their signatures and what their docstrings begin with."""
    import robench

    face = ast.parse((ROOT / "robench" / "__init__.pyi").read_text())
    public = [alias.name for node in face.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    parts = ["# Python names", "What `robench` has for programs and plugins, as its editors' stub lists it."]
    for name in sorted(public, key=str.lower):
        value = getattr(robench, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            text = inspect.cleandoc(value.__doc__ or "").replace("`", "'")
            parts.append(f"## {name}\n\n```python\n{signature(name, value)}\n```\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def signature(name: str, value: Any) -> str:
    """A definition's first line, an argument per line where it would be long."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):  # of what is written in C, or has none
        return name
    words = [str(parameter) for parameter in found.parameters.values()]
    short = f"{name}({', '.join(words)})"
    return short if len(short) <= WIDTH else f"{name}(\n    " + ",\n    ".join(words) + ",\n)"

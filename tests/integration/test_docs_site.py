"""The documentation as a site: it is built as `make docs` builds it, and every link and anchor in it leads somewhere.

Nothing that a page loads comes from another host, and what the program says of itself is there.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.integration.test_docs import PROGRAM, leaves

ROOT = Path(__file__).parents[2]
# what a browser fetches by itself
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
SAID = {"canonical", "next", "prev"}  # kinds of `link` that name a page and fetch nothing


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    text: str
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.anchors |= {of[name] for name in ("id", "name") if name in of}
        for name, value in of.items():
            if (tag, name) in LOADED and of.get("rel") not in SAID:
                self.loaded.append(value)
            elif name in ("href", "src"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The pages of the site by their paths, built strictly: a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        build(config)
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [path.read_text() if path.suffix == ".html" else "" for path in files]
    return {path.relative_to(folder).as_posix(): Page(text) for path, text in zip(files, texts, strict=True)}


def broken(site: dict[str, Page]) -> Iterator[str]:
    """Links within the site that lead nowhere."""
    for name, page in site.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            there = posixpath.join(posixpath.dirname(name), unquote(parts.path)) if parts.path else name
            there = posixpath.normpath(there)
            if there not in site:
                yield f"{name}: {link}: there is no {there}"
            elif parts.fragment and parts.fragment not in site[there].anchors:
                yield f"{name}: {link}: there is no such place"


def test_every_link_and_anchor_leads_somewhere(site: dict[str, Page]) -> None:
    assert len([name for name in site if name.endswith(".html")]) > 30
    assert list(broken(site)) == []


def test_a_broken_link_is_found() -> None:
    pages = {"a.html": Page('<a href="b.html#x"></a><a href="c.html"></a>'), "b.html": Page('<p id="y">')}
    assert len(list(broken(pages))) == 2


def test_nothing_is_loaded_from_elsewhere(site: dict[str, Page]) -> None:
    for name, page in site.items():
        for loaded in page.loaded:
            assert not urlsplit(loaded).netloc, f"{name} loads {loaded}"
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", page.text), name


def test_the_pages_made_from_the_program_have_all_of_it(site: dict[str, Page]) -> None:
    blocks = re.findall(r"<code>(.*?)</code>", site["commands.html"].text, re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]*>", "", "\n".join(blocks)))
    assert max(len(line) for line in text.splitlines() if not line.startswith("  robench")) <= 80  # but for examples
    for path, command in leaves(PROGRAM).items():
        assert f"Usage: robench {' '.join(path)} " in text
        for each in command.params:
            assert all(name in text for name in each.opts if name.startswith("--"))
    assert {"evaluate", "attack", "defense"} <= site["names.html"].anchors

"""The pages of the documentation as what can be run: their command lines, their Python and their files.

A block whose first line is `# NAME.py`, `# NAME.toml` or `# FOLDER/NAME.py` is that file. A block with a command in
it has nothing but commands; one without is output, or a listing.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "log.md"]  # a diary, and what it says of a day stays
PROGRAMS = {"robench", "python", "pip", "uv", "docker", "ray", "git", "make", "pytest", "mkdir"}
BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<body>(?s:.*?))^```$|(?<=\n\n)(?P<indented>(?: {4}.*\n|\n(?= {4}))+)", re.MULTILINE
)
FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Page:
    """commands: a line each, without remarks. code: blocks of Python. files: their text by their names."""

    name: str
    commands: list[str]
    code: list[str]
    files: dict[str, str]


def read(path: Path) -> Page:
    """A page; an AssertionError names a block in which commands and other things are mixed."""
    text = path.read_text()
    page = Page(path.name, [], [], {})
    for found in BLOCK.finditer(text):
        body = found["body"] or textwrap.dedent(found["indented"])
        if name := FILE.match(body):
            page.files[name["name"]] = body
        elif found["language"] == "python":
            page.code.append(body)
        elif found["language"] != "toml":
            page.commands.extend(commands(body, path.name))
    return page


def commands(block: str, where: str) -> list[str]:
    """The command lines of a block, each by itself."""
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    if lines and lines[0].startswith("#!"):  # a script: what else is in it is the shell's
        return [line for line in lines if line.startswith("robench ")]
    lines = [line for line in lines if line and not line.startswith("#")]
    are = [line.split()[0] in PROGRAMS for line in lines]
    assert any(are) is all(are), f"{where} has a block of commands and of other things: {lines}"
    return [part for line in lines if any(are) for part in parts(line)]


def parts(line: str) -> list[str]:
    """`a && b  # remark` as a and b."""
    words = shlex.split(line, comments=True)
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [shlex.join(each) for each in found]

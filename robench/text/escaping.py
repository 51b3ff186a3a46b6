"""One function per format that makes text of others harmless in it: names of files and models, options, errors.

`visible` comes first in all of them: what cannot be printed is written as Python writes it in a string, so that every
text stays on one line, can be encoded, and moves no cursor. Text that can be printed is what it was, in every format.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterable
from html import escape

# letters of a file's name that is made of names
LONGEST = 120
# with these a spreadsheet takes a cell for a formula; the wide ones count where Japanese or Chinese is typed
FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)

# characters that mean something to Markdown wherever they stand; the interval of a figure is left as it is, and so is
# an underscore within a word, which is none of them
_MARKS = re.compile(r"(?P<plain>(?<!\])\[-?\d[\d., %-]*\](?![(\[:])|(?<=[^\W_])_+(?=[^\W_]))|[\\`*_{}\[\]<>|~&]")
# what begins a heading, a list, a rule or the line below a heading
_BEGINS = re.compile(r"(?=[#+=-])|\d{1,9}(?=[.)](?:\s|$))", re.ASCII)
# what GitHub makes a link, a mention, a reference, an emoji or a formula of, whether or not its marks are escaped
_LINKS = re.compile(r"://|www\.|[@$]|mailto:|xmpp:|#\d+\b|\bGH-\d|:[+\w-]+:", re.IGNORECASE)

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}


def visible(text: object) -> str:
    r"""Text for a terminal, and for any other line: whatever cannot be printed as Python writes it, such as \x1b or \n.

    That is control characters, line ends, marks that turn the direction of writing, other invisible letters, and bytes
    of a file's name that are no UTF-8. Applied twice it changes nothing more.
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def csv(value: object) -> object:
    """A cell of a csv file: a number as it is, text such that no spreadsheet takes it for a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    formula = len(text) > 1 and text.lstrip().startswith(FORMULAS) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def markdown(text: object, cell: bool = False) -> str:
    """Text that Markdown shows as it is: in a paragraph, heading or list, or as the `cell` of a table.

    Text of which GitHub would make a link or a mention is shown as code, which alone prevents that.
    """
    plain = visible(text)
    if _LINKS.search(plain):
        return _code(plain, cell)
    found = _MARKS.sub(lambda match: match[0] if match["plain"] else f"\\{match[0]}", plain)
    if not cell and found.endswith("#"):  # it would end a heading
        found = f"{found[:-1]}\\#"
    if not cell and (first := _BEGINS.match(found)):
        found = f"{found[: first.end()]}\\{found[first.end() :]}"
    found = f"&#32;{found[1:]}" if found.startswith(" ") else found
    return f"{found[:-1]}&#32;" if found.endswith(" ") else found


def _code(text: str, cell: bool) -> str:
    """Text between more backticks than it has in a row."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    ends = text[:1] + text[-1:]
    space = " " if "`" in ends or ends == "  " else ""
    inner = text.replace("|", "\\|") if cell else text
    return f"{fence}{space}{inner}{space}{fence}"


def latex(text: object) -> str:
    """Text with LaTeX's special characters escaped; what begins it is no argument of the command before."""
    plain = visible(text)
    found = "".join(_TEX.get(letter, letter) for letter in plain)
    first = found.lstrip()[:1]
    return found.replace(first, f"{{{first}}}", 1) if first and first in "[*" else found


def latex_comment(text: object) -> str:
    """Text behind a comment's percent sign: one line, and no order to an editor or to TeX."""
    plain = visible(text)
    return f"\\{plain}" if plain.lstrip().startswith(("!", "&")) else plain


def html(text: object) -> str:
    """Text in an element or between the quotes of an attribute."""
    return escape(visible(text), quote=True)


def script_json(value: object) -> str:
    """JSON for a script element of a page: every string `visible`, and nothing in it that could end the element; null
    for a number that is not finite."""
    text = json.dumps(_visible_in(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible_in(value: object) -> object:
    if isinstance(value, dict):
        return {visible(key): _visible_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_visible_in(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else visible(value)


def file_name(text: str) -> str:
    """A file's name, without its ending, that resembles the text: letters, digits, '.', '_' and '-'.

    Texts that differ may come to the same name. Never empty, hidden, or longer than a file system takes.
    """
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-").lstrip(".-") or "table"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def command_line(words: Iterable[str]) -> str:
    r"""Words as one line for a shell; a word that cannot be printed in bash's $'...', which says the same bytes."""
    return " ".join(shlex.quote(word) if word.isprintable() else _dollar(word) for word in words)


def _dollar(word: str) -> str:
    special = {"\\": "\\\\", "'": "\\'"}
    return f"$'{''.join(special.get(c, c) if c.isprintable() else _octal(c) for c in word)}'"


def _octal(letter: str) -> str:
    """A letter as its bytes; one that stands for a byte of a file's name as that byte."""
    errors = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in letter.encode(errors=errors))

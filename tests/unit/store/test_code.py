"""What code says: comments and docstrings do not count, what a plugin imports of its own package does."""

from __future__ import annotations

import ast
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from robench.store import code


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    'What it does.'\n    return x + 1\n",
        "# a comment\ndef f(x):\n\n    return (x + 1)  # another\n",
        "'A module.'\ndef f(x): return x + 1",
    ],
)
def test_comments_docstrings_and_layout_do_not_count(text: str) -> None:
    assert code.plain(ast.parse(text)) == code.plain(ast.parse("def f(x):\n    return x + 1\n"))


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x + 2\n", "def f(x):\n    'x'\n", "def f(x=1):\n    return x + 1\n"]
)
def test_everything_else_does(text: str) -> None:
    assert code.plain(ast.parse(text)) != code.plain(ast.parse("def f(x):\n    return x + 1\n"))


def test_an_f_string_ends_with_nothing_or_not() -> None:
    """Python 3.12.0 and 3.12.1 say that the format in f"{x:{y}}" ends with an empty text, no other version does."""
    tree = ast.parse('f"{x:>{y}}"')
    (inner,) = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and len(node.values) == 2]
    said = code.plain(tree)
    inner.values.append(ast.Constant(""))
    assert code.plain(tree) == said


def test_a_function_is_what_runs_and_not_what_its_file_says_by_now(tmp_path: Path) -> None:
    """A file that was edited after it was loaded must not speak for what it was."""
    path = tmp_path / "m.py"

    def made(text: str) -> FunctionType:
        path.write_text(text)
        space: dict[str, Any] = {}
        exec(compile(text, str(path), "exec"), space)
        found: FunctionType = space["f"]
        return found

    one = made("def f(x):\n    return x + 1\n")
    said = code.function_text(one)
    two = made("def f(x):\n    return x + 2  # other\n")
    assert said != code.function_text(two)
    assert code.function_text(one) == code.instructions(one.__code__)
    assert code.function_text(made("def f(x):\n    # a comment\n    return x + 1\n")) == said

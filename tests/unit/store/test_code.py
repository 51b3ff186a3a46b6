"""What code says: comments and docstrings do not count, what a plugin imports of its own package does."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from robench import registry
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


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose module `a` imports `b`, relatively, which imports `beside`, from inside a function."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("from . import b\nimport torch\nclass A: ...\n")
    (folder / "b.py").write_text("def f():\n    import beside\n    return beside\n")
    (folder / "c.py").write_text("x = 1\n")
    (tmp_path / "beside.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [key for key in sys.modules if key.partition(".")[0] in ("pack", "beside")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["pack/a.py", "pack/b.py", "beside.py", "pack/__init__.py"])
def test_a_module_is_what_it_imports_of_its_own(name: str, package: Path) -> None:
    before = code.modules_digest(["pack.a"])
    (package / name).write_text((package / name).read_text() + "y = 2\n")
    assert code.modules_digest(["pack.a"]) != before


def test_what_it_does_not_import_does_not_count(package: Path) -> None:
    before = code.modules_digest(["pack.a"])
    (package / "pack" / "c.py").write_text("x = 2\n")
    (package / "beside.py").write_text("# a comment\nx = 1\n")
    assert code.modules_digest(["pack.a"]) == before


def test_robench_s_own_plugins_are_told_apart_by_their_modules() -> None:
    found = {
        name: code.plugin_digest(registry.load("attack", name).base)
        for name in ("pgd", "fgsm", "library:apgd-ce", "library:square")
    }
    assert len(set(found.values())) == 3
    assert found["library:apgd-ce"] == found["library:square"]


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

"""What a class reaches counts, and nothing else of its files; where reading cannot tell, all of it counts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robench import registry
from robench.store.reach import plugin_digest

FILES = {
    "__init__": "from .base import Base\n",
    "base": '''
"""A base."""
import math
from . import helper

RATE = 0.5
OTHER = 0.5
TABLE = {}

class Base:
    """A base class."""
    def scale(self):
        return RATE * math.pi

def unrelated():
    return OTHER
''',
    "plugin": """
from dataclasses import dataclass
from pack import helper
from pack.base import Base, RATE as unused
import pack.far as far

@dataclass(frozen=True)
class Setting:
    value: int = 1

def inner(x):
    return x * Setting().value

def unrelated(x):
    return helper.not_asked(x)

class Plugin(Base):
    def run(self, x):
        import pack.late
        return inner(helper.asked(x)) + far.deep(x) + pack.late.late()

class Unrelated:
    pass

if __name__ == "__main__":
    print("a test by hand")
""",
    "helper": "def asked(x):\n    return x + _constant\n_constant = 1\ndef not_asked(x):\n    return x\n",
    "far": "def deep(x):\n    return x\ndef shallow(x):\n    return x\n",
    "late": "def late():\n    return 1\ndef never():\n    return 1\n",
    "stranger": "x = 1\n",
}
# by module, what is replaced by what
REACHED = {
    "the method": ("plugin", "inner(helper", "-inner(helper"),
    "a function that it calls": ("plugin", "x * Setting", "x / Setting"),
    "a class that this makes": ("plugin", "value: int = 1", "value: int = 2"),
    "its base": ("base", "RATE * math", "2 * RATE * math"),
    "a constant of its base": ("base", "RATE = 0.5", "RATE = 0.25"),
    "what its base imports": ("base", "import math", "import cmath as math"),
    "a helper module": ("helper", "x + _constant", "x - _constant"),
    "a constant of it": ("helper", "_constant = 1", "_constant = 2"),
    "an attribute of a module": ("far", "def deep(x):\n    return x", "def deep(x):\n    return 2 * x"),
    "an import inside a method": ("late", "def late():\n    return 1", "def late():\n    return 2"),
    "a global that another function assigns": (
        "base", "def unrelated():\n", "def unrelated():\n    global RATE\n    RATE = 2\n",
    ),
    "a class that another function changes": (
        "plugin", "def unrelated(x):\n", "def unrelated(x):\n    Plugin.run = None\n",
    ),
    "a line that runs at import": ("base", "TABLE = {}", "TABLE = {}\nTABLE['a'] = 1"),
    "a call at import": ("far", "def shallow", "import random\nrandom.seed(1)\ndef shallow"),
    "a registration": ("plugin", "class Unrelated", "def put(x):\n    return x\n@put\nclass Unrelated"),
    "a registration by a base": (
        "base", "def unrelated", "class A:\n    def __init_subclass__(cls): ...\nclass B(A): ...\ndef unrelated",
    ),
    "a metaclass": ("plugin", "class Unrelated:", "class Unrelated(metaclass=type):"),
    "a default that is computed": ("plugin", "def unrelated(x)", "def unrelated(x=inner(1))"),
    "a module imported for what it does": ("base", "import math", "import math\nimport pack.stranger as _\n_.x = 2"),
    "the package itself": ("__init__", "from .base", "import random\nrandom.seed(2)\nfrom .base"),
}  # fmt: skip
NOT_REACHED = {
    "a docstring": ("base", "A base class.", "Another text."),
    "a comment": ("plugin", "class Plugin", "# a comment\n\n\nclass Plugin"),
    "an unrelated function": ("plugin", "helper.not_asked(x)", "helper.not_asked(-x)"),
    "an unrelated function of a helper": (
        "helper",
        "def not_asked(x):\n    return x",
        "def not_asked(x):\n    return -x",
    ),
    "an unrelated function of its base's module": ("base", "return OTHER", "return -OTHER"),
    "an unrelated constant": ("base", "OTHER = 0.5", "OTHER = 0.25"),
    "an unrelated class": ("plugin", "class Unrelated:\n    pass", "class Unrelated:\n    x = 1"),
    "a new function": ("helper", "def not_asked", "def new(x=2, *, y=None):\n    return x\ndef not_asked"),
    "a new data class": ("plugin", "class Unrelated", "@dataclass\nclass New:\n    x: int = 1\nclass Unrelated"),
    "a new function of a module imported inside": ("late", "def never", "def new(): ...\ndef never"),
    "what a file does as a program": ("plugin", "a test by hand", "another"),
    "an import of nobody": ("plugin", "import pack.far", "import json\nimport pack.far"),
    "a module that nobody imports": ("stranger", "x = 1", "x = 2"),
}
# what makes everything count, put in place of "inner(helper": an unrelated function then does
DYNAMIC = {
    "globals": "globals()['inner'](helper",
    "exec": "exec('inner') or inner(helper",
    "sys.modules": "__import__('sys').modules and inner(helper",
    "a module as a value": "getattr(helper, 'not_' + 'asked')(x) + inner(helper",
    "subclasses": "len(Base.__subclasses__()) + inner(helper",
    "importlib": "importlib.import_module('pack.helper').asked(1) + inner(helper",
}


class Package:
    """The package `pack`, which can be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.texts = folder / "pack", dict(FILES)
        self.folder.mkdir()

    def digest(self, **edits: tuple[str, str]) -> str:
        """That of the plugin in a new process, after texts were replaced in modules."""
        for name, (old, new) in edits.items():
            assert old in self.texts[name]
            self.texts[name] = self.texts[name].replace(old, new, 1)
        for name, text in self.texts.items():
            (self.folder / f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return plugin_digest(importlib.import_module("pack.plugin").Plugin)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """The package, importable."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Package(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]


@pytest.mark.parametrize("what", REACHED)
def test_what_it_reaches_counts(what: str, package: Package) -> None:
    name, old, new = REACHED[what]
    before = package.digest()
    assert package.digest() == before
    assert package.digest(**{name: (old, new)}) != before


@pytest.mark.parametrize("what", NOT_REACHED)
def test_nothing_else_does(what: str, package: Package) -> None:
    name, old, new = NOT_REACHED[what]
    before = package.digest()
    assert package.digest(**{name: (old, new)}) == before


@pytest.mark.parametrize("what", DYNAMIC)
def test_where_reading_cannot_tell_all_of_it_counts(what: str, package: Package) -> None:
    before = package.digest(plugin=("inner(helper", DYNAMIC[what]))
    changed = package.digest(helper=("def not_asked(x):\n    return x", "def not_asked(x):\n    return -x"))
    assert changed != before


def test_a_star_brings_all_of_a_module(package: Package) -> None:
    before = package.digest(plugin=("from pack import helper", "from pack import helper\nfrom pack.stranger import *"))
    assert package.digest(stranger=("x = 1", "x = 2")) != before


def test_modules_beside_a_plugin_that_is_no_package_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone.py").write_text("import beside\nclass Lone:\n    def f(self):\n        return beside.f()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for text in ("def f(): return 1\ndef g(): ...", "def f(): return 1\ndef g(): return 1", "def f(): return 2"):
        (tmp_path / "beside.py").write_text(text)
        for name in ("lone", "beside"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found.append(plugin_digest(importlib.import_module("lone").Lone))
    assert found[0] == found[1] != found[2]
    for name in ("lone", "beside"):
        sys.modules.pop(name, None)


def test_robench_s_own_plugins_are_told_apart_by_what_they_reach() -> None:
    bases = registry.classes("robench_attacks") + registry.classes("robench_defenses")
    assert len({plugin_digest(base) for base in bases}) == len(bases) > 30

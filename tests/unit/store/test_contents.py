"""A model's digest is over what it is: one from a program and from a file, another for anything it computes with."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robench.models import load_model
from robench.store.contents import contents_digest
from robench.store.runs import Store
from tests import forked

NET = """
import torch
from torch import nn

def squash(x):
    return x / (1 + x.abs())

class Net(nn.Module):
    def __init__(self, scale=2.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
        self._scale = scale
    def forward(self, x):
        return squash(self.layer(x.flatten(1))) * self._scale

def load():
    return Net().eval()
"""


def digest(folder: Path, source: str, factory: str = "load") -> str:
    """The digest of what a factory makes in a new file of that source."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.py").write_text(source)
    return load_model(f"{folder / 'm.py'}:{factory}", Store(folder)).digest


def test_a_program_and_a_file_share_it(tmp_path: Path) -> None:
    """The same text run as a program, as the cell of a notebook would be, gives the digest that its file gives."""
    script = NET + textwrap.dedent("""
        from robench.store.contents import contents_digest
        print(contents_digest(load()))
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    main = tmp_path / "main.py"
    main.write_text(script)
    there = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, check=True)
    found = digest(tmp_path / "a", NET)
    assert there.stdout.strip() == found
    # text that no file holds is told by its instructions: the digest is stable, and not a file's
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == again.stdout


def test_a_cell_of_a_notebook_and_a_file_share_it(tmp_path: Path) -> None:
    import linecache

    name = "<ipython-input-7>"
    linecache.cache[name] = (len(NET), None, NET.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(NET, name, "exec"), space)
    try:
        assert contents_digest(space["load"]()) == digest(tmp_path, NET)
    finally:
        del linecache.cache[name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def load", "def unrelated():\n    return 3\n\ndef load"),
        ("import torch\n", "'''A docstring.'''\nimport torch\n# a comment\n", ),
        ("    def forward(self, x):\n", "    def forward(self, x):\n        '''What it says.'''\n        # and how\n"),
        ("def load", "def other"),
    ],
)  # fmt: skip
def test_what_it_does_not_use_is_left_out(tmp_path: Path, old: str, new: str) -> None:
    changed = NET.replace(old, new)
    assert changed != NET
    factory = "other" if "def other" in changed else "load"
    assert digest(tmp_path / "a", NET) == digest(tmp_path / "b", changed, factory)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1 + x.abs()", "2 + x.abs()"),
        ("scale=2.0", "scale=3.0"),
        ("manual_seed(0)", "manual_seed(1)"),
        ("* self._scale", "+ self._scale"),
        ("return Net()", "return Net(4.0)"),
    ],
)
def test_what_it_uses_is_in(tmp_path: Path, old: str, new: str) -> None:
    changed = NET.replace(old, new)
    assert changed != NET
    assert digest(tmp_path / "a", NET) != digest(tmp_path / "b", changed)


HELPED = "import torch, helper\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        {}\n"
HELPED += "def load():\n    return Net().eval()\n"


@pytest.mark.parametrize(
    "body",
    [
        "return helper.f(x.flatten(1))",  # the first in processes that hash as they like
        "from deep import g\n        return g(x.flatten(1))[:, :10]",
        "import deep\n        return deep.g(x.flatten(1))[:, :10]",
        "from helper import f\n        return f(x.flatten(1))",
    ],
)
def test_helpers_beside_it_are_in(tmp_path: Path, body: str) -> None:
    found = []
    for i, factor in enumerate(("2", "3", "2")):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "deep.py").write_text(f"def g(x):\n    return {factor} * x\ndef unrelated():\n    return {i}\n")
        (folder / "helper.py").write_text("import deep\ndef f(x):\n    return deep.g(x)[:, :10]\n")
        (folder / "m.py").write_text(HELPED.format(body))
        script = "from robench.models import load_model; from robench.store.runs import Store; from pathlib import Path"
        script += "; print(load_model('m.py:load', Store(Path('.'))).digest)"
        if body.startswith("return helper"):
            words = [sys.executable, "-c", script]
            out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder).stdout
        else:
            code, out, err = forked.run(program=script, folder=folder)
            assert code == 0, err
        found.append(out)
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_helper_that_may_be_asked_for_anything_is_in_as_a_whole(tmp_path: Path) -> None:
    body = "import deep\n        return getattr(deep, 'fg'[1:])(x.flatten(1))[:, :10] + 0 * deep.h"
    found = []
    for i in range(2):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "helper.py").write_text("")
        (folder / "deep.py").write_text(f"h = 1\ndef g(x):\n    return {i} * x\n")
        found.append(digest(folder, HELPED.format(body)))
    assert found[0] != found[1]


class Holds(nn.Module):
    """Keeps something in an attribute."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        """Whatever."""
        return x.flatten(1)[:, :10]


class Thing:
    """An object of a user's class."""

    def __init__(self, value: Any) -> None:
        self.value = value


def linear(weight: float) -> nn.Linear:
    """A layer filled with one number."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(weight)
    return layer


def closure(weight: float) -> Any:
    """A function that keeps a number."""
    return lambda x: x * weight


def packed(weight: float) -> nn.Module:
    """A quantised layer, whose weights a C++ object holds."""
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear(weight)), {nn.Linear})


def scripted(weight: float) -> nn.Module:
    """A module of TorchScript, frozen: what was a parameter is a constant."""
    return torch.jit.freeze(torch.jit.script(nn.Sequential(linear(weight)).eval()))


def hooked(weight: float) -> nn.Module:
    """A layer whose answer a hook changes."""
    layer = linear(1.0)
    layer.register_forward_hook(lambda module, given, answer: answer * weight)
    return layer


def patched(weight: float) -> nn.Module:
    """A layer whose forward was replaced."""
    layer = linear(1.0)
    layer.forward = functools.partial(torch.mul, torch.tensor(weight))  # type: ignore[method-assign]
    return layer


KINDS: dict[str, Any] = {
    "a list of modules": lambda w: Holds([linear(w)]),
    "a mapping of tensors": lambda w: Holds({"a": torch.full((2,), w)}),
    "an object": lambda w: Holds(Thing([torch.full((2,), w)])),
    "an array": lambda w: Holds(torch.full((2,), w).numpy()),
    "a closure": lambda w: Holds(closure(w)),
    "a partial": lambda w: Holds(functools.partial(torch.add, torch.tensor(w))),
    "a set": lambda w: Holds({w}),
    "packed weights": packed,
    "frozen TorchScript": scripted,
    "a hook": hooked,
    "a patched forward": patched,
    "sparse": lambda w: Holds((torch.eye(3) * w).to_sparse()),
    "half precision": lambda w: Holds(torch.full((2,), w).bfloat16()),
    "traced": lambda w: torch.fx.symbolic_trace(nn.Sequential(linear(w))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_is_kept_it_is_in(kind: str) -> None:
    make = KINDS[kind]
    assert contents_digest(make(1.0)) == contents_digest(make(1.0))
    assert contents_digest(make(1.0)) != contents_digest(make(2.0))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"packed weights", "frozen TorchScript"}))
def test_a_copy_shares_it(kind: str) -> None:
    module = KINDS[kind](1.0)
    assert contents_digest(copy.deepcopy(module)) == contents_digest(module)


def test_it_does_not_depend_on_the_process() -> None:
    """Sets, hooks and TorchScript count or order by what the process did before."""
    script = "import torch\nfrom tests.unit.store.test_contents import KINDS, contents_digest\n"
    script += "torch.nn.Linear(1, 1).register_forward_hook(print)\n"
    script += "torch.jit.script(torch.nn.Sequential(torch.nn.ReLU()))\n"
    script += "print([contents_digest(KINDS[k](1.0)) for k in KINDS])"
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == str([contents_digest(KINDS[kind](1.0)) for kind in KINDS])


def test_cycles_end() -> None:
    held: list[Any] = []
    held.append(held)
    assert contents_digest(Holds(held))


KEPT = """
import array, collections, contextvars, decimal, functools, operator, re, sys
import torch
import helper

THIS = sys.modules[__name__]

@functools.lru_cache
def cached():
    return {K}

@torch.jit.script
def scripted(z: torch.Tensor):
    return z * {K}

BYTES, ARRAY = bytearray([{K}]), array.array("i", [{K}])
DEQUE, DECIMAL = collections.deque([{K}]), decimal.Decimal({K})
PATTERN, ITEM, METHOD = re.compile("a{{{K}}}"), operator.itemgetter({K}), operator.methodcaller("mul", {K})
VARIABLE = contextvars.ContextVar("variable", default={K})

class Model(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * ({USED} is None)

def load():
    return Model().eval()
"""


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize(
    "used", ["cached()", "scripted(x)", "BYTES", "ARRAY", "DEQUE", "DECIMAL", "PATTERN", "ITEM", "METHOD", "VARIABLE",
             "getattr(helper, 'g' + '1')"],
)  # fmt: skip
def test_what_the_standard_library_keeps_out_of_sight_is_in(
    used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for constant in (1, 2, 1):
        folder = tmp_path / f"at{len(found)}"
        folder.mkdir()
        (folder / "helper.py").write_text(f"def g1():\n    return {constant}\n")
        sys.modules.pop("helper", None)
        found.append(
            digest(
                folder, KEPT.replace("{K}", str(constant)).replace("{USED}", used).replace("{{", "{").replace("}}", "}")
            )
        )
    assert found[0] == found[2] != found[1]

"""A model's file in a namespace of its own: nothing that it imports from beside it is there for the next file."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import robench
from robench.errors import BadInput
from robench.model_files import PREFIX
from robench.models import LoadedModel, load_model
from robench.store.runs import Store

NET = """
import torch
from torch import nn
class Net(nn.Module):
    value = {value}
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        {lazy}
        return self.scale * x.flatten(1)[:, :2] * 0 + torch.tensor([self.value, value])
"""
LAZY = {
    "import": "from later import value",
    "import as": "import later.deep as deep; value = deep.value",
    "importlib": "import importlib; value = importlib.import_module('later').value",
    "from importlib": "from importlib import import_module; value = import_module('later.deep').value",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder of Python files; the time of each is the same, as after an edit within one tick of the clock."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (10**9, 10**9))
    return folder


def project(folder: Path, value: int, lazy: str = LAZY["import"], files: dict[str, str] | None = None) -> Path:
    """model.py beside its net.py, which imports a package with relative imports when it is called."""
    return write(folder, {
        "model.py": "from net import Net\ndef load():\n    return Net().eval()\n",
        "net.py": NET.format(value=value, lazy=lazy),
        "later/__init__.py": "from .deep import value\n",
        "later/deep.py": f"value = {value}\n",
        **(files or {}),
    })  # fmt: skip


def load(folder: Path, name: str = "model.py") -> LoadedModel:
    return load_model(f"{folder / name}:load", Store(folder / "runs"))


def answers(module: nn.Module) -> list[int]:
    """What a module of `project` answers: the values of its net and of what it imports later."""
    found: Tensor = module(torch.zeros(1, 1, 8, 8))
    return [int(value) for value in found[0]]


@pytest.mark.parametrize("lazy", LAZY.values(), ids=list(LAZY))
def test_two_folders_with_helpers_of_one_name_are_each_as_by_themselves(tmp_path: Path, lazy: str) -> None:
    first, second = (load(project(tmp_path / str(value), value, lazy)) for value in (1, 2))
    assert answers(second.module) == [2, 2]
    assert answers(first.module) == [1, 1]
    assert first.digest != second.digest
    assert not {"net", "later", "later.deep", "model"} & set(sys.modules)


def test_an_edit_of_a_helper_counts_from_the_next_time_the_file_is_opened(tmp_path: Path) -> None:
    before = load(project(tmp_path, 1))
    assert answers(before.module) == [1, 1]
    after = load(project(tmp_path, 2))
    assert answers(after.module) == [2, 2]
    assert answers(before.module) == [1, 1]
    assert not list(tmp_path.rglob("*.pyc"))


def test_two_evaluations_in_one_command_and_one_after_an_edit(tmp_path: Path) -> None:
    net = """
import torch
from torch import nn
class Net(nn.Module):
    def forward(self, x):
        flat = x.flatten(1)
        return {sign} * torch.stack([flat.mean(1) - k / 10 for k in range(10)], 1) * torch.arange(10.0)
"""
    places = [tmp_path / "a", tmp_path / "b"]
    for place, sign in zip(places, (1, -1), strict=True):
        project(place, 0, files={"net.py": net.format(sign=sign)})

    def clean(folders: list[Path], runs: str) -> list[float]:
        models = [f"{folder / 'model.py'}:load" for folder in folders]
        report = robench.evaluate(models, "digits", "fgsm", eps="0", count=200, runs=tmp_path / runs, device="cpu")
        return [row["clean_accuracy"] for row in report.rows]

    alone = [clean([place], f"runs{i}")[0] for i, place in enumerate(places)]
    assert alone[0] != alone[1]
    assert clean(places, "both") == alone
    project(places[0], 0, files={"net.py": net.format(sign=-1)})
    assert clean(places, "both") == [alone[1]] * 2


def test_helpers_in_a_folder_that_the_file_adds_to_the_path(tmp_path: Path) -> None:
    add = "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'src'))\n"
    before = list(sys.path)
    models = []
    for value in (1, 2):
        folder = project(tmp_path / str(value), value)
        (folder / "src").mkdir()
        for name in ("net.py", "later"):
            (folder / name).rename(folder / "src" / name)
        write(folder, {"model.py": add + (folder / "model.py").read_text()})
        models.append(load(folder).module)
    assert [answers(model) for model in models] == [[1, 1], [2, 2]]
    assert sys.path == before
    assert answers(pickle.loads(pickle.dumps(models[1]))) == [2, 2]
    assert elsewhere(models[0], tmp_path) == [1, 1]


def elsewhere(module: nn.Module, tmp_path: Path) -> list[int]:
    """The answers of a module in another process, which has it by pickle alone."""
    (tmp_path / "module.pickle").write_bytes(pickle.dumps(module))
    code = (
        "import robench, pickle, sys, torch\n"
        "module = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print([int(value) for value in module(torch.zeros(1, 1, 8, 8))[0]])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "module.pickle")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=tmp_path)
    found: list[int] = json.loads(done.stdout)
    return found


def test_objects_are_copied_and_pickled_here_and_for_another_process(tmp_path: Path) -> None:
    first, second = (load(project(tmp_path / str(value), value)).module for value in (1, 2))
    for module, expected in ((first, [1, 1]), (second, [2, 2])):
        assert answers(copy.deepcopy(module)) == expected
        again = pickle.loads(pickle.dumps(module))
        assert type(again) is type(module)
        assert answers(again) == expected
        assert elsewhere(module, tmp_path) == expected


def test_a_whole_module_in_a_checkpoint_finds_its_class_beside_the_file(tmp_path: Path) -> None:
    """As `torch.save(model)` in a script of that folder leaves it: its class is called net.Net there."""
    folder = project(tmp_path / "p", 3)
    script = "import torch, net; torch.save(net.Net().eval(), 'whole.pt')"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder)
    factory = f"import torch\ndef load():\n    return torch.load({str(folder / 'whole.pt')!r}, weights_only=False)\n"
    model = load(write(folder, {"model.py": factory}))
    assert answers(model.module) == [3, 3]
    assert answers(pickle.loads(pickle.dumps(model.module))) == [3, 3]
    assert "net" not in sys.modules


@pytest.mark.parametrize("package", [True, False])
def test_relative_imports_of_the_file_itself(tmp_path: Path, package: bool) -> None:
    folder = project(tmp_path / "lib" / "zoo", 4)
    write(folder, {"model.py": "from .net import Net\ndef load():\n    return Net().eval()\n"})
    if package:
        write(tmp_path / "lib", {"zoo/__init__.py": "from zoo.model import load\nfrom zoo.later import value as K\n"})
        write(folder, {"model.py": "from . import K\n" + (folder / "model.py").read_text()})
        write(folder, {"__init__.py": "K = 1\nfrom .model import load\n"})
    assert answers(load(folder).module) == [4, 4]
    assert elsewhere(load(folder).module, tmp_path) == [4, 4]
    if package:
        assert answers(load(folder, "__init__.py").module) == [4, 4]


def test_a_file_that_names_its_own_package_gets_the_one_it_lies_in(tmp_path: Path) -> None:
    for value in (1, 2):
        folder = project(tmp_path / str(value) / "zoo", value, "from zoo.later import value")
        write(folder, {"model.py": "import zoo.net\ndef load():\n    return zoo.net.Net().eval()\n", "__init__.py": ""})
        assert answers(load(folder).module) == [value, value]


def test_what_the_program_has_imported_itself_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = project(tmp_path / "mine", 5)
    monkeypatch.syspath_prepend(str(mine))
    net: ModuleType = importlib.import_module("net")
    try:
        assert answers(load(project(tmp_path / "other", 6)).module) == [6, 6]
        assert answers(load(project(mine, 7)).module) == [7, 7], "edited since the program imported it"
        assert sys.modules["net"] is net
        assert answers(net.Net()) == [5, 7], "its own import is of the edited file"
    finally:
        for name in ("net", "later", "later.deep"):
            sys.modules.pop(name, None)


def test_what_is_shared_with_the_harness_is_not_taken_from_beside_the_file(tmp_path: Path) -> None:
    broken = "raise RuntimeError('not this one')\n"
    files = {f"{name}.py": broken for name in ("torch", "numpy", "robench", "json")} | {"yaml/data.txt": ""}
    files["model.py"] = (
        "import json, numpy, robench, torch, yaml\nfrom net import Net\n"
        "assert yaml.safe_load('1') == 1 and issubclass(Net, torch.nn.Module)\n"
        "def load():\n    return Net().eval()\n"
    )
    assert answers(load(project(tmp_path, 8, files=files)).module) == [8, 8]


def test_a_link_to_a_file_has_what_lies_beside_the_link(tmp_path: Path) -> None:
    """Two folders with one model.py between them, each with a net.py of its own, or with what the file's folder has."""
    shared = project(tmp_path / "shared", 3)
    for value in (1, 2):
        folder = project(tmp_path / str(value), value)
        (folder / "model.py").unlink()
        (folder / "model.py").symlink_to(shared / "model.py")
        assert answers(load(folder).module) == [value, value]
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.py").symlink_to(shared / "model.py")
    assert answers(load(tmp_path / "alone").module) == [3, 3]


def test_a_dataclass_with_later_annotations(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom net import Net\n"
        "@dataclass\nclass Settings:\n    width: int = 1\n"
        "def load():\n    assert Settings().width\n    return Net().eval()\n"
    )
    assert answers(load(project(tmp_path, 9, files={"model.py": text})).module) == [9, 9]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("from net import Missing\n", "cannot import name 'Missing' from 'net'"),
        ("import net.deeper\n", "No module named 'net.deeper'; 'net' is not a package"),
        ("import absent_helper\n", "No module named 'absent_helper'"),
        ("from .absent import x\n", "No module named 'absent'"),
        ("def load():\n    import later.absent\n", "No module named 'later.absent'"),
    ],
)
def test_a_file_that_fails_says_so_in_its_own_names_and_leaves_nothing(tmp_path: Path, text: str, told: str) -> None:
    folder, before, path = project(tmp_path, 1, files={"model.py": text}), set(sys.modules), list(sys.path)
    with pytest.raises(BadInput) as caught:
        load(folder)
    assert told in str(caught.value)
    assert PREFIX not in str(caught.value)
    assert {name for name in set(sys.modules) - before if name.startswith((PREFIX, "net", "later", "model"))} == set()
    assert sys.path == path


def test_a_package_that_was_edited_after_its_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports a package once for all; its old code must not go under the new one's digest."""
    folder = project(tmp_path / "edited_zoo", 1, "from .later import value")
    write(folder, {"__init__.py": "", "model.py": "from .net import Net\ndef load():\n    return Net().eval()\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    reference, store = "edited_zoo.model:load", Store(tmp_path / "runs")
    assert answers(load_model(reference, store).module) == [1, 1]
    assert answers(load_model(reference, store).module) == [1, 1]
    (folder / "net.py").write_text(NET.format(value=2, lazy="value = 2"))
    with pytest.raises(BadInput, match=r"'edited_zoo\.net' of edited_zoo\.model was edited.*file\.py:factory\.$"):
        load_model(reference, store)

"""What a person sees when a model, a plugin or a file is the fault: one sentence, with what to do."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, assert_refused
from torch import nn

import robench as face
from robench import registry
from robench.errors import BadInput
from robench.tables.report import findings_text
from robench.trust.gates import Finding

# a linear classifier fitted to digits, so that there is something to attack, and ways to spoil it
MODELS = """
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def fitted():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    net.load_state_dict(torch.load(Path(__file__).with_name("fitted.pt")))
    return net.eval()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = fitted()
        self.eval()


class Reentrant(Wrapped):
    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=True)


class Kept(Wrapped):
    out = 0.0

    def forward(self, x):
        self.out = self.out + self.net(x)
        return self.out


class KeptGraph(Wrapped):
    out = None

    def forward(self, x):
        y = self.net(x)
        self.out = y if self.out is None or len(self.out) != len(x) else 1e-6 * self.out + y
        return self.out


class Fragile(Wrapped):
    def forward(self, x):
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            raise TypeError("cannot take a perturbed image")
        return self.net(x)


class Flaky(Wrapped):
    def forward(self, x):
        if torch.is_grad_enabled() and not Path("loose").exists():
            Path("loose").touch()
            raise RuntimeError("the cable came loose")
        return self.net(x)


class Numpy(Wrapped):
    def forward(self, x):
        return torch.from_numpy(self.net(x).numpy())


class Sparse(Wrapped):
    def forward(self, x):
        return self.net(x).to_sparse()


class Meta(Wrapped):
    def forward(self, x):
        return self.net(x).to("meta")


class Squeezed(Wrapped):
    def forward(self, x):
        return self.net(x).squeeze()


def hooked():
    net = fitted()
    net[2].inplace = True
    net[1].register_full_backward_hook(lambda *_: None)
    return net


def doubled():
    net = fitted()
    net[2].register_forward_hook(lambda module, given, answer: answer.mul_(2))
    return net


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval()


def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def other_keys():
    net = fitted()
    net.load_state_dict({f"net.{name}": value for name, value in net.state_dict().items()})
    return net


def other_shape():
    net = fitted()
    net.load_state_dict({**net.state_dict(), "3.weight": torch.zeros(7, 64)})
    return net
"""
PGD = ("-a", "pgd", "-o", "steps=3", "-n", "20", "--dataset", "digits", "--eps", "0.1")


def fitted() -> dict[str, torch.Tensor]:
    """The tensors of `fitted` in MODELS: least squares over 600 images, behind a layer that changes nothing."""
    train = face.open_dataset("digits").train
    x, y = train.pixels(slice(0, 600)).flatten(1), nn.functional.one_hot(train.labels[:600], 10).double()
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    w = torch.linalg.lstsq(ones, y, driver="gelsd").solution.float()
    return {"1.weight": torch.eye(64), "1.bias": torch.zeros(64), "3.weight": w[:64].T, "3.bias": w[64]}


@pytest.fixture(autouse=True)
def models(tmp_path: Path) -> Path:
    (tmp_path / "spoilt.py").write_text(MODELS)
    torch.save(fitted(), tmp_path / "fitted.pt")
    return tmp_path / "spoilt.py"


# what cannot be used at all: refused before the attack, and nothing is written
REFUSED: list[tuple[str, tuple[str, ...]]] = [
    ("lazy", ("'1.weight'", "lazy", "call the model once")),
    ("meta", ("'1.weight'", "meta device", "to_empty")),
    ("Sparse", ("sparse", "to_dense()")),
    ("Meta", ("meta",)),
    ("other_keys", ("spoilt.py:other_keys", 'Missing key(s) in state_dict: "1.weight", "1.bias"', '"net.1.weight"')),
    ("other_shape", ("size mismatch for 3.weight", "[7, 64]")),
]


@pytest.mark.parametrize(("factory", "names"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_cannot_be_used(factory: str, names: tuple[str, ...], robench: Run, tmp_path: Path) -> None:
    assert_refused(robench("evaluate", f"spoilt.py:{factory}", *PGD), names)
    assert not list((tmp_path / "runs").rglob("*.json"))


def test_an_answer_without_its_batch(robench: Run) -> None:
    single = [word if word != "20" else "1" for word in PGD]
    assert_refused(robench("evaluate", "spoilt.py:Squeezed", *single), ("(10,)", "(1, 10)", "squeeze()"))
    assert_refused(robench("evaluate", "spoilt.py:Squeezed", *PGD, "--batch-size", "19"), ("(10,)", "squeeze()"))


# what fails in the attack, each time: no figure, exit code 2 and never "run it again"
LASTING: list[tuple[str, tuple[str, ...]]] = [
    ("Reentrant", ("use_reentrant=False",)),
    ("Kept", ("size of tensor", "spoilt.py, line")),
    ("hooked", ("inplace=False",)),
    ("doubled", ("inplace=False",)),
    ("Numpy", ("spoilt.py, line", "leaves torch")),
    ("Fragile", ("TypeError: cannot take a perturbed image", "spoilt.py, line")),
]


@pytest.mark.parametrize(("factory", "names"), LASTING, ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_fails_each_time(factory: str, names: tuple[str, ...], robench: Run, tmp_path: Path) -> None:
    outcome = robench("evaluate", f"spoilt.py:{factory}", *PGD, "--shard-size", "10")
    assert outcome.code == 2, outcome.err
    (sentence,) = outcome.err.splitlines()  # once, of however many shards
    for name in (f"spoilt.py:{factory}  pgd fails each time with", *names):
        assert name in sentence
    assert len(sentence) < 600
    assert "incomplete" in outcome.out
    assert not list((tmp_path / "runs").rglob("shard-*"))


def test_a_model_that_keeps_its_graph(robench: Run) -> None:
    library = ["foolbox:LinfPGD" if word == "pgd" else word for word in PGD]
    outcome = robench("evaluate", "spoilt.py:KeptGraph", *library)
    assert outcome.code == 2
    (sentence,) = outcome.err.splitlines()
    assert "a second time" in sentence
    assert "the model keeps a tensor of an earlier call" in sentence


def test_a_failure_that_passes_is_incomplete(robench: Run) -> None:
    outcome = robench("evaluate", "spoilt.py:Flaky", *PGD)
    assert outcome.code == 3
    (sentence,) = outcome.err.splitlines()
    assert "RuntimeError: the cable came loose (spoilt.py, line" in sentence
    assert sentence.endswith("run the same command again.")
    assert robench("evaluate", "spoilt.py:Flaky", *PGD).code == 0


def test_what_fails_for_one_attack_leaves_the_others_their_figures(robench: Run) -> None:
    outcome = robench("evaluate", "spoilt.py:Reentrant", *PGD, "-a", "square", "-o", "queries=5", "--json")
    assert outcome.code == 2
    told = json.loads(outcome.out)
    assert [row["status"] for row in told["rows"]] == ["incomplete", "complete"]
    assert len(told["refused"]) == 1


def test_diagnose_and_python_say_the_same(robench: Run) -> None:
    outcome = robench("diagnose", "spoilt.py:Numpy", "--dataset", "digits", "-n", "20")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert "fails each time with RuntimeError" in outcome.err.splitlines()[-1]
    report = face.evaluate("spoilt.py:Numpy", "digits", "pgd", "0.1", count=20)
    assert "fails each time with RuntimeError" in report.refused[0]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("net.onnx", ("'net.onnx'", "graph", "give onnx:net.onnx")),
        ("weights.pt", ("'weights.pt'", "weights", "'my_model.py:Net --weights weights.pt'", "jit:weights.pt")),
        ("a/b.safetensors", ("'a/b.safetensors'", "'my_model.py:Net --weights a/b.safetensors'")),
        ("weights.pth:load", ("'weights.pth'", "'my_model.py:Net --weights weights.pth'")),
        ("spoilt.py", ("'spoilt.py'", "names no factory; it has fitted, ", "give spoilt.py:fitted, say")),
        ("./runs/", ("folder", "file.py:factory")),
    ],
)  # fmt: skip
def test_what_is_no_model_gets_a_factory_shown(
    model: str, names: tuple[str, ...], robench: Run, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "net.onnx").write_bytes(b"x")
    assert_refused(robench("evaluate", model, *PGD), names)


PLUGINS = '''
from robench import Attack, Defense, Recipe


class Breaks(Attack):
    """Breaks down."""

    def perturb(self, model, batch):
        return batch.x / {}["radius"]


class Untrained(Defense):
    """Cannot be trained."""

    recipes = {"other": {"quick": Recipe(epochs=1, lr=0.1)}, "digits": {"quick": Recipe(epochs=1, lr=0.1)}}

    def __init__(self, data):
        super().__init__(data)
        raise LookupError("no such weights")

    def forward(self, x):
        return x

    def loss(self, x, y):
        return {}
'''


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An attack and a defense of somebody's, each with a fault."""
    (tmp_path / "third_faults.py").write_text(PLUGINS)
    monkeypatch.syspath_prepend(tmp_path)
    known, kinds = registry._entries, {"attack": ("breaks", "Breaks"), "defense": ("untrained", "Untrained")}

    def entries(kind: str) -> dict[str, EntryPoint]:
        found = dict(known(kind))
        if kind in kinds:
            name, kept = kinds[kind]
            found[name] = EntryPoint(name, f"third_faults:{kept}", f"robench.{kind}s")
        return found

    monkeypatch.setattr(registry, "_entries", entries)
    registry._loaded.cache_clear()
    yield
    registry._loaded.cache_clear()
    sys.modules.pop("third_faults", None)


BREAKS = ("evaluate", "spoilt.py:fitted", "-a", "breaks", "-n", "20", "--dataset", "digits", "--eps", "0.1")


@pytest.mark.usefixtures("plugins")
def test_a_plugins_crash_names_file_and_line(robench: Run) -> None:
    outcome = robench(*BREAKS)
    assert outcome.code == 2
    (sentence,) = outcome.err.splitlines()
    assert "breaks fails each time with KeyError: 'radius' (third_faults.py, line 9)" in sentence


@pytest.mark.usefixtures("plugins")
def test_debug_shows_the_traceback(robench: Run) -> None:
    outcome = robench("--debug", *BREAKS)
    assert outcome.code == 2
    assert 'third_faults.py", line 9, in perturb' in outcome.err
    assert 'return batch.x / {}["radius"]' in outcome.err
    assert outcome.err.splitlines()[-1].startswith("robench: spoilt.py:fitted  breaks fails each time")
    assert "Traceback" not in robench(*BREAKS).err  # and not for ever


@pytest.mark.usefixtures("plugins")
def test_a_crash_outside_of_shards_names_file_and_line_too(robench: Run, tmp_path: Path) -> None:
    assert_refused(
        robench("train", "untrained"), ("LookupError: no such weights (third_faults.py, line 19)", "--debug")
    )
    assert "Traceback" in robench("--debug", "train", "untrained").err
    assert not list((tmp_path / "runs").rglob("model.json"))


def test_debug_shows_where_bad_input_was_found(robench: Run) -> None:
    outcome = robench("--debug", "evaluate", "nobody", "-a", "fgsm")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("robench: There is no model named 'nobody'")


def test_verify_of_nothing_finished_says_so(store: Path, evaluation: Path, robench: Run) -> None:
    for path in [*evaluation.glob("shard-*"), evaluation / "result.json"]:
        path.unlink()
    outcome = robench("verify")
    assert outcome.code == 3
    (sentence,) = outcome.err.splitlines()
    assert "1 of 1 evaluations are not finished" in sentence
    assert "run their commands again" in sentence


def zero(attack: str) -> Finding:
    seen = "no gradient at all for 100.0% of 20 attacked images"
    return Finding("zero gradient", True, f"{attack} at linf eps 0.1: {seen}", "5% of the images", "look for it", "m")


def test_a_warning_is_said_once_for_all_attacks() -> None:
    text = findings_text([zero(name) for name in ("fgsm", "pgd", "untargeted", "cw")], "Warnings").plain
    assert text.count("zero gradient") == text.count("no gradient at all") == text.count("look for it") == 1
    for name in ("fgsm", "pgd", "untargeted", "cw"):
        assert f"{name} at linf eps 0.1" in text


def test_warnings_that_differ_are_all_said() -> None:
    other = Finding(
        "zero gradient", True, "pgd at linf eps 0.1: no gradient for 7.0%", "5% of the images", "look for it", "m"
    )
    text = findings_text([zero("fgsm"), other], "Warnings").plain
    assert text.count("zero gradient") == 1
    assert "100.0% of 20" in text
    assert "for 7.0%" in text


def test_a_model_handed_over_is_looked_at_too() -> None:
    with torch.device("meta"):
        meta = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    for module, said in ((meta, "meta device"), (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval(), "lazy")):
        with pytest.raises(BadInput, match=said):
            face.evaluate(module, "digits", "fgsm", "0.1", count=5)

"""Every kind of model by reference: the command, the lines that a user wrote, and its figure against one by hand,
by plain torch on the same images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.integration.conftest import Run, assert_refused

N = 40
# what a user's own file says; not one line is for robench
CODE = """
from types import SimpleNamespace
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 16, classes: int = 10, answer: str = "plain"):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
        self.answer = answer

    def forward(self, x):
        z = self.body(x)
        return {
            "plain": lambda: z, "tuple": lambda: (x, z), "dict": lambda: {"x": x, "out": z},
            "object": lambda: SimpleNamespace(logits=z), "probabilities": lambda: z.softmax(1),
            "sigmoid": lambda: z.sigmoid(), "squeezed": lambda: z[:, 0],
        }[self.answer]()

def load(width=16):
    net = Net(width)
    net.load_state_dict(torch.load("raw.pt", weights_only=True))
    return net.eval()

class Bytes(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = load()

    def forward(self, x):
        return self.net((x - 1) / 255 + 1 / 255)

def in_bytes():
    return Bytes().eval()

ready = Net().eval()
"""


def net(classes: int = 10) -> nn.Sequential:
    """The user's network, as plain torch has it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))


def named(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Weights under the names of the user's class, and what a script put before them."""
    return {f"{prefix}body.{name}": tensor for name, tensor in state.items()}


View = Callable[[Tensor], Tensor]
VIEWS: dict[str, View] = {
    "raw": lambda x: x,
    "normed": lambda x: (x - 0.3) / 0.05,
    "signed": lambda x: 2 * x - 1,
    "bytes": lambda x: 255 * x,
}


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, Tensor]]:
    """Weights of networks that saw pixels in each of the views, and of one that tells two classes apart."""
    from robench.data.dataset import open_dataset

    data = open_dataset("digits").train
    x, y = data.pixels(slice(None)), data.labels
    found = {}
    for name, view in {**VIEWS, "two": VIEWS["raw"]}.items():
        if name == "bytes":
            continue
        torch.manual_seed(0)
        model = net(1 if name == "two" else 10)
        steps = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(120):
            z = model(view(x))
            if name == "two":
                loss = nn.functional.binary_cross_entropy_with_logits(z[:, 0], (y > 4).float())
            else:
                loss = nn.functional.cross_entropy(z, y)
            steps.zero_grad()
            loss.backward()
            steps.step()
        found[name] = {key: value.detach() for key, value in model.state_dict().items()}
    # those of raw pixels, for pixels up to 255
    found["bytes"] = {**found["raw"], "1.weight": found["raw"]["1.weight"] / 255}
    return found


def model_of(state: dict[str, Tensor]) -> nn.Module:
    """The network with these weights."""
    model = net(len(state["3.bias"])).eval()
    model.load_state_dict(state)
    return model


@pytest.fixture
def files(tmp_path: Path, trained: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """A user's working folder: code, weights in the forms that training scripts write, and exported graphs."""
    raw = trained["raw"]
    (tmp_path / "m.py").write_text(CODE)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("")
    (tmp_path / "nets" / "small.py").write_text(CODE)
    torch.save(named(raw), "raw.pt")
    torch.save({"state_dict": named(raw, "module."), "epoch": 3, "lr": np.float64(0.1)}, "parallel.pt")
    torch.save({"model": named(raw, "model._orig_mod."), "optimizer": {"state": {}}}, "lightning.ckpt")
    torch.save({"net": named(trained["normed"]), "ema": named(raw)}, "ema.pt")
    save_file(named(raw), "raw.safetensors")
    for name in ("normed", "signed", "bytes", "two"):
        torch.save(named(trained[name]), f"{name}.pt")
    return trained


def two_classes(tmp_path: Path) -> Path:
    """The test digits in two classes: up to 4, and above."""
    from robench.data.dataset import open_dataset

    data = open_dataset("digits").test
    images, labels = data.images(slice(None)).numpy()[:, 0], (data.labels > 4).numpy().astype(np.int64)
    np.savez(tmp_path / "two.npz", x_test=images, y_test=labels)
    return tmp_path / "two.npz"


def hand(logits: View, classes: int = 10) -> float:
    """The share of the first N test digits that are answered rightly."""
    from robench.data.dataset import open_dataset

    data = open_dataset("digits").test
    x, y = data.pixels(slice(0, N)), data.labels[:N]
    with torch.no_grad():
        found = logits(x)
    wanted = y if classes > 2 else (y > 4).long()
    chosen = found.argmax(1) if classes > 2 else (found[:, 0] > 0).long()
    return float((chosen == wanted).float().mean())


# the words of the command after "evaluate", and whose weights answer, through which view
RAW = ("raw", "raw")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "factory": (("m.py:load",), RAW),
    "argument in the name": (("m.py:load?width=16",), RAW),
    "argument beside it": (("m.py:load", "-m", "width=16"), RAW),
    "class and weights": (("m.py:Net", "--weights", "raw.pt"), RAW),
    "module in the name": (("m.py:ready", "--weights", "raw.pt"), RAW),
    "data-parallel checkpoint": (("m.py:Net", "--weights", "parallel.pt"), RAW),
    "lightning and compiled": (("m.py:Net", "--weights", "lightning.ckpt"), RAW),
    "an entry of several": (("m.py:Net", "--weights", "ema.pt@ema"), RAW),
    "safetensors": (("m.py:Net", "--weights", "raw.safetensors"), RAW),
    "module of the current folder": (("nets.small:Net", "--weights", "raw.pt"), RAW),
    "mean and std": (("m.py:Net", "--weights", "normed.pt", "--mean", "0.3", "--std", "0.05"), ("normed", "normed")),
    "pixels from -1": (("m.py:Net", "--weights", "signed.pt", "--pixels", "-1..1"), ("signed", "signed")),
    "pixels to 255": (("m.py:Net", "--weights", "bytes.pt", "--pixels", "0..255"), ("bytes", "bytes")),
    "settings in the name": (("m.py:Net#weights=normed.pt&mean=0.3&std=0.05",), ("normed", "normed")),
    "tuple": (("m.py:Net?answer=tuple", "--weights", "raw.pt", "--output", "1"), RAW),
    "dictionary": (("m.py:Net?answer=dict", "--weights", "raw.pt", "--output", "out"), RAW),
    "object": (("m.py:Net?answer=object", "--weights", "raw.pt", "--output", "logits"), RAW),
    "probabilities": (("m.py:Net?answer=probabilities", "--weights", "raw.pt", "--log-probabilities"), RAW),
    "one logit": (("m.py:Net?classes=1", "--weights", "two.pt", "--binary"), ("two", "raw")),
    "one number": (("m.py:Net?classes=1&answer=squeezed", "--weights", "two.pt", "--binary"), ("two", "raw")),
    "one probability": (
        ("m.py:Net?classes=1&answer=sigmoid", "--weights", "two.pt", "--binary", "--log-probabilities"), ("two", "raw"),
    ),
    "TorchScript": (("jit:net.jit",), RAW),
    "exported": (("pt2:net.pt2",), RAW),
    "ONNX": (("onnx:net.onnx",), RAW),
}  # fmt: skip


def export(kind: str, model: nn.Module) -> None:
    """The network as a file of a graph, for any number of images."""
    x = torch.rand(2, 1, 8, 8)
    if kind == "TorchScript":
        torch.jit.save(torch.jit.trace(model, x), "net.jit")
    if kind == "exported":
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), "net.pt2")
    if kind == "ONNX":
        onnx_of(model).SerializeToString()
        Path("net.onnx").write_bytes(onnx_of(model).SerializeToString())


def onnx_of(model: nn.Module) -> Any:
    """The network as a graph, written by hand."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {name.replace(".", ""): value.numpy() for name, value in model.state_dict().items()}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "1weight", "1bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "3weight", "3bias"], ["z"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


ATTACK = ("-a", "fgsm", "--eps", "0.2", "-n", str(N), "--device", "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_the_one_by_hand(
    kind: str, files: dict[str, dict[str, Tensor]], robench: Run, tmp_path: Path
) -> None:
    words, (whose, view) = KINDS[kind]
    model = model_of(files[whose])
    export(kind, model)
    data = f"npz:{two_classes(tmp_path)}?draw=first" if whose == "two" else "digits?draw=first"
    found = robench("evaluate", *words, "--dataset", data, *ATTACK, "--json").json["rows"][0]
    assert found["clean_accuracy"] == pytest.approx(hand(lambda x: model(VIEWS[view](x)), 2 if whose == "two" else 10))
    assert found["clean_accuracy"] > 0.75
    assert found["robust_accuracy"] < found["clean_accuracy"]
    assert not {"not sealed", "answers differ when sealed"} & set(found.get("flags", ()))


@pytest.mark.parametrize("kind", ["class and weights", "mean and std", "probabilities", "TorchScript", "exported"])
def test_what_is_recorded_leads_back(
    kind: str, files: dict[str, dict[str, Tensor]], robench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that is shown finds the evaluation in the store, and verify the model, from another folder too."""
    words, (whose, _) = KINDS[kind]
    export(kind, model_of(files[whose]))
    assert robench("evaluate", *words, "--dataset", "digits", *ATTACK).code == 0
    (folder,) = (tmp_path / "runs" / "evaluations").iterdir()
    shown = robench("show", folder.name, "--json").json
    command = next(value for key, value in shown.items() if key == "command")
    again = robench(*_words(command))
    assert again.code == 0
    assert "was in the store" in again.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (check,) = robench("verify", "--runs", tmp_path / "runs", "--json").json["evaluations"]
    assert check["holds"]


def _words(command: str) -> list[str]:
    import shlex

    return shlex.split(command)[1:]


def test_what_stands_around_a_model_is_its_identity(files: object, robench: Run, tmp_path: Path) -> None:
    around = ((), ("--mean", "0.3"), ("--std", "0.25"), ("--pixels", "-1..1"), ("--mean", "0.3", "--std", "0.25"))
    for options in around:
        robench("evaluate", "m.py:Net", "--weights", "raw.pt", *options, "--dataset", "digits", *ATTACK)
    assert len(list((tmp_path / "runs" / "evaluations").iterdir())) == len(around)
    told = " ".join(robench("list", "evaluations").out.split())
    for words in (
        "m.py:Net [weights raw.pt]",
        "; mean 0.3]",
        "; std 0.25]",
        "; pixels -1..1]",
        "; mean 0.3; std 0.25]",
    ):
        assert words in told


PIXELS = (
    (("m.py:Net", "--weights", "normed.pt"), "with --mean"),
    (("m.py:Net", "--weights", "signed.pt"), "with --"),
    (("m.py:in_bytes",), "with --pixels 0..255"),
    (("m.py:load", "--mean", "0.3", "--std", "0.05"), "without --mean and --std; leave them out"),
    (("m.py:in_bytes", "--pixels", "-1..1"), "with --pixels 0..255 instead of --pixels"),
)


@pytest.mark.parametrize(("words", "told"), PIXELS)
def test_wrong_pixels_are_told_before_the_attack(
    words: tuple[str, ...], told: str, files: object, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robench.evaluation.scheduler.run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    outcome = robench("evaluate", *words, "--dataset", "digits", *ATTACK)
    assert outcome.code == 130
    lines = [line for line in outcome.err.splitlines() if "clean images right" in line]
    assert len(lines) == 1, outcome.err
    assert told in lines[0]


def test_right_pixels_are_not(files: object, robench: Run) -> None:
    for words in (KINDS["factory"][0], KINDS["mean and std"][0], KINDS["pixels to 255"][0]):
        outcome = robench("evaluate", *words, "--dataset", "digits", *ATTACK)
        assert outcome.code == 0
        assert "clean images right" not in outcome.err


REFUSED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("m.py",), ("names no factory", "Net, load, Bytes, in_bytes, ready", "m.py:Net")),
    (("m.py:load?widht=3",), ("'widht'", "did you mean 'width'?")),
    (("m.py:Net", "-m", "width=wide"), ("width", "'wide'", "of type int")),
    (("m.py:ready?width=3",), ("made already", "'m.py:ready'")),
    (("m.py:Net?answer=tuple", "--weights", "raw.pt"), ("a tuple of 0, 1", "--output 0")),
    (("m.py:Net?answer=dict", "--weights", "raw.pt"), ("a dict of x, out", "--output")),
    (("m.py:Net?answer=object", "--weights", "raw.pt"), ("--output logits",)),
    (("m.py:Net?answer=dict", "--weights", "raw.pt", "--output", "z"), ("'z'", "'out'")),
    (("m.py:load", "--output", "0"), ("answers with a tensor", "leave --output out")),
    (("m.py:Net?answer=probabilities", "--weights", "raw.pt"), ("--log-probabilities",)),
    (("m.py:load", "--mean", "a"), ("--mean", "'a'", "0.4914,0.4822,0.4465")),
    (("m.py:load", "--mean", "0.1,0.2,0.3"), ("--mean has 3 numbers", "1 channel")),
    (("m.py:load", "--std", "0"), ("--std", "'0'", "above 0")),
    (("m.py:load", "--mean", "1,2", "--std", "1,2,3"), ("--mean has 2", "--std 3")),
    (("m.py:load", "--pixels", "1..0"), ("--pixels", "'1..0'", "-1..1")),
    (("m.py:load#mean=1", "--mean", "2"), ("mean already",)),
    (("m.py:Net", "--weights", "nothing.pt"), ("no file nothing.pt",)),
    (("m.py:Net", "--weights", "m.py"), ("m.py", "no file of weights")),
    (("m.py:Net", "--weights", "ema.pt@avg"), ("'avg'", "net, ema")),
    (("m.py:Net?width=8", "--weights", "raw.pt"), ("body.1.weight 16x64 for 8x64", "of another shape")),
    (("torchvision:resnet18", "--weights", "raw.pt"), ("missing", "body.1.bias")),
    (("m.py:Net", "--weights", "whole.pt"), ("whole pickled model", "weights_only=False", "torch.save(model.state")),
    (("m.py:Net", "--weights", "net.jit"), ("give jit:net.jit",)),
    (("jit:none.jit",), ("no file none.jit",)),
    (("jit:raw.pt",), ("jit:raw.pt", "cannot be")),
    (("pt2:raw.pt",), ("pt2:raw.pt", "cannot be")),
    (("onnx:",), ("names nothing", "onnx:FILE")),
    (("net.onnx",), ("give onnx:net.onnx",)),
    (("raw.pt",), ("--weights raw.pt",)),
    (("-m", "a=1"), ("-m is given without a model",)),
)  # fmt: skip


@pytest.mark.parametrize(("words", "names"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_what_cannot_be_is_refused_in_a_sentence(
    words: tuple[str, ...], names: tuple[str, ...], files: dict[str, dict[str, Tensor]], robench: Run
) -> None:
    if "whole.pt" in words:
        torch.save(Whole(), "whole.pt")
    if "net.jit" in words:
        export("TorchScript", model_of(files["raw"]))
    assert_refused(robench("evaluate", *words, "--dataset", "digits", *ATTACK), names)


class Whole(nn.Module):
    """A model of a class of the user's own."""


def test_python_takes_the_same(files: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    import robench as package

    model = model_of(files["normed"])
    shared: dict[str, Any] = {
        "dataset": "digits?draw=first",
        "attacks": "fgsm",
        "eps": "0.2",
        "count": N,
        "device": "cpu",
    }
    expected = hand(lambda x: model(VIEWS["normed"](x)))
    handed = package.evaluate(model, mean=[0.3], std=0.05, **shared)
    named_ = package.evaluate("m.py:Net", weights=Path("normed.pt"), mean=0.3, std=0.05, **shared)
    loaded = package.evaluate(
        net().eval(), weights=_saved(files["normed"], tmp_path), mean=torch.tensor([0.3]), std="1/20", **shared
    )
    for report in (handed, named_, loaded):
        assert report.rows[0]["clean_accuracy"] == pytest.approx(expected)
        assert "not sealed" not in json.dumps(report.rows[0])
    assert handed.rows[0]["model"] == "Sequential [mean 0.3; std 0.05]"
    assert handed.rows[0]["evaluation"] == loaded.rows[0]["evaluation"]


def _saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "plain-names.pt")
    return folder / "plain-names.pt"


def test_list_sources_names_every_kind(robench: Run) -> None:
    told = robench("list", "sources").out
    for word in ("file.py:factory", "package.module", "torchvision:", "timm:", "hf:", "robustbench:", "onnx:", "pt2:",
                 "jit:"):  # fmt: skip
        assert word in told

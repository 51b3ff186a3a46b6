"""Models of libraries by reference, from tiny files and tiny packages, against the library's own pipeline by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.integration.conftest import Run, assert_refused

N = 40
ATTACK = ("-a", "fgsm", "--eps", "0.2", "-n", str(N), "--device", "cpu")
View = Callable[[Tensor], Tensor]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """16 x 16 colour images of four classes, and as files of other sizes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "colours.npz", x_test=images, y_test=np.arange(N) % 4)
    return tmp_path / "colours.npz"


def by_hand(path: Path, logits: View) -> float:
    """The share of the images in the file that are answered rightly."""
    held = np.load(path)
    x = torch.from_numpy(held["x_test"]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return float((logits(x).argmax(1) == torch.from_numpy(held["y_test"])).float().mean())


def scaled(x: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images scaled and normalised, as the libraries' own pipelines do."""
    x = nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Tiny packages under the names of transformers and robustbench, with the calls that are made of them."""
    place = tmp_path / "packages"
    (place / "robustbench").mkdir(parents=True)
    (place / "transformers").mkdir()
    (place / "robustbench" / "__init__.py").write_text(FORMER)
    (place / "robustbench" / "utils.py").write_text(ROBUSTBENCH)
    (place / "transformers" / "__init__.py").write_text(TRANSFORMERS)
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in STOOD_IN}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(place)
    yield place
    for name in [name for name in sys.modules if name.partition(".")[0] in STOOD_IN]:
        del sys.modules[name]


STOOD_IN = ("transformers", "robustbench", "autoattack")
# robustbench requires pyautoattack, and imports it by the name that it once had
FORMER = "from autoattack import AutoAttack\nfrom autoattack.state import EvaluationState\n"
NET = """
import torch
from torch import nn
def made(side):
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 4))
"""
ROBUSTBENCH = f"""{NET}
def load_model(model_name, model_dir, dataset, threat_model):
    assert (model_name, dataset, threat_model) == ("Best2026", "cifar10", "L2"), (model_name, dataset, threat_model)
    return made(16)
"""
TRANSFORMERS = f"""{NET}
from types import SimpleNamespace
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = made(20)
    def forward(self, pixel_values):
        return SimpleNamespace(loss=None, logits=self.net(pixel_values))
class AutoModelForImageClassification:
    @staticmethod
    def from_pretrained(name): return Whole()
class AutoConfig: pass
def __getattr__(name):  # what other packages import where this one is installed
    if name.startswith("__"):
        raise AttributeError(name)
    return object
class SizeDict:  # as a processor has it since version 5: no mapping, but dict() takes it
    def __iter__(self):
        yield from [("height", 20), ("width", 20)]
class AutoImageProcessor:
    @staticmethod
    def from_pretrained(name):
        return SimpleNamespace(
            do_resize=True, size=SizeDict(), resample=2, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
"""


def linear(side: int) -> nn.Module:
    """The network of the stand-ins."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 4))


def figure(robench: Run, data: str, *words: str) -> dict[str, Any]:
    """The row of an evaluation on the colours."""
    found = robench("evaluate", *words, "--dataset", data, *ATTACK, "--classes", "4", "--json")
    row = found.json["rows"][0]
    assert not {"not sealed", "answers differ when sealed"} & set(row.get("flags", ()))
    return dict(row)


def test_a_hugging_face_classifier_sees_what_its_processor_says(colours: Path, stand_in: Path, robench: Run) -> None:
    (colours.parent / "classifier").mkdir()
    row = figure(robench, f"npz:{colours}", "hf:./classifier")
    model = linear(20)
    expected = by_hand(colours, lambda x: model(scaled(x, 20, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))))
    assert row["clean_accuracy"] == pytest.approx(expected)


def test_robustbench_loads_its_own(colours: Path, stand_in: Path, robench: Run) -> None:
    row = figure(robench, f"npz:{colours}", "robustbench:Best2026?threat_model=L2")
    assert row["clean_accuracy"] == pytest.approx(by_hand(colours, linear(16)))


def test_weights_that_cannot_be_downloaded_are_put_where_robustbench_looks(stand_in: Path, robench: Run) -> None:
    (stand_in / "robustbench" / "utils.py").write_text("def load_model(**given): raise OSError('no route to host')")
    outcome = robench("evaluate", "robustbench:Best2026", "--dataset", "digits", *ATTACK)
    assert_refused(outcome, ("no route to host", "put Best2026.pt into", "/robench/robustbench/cifar10/Linf"))


def test_timm_sees_what_its_configuration_says(colours: Path, robench: Run) -> None:
    import timm

    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    torch.save(model.state_dict(), "timm.pth")
    row = figure(robench, f"npz:{colours}", "timm:test_resnet?pretrained=false&num_classes=4&checkpoint_path=timm.pth")
    wanted = model.pretrained_cfg
    expected = by_hand(colours, lambda x: model(scaled(x, 160, wanted["mean"], wanted["std"])))
    assert row["clean_accuracy"] == pytest.approx(expected)
    bare = figure(robench, f"npz:{colours}", "timm:test_resnet", "-m", "num_classes=4", "--weights", "timm.pth")
    assert bare["clean_accuracy"] == pytest.approx(by_hand(colours, model))


def test_torchvision_takes_a_user_s_weights(colours: Path, robench: Run) -> None:
    from torchvision import models

    torch.manual_seed(2)
    model = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=4).eval()
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, "s.pt")
    words = ("torchvision:shufflenet_v2_x0_5?num_classes=4", "--weights", "s.pt", "--mean", "0.5", "--std", "0.25")
    row = figure(robench, f"npz:{colours}", *words)
    assert row["clean_accuracy"] == pytest.approx(by_hand(colours, lambda x: model((x - 0.5) / 0.25)))


def test_a_package_that_is_not_there_is_named(colours: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind, name in (("timm", "resnet18"), ("hf", "a/b"), ("robustbench", "X"), ("onnx", "x.onnx")):
        outcome = robench("evaluate", f"{kind}:{name}", "--dataset", "digits", *ATTACK)
        assert_refused(outcome, (f"pip install 'robench[{kind}]'",))


def test_a_graph_with_a_newer_operation_is_told_how_to_export(
    robench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*given: Any, **named: Any) -> None:
        raise NotImplementedError("Converter is not implemented (operation_type='AveragePool', version=19)")

    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setattr("robench.models.loading.installed", lambda reference: None)
    monkeypatch.setattr("robench.models.outside.make", make)
    outcome = robench("evaluate", "onnx:m.onnx", "--dataset", "digits", *ATTACK)
    assert_refused(outcome, ("AveragePool", "opset_version", "pt2:FILE"))


def test_a_folder_that_is_not_there_is_named(stand_in: Path, robench: Run) -> None:
    assert_refused(robench("evaluate", "hf:./nothing", "--dataset", "digits", *ATTACK), ("no folder", "nothing"))


def test_files_are_brought_to_a_size_as_torchvision_does(tmp_path: Path) -> None:
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    from robench.data.dataset import open_dataset

    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
        for i, (height, width) in enumerate([(50, 70), (64, 40), (24, 24)]):
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "test" / name / f"{i}.png")
    for text, resize, mode in (("24-29-bicubic", 29, "BICUBIC"), ("24-24x24-bilinear", (24, 24), "BILINEAR")):
        found = open_dataset(f"folder:{tmp_path / 'photos'}@{text}", tmp_path).test.images(slice(None))
        wanted = Compose([Resize(resize, InterpolationMode[mode]), CenterCrop(24)])
        for row, path in zip(found, sorted((tmp_path / "photos" / "test").rglob("*.png")), strict=True):
            expected = np.asarray(wanted(Image.open(path))).transpose(2, 0, 1)
            assert np.array_equal(row.numpy(), expected), (text, path)


def test_a_library_s_way_to_a_size_names_the_data() -> None:
    from robench.models.libraries import Sizing
    from robench.models.loading import LoadedModel

    model = LoadedModel("x", nn.Identity, "0", sizing=Sizing((232,), (224, 224), "bicubic"))
    assert model.sized("folder:photos") == "folder:photos@224-232-bicubic"
    for name in ("folder:photos@64", "folder:photos@224-256-bilinear", "cifar10", "npz:x.npz"):
        assert model.sized(name) == name

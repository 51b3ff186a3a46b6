"""Every kind of data by reference: the same images and labels whatever they come in, and the figure by hand."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import robench as face
from tests.integration.conftest import Run

N, CLASSES, EPS = 24, 4, 1 / 255
MODEL = """
import torch

class Linear(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.last = torch.nn.Linear(size, 4)
        with torch.no_grad():
            self.last.weight.copy_(torch.randn(4, size, generator=torch.Generator().manual_seed(1)) / 10)
            self.last.bias.copy_(-self.last.weight.sum(1) / 2)

    def forward(self, x):
        return self.last(x.flatten(1))

def colour():
    return Linear(3 * 8 * 8).eval()

def grey():
    return Linear(8 * 8).eval()
"""
Pixels = NDArray[np.uint8]


def images(channels: int) -> Pixels:
    """[N, C, 8, 8], far enough from black and white that no step of eps leaves [0, 1]."""
    return np.random.default_rng(channels).integers(20, 236, (N, channels, 8, 8), dtype=np.uint8)


def model(channels: int) -> nn.Module:
    space: dict[str, Any] = {}
    exec(MODEL, space)
    made: nn.Module = space["grey" if channels == 1 else "colour"]()
    return made


def labels(channels: int) -> NDArray[np.int64]:
    """What the model answers, but for two images; sorted, as folders are, together with `ordered`."""
    return sample(channels)[1]


def sample(channels: int) -> tuple[Pixels, NDArray[np.int64]]:
    x = images(channels)
    y = model(channels)(torch.from_numpy(x).float() / 255).argmax(1).numpy()
    y[:6] = [0, 1, 2, 3, 0, 1]
    order = np.argsort(y, kind="stable")
    return x[order], y[order]


def by_hand(channels: int) -> float:
    """Robust accuracy of the linear model: the margin to a class falls by eps times the L1 norm of their difference."""
    x, y = sample(channels)
    last = model(channels).last
    w, b = last.weight.detach().double(), last.bias.detach().double()
    z = torch.from_numpy(x).double().flatten(1) / 255 @ w.T + b
    standing = torch.ones(N, dtype=torch.bool)
    for i, label in enumerate(y.tolist()):
        for other in set(range(CLASSES)) - {label}:
            margin = z[i, label] - z[i, other] - EPS * (w[label] - w[other]).abs().sum()
            standing[i] &= bool(margin > 0)
    return float(standing.double().mean())


Make = Callable[[Path, Pixels, NDArray[np.int64]], str]


def npz(place: Path, x: Pixels, y: NDArray[np.int64], **more: Any) -> str:
    np.savez(place / "a.npz", x_test=x.transpose(0, 2, 3, 1), y_test=y, **more)
    return f"npz:{place / 'a.npz'}"


def npz_floats_from_one(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    np.savez(place / "a.npz", x=(x / 255).astype(np.float32), y=y + 1)
    return f"npz:{place / 'a.npz'}?labels-from=1"


def npy(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    np.save(place / "images.npy", x)
    np.save(place / "labels.npy", y)
    return f"npy:{place / 'images.npy'}"


def npy_folder(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    np.save(place / "x_test.npy", x.astype(np.float64) / 255)
    np.save(place / "y_test.npy", np.eye(CLASSES)[y])
    return f"npy:{place}?one-hot"


def pt(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    torch.save({"images": torch.from_numpy(x).float() / 255, "labels": torch.from_numpy(y)}, place / "a.pt")
    return f"pt:{place / 'a.pt'}"


def pt_pair(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    torch.save((torch.from_numpy(x).float() / 127.5 - 1, torch.from_numpy(y)), place / "a.pt")
    return f"pt:{place / 'a.pt'}?range=-1..1"


def csv_of_pixels(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    frame = pd.DataFrame(x.reshape(N, -1), columns=[f"pixel{i}" for i in range(x[0].size)])
    frame.insert(0, "label", y)
    frame.to_csv(place / "a.csv", index=False)
    return f"csv:{place / 'a.csv'}" + ("?layout=chw" if x.shape[1] == 3 else "")


def csv_without_header(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    frame = pd.DataFrame(x.transpose(0, 2, 3, 1).reshape(N, -1))
    frame.insert(0, "label", y)
    frame.to_csv(place / "a.csv", index=False, header=False)
    return f"csv:{place / 'a.csv'}" + ("?layout=hwc" if x.shape[1] == 3 else "")


def picture(x: Pixels) -> Image.Image:
    return Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0))


def files(place: Path, x: Pixels, y: NDArray[np.int64], name: Callable[[int, int], str]) -> list[str]:
    """A PNG per image; returns their names."""
    names = [name(i, int(label)) for i, label in enumerate(y)]
    for each, image in zip(names, x, strict=True):
        (place / each).parent.mkdir(parents=True, exist_ok=True)
        picture(image).save(place / each)
    return names


def csv_of_paths(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    names = files(place, x, y, lambda i, label: f"pictures/{i}.png")
    pd.DataFrame({"path": names, "label": [f"c{label}" for label in y]}).to_csv(place / "a.csv", index=False)
    return f"csv:{place / 'a.csv'}"


def parquet_of_pixels(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    pd.DataFrame({"pixels": x.tolist(), "label": y}).to_parquet(place / "a.parquet")
    return f"parquet:{place / 'a.parquet'}"


def parquet_of_images(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    """As Hugging Face writes them."""
    raw = []
    for image in x:
        picture(image).save(stream := io.BytesIO(), "PNG")
        raw.append({"bytes": stream.getvalue(), "path": None})
    pd.DataFrame({"image": raw, "label": y}).to_parquet(place / "a.parquet")
    return f"parquet:{place / 'a.parquet'}"


def folder(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    files(place, x, y, lambda i, label: f"test/c{label}/{i:03d}.png")
    return f"folder:{place}"


def folder_alone(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    files(place, x, y, lambda i, label: f"c{label}/{i:03d}.png")
    return f"folder:{place}@8"


def tiny_imagenet(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    names = files(place, x, y, lambda i, label: f"val/images/val_{i}.PNG")
    lines = [f"{Path(name).name}\tn{label}\t0\t0\t7\t7" for name, label in zip(names, y, strict=True)]
    (place / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (place / "wnids.txt").write_text("n3\nn0\nn2\nn1\n")
    (place / "test" / "images").mkdir(parents=True)
    return f"folder:{place}"


def medmnist(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    channels_last = x[:, 0] if x.shape[1] == 1 else x.transpose(0, 2, 3, 1)
    (place / "medmnist").mkdir()
    np.savez(place / "medmnist" / "tinymnist.npz", test_images=channels_last, test_labels=y[:, None])
    return "medmnist:tinymnist"


def listed(place: Path, x: Pixels, y: NDArray[np.int64]) -> str:
    order = np.random.default_rng(3).permutation(N)
    np.savez(place / "a.npz", x=x[order], y=y[order])
    (place / "ids.txt").write_text("\n".join(map(str, np.argsort(order))))
    return f"npz:{place / 'a.npz'}?ids={place / 'ids.txt'}"


FILES: list[Make] = [
    npz, npz_floats_from_one, npy, npy_folder, pt, pt_pair, csv_of_pixels, csv_without_header, csv_of_paths,
    parquet_of_pixels, parquet_of_images, folder, folder_alone, tiny_imagenet, medmnist, listed,
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One runs folder: what is the same data is evaluated once, whatever it comes in."""
    place = tmp_path_factory.mktemp("kinds")
    (place / "linear.py").write_text(MODEL)
    return place


@pytest.mark.parametrize("channels", [3, 1], ids=["colour", "grey"])
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_kind_of_file(make: Make, channels: int, runs: Path, tmp_path: Path, robench: Run) -> None:
    name = make(tmp_path, *sample(channels))
    reference = f"{runs / 'linear.py'}:{'grey' if channels == 1 else 'colour'}"
    found = robench(
        "evaluate", reference, "--dataset", name, "-a", "multi-targeted", "--eps", "1/255", "--steps", "10", "--runs",
        runs / "runs", "--data", tmp_path, "--json",
    ).json  # fmt: skip
    row = found["rows"][0]
    assert (row["n"], row["dataset"]) == (N, name)
    assert row["robust_accuracy"] == pytest.approx(by_hand(channels))
    assert 0 < row["robust_accuracy"] < row["clean_accuracy"] < 1
    assert len(list((runs / "runs" / "evaluations").iterdir())) <= 2  # one of colour and one of grey


class Items(Dataset[Any]):
    """A data set of one image and label at a time, as pictures or as what `form` makes of an array [C, H, W]."""

    def __init__(self, form: Callable[[Pixels], Any]) -> None:
        self.x, self.y = sample(3)
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.form(self.x[index]), int(self.y[index])


def tensors() -> tuple[Tensor, Tensor]:
    x, y = sample(3)
    return torch.from_numpy(x).float() / 255, torch.from_numpy(y)


HANDED: dict[str, Callable[[], Any]] = {
    "arrays": lambda: sample(3),
    "arrays, channels last": lambda: (sample(3)[0].transpose(0, 2, 3, 1), sample(3)[1]),
    "tensors": tensors,
    "tensor data set": lambda: TensorDataset(*tensors()),
    "data loader": lambda: DataLoader(TensorDataset(*tensors()), batch_size=5, shuffle=True),
    "items": lambda: Items(lambda x: torch.from_numpy(x).float() / 255),
    "pictures": lambda: Items(picture),
}


@pytest.mark.parametrize("kind", HANDED)
def test_data_handed_over_in_a_program(kind: str, runs: Path) -> None:
    report = face.evaluate(
        f"{runs / 'linear.py'}:colour", data=HANDED[kind](), attacks="multi-targeted", eps="1/255",
        options={"steps": 10}, runs=runs / "runs",
    )  # fmt: skip
    assert report.rows[0]["robust_accuracy"] == pytest.approx(by_hand(3))
    assert len(list((runs / "runs" / "evaluations").iterdir())) <= 2


def test_a_data_set_of_hugging_face(runs: Path, tmp_path: Path, robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample(3)

    class Split:
        column_names = ("image", "label")
        features = {"image": object(), "label": types.SimpleNamespace(names=["a", "b", "c", "d"])}

        def __getitem__(self, name: str) -> list[Any]:
            return [picture(each) for each in x] if name == "image" else y.tolist()

    def load_dataset(place: str, config: str | None) -> dict[str, Split]:
        assert (place, config) == ("owner/tiny", None)
        return {"train": Split(), "validation": Split()}

    def load_from_disk(place: str) -> Any:
        return {"test": Split()} if Path(place).name == "several" else Split()  # as DatasetDict and Dataset are

    package = types.SimpleNamespace(load_dataset=load_dataset, load_from_disk=load_from_disk)
    monkeypatch.setitem(sys.modules, "datasets", package)
    for name, file in (("several", "dataset_dict.json"), ("alone", "state.json")):  # what save_to_disk leaves
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        opened = face.open_dataset(f"hf-data:{tmp_path / name}").test
        assert opened.labels.tolist() == y.tolist()
    found = robench(
        "evaluate", f"{runs / 'linear.py'}:colour", "--dataset", "hf-data:owner/tiny", "-a", "multi-targeted",
        "--eps", "1/255", "--steps", "10", "--runs", runs / "runs", "--json",
    ).json  # fmt: skip
    assert found["rows"][0]["robust_accuracy"] == pytest.approx(by_hand(3))
    with pytest.raises(face.BadInput, match=r"no split test; its splits are train, validation: say which with"):
        face.open_dataset("hf-data:owner/tiny?split=test").test  # noqa: B018
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(face.BadInput, match=r"pip install 'robench\[hf-data\]'"):
        face.open_dataset("hf-data:owner/tiny").test  # noqa: B018


def test_what_was_evaluated_by_reference_is_verified(runs: Path, tmp_path: Path, robench: Run) -> None:
    name = npz_floats_from_one(tmp_path, *sample(3))
    done = robench(
        "evaluate", f"{runs / 'linear.py'}:colour", "--dataset", name, "-a", "multi-targeted", "--eps", "1/255",
        "-n", "12", "--runs", tmp_path / "runs", "--json",
    ).json  # fmt: skip
    job = done["rows"][0]["evaluation"]
    assert json.loads((tmp_path / "runs" / "evaluations" / job / "spec.json").read_text())["draw"] == "balanced"
    told = robench("verify", "--runs", tmp_path / "runs", "--json").json
    assert told["evaluations"][0]["holds"], told
    np.savez(tmp_path / "a.npz", x=sample(3)[0][::-1], y=sample(3)[1][::-1] + 1)
    assert "are not those of evaluation" in robench("verify", "--runs", tmp_path / "runs").err

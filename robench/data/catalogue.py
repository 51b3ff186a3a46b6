"""The datasets there are, a row each; imports neither torch nor torchvision, so that listing is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Entry:
    """What is known of a dataset without opening it. The user's own data have a name and a description alone.

    classes, channels, side: of square images, side in pixels; 0 for the user's own. torchvision: its class in
    torchvision.datasets, None where the pixels come from elsewhere. files: where those of a part lie under the data
    folder, with {part} for its name. asked_by: the argument of that class that says which part is wanted, as in
    `train=True` or `split="train"`.
    """

    name: str
    description: str
    classes: int = 0
    channels: int = 0
    side: int = 0
    torchvision: str | None = None
    files: str = ""
    asked_by: Literal["train", "split"] = "train"

    def asking(self, part: Part) -> dict[str, Any]:
        """How torchvision is asked for a part: its argument by name."""
        return {"split": part} if self.asked_by == "split" else {"train": part == "train"}


_ROWS = (
    Entry(
        "digits", "8x8 grey digits bundled with scikit-learn; 1,297 to train, 500 to test; nothing to download",
        classes=10, channels=1, side=8,
    ),
    Entry(
        "mnist", "28x28 grey handwritten digits; 60,000 to train, 10,000 to test",
        classes=10, channels=1, side=28, torchvision="MNIST", files="MNIST",
    ),
    Entry(
        "fashion-mnist", "28x28 grey clothing in 10 classes; 60,000 to train, 10,000 to test",
        classes=10, channels=1, side=28, torchvision="FashionMNIST", files="FashionMNIST",
    ),
    Entry(
        "cifar10", "32x32 colour photographs in 10 classes; 50,000 to train, 10,000 to test",
        classes=10, channels=3, side=32, torchvision="CIFAR10", files="cifar-10-batches-py",
    ),
    Entry(
        "cifar100", "32x32 colour photographs in 100 classes; 50,000 to train, 10,000 to test",
        classes=100, channels=3, side=32, torchvision="CIFAR100", files="cifar-100-python",
    ),
    Entry(
        "svhn", "32x32 colour house numbers; 73,257 to train, 26,032 to test",
        classes=10, channels=3, side=32, torchvision="SVHN", files="{part}_32x32.mat", asked_by="split",
    ),
    Entry(
        "stl10", "96x96 colour photographs in 10 classes; 5,000 to train, 8,000 to test",
        classes=10, channels=3, side=96, torchvision="STL10", files="stl10_binary", asked_by="split",
    ),
    Entry(
        "npz:PATH",
        "your arrays: x_test, y_test, or x, y, or MedMNIST's names, in one .npz file; x_train, y_train to train",
    ),
    Entry("npy:PATH", "your arrays: images in x.npy, labels in y.npy beside it or ?labels=FILE; or a folder of them"),
    Entry("pt:PATH", "your tensors: {'x': images, 'y': labels} or a pair, as torch.save writes them"),
    Entry("csv:PATH", "your table: a column of labels, and of pixels or one of image files' paths"),
    Entry("parquet:PATH", "your table: a column of labels, and of pixels, of images or of image files' paths"),
    Entry(
        "folder:PATH",
        "your images: PATH/test/CLASS/ (or val, or PATH/CLASS/; PATH/train/CLASS/ to train), or Tiny ImageNet's own; "
        "folder:PATH@SIZE crops to SIZE",
    ),
    Entry("medmnist:NAME", "MedMNIST's file NAME.npz, such as medmnist:pathmnist or medmnist:bloodmnist_64"),
    Entry("hf-data:OWNER/NAME", "a data set of Hugging Face's (pip install 'robench[hf-data]'), or a folder of one"),
)  # fmt: skip
DATASETS = {entry.name: entry for entry in _ROWS}

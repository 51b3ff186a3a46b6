"""The datasets there are, a row each; imports nothing, so that listing is instant."""

from __future__ import annotations

DATASETS: dict[str, str] = {
    "digits": "8x8 grey digits bundled with scikit-learn; 1,297 to train, 500 to test; nothing to download",
    "mnist": "28x28 grey handwritten digits; 60,000 to train, 10,000 to test",
    "fashion-mnist": "28x28 grey clothing in 10 classes; 60,000 to train, 10,000 to test",
    "cifar10": "32x32 colour photographs in 10 classes; 50,000 to train, 10,000 to test",
    "cifar100": "32x32 colour photographs in 100 classes; 50,000 to train, 10,000 to test",
    "svhn": "32x32 colour house numbers; 73,257 to train, 26,032 to test",
    "stl10": "96x96 colour photographs in 10 classes; 5,000 to train, 8,000 to test",
    "npz:PATH": "your arrays: uint8 x_train, x_test and integer y_train, y_test (or MedMNIST's names) in one .npz file",
    "folder:PATH": "your images: PATH/train/CLASS/ and PATH/test/CLASS/ (or val); folder:PATH@SIZE crops to SIZE",
}
# name -> class in torchvision.datasets, where its files lie under the root, number of classes
TORCHVISION = {
    "mnist": ("MNIST", "MNIST", 10),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST", 10),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", 10),
    "cifar100": ("CIFAR100", "cifar-100-python", 100),
    "svhn": ("SVHN", "{part}_32x32.mat", 10),
    "stl10": ("STL10", "stl10_binary", 10),
}


# what a model needs to know of a dataset to be built without its numbers: channels and pixels a side
SHAPES = {"digits": (1, 8), "mnist": (1, 28), "fashion-mnist": (1, 28), "cifar10": (3, 32), "cifar100": (3, 32),
          "svhn": (3, 32), "stl10": (3, 96)}  # fmt: skip

"""Images that are there more than once: among those that are evaluated, and test images among the training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robench.data.dataset import Dataset
from robench.data.split import Split

# share of the images above which copies are told
SHARE = 0.01


def different(split: Split, start: int, count: int) -> int:
    """How many images there are among `count` of a split from `start` on, each counted once, whatever their labels."""
    return len(np.unique(split.keys[start : start + count]))


def many(copies: int, images: int) -> bool:
    """Whether so many of the images are too many to be passed over."""
    return copies > SHARE * images


def repeated_flag(split: Split, start: int, count: int) -> str:
    """The flag with the share of images that repeat another one; "" where few do."""
    copies = count - different(split, start, count)
    return f"repeated-images {copies / count:.0%}" if many(copies, count) else ""


def repeated_told(split: Split, start: int, count: int) -> str:
    """How many different images there are, in a sentence; "" where few repeat another one."""
    found = different(split, start, count)
    if not many(count - found, count):
        return ""
    return (
        f"Of the {count:,} test images {found:,} are different and the others repeat them, so figures rest on "
        f"{found:,} images and their intervals are too narrow; evaluate each image once."
    )


def among_training(dataset: Dataset) -> int:
    """How many test images are training or validation images, too, byte by byte, whatever their labels."""
    training = np.concatenate([dataset.train.keys, dataset.val.keys])
    return int(np.isin(dataset.test.keys, training).sum())


def seen_flag(accuracy: Mapping[str, Any], split: Split) -> str:
    """The flag with the share of the test images that a model was trained on; "" where few are, or none is known.

    accuracy: what the model's card says of its accuracy, and of the images that it was measured on.
    """
    copies = accuracy.get("test_among_training", 0)
    if not copies or accuracy["test_digest"] != split.digest:
        return ""
    return f"seen-in-training {copies / accuracy['test_count']:.0%}"


def among_told(copies: int, images: int, name: str) -> str:
    """That so many test images are training images, in a sentence; "" where few are."""
    if not many(copies, images):
        return ""
    return (
        f"{copies:,} of the {images:,} test images of {name} stand among its training images, so accuracy on them says "
        "little about new images; take them out of one side."
    )


def fitted_flag(dataset: Dataset) -> str:
    """The flag with the share of the test images that a detector of these data was fitted on; "" where few are."""
    copies, images = among_training(dataset), len(dataset.test)
    return f"seen-by-detector {copies / images:.0%}" if many(copies, images) else ""


def fitted_told(dataset: Dataset) -> str:
    """That a detector is fitted on so many of the test images, in a sentence; "" where few are."""
    copies, images = among_training(dataset), len(dataset.test)
    if not many(copies, images):
        return ""
    return (
        f"{copies:,} of the {images:,} test images of {dataset.name} stand among the training and validation images, "
        "which detectors are fitted on, so what one finds on them says little about new images; take them out of one "
        "side."
    )

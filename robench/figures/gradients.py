"""Input gradients: the angles between those of two models, and the gradients themselves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench.errors import BadInput, require
from robench.figures.drawing import Drawing, as_is, numbers
from robench.figures.stored import bare, show_image
from robench.figures.subjects import Images, Subjects

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

# degrees of a bar, and the most images whose gradients are shown
BAR, MOST = 5, 12
# standard deviations around their mean that gradients are clipped to
CLIP = 3


def angles(subjects: Subjects) -> Drawing:
    """A histogram of the angles between two models' gradients of the cross-entropy at the same image (Hoang et al.,
    2020, supplement, figure 3).

    Raises BadInput unless there are two models, and where no image has a gradient under both.
    """
    require(len(subjects.targets) == 2, "MODEL", ", ".join(subjects.names), "two models, whose gradients are compared")
    first, second = subjects.each(lambda name, asked: asked.gradients())
    degrees = between(first, second)
    images, names = subjects.images, subjects.names
    kept = np.flatnonzero(np.isfinite(degrees))
    if not len(kept):
        raise BadInput(
            f"No image has a gradient that is finite and not zero under both {names[0]} and {names[1]}, so there "
            "are no angles; 'robench diagnose' says what keeps gradients away."
        )
    records = [
        numbers({"model": names[0], "other": names[1], "example_id": int(images.ids[i]), "label": int(images.y[i]),
                 "degrees": float(degrees[i])})
        for i in kept
    ]  # fmt: skip
    shown = degrees[kept]
    caption = (
        f"{names[0]} and {names[1]}; {images.told}",
        f"Angle between the gradients of the cross-entropy with respect to the pixels of the same image: mean "
        f"{shown.mean():.1f} degrees, standard deviation {shown.std():.1f}; bars of {BAR} degrees; "
        f"{len(images) - len(kept)} images left out, whose gradient is zero or not finite under one of them.",
    )
    return Drawing("Angles between input gradients", caption, records, (6, 3.2),
                   lambda picture: _histogram(picture, shown))  # fmt: skip


def between(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Angles in degrees, [n], between rows of two tensors [n, ...]; NaN where one is zero or not finite."""
    first, second = a.double().flatten(1), b.double().flatten(1)
    # scaled first, since squares of small gradients are none
    first = first / first.abs().amax(1, keepdim=True)
    second = second / second.abs().amax(1, keepdim=True)
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    found: NDArray[np.float64] = torch.rad2deg(cosine.clamp(-1, 1).acos()).numpy()
    return found


def _histogram(picture: Picture, degrees: NDArray[np.float64]) -> None:
    axes = picture.add_subplot()
    axes.hist(degrees, bins=list(range(0, 180 + BAR, BAR)), color="#bdbdbd", edgecolor="black", linewidth=0.6)
    axes.axvline(90, color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, 180)
    axes.set_xticks(range(0, 181, 30))
    axes.set_xlabel("angle (degrees)")
    axes.set_ylabel("images")


def pictures(subjects: Subjects) -> Drawing:
    """The gradients of the cross-entropy as pictures: clipped at 3 standard deviations around their mean and brought to
    [0, 1] (Hoang et al., 2020, figure 7); of three channels in colour, and summed over them in grey.

    Raises BadInput for more images than fit a picture.
    """
    images = subjects.images
    require(len(images) <= MOST, "-n", len(images), f"at most {MOST} images on a picture")
    rows: list[tuple[tuple[str, ...], NDArray[np.float32]]] = []
    records: list[dict[str, Any]] = []
    for name, grads in subjects.each(lambda name, asked: (name, asked.gradients())):
        coloured = grads.shape[1] == 3
        ways = [("", grads), ("summed", grads.sum(1, keepdim=True))] if coloured else [("", grads)]
        for way, each in ways:
            drawn = torch.stack([clipped(grad) for grad in each])
            rows.append(((name, way) if way else (name,), drawn.numpy()))
            records += _records(name, way, images, each, drawn)
    caption = (
        f"{', '.join(subjects.names)}; {images.told}",
        f"Gradient of the cross-entropy with respect to each pixel, clipped at {CLIP} standard deviations around the "
        "mean of its image and brought to [0, 1]; grey is the mean.",
    )
    size = (max(1.05 * len(images) + 0.6, 4.0), 1.12 * (1 + len(rows)))
    return Drawing("Input gradients", caption, records, size, lambda picture: _rows(picture, images, rows))


def clipped(grad: Tensor) -> Tensor:
    """A gradient [C, H, W] clipped at mean +- 3 standard deviations and brought to [0, 1]: float32, 0.5 where all of it
    is the same."""
    wide = grad.double()
    mean, spread = wide.mean(), wide.std(correction=0)
    if not bool(spread > 0):
        return torch.full_like(grad, 0.5)
    return ((wide - mean) / (2 * CLIP * spread) + 0.5).clamp(0, 1).float()


def _records(name: str, way: str, images: Images, grads: Tensor, drawn: Tensor) -> list[dict[str, Any]]:
    return [
        numbers({"model": name, "example_id": int(images.ids[i]), "label": int(images.y[i]), "channel": way or str(c),
                 "row": row, "column": column, "gradient": float(grads[i, c, row, column]),
                 "shown": float(drawn[i, c, row, column])})
        for i, c, row, column in np.ndindex(*grads.shape)
    ]  # fmt: skip


def _rows(picture: Picture, images: Images, rows: Sequence[tuple[tuple[str, ...], NDArray[np.float32]]]) -> None:
    grid = picture.subplots(1 + len(rows), len(images), squeeze=False)
    for row, (name, drawn) in enumerate([(("image",), images.x.numpy()), *rows]):
        for axes, image in zip(grid[row], drawn, strict=True):
            bare(axes)
            show_image(axes, image)
        as_is(grid[row, 0].set_ylabel("", fontsize=7), *name)
    for axes, label in zip(grid[0], images.y.tolist(), strict=True):
        as_is(axes.set_title("", fontsize=7), images.classes[label])

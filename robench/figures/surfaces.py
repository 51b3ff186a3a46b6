"""Loss surface and decision regions around images, along the signed gradient and a random orthogonal direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robench import randomness
from robench.errors import require
from robench.figures.drawing import Drawing, as_is, numbers
from robench.figures.subjects import Asked, Subjects
from robench.threat import parse_epsilon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

# models times images on one picture, and points along each direction
MOST, LEAST_POINTS, MOST_POINTS = 12, 3, 201
# greys of classes other than the label, which is white
SHADES = ("#c8c8c8", "#9a9a9a", "#e2e2e2", "#b0b0b0", "#868686", "#d4d4d4", "#a6a6a6", "#f0f0f0", "#929292")


@dataclass(frozen=True)
class Surface:
    """Around one image for one model.

    steps: [p] in pixels, of both directions. loss float64, answered int64, [p, p]: rows go along the random direction,
    columns along the gradient. flat: the gradient is zero. flags: those of the model.
    """

    model: str
    example: int
    label: int
    steps: NDArray[np.float64]
    loss: NDArray[np.float64]
    answered: NDArray[np.int64]
    flat: bool
    flags: tuple[str, ...]

    def records(self) -> list[dict[str, Any]]:
        """A line of a csv file per point."""
        return [
            numbers({"model": self.model, "example_id": self.example, "label": self.label, "along_gradient": float(a),
                     "along_random": float(b), "loss": float(self.loss[j, i]), "prediction": int(self.answered[j, i])})
            for j, b in enumerate(self.steps) for i, a in enumerate(self.steps)
        ]  # fmt: skip


def surfaces(subjects: Subjects, reach: str, points: int, *, clip: bool) -> Drawing:
    """Loss and class of x + a d1 + b d2 for a, b in [-reach, reach] (Hoang et al., 2020, figure 5).

    d1 is the sign of the cross-entropy's gradient at x (the adversarial direction), d2 a random vector of +1 and -1
    orthogonal to it.

    reach: text of pixels of [0, 1]. points: along each direction, odd, so that the image itself is one. clip: back to
    [0, 1], as an attacker has to. Raises BadInput for values out of range and for more than fits a picture.
    """
    radius = float(parse_epsilon(reach, "linf"))
    require(radius > 0, "--reach", reach, "more than 0 pixels of [0, 1]")
    require(LEAST_POINTS <= points <= MOST_POINTS and points % 2 == 1, "--points", points,
            f"an odd number from {LEAST_POINTS} to {MOST_POINTS}")  # fmt: skip
    images, count = subjects.images, len(subjects.targets)
    require(len(images) * count <= MOST, "-n", len(images), f"at most {MOST // count} for {count} models on a picture")
    steps = np.linspace(-radius, radius, points)
    found = [
        one for mine in subjects.each(lambda name, asked: _of(name, asked, steps, subjects.seed, clip)) for one in mine
    ]
    flags = dict.fromkeys(f"{one.model}: {flag}" for one in found for flag in one.flags)
    flat = [f"{each.model} at image {each.example}" for each in found if each.flat]
    caption = (
        f"{', '.join(subjects.names)}; {images.told}; reach {reach}, {points} x {points} points, seed {subjects.seed}",
        "Above: cross-entropy in nats, to one scale for all models of an image. Below: the class of each point, white "
        "the label, a cross the image. x-axis: pixels along the signed gradient of the model at the image (adversarial "
        "direction); y-axis: along a random vector of +1 and -1 orthogonal to it. "
        f"{'Clipped to [0, 1].' if clip else 'Not clipped to [0, 1].'}",
        *([f"The gradient is zero, so that the x-axis says nothing: {', '.join(flat)}."] if flat else []),
        *([f"Flags: {', '.join(flags)}."] if flags else []),
    )
    records = [record for each in found for record in each.records()]
    ordered = [each for example in images.ids.tolist() for each in found if each.example == example]
    across = min(len(ordered), max(count, 4 // count * count))
    rows = -(-len(ordered) // across)
    return Drawing("Loss surface and decision regions", caption, records, (2.7 * across + 0.3, 5.3 * rows),
                   lambda picture: _paint(picture, ordered, images.classes, across, rows))  # fmt: skip


def directions(grad: Tensor, example: int, seed: int) -> tuple[Tensor, Tensor]:
    """The sign of a gradient [C, H, W], and a random vector of +1 and -1 orthogonal to it, both of that shape.

    Orthogonal exactly where an even number of pixels has a gradient, else up to one pixel: signs agree on half of them.
    """
    first = grad.sign().flatten()
    draw = randomness.generator(seed, example, 0, "rademacher")
    free = torch.from_numpy(draw.integers(0, 2, len(first)) * 2.0 - 1).float()
    held = first.nonzero()[:, 0]
    agree = torch.ones(len(held))
    agree[torch.from_numpy(draw.permutation(len(held))[: len(held) // 2].copy())] = -1
    second = free.index_copy(0, held, first[held] * agree)
    return first.reshape(grad.shape), second.reshape(grad.shape)


def _of(name: str, asked: Asked, steps: NDArray[np.float64], seed: int, clip: bool) -> list[Surface]:
    found, grads = [], asked.gradients()
    sizes = torch.from_numpy(steps).float()
    for x, y, example, grad in zip(asked.images.x, asked.images.y, asked.images.ids.tolist(), grads, strict=True):
        first, second = directions(grad, example, seed)
        rows = []
        for b in sizes:
            moved = x + sizes[:, None, None, None] * first + b * second
            rows.append(asked.losses(moved.clamp(0, 1) if clip else moved, y.expand(len(sizes))))
        loss = torch.stack([row[0] for row in rows]).numpy()
        answered = torch.stack([row[1] for row in rows]).numpy()
        found.append(Surface(name, example, int(y), steps, loss, answered, not bool(first.any()), asked.flags))
    return found


def _paint(picture: Picture, found: Sequence[Surface], classes: Sequence[str], across: int, rows: int) -> None:
    grid = picture.add_gridspec(2 * rows, across, height_ratios=[1.15, 1] * rows)
    for place, each in enumerate(found):
        row, column = divmod(place, across)
        same = [other for other in found if other.example == each.example]
        top = max(float(other.loss.max()) for other in same)
        axes: Any = picture.add_subplot(grid[2 * row, column], projection="3d")
        a, b = np.meshgrid(each.steps, each.steps)
        axes.plot_surface(a, b, each.loss, color="#e6e6e6", edgecolor="black", linewidth=0.25, rcount=25, ccount=25)
        axes.set_zlim(0, top or 1)
        axes.view_init(elev=24, azim=-122)
        axes.set_box_aspect(None, zoom=1.05)
        axes.tick_params(labelsize=5, pad=-3)
        axes.set_xlabel("gradient", fontsize=6, labelpad=-8)
        axes.set_ylabel("random", fontsize=6, labelpad=-8)
        axes.set_zlabel("nats", fontsize=6, labelpad=-8)
        axes.locator_params(nbins=4)
        as_is(axes.set_title("", fontsize=8, y=0.97), each.model, f"image {each.example}: {classes[each.label]}")
        _regions(picture.add_subplot(grid[2 * row + 1, column]), each, classes)


def _regions(axes: Axes, each: Surface, classes: Sequence[str]) -> None:
    """The class of every point: a shade for each, its name inside, and a line around it."""
    from matplotlib.colors import to_rgb
    from scipy.ndimage import distance_transform_edt

    present = np.unique(each.answered).tolist()
    others = [one for one in present if one != each.label]
    shade = {each.label: to_rgb("white")} | {one: to_rgb(SHADES[i % len(SHADES)]) for i, one in enumerate(others)}
    colours = np.array([[shade[int(one)] for one in row] for row in each.answered])
    reach, half = float(each.steps[-1]), float(each.steps[1] - each.steps[0]) / 2
    edges = (-reach - half, reach + half, -reach - half, reach + half)
    axes.imshow(colours, origin="lower", extent=edges, interpolation="nearest")
    from_cross = np.hypot(*np.meshgrid(each.steps, each.steps))
    aside = from_cross > reach / 6
    for one in present:
        mask = each.answered == one
        if len(present) > 1:
            axes.contour(each.steps, each.steps, mask.astype(float), levels=[0.5], colors="black", linewidths=0.7)
        mask &= aside  # no name upon the cross
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        j, i = np.unravel_index(int(depth.argmax()), depth.shape)
        if mask.sum() >= mask.size / 200:
            text = axes.text(each.steps[i], each.steps[j], "", ha="center", va="center", fontsize=8)
            as_is(text, classes[int(one)] if one < len(classes) else str(one))
    axes.plot(0, 0, "+", color="black", markersize=7)
    axes.tick_params(labelsize=6)
    axes.set_xlabel("along the signed gradient (pixels)", fontsize=6)
    axes.set_ylabel("along random (pixels)", fontsize=6)

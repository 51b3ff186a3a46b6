"""Codes of images: posteriors of two dimensions as ellipses, and codes of any dimension on a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from robench.errors import BadInput, require
from robench.figures.drawing import COLORS, MARKERS, Drawing, as_is, legend, numbers
from robench.figures.subjects import Asked, Subjects, matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

Method = Literal["auto", "pca", "tsne"]
# the radius in standard deviations that holds this share of a normal distribution in the plane
SHARE = 0.95
RADIUS = math.sqrt(-2 * math.log(1 - SHARE))
# models side by side, images that t-SNE needs at least, and classes that a legend names
MOST, LEAST, NAMED = 4, 5, 20


@dataclass(frozen=True)
class Plane:
    """Points [n, 2] of one model's images, what the axes are, and the spreads [n, 2] of posteriors if there are any."""

    model: str
    points: NDArray[np.float64]
    axes: tuple[str, str]
    told: str
    spreads: NDArray[np.float64] | None = None


def ellipses(subjects: Subjects) -> Drawing:
    """The posteriors p(z|x) of two dimensions, each as the ellipse that holds 95% of it (Hoang et al., 2020, figure 1).

    Raises BadInput for a model without a posterior, and for one of another number of dimensions.
    """
    _check(subjects)
    planes = subjects.each(_posteriors)
    images = subjects.images
    records = [
        numbers({"model": plane.model, "example_id": int(images.ids[i]), "label": int(images.y[i]),
                 **{f"mu{k + 1}": float(plane.points[i, k]) for k in range(2)},
                 **{f"sigma{k + 1}": float(_spreads(plane)[i, k]) for k in range(2)},
                 **{f"axis{k + 1}": RADIUS * float(_spreads(plane)[i, k]) for k in range(2)}})
        for plane in planes for i in range(len(images))
    ]  # fmt: skip
    caption = (
        f"{', '.join(subjects.names)}; {images.told}",
        f"The posterior p(z|x) of every image as the ellipse that holds {SHARE:.0%} of it: half axes {RADIUS:.3f} "
        "sigma. A marker for every mean; a number points at the "
        "median of its class.",
    )
    return _drawing("Posteriors of two dimensions", caption, records, planes, subjects)


def _posteriors(name: str, asked: Asked) -> Plane:
    answers = asked.called("encode", "the mean and log standard deviation of a code")
    if not all(isinstance(each, tuple | list) and len(each) == 2 for each in answers):
        raise BadInput(f"encode of {name} returned no pair of mean and log standard deviation of a code.")
    mean, log = (matrix([each[i] for each in answers], asked.images, "encode") for i in range(2))
    if mean.shape[1] != 2 or log.shape != mean.shape:
        raise BadInput(
            f"The code of {name} has {mean.shape[1]} dimensions, but ellipses are drawn of 2; train it with "
            "-o z_dim=2, or draw its codes with 'robench figure codes'."
        )
    return Plane(name, mean.double().numpy(), ("z1", "z2"), "", log.double().exp().numpy())


def _spreads(plane: Plane) -> NDArray[np.float64]:
    assert plane.spreads is not None
    return plane.spreads


def codes(subjects: Subjects, method: Method = "auto") -> Drawing:
    """The codes `embed(x)` of images on a plane: as they are of two dimensions, else by PCA or t-SNE (scikit-learn).

    Raises BadInput for a model without a code or with one of one dimension, and for too few images.
    """
    _check(subjects)
    images = subjects.images
    require(len(images) >= LEAST, "-n", len(images), f"at least {LEAST} images, whose codes are drawn")
    planes = subjects.each(lambda name, asked: _plane(name, asked, method, subjects.seed))
    records = [
        numbers({"model": plane.model, "example_id": int(images.ids[i]), "label": int(images.y[i]),
                 "x": float(plane.points[i, 0]), "y": float(plane.points[i, 1])})
        for plane in planes for i in range(len(images))
    ]  # fmt: skip
    caption = (
        f"{', '.join(subjects.names)}; {images.told}",
        *(f"{plane.model}: {plane.told}" for plane in planes),
        "A marker per image, by its label; a number points at the median of its class.",
    )
    return _drawing("Codes of images", caption, records, planes, subjects)


def _check(subjects: Subjects) -> None:
    require(len(subjects.targets) <= MOST, "MODEL", ", ".join(subjects.names), f"at most {MOST} models on a picture")


def _plane(name: str, asked: Asked, method: Method, seed: int) -> Plane:
    found = matrix(asked.called("embed", "a code [batch, dimensions]"), asked.images, "embed").double().numpy()
    width = found.shape[1]
    if width < 2:
        raise BadInput(f"The code of {name} has {width} dimension, which makes no plane; name a model with more.")
    if width == 2 and method == "auto":
        return Plane(name, found, ("z1", "z2"), "its code of 2 dimensions as it is")
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(found) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(found)
        told = f"t-SNE of {width} dimensions, perplexity {perplexity:.3g}, seed {seed}; distances far apart mean little"
        return Plane(name, points.astype(np.float64), ("t-SNE 1", "t-SNE 2"), told)
    from sklearn.decomposition import PCA

    fitted = PCA(2, svd_solver="full")
    points = fitted.fit_transform(found)
    first, second = (f"{100 * share:.1f}%" for share in np.nan_to_num(fitted.explained_variance_ratio_))
    told = f"PCA of {width} dimensions; the axes have {first} and {second} of their variance"
    return Plane(name, points, (f"PC 1 ({first})", f"PC 2 ({second})"), told)


def _drawing(
    title: str, caption: tuple[str, ...], records: list[dict[str, Any]], planes: Sequence[Plane], subjects: Subjects
) -> Drawing:
    labels, names = subjects.images.y.numpy(), subjects.images.classes
    return Drawing(title, caption, records, (4.6 * len(planes) + 0.9, 4.4),
                   lambda picture: _paint(picture, planes, labels, names))  # fmt: skip


def _paint(picture: Picture, planes: Sequence[Plane], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    grid = picture.subplots(1, len(planes), squeeze=False)[0]
    present = np.unique(labels).tolist()
    for axes, plane in zip(grid, planes, strict=True):
        handles = [_class(axes, plane, labels == label, int(label)) for label in present]
        for label in present:
            _name(axes, np.median(plane.points[labels == label], axis=0), int(label))
        axes.autoscale_view()
        axes.set_xlabel(plane.axes[0])
        axes.set_ylabel(plane.axes[1])
        as_is(axes.set_title("", loc="left", fontsize=9), plane.model)
    if len(present) <= NAMED:
        said = [names[label] if names[label] == str(label) else f"{label} {names[label]}" for label in present]
        legend(grid[-1], handles, said, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _name(axes: Axes, middle: NDArray[np.float64], label: int) -> None:
    """The number of a class beside the middle of its images, for each in a direction of its own."""
    turn = math.radians(36 * label + 18)
    text = axes.annotate(
        "", xy=(float(middle[0]), float(middle[1])), xytext=(17 * math.cos(turn), 17 * math.sin(turn)),
        textcoords="offset points", fontsize=9, ha="center", va="center", weight="bold",
        bbox={"facecolor": "white", "edgecolor": "black", "pad": 1.2, "linewidth": 0.5},
        arrowprops={"arrowstyle": "-", "linewidth": 0.7},
    )  # fmt: skip
    as_is(text, str(label))


def _class(axes: Axes, plane: Plane, mine: NDArray[np.bool_], label: int) -> Any:
    """The images of one class; returns what a legend shows of them."""
    from matplotlib.collections import EllipseCollection

    colour = COLORS[label % len(COLORS)]
    points = plane.points[mine]
    if plane.spreads is not None:
        full = 2 * RADIUS * plane.spreads[mine]
        axes.add_collection(EllipseCollection(
            full[:, 0], full[:, 1], np.zeros(len(full)), units="xy", offsets=points, transOffset=axes.transData,
            facecolors="none", edgecolors=colour, linewidths=0.3, alpha=0.6,
        ))  # fmt: skip
        ends = np.concatenate([points - full / 2, points + full / 2])
        axes.update_datalim(ends)
    hollow = "none" if label % 2 else colour
    size = 9 if len(points) < 100 else 4
    return axes.scatter(points[:, 0], points[:, 1], s=size, marker=MARKERS[label % len(MARKERS)], facecolors=hollow,
                        edgecolors=colour, linewidths=0.4, alpha=0.8)  # fmt: skip

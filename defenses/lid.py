"""The detector by local intrinsic dimensionality: how fast distances to training images grow, layer by layer."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robench import BadInput, Detector, Split, pixel_batches, require
from robench_defenses.activations import device_of, squared_distances, watching

LEAST_RATIO = 1e-6  # of r_i to r_k, also where r_i is 0
MOST = 1e4  # the estimate where all k distances are equal


class LID(Detector):
    """Local intrinsic dimensionality of every layer's output among clean images (Ma et al., 2018).

    One feature for the pixels and for every call of a module that has parameters or is an activation of torch.nn, in
    the order of the calls. k: neighbours looked at. references: clean training images they come from, the same number
    of each class. The paper's reference batch holds the image itself, so it drops the nearest neighbour; here the
    batch is fixed at fitting and holds no image under test, so none is dropped unless drop_nearest is set.

    Memory goes with the sizes of all layers: 2.8 GB of reference outputs for WRN-28-10.
    """

    scaler: ClassVar[Literal["standard", "minmax"]] = "minmax"
    layers: Tensor  # int64 [layers], which of the calls are watched

    def __init__(self, classes: int, *, k: int = 20, references: int = 100, drop_nearest: bool = False) -> None:
        super().__init__(classes)
        require(k >= 2, "k", k, "at least 2")
        require(
            references >= k + drop_nearest,
            "references",
            references,
            f"at least {k + drop_nearest} for k={k} neighbours",
        )
        self.k, self.references, self.drop_nearest = k, references, drop_nearest

    @torch.no_grad()
    def fit(self, model: nn.Module, train: Split) -> None:
        """Keep every layer's output for the reference images.

        Raises BadInput for too few images, and for a model with no module to watch or with outputs that are not finite.
        """
        require(
            len(train) >= self.references, "references", self.references, f"at most {len(train)}, the training images"
        )
        device = device_of(model)
        images = [x.to(device) for x, _ in pixel_batches(train.subset(first_of_each(train.labels, self.references)))]
        found = [outputs(model, x)[1] for x in images]
        layers = sorted(set.intersection(*map(set, found)))
        if not layers:
            raise BadInput(
                f"{type(model).__name__} runs no module that this detector can watch: one with parameters or an "
                "activation of torch.nn, answering with a row per image."
            )
        kept = [torch.cat(images).flatten(1), *(torch.cat([part[place] for part in found]) for place in layers)]
        if not all(bool(output.isfinite().all()) for output in kept):
            raise BadInput(f"{type(model).__name__} has layers with outputs that are not finite for training images.")
        self.keep("layers", torch.tensor(layers, device=device))
        for number, output in enumerate(kept):
            self.keep(f"reference_{number}", output)

    def features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and the dimensionality at every layer, float64 [B, 1 + layers]."""
        logits, found = outputs(model, x)
        places = self.layers.tolist()
        if not found.keys() >= set(places):
            raise BadInput(
                f"{type(model).__name__} runs fewer modules than when this detector was fitted; fit it anew."
            )
        dimensions = [
            local_dimension(output, self.get_buffer(f"reference_{number}"), self.k, self.drop_nearest)
            for number, output in enumerate([x.flatten(1), *(found[place] for place in places)])
        ]
        return logits, torch.stack(dimensions, dim=1)


def local_dimension(values: Tensor, reference: Tensor, k: int, drop_nearest: bool = False) -> Tensor:
    """-k / sum_{i=1..k} log(r_i / r_k), float64 [B], r_i the distance of values [B, D] to the i-th nearest reference.

    reference: [N, D]. A distance below a millionth of r_k counts as that, so that the estimate stays finite; it is at
    most 10,000, where all k distances are equal. With drop_nearest, the nearest reference is left out.
    """
    squares = squared_distances(values, reference).topk(k + drop_nearest, largest=False).values[:, int(drop_nearest) :]
    ratios = squares / squares[:, -1:].clamp(min=torch.finfo(squares.dtype).tiny)
    mean_log = ratios.clamp(min=LEAST_RATIO**2).log().mean(1) / 2
    dimension: Tensor = -1 / mean_log.clamp(max=-1 / MOST)
    return dimension


def outputs(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The model's logits of images [B, C, H, W], and the output [B, D] of each watched call by its place.

    Calls that do not answer with a row per image are left out.
    """
    found: dict[int, Tensor] = {}

    def see(place: int, before: Tensor, after: object) -> None:
        del before
        if isinstance(after, Tensor) and after.is_floating_point() and after.dim() > 1 and len(after) == len(x):
            found[place] = after.flatten(1).clone()  # the next module may work in place

    with watching(filter(_is_layer, model.modules()), see):
        logits = model(x)
    return logits, found


def _is_layer(module: nn.Module) -> bool:
    own = next(module.parameters(recurse=False), None) is not None
    return next(module.children(), None) is None and (own or type(module).__module__ == nn.ReLU.__module__)


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """Positions, int64 [count], of the first images of each class: as many of one as of another, as far as they go."""
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    turn = torch.empty_like(labels)
    turn[order] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    return (turn * len(sizes) + labels).argsort()[:count]

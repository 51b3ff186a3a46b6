"""Detectors by density: how usual an image's code is among the training codes of the class it is taken for."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robench import BadInput, Detector, Split, pixel_batches, require
from robench_defenses.activations import device_of, squared_distances, watching

LEAST = 10  # points without which a class has no density to speak of
QUERIES = 500  # points that are left out, one at a time, to choose a bandwidth; spread over the classes
STEPS = range(-10, 6)  # the bandwidths first tried are 10 ** (step / 10): 0.1 to 3.2
FURTHEST = 60


class ClassDensity(Detector):
    """One feature: the log density of an image's code under a Gaussian kernel density of the predicted class.

    A class's density comes from the training images with that true label. Its logarithm is taken since the density
    itself underflows.
    """

    points: Tensor  # [N, D], ordered by class
    counts: Tensor  # int64 [classes]
    width: Tensor  # float64 [1], the bandwidth in use

    def __init__(self, classes: int, bandwidth: float | None, max_points: int | None) -> None:
        super().__init__(classes)
        require(
            bandwidth is None or 0 < bandwidth < math.inf, "bandwidth", bandwidth, "positive, or none to choose one"
        )
        require(
            max_points is None or max_points >= LEAST, "max_points", max_points, f"at least {LEAST}, or none for all"
        )
        self.bandwidth, self.max_points = bandwidth, max_points

    @abstractmethod
    def code(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits [B, classes] and codes [B, D] of images [B, C, H, W]."""

    @torch.no_grad()
    def fit(self, model: nn.Module, train: Split) -> None:
        """Keep the training codes class by class and settle the bandwidth.

        Raises BadInput for a model without such a code, a class with fewer than 10 images, and codes that are not
        finite or do not differ.
        """
        found = torch.bincount(train.labels, minlength=self.classes)
        rarest = int(found.argmin())
        if found[rarest] < LEAST:
            raise BadInput(
                f"The training data hold {int(found[rarest])} images of class {rarest}, but a density needs at least "
                f"{LEAST} of every class; use data with more of them, or another detector such as lid."
            )
        rows = [
            members[evenly(len(members), self.max_points)]
            for members in torch.split(train.labels.argsort(stable=True), found.tolist())
        ]
        device = device_of(model)
        codes = torch.cat([self.code(model, x.to(device))[1] for x, _ in pixel_batches(train.subset(torch.cat(rows)))])
        if not codes.isfinite().all():
            raise BadInput(f"{type(model).__name__} has codes that are not finite, of which there is no density.")
        counts = torch.tensor([len(members) for members in rows], device=device)
        width = self.bandwidth or choose_bandwidth(torch.split(codes, counts.tolist()))
        self.keep("points", codes)
        self.keep("counts", counts)
        self.keep("width", torch.tensor([width], dtype=torch.float64, device=device))

    def features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and the log density, float64 [B, 1]."""
        logits, codes = self.code(model, x)
        predicted = logits.argmax(1)
        densities = torch.zeros(len(codes), dtype=torch.float64, device=codes.device)
        groups = torch.split(self.points, self.counts.tolist())
        for label in set(predicted.tolist()):
            rows = (predicted == label).nonzero()[:, 0]
            densities = densities.index_copy(0, rows, log_density(codes[rows], groups[label], self.width))
        return logits, densities[:, None]


class CodeDensity(ClassDensity):
    """Kernel density of the code by class, the detector of the ER-Classifier (Li et al., 2021).

    Watches models with a code, `embed(x)` -> [B, D]. bandwidth: scikit-learn's h, which is sigma / sqrt(2) of the
    paper's kernel exp(-d^2 / sigma^2); none chooses it by cross-validated likelihood.
    max_points: training images per class, evenly spaced among them; none takes all.
    """

    def __init__(self, classes: int, *, bandwidth: float | None = None, max_points: int | None = None) -> None:
        super().__init__(classes, bandwidth, max_points)

    def code(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and `model.embed(x)`; raises BadInput for a model that has none of that shape."""
        embed = getattr(model, "embed", None)
        if not callable(embed):
            raise BadInput(
                f"{type(model).__name__} has no method embed(x) that returns a code [batch, dimensions], which this "
                "detector watches; use the detector kd or lid, which watch any classifier."
            )
        codes = embed(x)
        if not isinstance(codes, Tensor) or codes.dim() != 2 or len(codes) != len(x):
            shape = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            raise BadInput(f"{type(model).__name__}.embed returned {shape} for {len(x)} images, not [{len(x)}, D].")
        return model(x), codes


class ActivationDensity(ClassDensity):
    """Kernel density of the last hidden layer by class (KD; Feinman et al., 2017).

    The last hidden layer is what the last `nn.Linear` that runs is given. bandwidth: scikit-learn's h; the paper has
    1.20 for MNIST, 0.26 for CIFAR-10 and 1.00 for SVHN on its own networks, so none chooses it by cross-validated
    likelihood. max_points: training images per class, evenly spaced among them; none takes all.
    """

    def __init__(self, classes: int, *, bandwidth: float | None = None, max_points: int | None = None) -> None:
        super().__init__(classes, bandwidth, max_points)

    def code(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and the last hidden layer [B, D]; raises BadInput for a model without one."""
        given: list[Tensor] = []

        def see(place: int, before: Tensor, after: object) -> None:
            del place, after
            given[:] = [before]

        with watching((m for m in model.modules() if isinstance(m, nn.Linear)), see):
            logits = model(x)
        if not given:
            raise BadInput(
                f"{type(model).__name__} runs no nn.Linear, whose input this detector watches; use the detector lid."
            )
        if len(given[0]) != len(x) or given[0].dim() < 2:
            raise BadInput(
                f"The last nn.Linear of {type(model).__name__} was given {tuple(given[0].shape)} for {len(x)} images, "
                f"but this detector needs a row per image; use the detector lid."
            )
        return logits, given[0].flatten(1)


def evenly(count: int, most: int | None) -> Tensor:
    """Positions of all of `count` things, or of `most` that are evenly spaced among them, int64."""
    kept = min(count, most or count)
    return torch.arange(kept) * count // kept


def log_density(codes: Tensor, points: Tensor, width: Tensor | float) -> Tensor:
    """Log of the Gaussian kernel density of `points` [N, D] with bandwidth `width` at `codes` [B, D], float64 [B]."""
    return _log_mean_kernel(squared_distances(codes, points), len(points), points.shape[1], width)


def _log_mean_kernel(squares: Tensor, points: int, dimensions: int, width: Tensor | float) -> Tensor:
    variance = torch.as_tensor(width, dtype=torch.float64, device=squares.device).square()
    log_norm = math.log(points) + dimensions / 2 * (2 * math.pi * variance).log()
    return (squares / (-2 * variance)).logsumexp(1) - log_norm


def choose_bandwidth(groups: Sequence[Tensor]) -> float:
    """The bandwidth under which codes are likeliest when left out of their class, of the classes' codes [N, D] each.

    About 500 codes are left out one at a time, against all others of their class: cross-validation with as many folds
    as points, so that the bandwidth fits the number of points. Bandwidths are 10^(step / 10) from 0.1 to 3.2, and
    onwards past an end where the likelihood still rises. Raises BadInput where it never stops to rise.
    """
    distances = []
    for points in groups:
        rows = evenly(len(points), max(LEAST, QUERIES // len(groups))).to(points.device)
        squares = squared_distances(points[rows], points)
        squares[torch.arange(len(rows), device=rows.device), rows] = math.inf
        distances.append((squares, len(points) - 1, points.shape[1]))

    def likelihood(step: int) -> float:
        return sum(float(_log_mean_kernel(*known, 10 ** (step / 10)).sum()) for known in distances)

    likelihoods = {step: likelihood(step) for step in STEPS}
    while (best := max(likelihoods, key=lambda step: likelihoods[step])) in (min(likelihoods), max(likelihoods)):
        if abs(best) == FURTHEST:
            raise BadInput(
                "No bandwidth fits the codes: within a class they hardly differ; give a bandwidth with -o bandwidth=, "
                "or use another detector such as lid."
            )
        beyond = best + (1 if best > 0 else -1)
        likelihoods[beyond] = likelihood(beyond)
    return float(10 ** (best / 10))

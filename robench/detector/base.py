"""What a detector author writes: features of an image under a classifier; the harness turns them into one score."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor, nn

from robench.data.dataset import Split
from robench.errors import BadInput, require


class Detector(nn.Module, ABC):
    """A detector plugin. Constructor keywords are its options; `fit` learns from clean training images.

    What `fit` learns is kept in buffers by `keep`, so that it is stored and loaded with the detector. `features` is
    differentiable with respect to the image, since adaptive attacks go through it. `version` enters the identity of
    every figure: raise it when a change of code changes scores.
    """

    version: ClassVar[int] = 1
    scaler: ClassVar[Literal["standard", "minmax"]] = "standard"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def fit(self, model: nn.Module, train: Split) -> None:
        """Learn from clean training images with their true labels. Raises BadInput for a model it cannot watch."""

    @abstractmethod
    def features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits [B, classes] of images [B, C, H, W], and features [B, F] of how usual they look."""

    def keep(self, name: str, tensor: Tensor) -> None:
        """Hold a fitted tensor as the attribute `name`, stored and moved with the detector."""
        if hasattr(self, name):
            delattr(self, name)
        self.register_buffer(name, tensor.detach())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors a fitted detector had kept."""
        for name, tensor in tensors.items():
            self.keep(name, tensor)


def pixel_batches(split: Split, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of a split in order, float32 [B, C, H, W] in [0, 1] with labels int64 [B], `size` at a time."""
    for start in range(0, len(split), size):
        part = slice(start, min(start + size, len(split)))
        yield split.pixels(part), split.labels[part]


class Score(nn.Module):
    """A detector with its logistic regression: score [B] is the log-odds that an image is adversarial.

    `threshold` is the score above which an image is rejected.
    """

    shift: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        for name in ("shift", "scale", "weight", "bias", "threshold"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.float64))

    def calibrate(self, features: Tensor, adversarial: Tensor) -> None:
        """Fit scaling and regression (scikit-learn) on features [N, F] and whether each is adversarial, bool [N].

        Unweighted, as in the reference code of KD and LID: clean and noisy images together are twice the adversarial.
        Raises BadInput where a feature is not finite.
        """
        values, labels = features.double().numpy(), adversarial.numpy()
        if not np.isfinite(values).all():
            raise BadInput(
                f"The detector {type(self.detector).__name__} gave features that are not finite for "
                f"{int((~np.isfinite(values)).any(1).sum())} of {len(values)} images; choose other options for it."
            )
        scaler = StandardScaler() if self.detector.scaler == "standard" else MinMaxScaler()
        scaled = scaler.fit_transform(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of defaults that we set or do not use
            regression = LogisticRegressionCV(scoring="neg_log_loss", max_iter=1000)
            regression.fit(scaled, labels)
        center = scaler.mean_ if isinstance(scaler, StandardScaler) else scaler.data_min_
        width = scaler.scale_ if isinstance(scaler, StandardScaler) else 1 / scaler.scale_
        for name, value in (
            ("shift", center), ("scale", width), ("weight", regression.coef_[0]), ("bias", regression.intercept_),
        ):  # fmt: skip
            setattr(self, name, torch.as_tensor(np.asarray(value, dtype=np.float64)))

    def set_threshold(self, clean: Tensor, rate: float) -> None:
        """Reject at most the share `rate` of clean images, given their scores [N]; raises BadInput for a wrong rate."""
        require(0 < rate < 1, "--fpr", rate, "a share of clean images between 0 and 1, such as 0.05")
        self.threshold = torch.quantile(clean.double(), 1 - rate, interpolation="higher").reshape(1)

    def of(self, features: Tensor) -> Tensor:
        """The score [B], float64, of features [B, F]."""
        scaled: Tensor = (features.double() - self.shift) / self.scale
        return scaled @ self.weight + self.bias

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits [B, classes] and the score [B] of images [B, C, H, W]."""
        logits, features = self.detector.features(model, x)
        return logits, self.of(features)


class Guarded(nn.Module):
    """A classifier behind a detector: logits [B, classes + 1], the last one the highest where the image is rejected.

    It is the largest logit plus sign(e) log(1 + |e|) of the excess e of the score over its threshold, so that an attack
    sees how far it is from acceptance (after Carlini & Wagner, 2017, "Adversarial examples are not easily detected",
    section 3.3); the logarithm keeps a steep score from saturating a cross-entropy.
    """

    rejects = True

    def __init__(self, model: nn.Module, score: Score) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes + 1]."""
        logits, score = self.score(self.model, x)
        top, excess = logits.amax(1), score - self.score.threshold
        rejection = top + (excess.sign() * excess.abs().log1p()).to(logits.dtype)
        # an excess too small for float32 still rejects
        above = torch.nextafter(top.detach(), torch.full_like(top, torch.inf))
        rejection = torch.where((excess > 0) & (rejection < above), above, rejection)
        return torch.cat([logits, rejection[:, None]], dim=1)

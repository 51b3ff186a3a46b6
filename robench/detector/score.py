"""A detector's score of an image, and a model behind it."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import Tensor, nn

from robench.attack.classifier import REJECTING
from robench.detector.base import Detector
from robench.errors import BadInput, require


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


REJECTING.append(Guarded)

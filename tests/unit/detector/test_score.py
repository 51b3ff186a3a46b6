"""The score of a detector: scaling and regression as scikit-learn does them, a threshold of a stated rate."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from robench.detector.base import Detector
from robench.detector.score import Score
from robench.errors import BadInput


class Given(Detector):
    """Features that are written into the pixels."""

    def fit(self, model, train):
        pass

    def features(self, model, x):
        return model(x), x.flatten(1)[:, :4].double()


def sample(count=300):
    noise = torch.Generator().manual_seed(4)
    features = torch.randn(count, 4, generator=noise) * torch.tensor([1.0, 50.0, 1e-3, 0.0]) + 7
    return features, torch.rand(count, generator=noise) < torch.sigmoid(2 * (features[:, 0] - 7))


@pytest.mark.parametrize(("scaler", "name"), [(StandardScaler, "standard"), (MinMaxScaler, "minmax")])
def test_score_is_that_of_a_pipeline(scaler, name):
    features, adversarial = sample()
    detector = Given(2)
    detector.scaler = name
    score = Score(detector)
    score.calibrate(features, adversarial)
    regression = LogisticRegressionCV(scoring="neg_log_loss", max_iter=1000)
    pipeline = make_pipeline(scaler(), regression).fit(features.double().numpy(), adversarial.numpy())
    fresh = sample(500)[0][300:]
    assert np.allclose(score.of(fresh), pipeline.decision_function(fresh.double().numpy()), rtol=0, atol=1e-9)
    assert score.of(features)[adversarial].mean() > score.of(features)[~adversarial].mean()


def test_features_that_are_not_finite_are_refused():
    features, adversarial = sample()
    features[3, 1], features[7, 0] = math.nan, math.inf
    with pytest.raises(BadInput, match="for 2 of 300"):
        Score(Given(2)).calibrate(features, adversarial)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("count", [7, 100, 333])
def test_threshold_keeps_the_rate(rate, count):
    clean = torch.randn(count, generator=torch.Generator().manual_seed(count))
    score = Score(Given(2))
    score.set_threshold(clean, rate)
    rejected = int((clean.double() > score.threshold).sum())
    assert rejected / count <= rate
    assert (rejected + 1) / count >= rate * (1 - 1e-9) or rejected == 0


@pytest.mark.parametrize("rate", [0, 1, -0.1, math.nan])
def test_threshold_of_no_rate(rate):
    with pytest.raises(BadInput, match="between 0 and 1"):
        Score(Given(2)).set_threshold(torch.randn(9), rate)

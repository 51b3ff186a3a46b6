"""A detector inside the judge: rejection counts for the defender, and attacks see how far it is from acceptance."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel, registry
from robench.attack.base import Attack
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench.data.dataset import Split
from robench.detector.base import Detector
from robench.detector.fitting import noisy
from robench.detector.measuring import figures
from robench.detector.request import DetectorRequest
from robench.detector.score import Guarded, Score
from robench.store.specs import EvalSpec


class Linear(nn.Module):
    """Two classes told apart by the first half of the pixels: logits (0, w x + b)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(value), value], dim=1)


class Direction(Detector):
    """The score is a linear function of the pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(2)
        self.keep("direction", weight)

    def fit(self, model: nn.Module, train: Split) -> None:
        del model, train

    def features(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        return model(x), x.flatten(1) @ self.get_buffer("direction")[:, None]


def score(weight: Tensor, threshold: float) -> Score:
    found = Score(Direction(weight))
    found.scale, found.weight = torch.ones(1).double(), torch.ones(1).double()
    found.threshold = torch.tensor([threshold], dtype=torch.float64)
    return found.eval()


def case(seed: int = 0, n: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Images of 4x4 pixels away from the edges of the box, a weight on the first 8 pixels, one on the last 8."""
    noise = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=noise)
    w, a = torch.randn(16, generator=noise), torch.randn(16, generator=noise)
    w[8:], a[:8] = 0, 0
    return x, w, a


def attacked(module: nn.Module, x: Tensor, y: Tensor, attack: str, eps: str) -> ShardOutcome:
    built = registry.load("attack", attack).build({"steps": 60} if attack != "fgsm" else {})
    assert isinstance(built, Attack)
    examples = Examples(x, y, torch.arange(len(x)))
    return attack_shard(module, 2, built, ThreatModel.of("linf", eps), examples, Settings(batch_size=150))


@pytest.mark.parametrize("attack", ["pgd", "multi-targeted", "untargeted"])
def test_adaptive_attack_reaches_the_closed_form(attack: str) -> None:
    """Class and score depend on different pixels, so an example falls when both budgets suffice."""
    x, w, a = case()
    flat, eps = x.flatten(1), 0.1
    bias = -float((flat @ w).median())
    threshold = float((flat @ a).quantile(0.3))
    model, guard = Linear(w, bias), score(a, threshold)
    value, seen = flat @ w + bias, flat @ a - threshold
    y = (value > 0).long()
    accepted = seen <= 0
    falls = (value.abs() < eps * w.abs().sum()) & (seen - eps * a.abs().sum() < 0)
    clear = ((value.abs() - eps * w.abs().sum()).abs() > 0.02) & ((seen - eps * a.abs().sum()).abs() > 0.02)
    rows = attacked(Guarded(model, guard).eval(), x, y, attack, "0.1").rows
    assert (torch.tensor(rows["clean_correct"].to_numpy().copy()) == accepted).all()
    checked = clear & accepted
    assert int(checked.sum()) > 60
    assert (torch.tensor(rows["success"].to_numpy().copy())[checked] == falls[checked]).all()
    assert falls[checked].any()
    assert not falls[checked].all()


def test_an_attack_that_ignores_the_detector_is_rejected() -> None:
    x, w, a = case(1)
    flat = x.flatten(1)
    bias = -float((flat @ w).median())
    y = (flat @ w + bias > 0).long()
    everything = Guarded(Linear(w, bias), score(a, -1e6)).eval()
    rows = attacked(everything, x, y, "fgsm", "0.3").rows
    assert not rows["clean_correct"].any()
    assert (rows["clean_pred"] == 2).all()
    nothing = attacked(Guarded(Linear(w, bias), score(a, 1e6)).eval(), x, y, "fgsm", "0.3").rows
    plain = attacked(Linear(w, bias), x, y, "fgsm", "0.3").rows
    assert nothing["success"].equals(plain["success"])
    assert plain["success"].any()


def test_fold_takes_the_larger_of_label_and_rejection_once_misclassified() -> None:
    module = Guarded(Linear(torch.zeros(16), 0.0), score(torch.zeros(16), 0.0))
    handle = Classifier(module, 3, 4, labels=torch.tensor([0, 1, 2, 0]))
    logits = torch.tensor([[1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, 9.0]])
    folded = handle.fold(logits, torch.tensor([3, 1, 2]))
    # misclassified and rejected; misclassified and accepted; still right, where rejection is no matter
    assert folded.tolist() == [[5.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]


def test_figures_by_hand() -> None:
    """Six images: one wrong without an attack, one that stands, four broken of which two are caught at threshold 2."""
    table = pd.DataFrame(
        {
            "label": [0] * 6,
            "clean_pred": [1, 0, 0, 0, 0, 0],
            "adv_pred": [1, 0, 1, 1, 1, 1],
            "clean_correct": [False, True, True, True, True, True],
            "success": [False, False, True, True, True, True],
            "score_clean": [-1.0, -2.0, -2.0, 3.0, -1.0, -1.0],
            "score_noisy": [0.0, -1.0, 1.0, 1.0, -1.0, -1.0],
            "score_adversarial": [0.0, -1.0, 4.0, 5.0, 1.0, -1.0],
        }
    )
    found = figures(table, 2.0)
    assert found.n == 6
    assert (found.attacked, found.broken) == (5, 4)
    assert found.value("acc_nadv") == pytest.approx(7 / 10)
    assert found.value("acc_com") == pytest.approx(4 / 5)
    assert found.value("detection_rate") == pytest.approx(2 / 4)
    assert found.value("false_positive_rate") == pytest.approx(1 / 6)
    assert found.value("clean_accuracy") == pytest.approx(4 / 6)
    assert found.value("robust_accuracy") == pytest.approx(2 / 6)
    targeted = figures(table.assign(success=False), 2.0)  # the class aimed at was missed, the image broken all the same
    assert targeted.value("robust_accuracy") == found.value("robust_accuracy")
    # one that stood is broken by its second verdict, and one that was caught is wrong without an attack
    again = table.assign(
        sealed_clean=[1, 0, 1, 0, 0, 0], sealed_adv=[1, 1, 1, 1, 1, 1], sealed_success=[False, *[True] * 5]
    )
    twice = figures(again, 2.0)
    assert (twice.broken, twice.value("robust_accuracy"), twice.value("acc_com")) == (5, 0.0, pytest.approx(3 / 5))
    pairs = [(a, h) for a in (4, 5, 1, -1) for h in (-2, -2, 3, -1, -1, -1, 1, 1, -1, -1)]
    assert found.auc == pytest.approx(sum((a > h) + 0.5 * (a == h) for a, h in pairs) / len(pairs))


def test_noise_is_as_long_as_the_perturbation() -> None:
    x, _, _ = case(2, 50)
    far = (x + 0.2 * torch.sign(torch.rand_like(x) - 0.5)).clamp(0, 1)
    examples = Examples(x, torch.zeros(50, dtype=torch.int64), torch.arange(50))
    copies = noisy(examples, far, 0, torch.ones(50, dtype=torch.bool))
    lengths = [(z - x).flatten(1).norm(dim=1).mean() for z in (copies, far)]
    assert lengths[0] == pytest.approx(float(lengths[1]), rel=1e-3)
    assert copies.min() >= 0
    assert copies.max() <= 1
    assert torch.equal(copies, noisy(examples, far, 0, torch.ones(50, dtype=torch.bool)))


def test_detector_enters_the_identity_only_where_there_is_one() -> None:
    fields = {
        "model_digest": "a", "data_digest": "b", "count": 5, "norm": "linf", "eps": "1/10", "attack": "pgd",
        "attack_version": 1, "attack_options": {"step": None}, "seed": 0,
    }  # fmt: skip
    plain, guarded = EvalSpec(**fields), EvalSpec(**fields, detector="123")
    assert "detector" not in plain.to_json()
    assert plain.to_json()["attack_options"] == {"step": None}
    assert plain.job_id != guarded.job_id


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"detector": "er-kd"}, "er-kde"),
        ({"fpr": 0.0}, "--fpr"),
        ({"fpr": 1.5}, "--fpr"),
        ({"images": 3}, "--detector-images"),
        ({"trained_on": "pgd@linf"}, "NAME@linf:0.3"),
        ({"trained_on": "pgd@l7:0.3"}, "l7"),
    ],
)
def test_bad_guards(changed: dict[str, object], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        DetectorRequest(**{"detector": "er-kde", **changed})  # type: ignore[arg-type]


def test_the_smallest_excess_rejects() -> None:
    """A score above its threshold by less than float32 can tell beside the logits still rejects."""
    x = torch.full((1, 1, 4, 4), 0.5)
    weight = torch.full((16,), 0.0)
    weight[0] = 1.0
    logits = Guarded(Linear(torch.full((16,), 5.0), 0.0), score(weight, 0.5 - 1e-9)).eval()(x)
    assert logits.argmax(1).tolist() == [2]
    at = Guarded(Linear(torch.full((16,), 5.0), 0.0), score(weight, 0.5)).eval()(x)
    assert at.argmax(1).tolist() == [1]

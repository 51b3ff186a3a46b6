"""A stored figure answers for one model only: digests, names that several models share, and models that changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robench
from robench.errors import BadInput
from robench.models import digest_of, load_model
from robench.store.runs import Store


class Quantise(nn.Module):
    """Rounds to a number of grey levels, a setting that no tensor holds."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


def linear(seed: int = 0, levels: int = 0) -> nn.Module:
    """A linear classifier of digits, behind a quantiser where `levels` is given."""
    torch.manual_seed(seed)
    parts = [Quantise(levels)] if levels else []
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64, 10)).eval()


def run(models: object, runs: Path) -> robench.Report:
    return robench.evaluate(
        models, dataset="digits", attacks=["fgsm", "pgd"], eps="0.05", count=60, runs=runs, device="cpu"
    )  # type: ignore[arg-type]


def test_settings_that_no_tensor_holds_change_the_digest() -> None:
    assert digest_of(linear(levels=4)) == digest_of(linear(levels=4))
    assert (
        len({digest_of(linear(levels=4)), digest_of(linear(levels=8)), digest_of(linear()), digest_of(linear(1))}) == 4
    )


def test_a_buffer_that_is_not_saved_changes_the_digest() -> None:
    model, other = linear(), linear()
    model.register_buffer("shift", torch.zeros(1), persistent=False)
    other.register_buffer("shift", torch.ones(1), persistent=False)
    assert digest_of(model) != digest_of(other)


def test_two_factories_of_one_model_share_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("import torch\ndef a():\n    return torch.nn.Identity().eval()\ndef b():\n    return a()\n")
    store = Store(tmp_path)
    assert load_model(f"{path}:a", store).digest == load_model(f"{path}:b", store).digest


def test_models_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    first, second = linear(0), linear(1)
    alone = [run(model, tmp_path / name).worst[0]["robust_accuracy"] for name, model in (("a", first), ("b", second))]
    both = run([first, second], tmp_path / "both")
    assert len({worst["model"] for worst in both.worst}) == 2
    assert sorted(worst["robust_accuracy"] for worst in both.worst) == sorted(alone)
    assert "Sequential#" in str(both)


def test_a_model_whose_answers_changed_behind_its_digest_is_refused(tmp_path: Path) -> None:
    sign = [1.0]

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sign[0] * x.flatten(1)[:, :10]

    model = Hidden().eval()
    run(model, tmp_path)
    sign[0] = -1.0
    with pytest.raises(BadInput, match="clean images differently"):
        run(model, tmp_path)


def test_a_targeted_attack_alone_is_no_robust_accuracy(tmp_path: Path) -> None:
    report = robench.evaluate(
        linear(), dataset="digits", attacks="random-targeted", eps="0.05", count=20, runs=tmp_path, options={"steps": 3}
    )
    assert report.worst == []
    assert "attack_success_rate" in report.rows[0]


def test_l2_wants_its_own_eps(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="8/255 is small there"):
        robench.evaluate(linear(), dataset="digits", attacks="pgd", norm="l2", runs=tmp_path)

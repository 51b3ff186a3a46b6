"""A stored figure answers for one model only: digests, names that several models share, and models that changed."""

from __future__ import annotations

import os
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


def test_what_a_function_closes_over_is_part_of_a_model() -> None:
    sign = [1.0]

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sign[0] * x.flatten(1)[:, :10]

    model = Hidden().eval()
    before = digest_of(model)
    sign[0] = -1.0
    assert digest_of(model) != before


def test_a_model_whose_answers_changed_behind_its_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return float(os.environ["SIGN"]) * x.flatten(1)[:, :10]

    monkeypatch.setenv("SIGN", "1")
    run(Hidden().eval(), tmp_path)
    monkeypatch.setenv("SIGN", "-1")
    with pytest.raises(BadInput, match="stored images differently"):
        run(Hidden().eval(), tmp_path)


ENSEMBLE = """
import os
from torch import nn
from m_parts import load
class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = members
    def forward(self, x):
        return sum(member(x) for member in self.members)
def make():
    return Ensemble([load(int(os.environ["SEED"])), load(7)]).eval()
"""
PARTS = """
import torch
from torch import nn
def load(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""


def test_an_ensemble_in_a_list_is_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that no list of submodules shows, with weights that a variable of the environment chooses."""
    (tmp_path / "m.py").write_text(ENSEMBLE)
    (tmp_path / "m_parts.py").write_text(PARTS)
    found, alone = [], []
    for seed in ("1", "2"):
        monkeypatch.setenv("SEED", seed)
        found.append(run(f"{tmp_path / 'm.py'}:make", tmp_path / "runs").rows)
        alone.append(run(f"{tmp_path / 'm.py'}:make", tmp_path / seed).rows)
    assert [[row["clean_accuracy"] for row in rows] for rows in found] == [
        [row["clean_accuracy"] for row in rows] for rows in alone
    ]
    assert not {row["evaluation"] for row in found[0]} & {row["evaluation"] for row in found[1]}


def test_a_targeted_attack_alone_is_no_robust_accuracy(tmp_path: Path) -> None:
    report = robench.evaluate(
        linear(), dataset="digits", attacks="random-targeted", eps="0.05", count=20, runs=tmp_path, options={"steps": 3}
    )
    assert report.worst == []
    assert "attack_success_rate" in report.rows[0]


def test_l2_wants_its_own_eps(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="8/255 is small there"):
        robench.evaluate(linear(), dataset="digits", attacks="pgd", norm="l2", runs=tmp_path)

"""What a training is asked for beside its recipe: other epochs, another precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robench.defense.recipe import Recipe
from robench.errors import BadInput
from robench.evaluation.recorded_command import train_command_of
from robench.store.runs import Store
from robench.training.jobs import TrainRequest, plan, train
from robench_defenses.recipes import WIDE_RESNET
from robench_defenses.standard import Standard

ASKED = TrainRequest("paradise-pm", "digits", epochs=1, name="asked", device="cpu")


def test_milestones_stay_at_their_share_of_the_training() -> None:
    assert WIDE_RESNET.lasting(20).milestones == (6, 12, 16)
    assert WIDE_RESNET.lasting(200) == WIDE_RESNET
    assert Recipe(100, 0.1, schedule="exponential", every=10).lasting(20).every == 2
    assert Recipe(100, 0.1, schedule="exponential", every=2).lasting(5).every == 1


def test_a_precision_is_part_of_a_training_unless_it_is_the_usual_one() -> None:
    usual, half = plan(ASKED), plan(replace(ASKED, precision="bfloat16"))
    assert "precision" not in usual.spec.recipe
    assert plan(replace(ASKED, precision="float32")).spec == usual.spec
    assert half.spec.recipe["precision"] == "bfloat16"
    assert half.spec.job_id != usual.spec.job_id


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadInput, match="float32 or bfloat16"):
        replace(ASKED, precision="float16")  # type: ignore[arg-type]


def test_networks_are_trained_in_it_and_answer_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    forward = Standard.forward

    def watched(self: Standard, x: torch.Tensor) -> torch.Tensor:
        answer = forward(self, x)
        seen.append((self.training, answer.dtype))
        return answer

    monkeypatch.setattr(Standard, "forward", watched)
    card = train(replace(ASKED, defense="standard", precision="bfloat16"), Store(tmp_path))
    assert {kind for training, kind in seen if training} == {torch.bfloat16}
    assert seen[-1] == (False, torch.float32)
    assert card["accuracy"]["test"] > 0.5
    assert train_command_of(card).endswith("--precision bfloat16 --name asked")


def test_codes_are_float32_where_networks_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robench_defenses import information

    seen: set[torch.dtype] = set()
    discrepancy = information.posterior_discrepancy

    def watched(*codes: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.update(code.dtype for code in codes)
        return discrepancy(*codes, **options)

    monkeypatch.setattr(information, "posterior_discrepancy", watched)
    card = train(replace(ASKED, precision="bfloat16"), Store(tmp_path))
    assert seen == {torch.float32}
    assert card["accuracy"]["test"] > 0.3

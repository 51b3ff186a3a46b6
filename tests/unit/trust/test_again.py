"""What stored images cannot prove, and running the attack again shows: that the others withstood it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from robench.data.dataset import open_dataset
from robench.norms import NORMS
from robench.store import known
from robench.trust import again
from robench.trust.again import _draw
from tests.unit.trust.forger import Forger, faults, nothing


def _stands(rows: pd.DataFrame, images: Tensor, put: Tensor) -> None:
    """The broken images replaced by others, which the model answers rightly, and rows that say so."""
    ids, bad = torch.tensor(rows["example_id"].to_numpy().copy()), torch.tensor(rows["success"].to_numpy().copy())
    x0 = open_dataset("digits").drawn("balanced").pixels(ids)
    images[bad] = put[bad]
    rows.loc[bad.numpy(), "adv_pred"] = rows.loc[bad.numpy(), "label"]
    rows.loc[bad.numpy(), "success"] = False
    for name, norm in NORMS.items():
        rows[name] = norm.distance(x0, images).numpy()


def clean_images(rows: pd.DataFrame, images: Tensor) -> None:
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    _stands(rows, images, open_dataset("digits").drawn("balanced").pixels(ids))


def nearby(rows: pd.DataFrame, images: Tensor) -> None:
    """Points between the image and what broke it, near to the first, where the model answers rightly."""
    ids = torch.tensor(rows["example_id"].to_numpy().copy())
    x0 = open_dataset("digits").drawn("balanced").pixels(ids)
    _stands(rows, images, x0 + 0.02 * (images - x0))


@pytest.mark.parametrize("change", [clean_images, nearby])
def test_broken_images_sold_as_standing_are_found_by_the_attack(change: Any, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 10})
    broken = int(forger.folder.rows()["success"].sum())
    assert broken >= 3
    assert forger.verify(again=100).holds
    forger.rows(change)
    assert forger.verify().holds  # its images are what its rows say; that is all that they can prove
    found = forger.verify(again=100)
    assert faults(found) == {"broken again": broken}
    assert found.exit_code == 1
    assert found.again == int(forger.folder.rows()["clean_correct"].sum())


def test_a_small_eps_sold_as_a_large_one_is_found(tmp_path: Path) -> None:
    sold = Forger.of(tmp_path, "plain", "pgd", eps="0.02", options={"steps": 10}).spec(eps="1/10")
    honest = Forger.of(tmp_path / "other", "plain", "pgd", eps="0.1", options={"steps": 10})
    figures = [int((~each.folder.rows()["success"]).sum()) for each in (sold, honest)]
    assert figures[0] > figures[1]
    assert sold.verify().holds
    assert sold.verify(again=100).faults["broken again"] >= figures[0] - figures[1]


@pytest.mark.parametrize(
    "more",
    [
        {"attack": "fgsm"},
        {"attack": "pgd", "options": {"steps": 5, "restarts": 2}},
        {"attack": "random-targeted", "options": {"steps": 5}},
        {"attack": "min-pgd"},
        {"attack": "cw", "norm": "l2", "eps": "1", "options": {"steps": 20}},
        {"attack": "apgd-t", "options": {"steps": 10}},
        {"attack": "library:apgd-ce"},
        {"attack": "foolbox:LinfPGD", "options": {"steps": 5}},
        {"attack": "fgsm,pgd", "cascade": True},
        {"attack": "fgsm", "surrogates": ["models.py:large"]},
        {"attack": "fgsm", "batch_size": 3},
    ],
    ids=lambda more: more["attack"],
)
def test_honest_evaluations_of_every_kind_hold(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Forger.of(tmp_path, "plain", "random-noise")  # writes the models
    forger = Forger.of(tmp_path, "plain", **more)
    found = forger.verify(again=40)
    assert found.holds, (faults(found), found.records, found.reason)
    assert found.again > 0


def test_a_model_that_answers_at_random_may_answer_otherwise(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "noisy", "pgd", options={"steps": 5}, count=60)
    found = forger.verify(again=60)
    assert found.holds, faults(found)
    forger.rows(clean_images)
    found = forger.verify(again=60)
    assert found.faults["broken again"] > 0


def test_flags_that_the_attack_shows_cannot_be_left_out(tmp_path: Path) -> None:
    """Logits times 1e4: their cross-entropy has no gradient where the model is sure, and the rows said so."""
    forger = Forger.of(tmp_path, "large", "fgsm")
    marked = int(forger.folder.rows()["flags"].str.contains("zero-gradient").sum())
    assert marked > 10
    assert forger.verify(again=40).holds

    def unmark(rows: pd.DataFrame, images: Tensor) -> None:
        nothing(rows, images)
        rows["flags"], rows["zero_pixels"] = "", 0.1

    forger.rows(unmark)
    found = forger.verify(again=40)
    assert found.faults["missing flag"] > 10
    assert found.exit_code == 1


def test_a_share_of_zero_gradients_cannot_be_made_smaller(tmp_path: Path) -> None:
    """The gates look at it where no image lacks all of its gradient."""
    forger = Forger.of(tmp_path, "dim", "pgd", options={"steps": 3})
    shares = forger.folder.rows()["zero_pixels"]
    assert 0.4 < shares[forger.folder.rows()["clean_correct"]].min() < 0.9
    assert forger.verify(again=40).holds

    def sharpen(rows: pd.DataFrame, images: Tensor) -> None:
        nothing(rows, images)
        rows["zero_pixels"] = rows["zero_pixels"] * 0

    forger.rows(sharpen)
    assert forger.verify().holds
    assert forger.verify(again=40).faults["missing flag"] > 10


def test_an_image_that_falls_only_in_another_batch_is_a_tie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the attack breaks by itself, and not in the batch that it was in, as rounding can have it."""
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 5})
    attack, calls = again._attack, []

    def first_only(*arguments: Any) -> Any:
        outcome, fell = attack(*arguments)
        calls.append(len(fell))
        if len(calls) == 1:
            fell[0] = True
        return outcome, fell

    monkeypatch.setattr(again, "_attack", first_only)
    found = forger.verify(again=5)
    assert calls == [5, 20]
    assert found.holds
    assert (found.again, found.close) == (5, 1)


def test_an_attack_of_another_version_is_not_run_in_its_place(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain").spec(attack_version=0)
    Forger.of(tmp_path, "plain")
    assert forger.verify().holds
    found = forger.verify(again=5)
    assert (found.exit_code, found.holds) == (2, False)
    assert "cannot be run again" in found.reason


def test_calling_an_attack_s_images_imported_does_not_spare_it(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 5}).spec(imported="0" * 16)
    found = forger.verify(again=5)
    assert (found.holds, found.again, found.elsewhere) == (True, 5, False)


def test_which_images_are_drawn_is_the_user_s_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same each time for one user, and others for another evaluation or another user."""
    draws = {}
    for user in ("one", "two"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / user))
        draws[user] = _draw("0123456789ab", 1000, 20)
        assert _draw("0123456789ab", 1000, 20) == draws[user]
        assert _draw("0123456789ac", 1000, 20) != draws[user]
        assert (tmp_path / user / "robench" / "secret").stat().st_mode & 0o077 == 0
    assert draws["one"] != draws["two"]
    assert len(set(draws["one"])) == 20
    assert _draw("0123456789ab", 7, 20) == list(range(7))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a_file"))
    (tmp_path / "a_file").write_text("")
    assert len(known.secret()) == 32

"""Transfer: images are crafted on one model to the end and judged on another, once for all targets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, GradientAttack, Search, ThreatModel, margin
from robench.attack.judge import Examples, Settings, ShardOutcome, attack_shard
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.transfer import Replay
from robench.store.runs import EvaluationFolder, Store
from robench.tables.report import Report


class Linear(nn.Module):
    """Logits W x, with a count of the images it has seen."""

    def __init__(self, seed: int, pixels: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=torch.Generator().manual_seed(seed)))
        self._seen = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self._seen += len(x)
        return (x.flatten(1) - 0.5) @ self.weight.T


class Ascent(GradientAttack):
    """Twelve steps on the margin."""

    def search(self, threat: ThreatModel) -> Search:
        return Search([threat.radius / 4] * 12, random_start=False)

    def objective(self, logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
        return margin(logits, y)


def digits_request(models: list[nn.Module], surrogates: list[nn.Module], **more: object) -> Request:
    fields = {"dataset": "digits", "count": 60, "shard_size": 25, "surrogates": surrogates, **more}
    return Request(models, ["fgsm", "pgd"], ThreatModel.of("linf", "0.1"), **fields)  # type: ignore[arg-type]


def test_crafting_goes_on_after_the_surrogate_is_broken() -> None:
    """Images that barely fool a surrogate hardly transfer: every step is taken on every example."""
    model, threat = Linear(0), ThreatModel.of("linf", "0.2")
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.where(torch.arange(20) < 10, model(x).argmax(1), (model(x).argmax(1) + 1) % 10)
    examples = Examples(x, y, torch.arange(20))
    crafted = attack_shard(model, 10, Ascent(), threat, examples, Settings(batch_size=8, crafting=True))
    found = attack_shard(model, 10, Ascent(), threat, examples, Settings(batch_size=8))
    assert (crafted.rows["backwards"] == 12).all()
    assert found.rows["backwards"].sum() < crafted.rows["backwards"].sum() / 2
    wrong = torch.arange(20) >= 10
    assert torch.equal(found.images[wrong], x[wrong])
    assert (crafted.images[wrong] != x[wrong]).flatten(1).any(1).all()


def test_a_surrogate_is_attacked_once_for_all_targets(tmp_path: Path) -> None:
    source, store = Linear(5), Store(tmp_path)
    first = evaluate(digits_request([Linear(6)], [source]), store)
    seen = source._seen
    second = evaluate(digits_request([Linear(7)], [source]), store)
    assert source._seen == seen
    assert [row["access"] for row in first.rows + second.rows] == ["transfer"] * 4
    assert [row["backwards"] for row in first.rows] == [row["backwards"] for row in second.rows]
    crafted = [EvaluationFolder(path) for path in (tmp_path / "crafted").iterdir()]
    assert sorted(len(folder.rows()) for folder in crafted) == [60, 60]
    assert not (set(store.evaluation_ids()) & {folder.job_id for folder in crafted})


def test_transfer_to_itself_is_the_attack_to_its_end(tmp_path: Path) -> None:
    """On a linear model every gradient attack is the closed form, so white-box and transfer to itself agree."""
    model, store = Linear(8), Store(tmp_path)
    request = digits_request([model], [model])
    transfer = evaluate(request, store).rows
    direct = evaluate(digits_request([model], []), store).rows
    assert transfer[0]["robust_accuracy"] == direct[0]["robust_accuracy"]
    assert transfer[1]["robust_accuracy"] >= direct[1]["robust_accuracy"]


def test_the_report_takes_the_worst_by_image_and_keeps_it_from_the_white_box(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = evaluate(digits_request([Linear(1), Linear(2)], [Linear(3), Linear(4)]), store)
    report = Report.of(done, store)
    assert report.worst == []
    assert len(report.transfer) == 4
    for cell in report.transfers:
        rows = [
            store.evaluation(r["evaluation"]).rows()
            for r in done.rows
            if (r["model"], r["surrogate"], r["model_digest"]) == (cell.model, cell.surrogate, r["model_digest"])
        ]
        assert cell.attacks == ("fgsm", "pgd")
        assert all(len(table) == 60 for table in rows)


def test_another_shard_size_uses_what_is_crafted(tmp_path: Path) -> None:
    source, store = Linear(5), Store(tmp_path)
    evaluate(digits_request([Linear(6)], [source], shard_size=25), store)
    seen = source._seen
    again = evaluate(digits_request([Linear(9)], [source], shard_size=40), store).rows
    other = evaluate(digits_request([Linear(9)], [source], shard_size=25), Store(tmp_path / "fresh")).rows
    assert [row["robust_accuracy"] for row in again] == [row["robust_accuracy"] for row in other]
    assert source._seen > seen  # the fresh store had nothing


def test_replay_proposes_by_example() -> None:
    images = torch.rand(3, 1, 2, 2)
    passes = {
        "forwards": [1, 2, 3],
        "backwards": [4, 5, 6],
        "zero_pixels": [0.5] * 3,
        "flags": ["", "zero-gradient", "a"],
    }
    rows = pd.DataFrame({"example_id": [7, 8, 9], "goal": [-1, 3, 2], **passes})
    replay = Replay(images, rows, "robust accuracy", ("randomised",))
    plan = replay.trials(torch.tensor([0, 0]), torch.zeros(2, 4), torch.tensor([9, 7]), 0)
    assert plan.goal.tolist() == [[2], [-1]]
    found = pd.DataFrame({"forwards": [0] * 3, "backwards": [0] * 3, "flags": ["", "", "b;a"]})
    charged = replay.charge(ShardOutcome(found, images, ("batch-dependent",)))
    assert charged.rows["backwards"].tolist() == [4, 5, 6]
    assert charged.rows["passes"].tolist() == [9, 12, 15]
    assert charged.rows["flags"].tolist() == ["", "zero-gradient", "b;a"]
    assert charged.flags == ("batch-dependent", "surrogate randomised")


def test_a_detector_and_a_surrogate_do_not_go_together() -> None:
    from robench.detector.request import DetectorRequest

    with pytest.raises(BadInput, match="--surrogate"):
        digits_request([Linear(1)], [Linear(2)], guard=DetectorRequest("kd"))


class Rounded(Linear):
    """The same behind four levels a pixel, which have no gradient."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.levels = Levels()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.levels(x))


class Levels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 3).round() / 3


def test_bpda_is_part_of_a_craft(tmp_path: Path) -> None:
    """Images crafted without it are not taken for those crafted with it."""
    source, target, store = Rounded(5), Linear(5), Store(tmp_path)
    plain = evaluate(digits_request([target], [source]), store).rows
    through = evaluate(digits_request([target], [source], bpda=["levels"]), store).rows
    assert through[1]["robust_accuracy"] < plain[1]["robust_accuracy"]
    fresh = evaluate(digits_request([target], [source], bpda=["levels"]), Store(tmp_path / "fresh")).rows
    assert [row["robust_accuracy"] for row in fresh] == [row["robust_accuracy"] for row in through]


def test_bpda_and_plain_runs_have_columns_of_their_own(tmp_path: Path) -> None:
    from robench.tables.leaderboard import build

    model, store = Rounded(5), Store(tmp_path)
    plain = evaluate(digits_request([model], []), store).rows
    through = evaluate(digits_request([model], [], bpda=["levels"]), store).rows
    assert through[1]["robust_accuracy"] < plain[1]["robust_accuracy"]
    (board,) = build(store)
    assert {"pgd", "pgd [bpda levels]"} <= set(board.headers)
    assert board.rows[0].worst.figure.value <= through[1]["robust_accuracy"]


@pytest.mark.parametrize("name", ["autoattack", "foolbox:L2DeepFoolAttack", "art:AutoProjectedGradientDescent"])
def test_an_attack_that_gives_up_or_stops_is_refused(name: str, tmp_path: Path) -> None:
    threat = ThreatModel.of("l2", "0.5")
    request = Request([Linear(1)], [name], threat, "digits", 20, surrogates=[Linear(2)])
    with pytest.raises(BadInput, match="nothing about transfer") as caught:
        evaluate(request, Store(tmp_path))
    assert str(caught.value).count(".") == 1


def test_a_library_s_attack_that_goes_on_transfers(tmp_path: Path) -> None:
    """On a linear surrogate its last image is the closed form, whether or not the first step had broken it."""
    request = Request([Linear(1)], ["foolbox:LinfPGD"], ThreatModel.of("linf", "0.1"), "digits", 20,
                      surrogates=[Linear(2)])  # fmt: skip
    assert evaluate(request, Store(tmp_path)).rows[0]["status"] == "complete"
    (folder,) = (tmp_path / "crafted").iterdir()
    assert (EvaluationFolder(folder).rows()["linf"] > 0.0999).all()


class Trembling(Linear):
    """The same with noise in its logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + 0.1 * torch.randn_like(logits)


def test_what_the_surrogate_is_flagged_for_goes_with_its_images(tmp_path: Path) -> None:
    noisy, still, store = Trembling(5), Linear(6), Store(tmp_path)
    for _ in range(2):  # crafted now, and taken from the store
        rows = evaluate(digits_request([still], [noisy]), store).rows
        assert [row["flags"] for row in rows] == [["surrogate randomised"]] * 2
    rows = evaluate(digits_request([Linear(7)], [noisy], shard_size=40), store).rows
    assert [row["flags"] for row in rows] == [["surrogate randomised"]] * 2
    rows = evaluate(digits_request([noisy], [still]), store).rows
    assert [row["flags"] for row in rows] == [["randomised"]] * 2


def test_a_surrogate_needs_the_same_images(tmp_path: Path) -> None:
    """Two stores of digits that differ by one image have nothing to say about each other."""
    import numpy as np

    noise = np.random.default_rng(0)
    arrays = {f"x_{part}": noise.integers(0, 256, (40, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(40) % 10 for part in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", **{**arrays, "x_test": arrays["x_test"] ^ 1})
    from robench.evaluation.address import Address
    from robench.evaluation.attacks import attack_at
    from robench.evaluation.jobs import make_job, open_target

    target, other = (open_target(Linear(1), Store(tmp_path), f"npz:{tmp_path / name}") for name in ("a.npz", "b.npz"))
    address = Address(Linear(1), "fgsm", {}, ThreatModel.of("linf", "0.1"))
    named = attack_at(address)
    assert make_job(address, Store(tmp_path), target, named, target).craft is not None
    with pytest.raises(BadInput, match="other test images"):
        make_job(address, Store(tmp_path), target, named, other)

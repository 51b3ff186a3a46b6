"""Verification: an honest evaluation holds, and every forgery of its stored images and rows is found."""

import pandas as pd
import pytest
import torch

from robench.data.dataset import open_dataset
from robench.errors import BadInput
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.store.files import write_sealed
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.verification import verify_all
from tests.made import means_of_digits

FACTORY = """
import torch

MEANS = torch.tensor([[...]])

def nearest_mean():
    layer = torch.nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = MEANS * 4, -2 * MEANS.square().sum(1)
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
""".replace("[[...]]", str(means_of_digits().tolist()))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A store with one honest evaluation of 24 images in two shards, and its only folder's path."""
    root = tmp_path_factory.mktemp("runs")
    (root / "mine.py").write_text(FACTORY)
    store = Store(root)
    request = Request([f"{root / 'mine.py'}:nearest_mean"], ["fgsm"], ThreatModel.of("linf", "0.1"), "digits",
        count=24, shard_size=12, device="cpu")  # fmt: skip
    (row,) = evaluate(request, store).rows
    assert row["status"] == "complete"
    return store, row["evaluation"], f"{root / 'mine.py'}:nearest_mean"


@pytest.fixture
def check(evaluated):
    """Verify after `change(rows, images)` was made to the first shard, as a forger would: checksums fit again."""
    store, job_id, model = evaluated
    folder = store.evaluation(job_id)
    kept = {path: path.read_bytes() for path in folder.path.iterdir()}

    def run(change):
        rows, images = pd.read_parquet(folder.path / "shard-000000-000012.parquet"), folder.images(0, 12).clone()
        changed = change(rows, images)
        rows, images = (rows, images) if changed is None else changed
        folder.save_shard(0, 12, rows, images, {"flags": []})
        stated = folder.stated
        stated.pop("second", None)  # of other shards now
        write_sealed(folder.path / "result.json", {**stated, "evaluation": job_id, "shards": folder.contents})
        (found,) = verify_all(store, [], model, device="cpu")
        assert found.holds == (found.examples == found.expected and not any(found.faults.values()))
        return found

    yield run
    for path, content in kept.items():
        path.write_bytes(content)


def names(found):
    return {kind for kind, count in found.faults.items() if count}


def test_an_honest_evaluation_holds(check):
    found = check(lambda rows, images: None)
    assert found.holds
    assert (found.examples, found.expected) == (24, 24)


def test_an_evaluation_of_both_kinds_is_checked(check):
    seen = []
    check(lambda rows, images: seen.append(rows["success"].sum()))
    assert 0 < seen[0] < 12  # broken and robust examples, so that either lie can be told


def broken(rows):
    return int(rows.index[rows["success"]][0])


@pytest.mark.parametrize("excess", [1e-6, 1e-3, 0.1])
def test_a_pixel_outside_eps_is_found(check, excess):
    x0 = open_dataset("digits").drawn("balanced").pixels(slice(0, 12))
    pixel = int((x0[3] - 0.5).abs().argmin())

    def change(rows, images, outside=excess):
        images[3] = x0[3]
        images[3].view(-1)[pixel] += 0.1 + outside

    found = check(change)
    assert not found.holds
    assert found.faults["outside eps"] == 1
    assert check(lambda rows, images: change(rows, images, -1e-6)).faults["outside eps"] == 0


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1.01, "outside [0, 1]"), (-0.01, "outside [0, 1]"), (float("nan"), "NaN pixels"), (float("inf"), "NaN pixels")],
)
def test_a_pixel_that_is_none_is_found(check, value, kind):
    def change(rows, images):
        images[5, 0, 0, 0] = value

    found = check(change)
    assert not found.holds
    assert found.faults[kind] == 1


def test_a_verdict_that_was_flipped_is_found(check):
    def change(rows, images):
        i = broken(rows)
        rows.loc[i, ["adv_pred", "success"]] = [rows.loc[i, "label"], False]

    assert names(check(change)) == {"wrong verdict", "wrong record"}


def test_a_success_that_does_not_follow_is_found(check):
    def change(rows, images):
        rows.loc[broken(rows), "success"] = False

    assert names(check(change)) == {"wrong verdict", "wrong record"}


def test_a_clean_verdict_that_was_flipped_is_found(check):
    def change(rows, images):
        i = broken(rows)
        rows.loc[i, ["clean_pred", "clean_correct", "success"]] = [(rows.loc[i, "label"] + 1) % 10, False, False]

    assert names(check(change)) == {"wrong verdict", "wrong record"}


def test_a_changed_label_is_found(check):
    def change(rows, images):
        i = broken(rows)
        rows.loc[i, ["label", "success"]] = [rows.loc[i, "adv_pred"], False]
        rows.loc[i, "clean_correct"] = False

    assert "wrong label" in names(check(change))


@pytest.mark.parametrize("column", ["linf", "l2"])
def test_a_changed_distance_is_found(check, column):
    def change(rows, images):
        rows.loc[2, column] += 0.01

    assert names(check(change)) == {"wrong distance"}


def test_an_image_put_back_is_found(check):
    def change(rows, images):
        i = broken(rows)
        images[i] = 0.0

    assert not check(change).holds


def test_a_goal_that_no_attack_had_is_found(check):
    # with a goal, success would mean reaching it: every broken example would count as robust
    def change(rows, images):
        rows["goal"] = (rows["adv_pred"] + 1) % 10
        rows["success"] = False

    assert not check(change).holds


def test_a_column_of_goals_that_is_left_out_is_found(check):
    """The other shard has one, but together they are no rows."""
    with pytest.raises(BadInput, match=r"are damaged \(0 columns 'goal'\)"):
        check(lambda rows, images: (rows.drop(columns=["goal"]), images))


def test_rows_left_out_are_found(check):
    def change(rows, images):
        keep = ~rows["success"]
        return rows[keep].reset_index(drop=True), images[torch.tensor(keep.to_numpy())]

    assert not check(change).holds


def test_a_row_put_in_anothers_place_is_found(check):
    def change(rows, images):
        bad, good = broken(rows), int(rows.index[~rows["success"]][0])
        order = [good if i == bad else i for i in range(len(rows))]
        return rows.loc[order].reset_index(drop=True), images[order]

    assert not check(change).holds


def test_damaged_shards_are_no_longer_counted(evaluated, check):
    store, job_id, _model = evaluated
    path = store.evaluation(job_id).path / "shard-000012-000024.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = check(lambda rows, images: None)
    assert not found.holds
    assert (found.examples, found.expected) == (12, 24)


def test_a_model_handed_over_in_a_program_is_verified_from_its_file(tmp_path):
    """As from a notebook: what was evaluated is what the factory makes, so --model finds it."""
    space = {}
    (tmp_path / "mine.py").write_text(FACTORY + "\ndef unrelated():\n    return 3\n")
    exec(FACTORY, space)
    store = Store(tmp_path / "runs")
    request = Request([space["nearest_mean"]()], ["fgsm"], ThreatModel.of("linf", "0.1"), "digits", 24, device="cpu")
    assert evaluate(request, store).complete
    (found,) = verify_all(store, [], f"{tmp_path / 'mine.py'}:nearest_mean", device="cpu")
    assert found.holds

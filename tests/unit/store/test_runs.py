"""The runs folder: files are whole or absent, damage is noticed, and a spec keeps its id."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from robench.errors import BadInput
from robench.results.accuracy import Measure
from robench.results.statistics import wilson
from robench.results.summary import NOT_SEALED, Summary
from robench.store import files
from robench.store.about import About
from robench.store.files import (
    Damaged,
    read_sealed,
    write_json,
    write_text,
)
from robench.store.runs import EvaluationFolder, Store, runs_root
from robench.store.specs import EvalSpec
from tests.made import whole


class Killed(BaseException):
    """Stands for Ctrl-C and the like."""


@pytest.fixture
def hashed(monkeypatch):
    """The files whose content was hashed."""
    seen, hash_ = [], files._hash
    monkeypatch.setattr(files, "_hash", lambda path: seen.append(Path(path).name) or hash_(path))
    return seen


@pytest.fixture
def settled(monkeypatch):
    """Time stamps are taken to be so fine that none can hide a change."""
    monkeypatch.setattr(files, "SETTLED", 0)


def test_runs_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBENCH_RUNS", raising=False)
    assert str(runs_root()) == "runs"
    monkeypatch.setenv("ROBENCH_RUNS", str(tmp_path))
    assert runs_root() == tmp_path
    assert runs_root(tmp_path / "x") == tmp_path / "x"


# --- specs -----------------------------------------------------------------------------------------------------------

SPEC = EvalSpec(
    model_digest="0123456789abcdef",
    data_digest="fedcba9876543210",
    count=1000,
    norm="linf",
    eps="8/255",
    attack="pgd",
    attack_version=1,
    attack_options={"steps": 40, "step": "eps/4", "restarts": 1, "random_start": True, "success": "any"},
    seed=0,
)


def test_a_spec_keeps_its_text_and_id():
    # pinned: another id means that finished evaluations are no longer found
    assert SPEC.canonical() == (
        '{"attack":"pgd","attack_options":{"random_start":true,"restarts":1,"step":"eps/4","steps":40,"success":"any"},'
        '"attack_version":1,"count":1000,"data_digest":"fedcba9876543210","eps":"8/255","harness":1,'
        '"model_digest":"0123456789abcdef","norm":"linf","seed":0,"split":"test","start":0}'
    )
    assert SPEC.job_id == "720ace7339dc"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("harness", 2),
        ("model_digest", "1123456789abcdef"),
        ("data_digest", "eedcba9876543210"),
        ("split", "val"),
        ("start", 1),
        ("count", 999),
        ("norm", "l2"),
        ("eps", "4/255"),
        ("attack", "fgsm"),
        ("attack_version", 2),
        ("attack_options", {**SPEC.attack_options, "steps": 41}),
        ("seed", 1),
        ("detector", "0123456789ab"),
        ("surrogate", "1123456789abcdef"),
        ("eot", 20),
        ("bpda", ["0"]),
        ("search_precision", "bf16"),
        ("max_passes", 200),
        ("in_turn", True),
        ("after", "0123456789ab"),
        ("below", "0123456789ab"),
        ("guide", "0123456789abcdef"),
        ("imported", "0123456789abcdef"),
        ("draw", "balanced"),
        ("sources", {"attack pgd": "0123456789abcdef"}),
        ("batch_size", 40),
        ("shard_size", 40),
    ],
)
def test_every_field_changes_the_id(field, value):
    assert SPEC.model_copy(update={field: value}).job_id != SPEC.job_id


def test_every_field_is_tried_above():
    tried = {mark[0] for mark in test_every_field_changes_the_id.pytestmark[0].args[1]}
    assert tried == set(EvalSpec.model_fields)


def test_the_order_of_options_does_not_change_the_id():
    turned = dict(reversed(SPEC.attack_options.items()))
    assert SPEC.model_copy(update={"attack_options": turned}).job_id == SPEC.job_id
    assert EvalSpec(**json.loads(SPEC.canonical())).job_id == SPEC.job_id


def test_specs_are_closed_and_frozen():
    with pytest.raises(ValidationError):
        EvalSpec(**SPEC.model_dump(), workers=3)
    with pytest.raises(ValidationError):
        SPEC.seed = 4


# --- shards ----------------------------------------------------------------------------------------------------------


def save(folder, start, stop):
    ids = torch.arange(start, stop)
    images = torch.rand(stop - start, 1, 2, 2, generator=torch.Generator().manual_seed(start))
    folder.save_shard(start, stop, whole(pd.DataFrame({"example_id": ids.numpy()})), images, {"seconds": start})
    return images


def test_a_shard_comes_back_as_it_was(tmp_path):
    folder = EvaluationFolder(tmp_path / "job")
    second, first = save(folder, 10, 15), save(folder, 0, 10)
    assert folder.ranges() == [(0, 10), (10, 15)]
    assert folder.rows()["example_id"].tolist() == list(range(15))
    assert torch.equal(folder.images(0, 10), first)
    assert torch.equal(folder.images(10, 15), second)
    assert [note["seconds"] for note in folder.notes()] == [0, 10]
    assert not list(folder.path.glob(".*"))


def test_an_empty_folder_misses_everything(tmp_path):
    folder = EvaluationFolder(tmp_path / "job")
    assert folder.ranges() == []
    assert folder.missing(0, 25, 10) == [(0, 10), (10, 20), (20, 25)]
    assert folder.rows().empty
    assert folder.result is None


@settings(max_examples=200, deadline=None)
@given(
    done=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda t: (t[0], sum(t))), max_size=5),
    start=st.integers(0, 30),
    length=st.integers(0, 50),
    size=st.integers(1, 25),
)
def test_what_is_missing_is_what_no_shard_holds(done, start, length, size):
    class Known(EvaluationFolder):
        def ranges(self):
            chosen = []
            for begin, end in sorted(done):
                if not chosen or begin >= chosen[-1][1]:
                    chosen.append((begin, end))
            return chosen

    folder, stop = Known("job"), start + length
    gaps = folder.missing(start, stop, size)
    held = {i for begin, end in folder.ranges() for i in range(begin, end)}
    listed = [i for begin, end in gaps for i in range(begin, end)]
    assert listed == [i for i in range(start, stop) if i not in held]
    assert all(0 < end - begin <= size for begin, end in gaps)


def damage(path, kind):
    content = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("kind", ["gone", "empty", "cut", "flipped"])
@pytest.mark.parametrize("suffix", ["parquet", "safetensors", "json"])
def test_a_damaged_shard_is_missing(tmp_path, kind, suffix):
    folder = EvaluationFolder(tmp_path / "job")
    for start in (0, 10, 20):
        save(folder, start, start + 10)
    path = folder.path / f"shard-000010-000020.{suffix}"
    if (suffix, kind) == ("json", "flipped"):
        path.write_text(path.read_text().replace('"parquet": "', '"parquet": "0'))
    else:
        damage(path, kind)
    assert folder.ranges() == [(0, 10), (20, 30)]
    assert folder.missing(0, 30, 10) == [(10, 20)]
    assert folder.rows()["example_id"].tolist() == [*range(10), *range(20, 30)]
    save(folder, 10, 20)
    assert folder.missing(0, 30, 10) == []


def test_a_shard_without_its_manifest_is_missing(tmp_path, monkeypatch):
    folder = EvaluationFolder(tmp_path / "job")
    monkeypatch.setattr("robench.store.evaluation_folder.write_sealed", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        save(folder, 0, 10)
    assert folder.ranges() == []


def test_overlapping_shards_count_once(tmp_path):
    folder = EvaluationFolder(tmp_path / "job")
    for ends in ((0, 10), (5, 15), (10, 20)):
        save(folder, *ends)
    assert folder.ranges() == [(0, 10), (10, 20)]
    assert folder.rows()["example_id"].tolist() == list(range(20))


def test_rows_are_as_pandas_reads_them(tmp_path):
    folder = EvaluationFolder(tmp_path / "job")
    tables = []
    for start in (0, 3):
        ids = range(start, start + 3)
        tables.append(whole(pd.DataFrame({"example_id": ids, "success": [True, False, True], "l2": [0.5, 0.25, 0.0],
                                          "flags": ["", "a;b", ""]})))  # fmt: skip
        folder.save_shard(start, start + 3, tables[-1], torch.zeros(3, 1), {})
    plain = pd.concat([pd.read_parquet(path) for path in sorted(folder.path.glob("*.parquet"))], ignore_index=True)
    pd.testing.assert_frame_equal(folder.rows(), plain)
    pd.testing.assert_frame_equal(folder.rows(["l2", "success"]), plain[["l2", "success"]])
    more = tables[0].assign(example_id=range(6, 9), margin=1.0)  # from a version with another column
    folder.save_shard(6, 9, more, torch.zeros(3, 1), {})
    assert folder.rows()["margin"].isna().tolist() == [True] * 6 + [False] * 3


def test_intact_shards_are_read_once(tmp_path, hashed, settled, monkeypatch):
    folder = EvaluationFolder(tmp_path / "job")
    for start in (0, 10):
        save(folder, start, start + 10)
    hashed.clear()
    parsed = []
    monkeypatch.setattr("robench.store.evaluation_folder.read_sealed", lambda *a: parsed.append(a) or read_sealed(*a))
    for _ in range(3):
        assert folder.missing(0, 20, 10) == []
        assert len(folder.notes()) == len(folder.rows()) // 10 == 2
    assert len(hashed) == 4
    assert len(parsed) == 2
    damage(folder.path / "shard-000010-000020.parquet", "flipped")
    assert folder.ranges() == [(0, 10)]
    assert folder.damaged() == [(10, 20)]
    save(folder, 10, 15)
    save(folder, 15, 20)
    assert folder.missing(0, 20, 10) == []
    assert folder.damaged() == []  # others stand in


FIGURES = Summary(Measure.ROBUST, 10, 1.0, wilson(10, 10), 0.9, wilson(9, 10), 1, 0, 0.0, (NOT_SEALED,), "complete")
ABOUT = About(
    model="m", reference="m", dataset="digits", eps="8/255", given_options={}, metric=Measure.ROBUST,
    access="white-box", kind="iterative", command="robench", environment={"commit": "", "packages": {"torch": "2"}},
)  # fmt: skip


@pytest.fixture
def finished(tmp_path):
    """An evaluation of ten images whose summary is invented."""
    spec = SPEC.model_copy(update={"count": 10})
    folder = Store(tmp_path).evaluation(spec.job_id)
    folder.begin(spec.to_json(), ABOUT)
    rows = pd.DataFrame({
        "example_id": range(10), "label": 0, "clean_pred": 0, "adv_pred": [1] * 4 + [0] * 6, "clean_correct": True,
        "success": [True] * 4 + [False] * 6, "forwards": 2, "backwards": 1, "trial": 0, "flags": "",
    })  # fmt: skip
    folder.save_shard(0, 10, whole(rows), torch.zeros(10, 1, 2, 2), {"seconds": 2.0})
    folder.finish(FIGURES)
    return folder


def test_a_summary_is_believed_as_long_as_the_shards_are_those_it_was_made_of(finished):
    assert finished.result == FIGURES
    finished.save_shard(0, 10, finished.rows(), finished.images(0, 10), {"seconds": 3.0})
    assert (finished.result.value, finished.result.seconds) == (0.6, 3.0)
    assert finished.stated["robust_accuracy"] == FIGURES.value
    finished.finish(finished.result)
    assert finished.stated["robust_accuracy"] == 0.6


def test_a_summary_is_written_once(finished, monkeypatch):
    monkeypatch.setattr("robench.store.evaluation_folder.write_sealed", lambda *_: pytest.fail("written again"))
    finished.finish(FIGURES)


def test_a_summary_without_all_shards_is_none(finished):
    damage(next(finished.path.glob("*.parquet")), "cut")
    assert finished.result is None
    assert not finished.complete


@pytest.mark.parametrize("kind", ["gone", "empty", "cut", "flipped"])
@pytest.mark.parametrize("name", ["spec", "about"])
def test_a_damaged_record_is_made_anew(finished, name, kind):
    before = {"spec": finished.spec, "about": finished.about}
    damage(finished.path / f"{name}.json", kind)
    with pytest.raises(Damaged, match=f"{finished.job_id}.*run the command"):
        getattr(finished, name)
    finished.begin(before["spec"], replace(before["about"], command="another"))
    assert finished.spec == before["spec"]
    late = {"command": "another", "mended": True} if name == "about" else {}
    assert finished.about == replace(before["about"], **late)
    finished.begin(before["spec"], replace(before["about"], command="a third"))
    assert finished.about == replace(before["about"], **late)


# --- models ----------------------------------------------------------------------------------------------------------

CARD = {
    "name": "m", "spec_id": "0123456789ab", "defense": "standard", "options": {}, "digest": "", "seconds": 1.0,
    "data": {"name": "digits"}, "accuracy": {"test": 0.912, "test_count": 500, "test_interval": [0.88, 0.93]},
}  # fmt: skip


@pytest.fixture
def trained(tmp_path):
    store = Store(tmp_path)
    for name in ("m", "other"):
        store.finish_model(name, {**CARD, "name": name})
    return store


def test_a_card_comes_back(trained):
    assert trained.card("m") == CARD
    assert trained.model_names() == ["m", "other"]
    (trained.models / "m").rename(trained.models / "renamed")
    assert trained.card("renamed") == CARD


def test_a_card_from_before_there_were_seals_is_read(trained):
    write_json(trained.models / "m" / "model.json", CARD)
    write_text(trained.models / "m" / "DONE", CARD["spec_id"] + "\n")
    assert trained.card("m") == CARD


@pytest.mark.parametrize("name", ["DONE", "model.json"])
def test_a_card_of_another_model_is_refused(trained, name):
    content = (trained.models / "other" / name).read_bytes()
    (trained.models / "m" / name).write_bytes(content)
    with pytest.raises(Damaged, match=r"belong together; delete the folder .*m and train 'm' again"):
        trained.card("m")


def test_no_bit_of_done_changes_unnoticed(trained):
    path = trained.models / "m" / "DONE"
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        with pytest.raises(Damaged):
            trained.card("m")
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(Damaged):
            trained.card("m")


# --- looking up ------------------------------------------------------------------------------------------------------


def test_evaluations_are_found_by_the_beginning_of_their_id(tmp_path):
    store = Store(tmp_path)
    for name in ("abc123", "abd456"):
        store.evaluation(name).begin({"name": name}, ABOUT)
    assert store.find_evaluation("abc").job_id == "abc123"
    with pytest.raises(BadInput, match="any of abc123, abd456"):
        store.find_evaluation("ab")
    for unknown in ("x", "", "abc1234"):
        with pytest.raises(BadInput, match="no evaluation"):
            store.find_evaluation(unknown)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", ".a", "a b", "x" * 101])
def test_model_names_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="cannot be used"):
        Store(tmp_path).model_folder(name)

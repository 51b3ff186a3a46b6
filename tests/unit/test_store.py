"""The runs folder: files are whole or absent, damage is noticed, and a spec keeps its id."""

import errno
import json
import os

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from robench.errors import BadInput
from robench.files import checksum, read_json, write_file, write_json, write_text
from robench.specs import EvalSpec
from robench.store import EvaluationFolder, Store, runs_root

# --- files -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for Ctrl-C and the like."""


@pytest.mark.parametrize("failure", [ValueError("halfway"), Killed()])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, failure, before):
    path = tmp_path / "folder" / "file.json"
    if before:
        write_text(path, before)

    def write(aside):
        aside.write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        write_file(path, write)
    assert sorted(p.name for p in path.parent.iterdir()) == (["file.json"] if before else [])
    assert before is None or path.read_text() == before


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Cannot write"), (errno.EROFS, "Cannot write")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_or_locked_disk_is_one_sentence(tmp_path, monkeypatch, number, said, call):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"robench.files.os.{call}", fail)
    with pytest.raises(BadInput, match=said):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back_and_damage_is_said(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"z": [1, None], "a": "ü"})
    assert read_json(path) == {"z": [1, None], "a": "ü"}
    for content in (b"", b"{", b"[1]", b"\xff\xfe", path.read_bytes()[:-3]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="damaged"):
            read_json(path)
    with pytest.raises(BadInput, match="no file"):
        read_json(tmp_path / "c.json")


def test_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert checksum(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


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
        EvalSpec(**SPEC.model_dump(), batch_size=3)
    with pytest.raises(ValidationError):
        SPEC.seed = 4


# --- shards ----------------------------------------------------------------------------------------------------------


def save(folder, start, stop):
    ids = torch.arange(start, stop)
    images = torch.rand(stop - start, 1, 2, 2, generator=torch.Generator().manual_seed(start))
    folder.save_shard(start, stop, pd.DataFrame({"example_id": ids.numpy()}), images, {"seconds": start})
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
    monkeypatch.setattr("robench.store.write_json", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        save(folder, 0, 10)
    assert folder.ranges() == []


def test_overlapping_shards_count_once(tmp_path):
    folder = EvaluationFolder(tmp_path / "job")
    for ends in ((0, 10), (5, 15), (10, 20)):
        save(folder, *ends)
    assert folder.ranges() == [(0, 10), (10, 20)]
    assert folder.rows()["example_id"].tolist() == list(range(20))


def test_evaluations_are_found_by_the_beginning_of_their_id(tmp_path):
    store = Store(tmp_path)
    for name in ("abc123", "abd456"):
        store.evaluation(name).begin({"name": name}, {})
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

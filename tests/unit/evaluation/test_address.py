"""The address of one piece of work: sent as JSON and read again, and what of it decides which evaluation it is."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robench.detector.request import DetectorRequest
from robench.errors import BadInput
from robench.evaluation.address import Address, After, Below, How
from robench.evaluation.attacks import attack_at, resolve
from robench.evaluation.bench import Bench
from robench.evaluation.jobs import Job
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.tasks import Task, TrainTask, perform_json, task_of
from robench.evaluation.wanted import want
from robench.store.runs import Store
from robench.store.specs import EvalSpec
from robench.threat import ThreatModel
from robench.training.jobs import TrainRequest, train

THREAT = ThreatModel.of("linf", "8/255")
PLAIN = Address("plain", "pgd", {"steps": 3}, THREAT, count=20, how=How(device="cpu"))
GUARD = DetectorRequest("kd", {"bandwidth": 0.5}, "fgsm@linf:0.3", {"random_start": False}, 0.1, 100, False)
# a second value of every field of an address, with the field of the spec that shows it
DECIDES: dict[str, tuple[Any, str]] = {
    "model": ("other", "model_digest"),
    "attack": ("iter-rand", "attack"),
    "options": ({"steps": 4}, "attack_options"),
    "threat": (ThreatModel.of("linf", "0.1"), "eps"),
    "dataset": ("npz:same.npz", "data_digest"),
    "count": (None, "count"),
    "seed": (2**63 - 1, "seed"),
    "surrogate": ("other", "surrogate"),
    "guide": ("other", "guide"),
    "guard": (replace(GUARD, options={}, attack_options={}), "detector"),
    "eot": (2, "eot"),
    "bpda": (("backbone", "head"), "bpda"),
    "after": (After("0123456789ab", "fgsm, pgd"), "after"),
    "below": (Below("0123456789ab", "0.1"), "below"),
    "start": (5, "start"),
    "search_precision": ("bf16", "search_precision"),
    "max_passes": (30, "max_passes"),
}
# a second value of what is only checked: the number of classes, which data and model have already
CHECKED: dict[str, Any] = {"classes": 10}
# a second value of what names images that must be in the store: tests/integration/test_import.py has some
STORED: dict[str, Any] = {"imported": "0123456789abcdef", "draw": "balanced"}
# a second value of everything that is speed
SPEED: dict[str, Any] = {
    "batch_size": 7,
    "shard_size": 9,
    "device": "auto",
    "data_root": Path("elsewhere"),
    "probe": True,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = Store(tmp_path_factory.mktemp("runs"))
    for seed, name in enumerate(("plain", "other")):
        train(TrainRequest("standard", "digits", epochs=1, seed=seed, name=name, device="cpu"), found)
    return found


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with data of digits' shape."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    arrays = {f"x_{part}": noise.integers(0, 256, (60, 8, 8), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(60) % 10 for part in ("train", "test")}
    np.savez("same.npz", **arrays)


def _sent(address: Address) -> Address:
    return Address.from_json(json.loads(json.dumps(address.to_json())))


# --- as JSON ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f.name for f in fields(Address) if f.name != "how"])
def test_every_field_arrives(name: str) -> None:
    others = {field: value for field, (value, _) in DECIDES.items()} | CHECKED | STORED
    changed = replace(PLAIN, **{name: others[name]})
    assert changed != PLAIN
    assert _sent(changed) == changed


@pytest.mark.parametrize("name", [f.name for f in fields(How)])
def test_how_it_is_computed_arrives(name: str, tmp_path: Path) -> None:
    changed = replace(PLAIN, how=replace(PLAIN.how, **{name: SPEED[name]}))
    assert changed != PLAIN
    root = (tmp_path / "elsewhere").resolve() if name == "data_root" else None
    assert _sent(changed) == replace(changed, how=replace(changed.how, data_root=root))


def test_a_detector_arrives_with_all_that_was_asked_of_it() -> None:
    assert _sent(replace(PLAIN, guard=GUARD)).guard == GUARD
    assert _sent(replace(PLAIN, guard=GUARD)).behind


@pytest.mark.parametrize("name", ["model", "surrogate"])
def test_a_module_is_not_sent(name: str) -> None:
    with pytest.raises(BadInput, match="The model Flatten was handed over in a program"):
        replace(PLAIN, **{name: nn.Flatten()}).to_json()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"count": 0}, "-n is 0"),
        ({"eot": 0}, "--eot is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"count": 10**20}, "-n is 100000000000000000000"),
        ({"eot": None}, "--eot is None"),
        ({"seed": 2**63}, "--seed is 9223372036854775808"),
    ],
)
def test_numbers_out_of_range_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        replace(PLAIN, **changed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"shard_size": 10**30}, "--shard-size is 1000000000000000000000000000000"),
        ({"batch_size": "x"}, "--batch-size is 'x'"),
        ({"batch_size": True}, "--batch-size is True"),
        ({"device": "cpu:7"}, "'cpu:7'"),
        ({"device": None}, "no device None"),
    ],
)
def test_how_out_of_range_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        How(**changed)


def test_numbers_of_numpy_are_plain_ones_afterwards() -> None:
    how = How(batch_size=np.int64(7), shard_size=np.int32(9))  # type: ignore[arg-type]
    assert (type(how.batch_size), type(how.shard_size)) == (int, int)
    assert json.loads(json.dumps(replace(PLAIN, how=how, seed=np.int64(3)).to_json()))["seed"] == 3


def test_tasks_arrive(tmp_path: Path) -> None:
    request = TrainRequest("standard", "digits", epochs=1, device="cpu")
    shard = Task("shard", "0123456789ab-000000-000020", tmp_path, PLAIN, 0, 20, "0123456789ab")
    for task in (shard, replace(shard, kind="craft"), TrainTask("train-m", tmp_path, request)):
        sent = task_of(json.loads(json.dumps(task.to_json())))
        assert sent == task
        assert sent.on("cuda:3").device == "cuda:3"


# --- what decides an evaluation --------------------------------------------------------------------------------------


def test_every_field_is_known_to_decide_or_to_be_speed() -> None:
    assert {*DECIDES, *CHECKED, *STORED, "how"} == {f.name for f in fields(Address)}
    assert SPEED.keys() == {f.name for f in fields(How)}
    of_the_code = {
        "harness",
        "attack_version",
        "split",
        "batch_size",
        "shard_size",  # these two: of libraries
        "sources",
        "in_turn",  # of a budget: how it is spent
    }
    shown = {field for _, field in DECIDES.values()} | {"norm", *STORED}
    assert shown == EvalSpec.model_fields.keys() - of_the_code


@pytest.mark.parametrize("name", sorted(DECIDES))
def test_a_field_that_decides_changes_the_id(name: str, store: Store) -> None:
    value, shown = DECIDES[name]
    bench = Bench(store)
    one, two = bench.make(PLAIN).spec, bench.make(replace(PLAIN, **{name: value})).spec
    assert one.job_id != two.job_id
    assert getattr(one, shown) != getattr(two, shown)


def test_the_norm_changes_the_id(store: Store) -> None:
    bench = Bench(store)
    one, two = (bench.make(replace(PLAIN, threat=ThreatModel.of(norm, "0.1"))).spec for norm in ("linf", "l2"))
    assert one.job_id != two.job_id
    assert (one.norm, two.norm) == ("linf", "l2")


@pytest.mark.parametrize("name", sorted(SPEED))
def test_speed_does_not(name: str, store: Store) -> None:
    bench, changed = Bench(store), replace(PLAIN, how=replace(PLAIN.how, **{name: SPEED[name]}))
    assert bench.make(PLAIN).spec == bench.make(changed).spec


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_what_is_checked_does_not_and_is_refused_where_it_is_not_so(name: str, store: Store) -> None:
    bench = Bench(store)
    assert bench.make(PLAIN).spec == bench.make(replace(PLAIN, **{name: CHECKED[name]})).spec
    with pytest.raises(BadInput, match=f"--{name} is {CHECKED[name] + 1}"):
        bench.make(replace(PLAIN, **{name: CHECKED[name] + 1}))


@pytest.mark.parametrize("name", ["guard", "surrogate", "eot", "bpda", "after"])
def test_what_arrives_comes_to_the_same_id(name: str, store: Store) -> None:
    address = replace(PLAIN, **{name: DECIDES[name][0]})
    assert Bench(store).make(_sent(address)).spec == Bench(store).make(address).spec


# --- a request resolved ----------------------------------------------------------------------------------------------


def test_options_go_to_whom_they_belong() -> None:
    request = Request(["plain"], ["fgsm", "pgd"], THREAT, options={"steps": 3, "bandwidth": 0.5},
                      guard=DetectorRequest("kd"))  # fmt: skip
    asked = resolve(request)
    addresses = [asked.address("plain", named, behind=behind) for named in asked.attacks for behind in (False, True)]
    assert [(each.attack, each.options, each.behind) for each in addresses] == [
        ("fgsm", {}, False), ("fgsm", {}, True), ("pgd", {"steps": 3}, False), ("pgd", {"steps": 3}, True),
    ]  # fmt: skip
    assert [each.guard.options for each in addresses if each.guard] == [{"bandwidth": 0.5}] * 2


def test_a_set_is_resolved_once_and_its_members_stay_what_they_were() -> None:
    asked = resolve(Request(["plain"], ["diagnosis"], THREAT))
    for named in asked.attacks:
        again = attack_at(_sent(asked.address("plain", named)))
        assert (again.name, again.given, again.options) == (named.name, named.given, named.options)


# --- on a bench ------------------------------------------------------------------------------------------------------


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that benches make from here on."""
    made: list[Job] = []
    make = Bench.make

    def counted(bench: Bench, address: Address) -> Job:
        made.append(make(bench, address))
        return made[-1]

    monkeypatch.setattr(Bench, "make", counted)
    return made


def test_what_was_planned_here_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _counted(monkeypatch)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    request = Request([module], ["fgsm", "pgd"], THREAT, "digits", 40, {"steps": 2}, shard_size=10, device="cpu")
    assert [row["status"] for row in evaluate(request, Store(tmp_path)).rows] == ["complete"] * 2
    assert made == []


def test_a_worker_makes_it_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made, job = _counted(monkeypatch), Bench(store).make(PLAIN).spec.job_id
    made.clear()
    for start in (0, 10):
        task = Task("shard", f"{job}-{start}", store.root, PLAIN, start, start + 10, job)
        assert perform_json(task.to_json(), lambda device: device) in ("done", "there")
    assert len(made) == 1


def test_who_comes_to_another_id_refuses(store: Store) -> None:
    task = Task("shard", "0123456789ab-0", store.root, PLAIN, 0, 20, "0123456789ab")
    with pytest.raises(BadInput, match=r"0123456789ab of plain  pgd is .* changed meanwhile; run the command again"):
        perform_json(task.to_json(), lambda device: device)


def test_a_model_that_is_given_up_takes_its_jobs_along(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made again of its address is then checked against the id that it was planned with."""
    bench = Bench(store, keep=1)
    (planned,) = want("plain", resolve(Request(["plain"], ["fgsm"], THREAT, count=20, device="cpu")), [],
                      bench).evaluations  # fmt: skip
    task = Task("shard", "x", store.root, planned.address, 0, 20, planned.job.spec.job_id)
    assert bench.job(task.address, task.job) is planned.job
    assert planned.job.model.module is not None
    bench.target("other")
    assert "module" not in vars(planned.job.model)
    again = bench.job(task.address, task.job)
    assert again is not planned.job
    assert again.spec == planned.job.spec
    bench.target("other")
    card = {**store.card("plain"), "digest": "0" * 64}
    monkeypatch.setattr(Store, "card", lambda self, name: card)
    with pytest.raises(BadInput, match="changed meanwhile; run the command again"):
        bench.job(task.address, task.job)

"""The command that a record gives comes to the same evaluation, or the same training, as the one that made it."""

from __future__ import annotations

import shlex
from itertools import product
from typing import Any

import pytest
from torch import nn

from robench import registry
from robench.cli.app import main
from robench.errors import BadInput
from robench.evaluation import scheduler
from robench.evaluation.address import Address, After
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.recorded_command import command_of, portable, train_command_of
from robench.evaluation.request import Request
from robench.evaluation.summaries import Evaluated
from robench.evaluation.wanted import Wanted, want, want_one
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.training import jobs
from robench.training.jobs import TrainRequest, plan, train

OWN = """
import torch
from torch import nn
def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two small models, and a file with a factory of a third."""
    root = tmp_path_factory.mktemp("runs")
    (root / "own.py").write_text(OWN)
    for seed, name in enumerate(("plain", "other")):
        train(TrainRequest("standard", "digits", epochs=2, seed=seed, name=name, device="cpu"), Store(root))
    return Store(root)


def asked(command: str, store: Store) -> Request:
    """The request that a command line makes."""
    found: list[Request] = []

    def catch(request: Request, *_: Any) -> Evaluated:
        found.append(request)
        return Evaluated()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "evaluate", catch)
        assert main([*shlex.split(command)[1:], "--runs", str(store.root), "--device", "cpu"]) == 0
    return found[0]


def begun(request: Request, store: Store) -> dict[str, EvaluationFolder]:
    """The evaluations that a request stands for."""
    bench, (model,) = Bench(store), request.models
    sources = [bench.target(reference, request.dataset) for reference in request.surrogates]
    return recorded(want(model, resolve(request), sources, bench))


def recorded(wanted: Wanted) -> dict[str, EvaluationFolder]:
    """The evaluations, recorded as when they are computed, by their ids."""
    found = {}
    for cell in wanted.evaluations:
        job = cell.job
        job.folder.begin(job.spec.to_json(), job.about)
        if job.craft is not None:
            job.craft.folder.begin(job.craft.spec.to_json(), job.craft.about)
        found[job.spec.job_id] = job.folder
    return found


THREATS = ["--eps 0.1", "--eps 8/255", "--eps 1/3", "", "--norm l2 --eps 0.5"]
HOW = ["", "--seed 7", "--eot 4", "--bpda backbone --bpda head", "-n 30 --seed 3 --eot 2"]
WATCHED = "-a pgd --steps 3 --detector kd --trained-on fgsm@linf:0.3 --detector-images 100"
ASKED = [
    *(f"plain -a pgd --steps 5 {threat} {how}" for threat, how in product(THREATS, HOW)),
    "plain -a pgd --restarts 3 -o step=eps/2 -o random_start=false -o success=any --eps 0.03",
    "plain -a fgsm,pgd,random-targeted --restarts 2 --eps 0.1",
    "plain -a diagnosis --eps 0.1",
    "plain -a paradise --steps 7 --eps 0.1",
    "plain -a cw --norm l2 --eps 2",
    "plain -a foolbox:LinfPGD -o steps=3 --eps 0.1",
    "{root}/own.py:load --dataset digits -a fgsm --eps 0.1 -n 40",
    "plain -a transfer --surrogate other --surrogate {root}/own.py:load --eps 0.2 --dataset digits",
    "plain -a pgd --steps 4 --surrogate other --eot 3 --seed 2 --eps 0.2",
    "plain -a fgsm,pgd,multi-targeted --steps 3 --cascade --eps 0.1",
    "plain -a standard --cascade --eps 0.1",
    "plain -a paradise --cascade --eps 0.1 --seed 5 --eot 2",
    "plain -a pgd,apgd-ce --cascade --eps 0.1 --search-precision bf16",
    "plain -a pgd,cw --norm l2 --eps 2 --search-precision bf16",
    "plain -a pgd --steps 4 --surrogate other --search-precision bf16 --eps 0.2",
    f"plain {WATCHED} --eps 0.1 --search-precision bf16",
    "plain -a pgd,apgd-ce --cascade --eps 0.1 --max-passes 30",
    "plain -a pgd --steps 4 --surrogate other --max-passes 9 --eps 0.2",
    f"plain {WATCHED} --eps 0.1",
    f"plain {WATCHED} --fpr 0.1 -o k=7 --seed 4 --eps 0.2".replace("kd", "lid"),
    f"plain {WATCHED} --trained-option step=0.05 --eps 0.2".replace("fgsm@", "pgd@"),
]


@pytest.mark.parametrize("words", ASKED)
def test_the_command_of_an_evaluation_comes_to_the_same_id(words: str, store: Store) -> None:
    count = "" if "-n " in words else "-n 20"
    request = asked(f"robench evaluate {words.format(root=store.root)} {count}", store)
    folders = begun(request, store)
    assert folders
    for job_id, folder in folders.items():
        command = command_of(folder)
        assert command.startswith("robench evaluate ")
        assert job_id in begun(asked(command, store), store), command


def test_a_command_is_as_short_as_it_can_be(store: Store) -> None:
    (folder,) = begun(asked("robench evaluate plain -a fgsm --eps 0.1 -n 20", store), store).values()
    assert command_of(folder) == "robench evaluate plain --dataset digits -a fgsm --eps 0.1 -n 20"


def test_what_no_command_says_is_given_as_it_was_recorded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a program; and a cascade of options that neither one command nor a set has."""
    monkeypatch.setattr("robench.evaluation.jobs.command", lambda: "python mine.py --runs 'my runs' --data=/home/me -q")
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    threat = ThreatModel.of("linf", "0.1")
    (own,) = begun(Request([module], ["fgsm"], threat, "digits", count=20, device="cpu"), store).values()
    assert command_of(own) == "python mine.py -q"
    (first,) = begun(asked("robench evaluate plain -a pgd --steps 3 --eps 0.1 -n 20", store), store).values()
    address = Address("plain", "pgd", {"steps": 9}, threat, count=20, after=After(first.job_id, "pgd"))
    (second,) = recorded(want_one(address, Bench(store))).values()
    assert second.spec["after"] == first.job_id
    assert command_of(second) == "python mine.py -q"


def test_a_command_line_loses_the_folders_of_its_machine() -> None:
    assert portable("robench evaluate m --data /a -a fgsm --runs='b c' --out d") == "robench evaluate m -a fgsm"


# --- models ----------------------------------------------------------------------------------------------------------


def wanted(command: str) -> TrainRequest:
    """The request that a train command makes."""
    found: list[TrainRequest] = []

    def catch(request: TrainRequest, *_: Any) -> dict[str, Any]:
        found.append(request)
        raise BadInput("caught.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "train", catch)
        assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 2
    return found[0]


def card_of(request: TrainRequest) -> dict[str, Any]:
    """What the card of a training says of its settings."""
    job = plan(request)
    return {
        "name": job.name, "spec_id": job.spec.job_id, "defense": job.spec.defense, "options": job.spec.options,
        "recipe_name": job.spec.recipe_name, "recipe": job.spec.recipe, "data": job.dataset.info.to_json(),
        "seed": job.spec.seed, "command": "robench train as recorded --runs x",
    }  # fmt: skip


TRAINED = [
    "standard --epochs 3 --batch-size 20 --seed 9 --name mine",
    "standard --backbone mlp",
    "madry -o steps=3 --seed 1",
    "trades -o beta=4 --epochs 2",
    *registry.names("defense"),
]


@pytest.mark.parametrize("words", TRAINED)
def test_the_command_of_a_model_comes_to_the_same_training(words: str) -> None:
    card = card_of(wanted(f"robench train {words} --dataset digits"))
    again = card_of(wanted(train_command_of(card)))
    assert (again["spec_id"], again["name"]) == (card["spec_id"], card["name"])


def test_a_recipe_that_is_gone_leaves_the_recorded_command() -> None:
    card = card_of(wanted("robench train standard --dataset digits"))
    for change in ({"recipe_name": "gone"}, {"defense": "gone"}, {"recipe": {**card["recipe"], "lr": 7.0}}):
        assert train_command_of({**card, **change}) == "robench train as recorded"

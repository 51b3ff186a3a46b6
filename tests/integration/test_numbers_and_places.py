"""Numbers and places that nobody can mean: each refused in a sentence before any work, on the command line and in
Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome, Run, assert_refused
from torch import nn

import robench as face
from robench import registry
from robench.errors import BadInput
from tests.forked import PATIENCE

HUGE = "99999999999999999999"
TRAIN, EVALUATE = ("train", "standard"), ("evaluate", "plain", "-n", "20", "--eps", "0.1")
FGSM, PGD, UNTARGETED = (*EVALUATE, "-a", "fgsm"), (*EVALUATE, "-a", "pgd"), (*EVALUATE, "-a", "untargeted")
L2 = ("evaluate", "plain", "-n", "20", "--norm", "l2", "--eps", "1", "-a", "cw")

# the command line, then what the sentence must name
COMMANDS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    # options of attacks
    ((*PGD, "-o", f"steps={HUGE}"), ("steps", HUGE, "100,000")),
    ((*PGD, "-o", "steps=3000000000"), ("steps", "3000000000", "100,000")),
    ((*PGD, "-o", "steps=1_0"), ("steps", "'1_0'", "100,000")),
    ((*PGD, "-o", "steps=\uff11\uff12"), ("steps", "100,000")),
    ((*PGD, "--steps", "3000000000"), ("steps", "3000000000")),
    ((*PGD, "--restarts", "10000000000"), ("restarts", "10000000000", "10,000")),
    ((*PGD, "-o", "restarts=1e3"), ("restarts", "'1e3'")),
    ((*PGD, "-o", "step=1e999999999"), ("step", "'1e999999999'", "eps/4")),
    ((*PGD, "-o", "step=eps/1e-999999999"), ("step", "'eps/1e-999999999'")),
    ((*PGD, "-o", "step=1e9"), ("step", "'1e9'", "1000")),
    ((*PGD, "-o", "step=0.0_1"), ("step", "'0.0_1'")),
    ((*UNTARGETED, "-o", f"schedule=0.1,0.2@{'9' * 5000}"), ("schedule", "@9999")),
    ((*EVALUATE, "-a", "random-noise", "--restarts", "10000000000"), ("restarts", "10000000000")),
    ((*EVALUATE, "-a", "multi-targeted", "--restarts", "10001"), ("restarts", "10001")),
    ((*EVALUATE, "-a", "step-rand", "-o", f"steps={HUGE}"), ("steps", HUGE)),
    ((*EVALUATE, "-a", "min-fgsm", "-o", "line=10000000000"), ("line", "10000000000", "100,000")),
    ((*EVALUATE, "-a", "min-pgd", "-o", "growth=1.0000000001"), ("growth", "1.0000000001", "1.01")),
    ((*EVALUATE, "-a", "min-pgd", "-o", "first=1e-300"), ("first", "1e-300")),
    ((*EVALUATE, "-a", "min-pgd", "-o", f"bisections={HUGE}"), ("bisections", HUGE)),
    ((*L2, "-o", f"search_steps={HUGE}"), ("search_steps", HUGE)),
    ((*EVALUATE, "-a", "square", "-o", f"queries={HUGE}"), ("queries", HUGE, "1,000,000")),
    ((*EVALUATE, "-a", "apgd-t", "-o", f"targets={HUGE}"), ("targets", HUGE)),
    ((*EVALUATE, "-a", "foolbox:LinfPGD", "-o", f"steps={HUGE}"), ("steps", HUGE, "1,000,000")),
    ((*EVALUATE, "-a", "foolbox:LinfPGD", "--restarts", HUGE), ("restarts", HUGE)),
    ((*EVALUATE, "-a", "art:ProjectedGradientDescent", "-o", f"max_iter={HUGE}"), ("max_iter", HUGE)),
    # options of defenses and detectors
    (("train", "madry", "-o", f"steps={HUGE}"), ("steps", HUGE, "10,000")),
    (("train", "madry", "-o", "step=1e999999999"), ("step", "'1e999999999'")),
    (("train", "madry", "-o", "eps=1e999999999"), ("eps", "'1e999999999'")),
    (("train", "dvib", "-o", "z_dim=100000000000"), ("z_dim", "100000000000", "16,384")),
    (("train", "dvib", "-o", f"draws={HUGE}"), ("draws", HUGE)),
    (("train", "dvib", "-o", f"mc_samples={HUGE}"), ("mc_samples", HUGE)),
    (("train", "dvib", "-o", "decoder=99999-99999"), ("decoder", "'99999-99999'", "16,384")),
    (("train", "dvib", "-o", "beta=1e999999999"), ("beta", "'1e999999999'")),
    (("train", "rse", "-o", f"samples={HUGE}"), ("samples", HUGE)),
    (("train", "er-classifier", "-o", f"steps={HUGE}"), ("steps", HUGE)),
    ((*FGSM, "--detector", "lid", "-o", f"k={HUGE}"), ("k", HUGE)),
    ((*FGSM, "--detector", "lid", "--detector-images", "1" + 30 * "0"), ("--detector-images", "10,000,000")),
    ((*FGSM, "--detector", "lid", "--fpr", "nan"), ("--fpr", "'nan'")),
    ((*FGSM, "--detector", "lid", "--trained-on", "fgsm@linf:1e999999999"), ("eps", "'1e999999999'")),
    # the command's own
    (("evaluate", "plain", "-a", "fgsm", "-n", "1" + 30 * "0"), ("-n", "100,000,000")),
    (("evaluate", "plain", "-a", "fgsm", "-n", "2_0"), ("-n", "'2_0'")),
    (("evaluate", "plain", "-a", "fgsm", "-n", "x"), ("-n", "'x'")),
    ((*FGSM, "--batch-size", "1e30"), ("--batch-size", "'1e30'")),
    ((*FGSM, "--batch-size", "1" + 30 * "0"), ("--batch-size", "100,000")),
    ((*FGSM, "--shard-size", "1e30"), ("--shard-size", "'1e30'")),
    ((*FGSM, "--shard-size", "1" + 30 * "0"), ("--shard-size", "100,000")),
    ((*FGSM, "--eot", "10000000000"), ("--eot", "10000000000", "10,000")),
    ((*FGSM, "--seed", "\uff11"), ("--seed",)),
    ((*FGSM, "--seed", "9" * 5000), ("--seed", "999")),
    ((*FGSM, "--executor", "ray", "--workers", HUGE), ("--workers", HUGE, "10,000")),
    ((*FGSM, "--executor", "ray", "--cpus-per-task", "1e300"), ("--cpus-per-task", "1e+300")),
    ((*FGSM, "--executor", "ray", "--cpus-per-task", "nan"), ("--cpus-per-task", "'nan'")),
    ((*FGSM, "--executor", "ray", "--gpus-per-task", "1_0"), ("--gpus-per-task", "'1_0'")),
    ((*TRAIN, "--epochs", "1e30"), ("--epochs", "'1e30'")),
    ((*TRAIN, "--epochs", "1" + 30 * "0"), ("--epochs", "100,000")),
    ((*TRAIN, "--batch-size", "1" + 30 * "0"), ("--batch-size", "100,000")),
    ((*TRAIN, "--seed", str(2**32)), ("--seed", str(2**32), "4,294,967,295")),
    (("verify", "--batch-size", "1" + 30 * "0"), ("--batch-size", "100,000")),
    (("diagnose", "plain", "-n", "1" + 30 * "0"), ("-n", "100,000,000")),
    (("figure", "curve", "--points", "0,1e999999999"), ("eps", "'1e999999999'")),
    # eps, norms and places
    *(((*FGSM[:4], "-a", "fgsm", f"--eps={eps}"), ("eps", repr(eps)))
      for eps in ("8_0/2550", "0.1\n", "8/255\n", "\uff18/255", "\u0668/255", "1e999999999", "1/1e999999999",
                  "1e-999999999")),
    *(((*FGSM[:4], "-a", "fgsm", "--norm", norm), ("norm", repr(norm), "did you mean 'linf'?"))
      for norm in ("LINF", "Linf", "inf", "l_inf")),
    ((*FGSM[:4], "-a", "fgsm", "--norm", "2"), ("norm", "'2'", "did you mean 'l2'?")),
    ((*FGSM, "--device", "cpu:7"), ("'cpu:7'", "auto, cpu, cuda or cuda:N")),
    ((*FGSM, "--device", "cuda:99999999999999999999"), ("'cuda:99999999999999999999'",)),
    ((*TRAIN, "--device", "cpu:7"), ("'cpu:7'",)),
    (("verify", "--device", "cpu:7"), ("'cpu:7'",)),
    ((*FGSM, "--dataset", ""), ("--dataset", "''", "robench list datasets")),
    ((*TRAIN, "--dataset", ""), ("dataset", "''")),
    ((*TRAIN, "--dataset", f"folder:.@{HUGE}"), ("folder:.@", "4,096")),
    ((*TRAIN, "--dataset", "folder:missing@\uff18\uff18\uff18\uff18"), ("folder:missing@", "4,096")),
    *(((*FGSM, "--executor", "ray", "--address", address), ("--address", repr(address), "HOST:PORT"))
      for address in ("", "nowhere", "host:", ":1", "host:99999", "host:\uff18\uff18")),
    (("runs", "gc", "--runs", "a_file"), ("a_file", "folder")),
    (("runs", "gc", "--delete", "--runs", "a_file"), ("a_file", "folder")),
    (("runs", "size", "--runs", "a_file"), ("a_file", "folder")),
    (("list", "models", "--runs", "a_file"), ("a_file", "folder")),
]  # fmt: skip


def shown(case: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    return ascii(" ".join(word[:40] for word in case[0]))[1:-1]


def files(root: Path) -> dict[str, int]:
    """Every file under a folder but locks, with when it was written."""
    found = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "locks"]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, _store: Path) -> Path:
    """A folder with runs/, as nothing below changes it one for all of them, and with a file where a folder belongs."""
    root = tmp_path_factory.mktemp("numbers")
    (root / "a_file").write_text("not a folder\n")
    os.symlink(_store, root / "runs")
    return root


@pytest.mark.parametrize("case", COMMANDS, ids=shown)
def test_refused_before_any_work(
    case: tuple[tuple[str, ...], tuple[str, ...]], workshop: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    before, began = files(workshop / "runs"), time.monotonic()
    assert_refused(robench(*case[0]), case[1])
    assert time.monotonic() - began < 30
    assert files(workshop / "runs") == before


def test_there_are_enough_of_them() -> None:
    assert len(COMMANDS) + len(CALLS) >= 120


# settings of robench.evaluate, then what the sentence must name
CALLS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"count": "x"}, ("-n", "'x'")),
    ({"count": 2.5}, ("-n", "2.5")),
    ({"count": True}, ("-n", "True")),
    ({"count": 10**30}, ("-n", "100,000,000")),
    ({"seed": None}, ("--seed", "None")),
    ({"seed": -1}, ("--seed", "-1")),
    ({"seed": "0,x"}, ("--seed", "'x'")),
    ({"seed": [0, -1]}, ("--seed", "-1")),
    ({"seed": []}, ("--seed", "None")),
    ({"batch_size": 10**30}, ("--batch-size", "100,000")),
    ({"batch_size": np.float64(7)}, ("--batch-size", "7.0")),
    ({"batch_size": None}, ("--batch-size", "None")),
    ({"shard_size": 1e30}, ("--shard-size", "1e+30")),
    ({"eot": 0}, ("--eot", "0")),
    ({"norm": 2}, ("norm is 2", "'l2'", "'linf'")),
    ({"norm": float("inf")}, ("norm is inf", "'l2'", "'linf'")),
    ({"norm": np.inf}, ("norm is inf", "did you mean 'linf'")),
    ({"norm": "linf,l3"}, ("l3", "l2")),
    ({"norm": ["linf", "l2"]}, ("l2", "eps")),
    ({"norm": "l2", "eps": "linf:0.1"}, ("linf:0.1", "--norm")),
    ({"eps": True}, ("eps", "True")),
    ({"eps": float("nan")}, ("eps", "nan")),
    ({"eps": [0.1, "x"]}, ("eps", "'x'")),
    ({"eps": "0.1,,0.2"}, ("eps", "''")),
    ({"eps": {"l3": 1}}, ("l3", "l2")),
    ({"n": 5, "count": 5}, ("n is 5", "give n alone")),
    ({"eps": b"0.1"}, ("eps", "b'0.1'")),
    ({"device": "cpu:7"}, ("'cpu:7'",)),
    ({"device": 0}, ("device 0",)),
    ({"dataset": ""}, ("--dataset", "''")),
    ({"dataset": 5}, ("The data are int", "pair")),
    ({"model": 5}, ("model", "5")),
    ({"model": None}, ("model", "None")),
    ({"model": [3]}, ("model", "3")),
    ({"attacks": None}, ("--attack", "None")),
    ({"attacks": [3]}, ("--attack", "3")),
    ({"options": ["steps=3"]}, ("options", "steps=3", "dictionary")),
    ({"options": {3: 4}}, ("options", "{3: 4}")),
    ({"options": {"steps": 10**20}}, ("steps", str(10**20), "100,000")),
    ({"options": {"steps": 2.5}}, ("steps", "2.5")),
    ({"options": {"steps": [3]}}, ("steps", "[3]")),
    ({"options": {"steps": True}}, ("steps", "True")),
    ({"options": {"steps": None}}, ("steps", "None")),
    ({"options": {"random_start": "perhaps"}}, ("random_start", "'perhaps'")),
    ({"options": {"step": object}}, ("step", "object")),
    ({"surrogates": 5}, ("--surrogate", "5")),
    ({"bpda": 5}, ("--bpda", "5")),
    ({"cascade": "yes"}, ("cascade", "'yes'")),
    ({"runs": 5}, ("runs", "5")),
    ({"data": 5}, ("dataset", "left out")),
    ({"detector": 5}, ("detector", "5")),
    ({"batchsize": 5}, ("'batchsize'", "did you mean 'batch_size'")),
]


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def call(module: nn.Module, **settings: Any) -> face.Report:
    usual = {"model": module, "dataset": "digits", "attacks": "pgd", "eps": "0.1", "count": 5}
    return face.evaluate(**{**usual, **settings})


@pytest.mark.parametrize("case", CALLS, ids=lambda case: ascii(case[0])[:60])
def test_refused_in_python(case: tuple[dict[str, Any], tuple[str, ...]], module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        call(module, **case[0])
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    for name in case[1]:
        assert name in text
    assert not (tmp_path / "runs").exists()


def test_a_float_of_255ths_is_the_same_evaluation_as_its_text(module: nn.Module) -> None:
    made = [call(module, eps=eps).rows[0] for eps in (8 / 255, "8/255", np.float64(8 / 255), np.float32(8 / 255))]
    assert {row["evaluation"] for row in made} == {made[0]["evaluation"]}
    assert {row["eps"] for row in made} == {"8/255"}
    other = call(module, eps=0.031).rows[0]
    assert other["evaluation"] == call(module, eps="0.031").rows[0]["evaluation"] != made[0]["evaluation"]


def test_numbers_of_numpy_and_single_names_are_taken(module: nn.Module) -> None:
    numbers = {"count": np.int64(5), "batch_size": np.int32(3), "seed": np.uint8(0), "options": {"steps": np.int64(2)}}
    made = call(module, **numbers).rows[0]
    assert made["evaluation"] == call(module, options={"steps": 2}).rows[0]["evaluation"]
    assert len(call([module], attacks=("fgsm", "pgd")).rows) == 2  # type: ignore[arg-type]


def test_an_address_is_asked_even_where_all_is_in_the_store(store: Path, robench: Run) -> None:
    stored = ("evaluate", "plain", "-a", "fgsm", "-n", "20", "--eps", "0.1")
    assert robench(*stored).code == 0
    outcome = robench(*stored, "--executor", "ray", "--address", "127.0.0.1:1")
    assert_refused(outcome, ("127.0.0.1:1", "ray start --head"))


TRAINS, ATTACKS = (
    "train standard --epochs 1 --name fresh",
    "evaluate my_model.py:load -a pgd -n 10 -o steps=2 --eps 0.1 --dataset digits",
)
# every way with one command, and those where most is closed, or cannot be written to, with the other one too
CLOSED = [
    (">&-", ATTACKS), ("2>&-", ATTACKS), ("<&- >&- 2>&-", ATTACKS), ("2>/dev/full", ATTACKS),
    ("<&- >&- 2>&-", TRAINS), ("2>/dev/full", TRAINS),
]  # fmt: skip


@pytest.mark.parametrize(("streams", "words"), CLOSED)
@pytest.mark.usefixtures("model_file")
def test_closed_streams_do_not_hinder(streams: str, words: str, store: Path, robench: Run) -> None:
    """Nor does what is printed get into a file that has the number of one."""
    command = f"{sys.executable} -m robench {words} {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (store / "models" / "fresh" / "DONE").is_file() == (words == TRAINS)
    assert len(list((store / "evaluations").glob("*/result.json"))) == 1 + (words == ATTACKS)
    assert robench("verify").code == 0


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_bad_input_has_its_code_where_it_cannot_be_said(where: str) -> None:
    command = f"{sys.executable} -m robench evaluate nobody -a fgsm {where}"
    assert subprocess.run(["bash", "-c", command], check=False, timeout=PATIENCE, capture_output=True).returncode == 2


def piped(command: str) -> int:
    """The exit code of a command whose output nobody reads."""
    script = f"{sys.executable} -m robench {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    return done.returncode


def test_output_that_nobody_reads_is_told_by_the_signals_code(tmp_path: Path) -> None:
    assert piped("train standard --epochs 1 --name fresh") in (0, 128 + 13)  # 0 where it was read up in time
    assert (tmp_path / "runs" / "models" / "fresh" / "DONE").is_file()
    assert piped("list attacks") in (0, 128 + 13)


def test_a_full_output_is_said() -> None:
    command = f"{sys.executable} -m robench list attacks > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), ("No space left",))


def test_every_option_of_a_plugin_is_shown_with_its_range(robench: Run) -> None:
    shown = robench("show", "pgd")
    assert shown.code == 0
    assert "steps: 40; a whole number from 1 to 100,000" in shown.out
    told = robench("show", "dvib", "--json").json
    assert told["options"]["z_dim"] == {"default": None, "allowed": "a whole number from 1 to 16,384, or none"}
    assert "restarts: 1; a whole number from 1 to 10,000" in robench("show", "foolbox:LinfPGD").out


def _defaults() -> Iterator[tuple[str, str]]:
    for kind in ("attack", "defense", "detector"):
        for name in registry.names(kind):
            base: Any = registry._entries(kind)[name].load()
            members: Callable[[], list[str]] | None = getattr(base, "members", None)
            yield from ((kind, f"{name}:{each}") for each in members()) if members else [(kind, name)]


def test_every_default_is_within_its_range() -> None:
    for kind, name in _defaults():
        try:
            plugin = registry.load(kind, name)
            parameters, values = plugin.parameters(), plugin.options({})
        except BadInput:  # a library's attack that cannot be used here
            continue
        for option, value in values.items():
            registry.read_option(parameters[option].annotation, value)

"""Typical slips at the command line: exit code 2 and one sentence that says what to give instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import Run, assert_refused

ON = ("--dataset", "digits", "-a", "pgd", "--eps", "0.1")
OWN = ("evaluate", "net.py:load")
NET = """
from pathlib import Path
from torch import nn

def load():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

def deep(depth: int = 3):
    return load()
"""
# the command line, then what the sentence says
SLIPS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((*OWN, "--dataset", "digits", "-a", "pdg", "--eps", "0.1"), ("no attack named 'pdg'", "did you mean 'pgd'?")),
    (("evaluate", "standrd-mnist", *ON), ("'standrd-mnist'", "none is trained in", "'robench list sources'")),
    (("evaluate", "nett.py:load", *ON), ("no model file nett.py", "the path of a Python file")),
    (("evaluate", "net.py:lod", *ON), ("'lod'", "did you mean 'load'? Known: deep, load.")),
    (("evaluate", "net.py", *ON), ("names no factory", "it has load, deep", "give net.py:load")),
    ((*OWN, "-m", "depth=3", *ON), ("'net.py:load' takes no arguments", "leave depth out")),
    (("evaluate", "net.py:deep", "-m", "dept=3", *ON), ("'dept'", "did you mean 'depth'?")),
    ((*OWN, "--dataset", "cifar1", "-a", "pgd"), ("'cifar1'", "did you mean 'cifar10'?")),
    ((*OWN, "-a", "pgd"), ("was not trained by robench", "--dataset NAME")),
    ((*OWN, "--dataset", "twice.npz", "-a", "pgd"), ("'twice.npz' is a file", "give npz:twice.npz")),
    ((*OWN, "--dataset", "photos", "-a", "pgd"), ("'photos' is a folder", "give folder:photos")),
    ((*OWN, "--dataset", "npz:nothing.npz", "-a", "pgd"), ("There is no file nothing.npz",)),
    ((*OWN, "--dataset", "npz:twice.npz", "-a", "pgd"), ("[4, 3, 8, 3]", "--layout chw or --layout hwc")),
    ((*OWN, "--dataset", "npz:last.npz", "--layout", "chw", "-a", "pgd"), ("[N, C, H, W]", "leave --layout out")),
    ((*OWN, "--dataset", "npz:one.npz", "-a", "pgd"), ("start at 1", "--labels-from 1")),
    ((*OWN, *ON, "-o", "stps=10"), ("'stps'", "did you mean 'steps'?")),
    ((*OWN, *ON, "-o", "steps=ten"), ("'ten'", "a whole number from 1")),
    ((*OWN, *ON, "-o", "steps"), ("key=value", "-o steps=100")),
    ((*OWN, "--dataset", "digits", "-a", "pgd", "--eps", "8"), ("eps is 8", "did you mean 8/255?")),
    ((*OWN, "--dataset", "digits", "-a", "pgd", "--eps", "0,1"), ("'0,1'", "give 0.1 with a point", "1,0")),
    (
        (*OWN, "--dataset", "digits", "-a", "pgd,,fgsm", "--eps", "0.1"),
        ("no attack without a name", "no spaces: a,b", "Known: "),
    ),
    (("reproduce", "er-ablation", "-n", "5,mnist-linf=3"), ("named 'mnist-linf'", "known: er-ablation.")),
    (("reproduce", "er-ablation", "-n", "5,er-ablation=x"), ("not a whole number", "such as 1000")),
    (("reproduce", "er-ablation", "-n", "5,7"), ("says twice", "one for a suite")),
    ((*OWN, *ON, "--eps", "8/255"), ("--eps is given 2 times", "with commas between")),
    ((*OWN, "--dataset", "digits", "-a", "pgd", "--norm", "l2"), ("No eps is given", "--eps 0.5")),
    ((*OWN, "--dataset", "digits", "-a", "pgd", "--norm", "linff"), ("'linff'", "did you mean 'linf'?")),
    (("evaluate", "torchvision:resnet19", *ON), ("did you mean 'resnet18'?", " more")),
    (("evaluat", "net.py:load", *ON), ("No such command 'evaluat'; did you mean 'evaluate'? See 'robench --help'.",)),
    ((*OWN, *ON, "-n", "all"), ("'all' is not a whole number",)),
    ((*OWN, *ON, "--weights", "nothing.pt"), ("no file nothing.pt",)),
    (
        (*OWN, "--dataset", "digits", "-a", "cw", "--norm", "linf", "--eps", "0.1"),
        ("does not support norm linf", "it supports l2: give one with --norm"),
    ),
    (("evaluate", "needy.py:load", *ON), ("TypeError: load() missing 1 required positional argument: 'depth';",)),
    (("show", "pdg"), ("did you mean 'pgd'?", " more")),
]


@pytest.fixture(autouse=True)
def files() -> None:
    Path("net.py").write_text(NET)
    Path("needy.py").write_text("def load(depth):\n    return None\n")
    Path("photos").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 3), dtype=np.uint8)
    last = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez("twice.npz", x_test=x, y_test=np.arange(4) % 2)
    np.savez("last.npz", x_test=last, y_test=np.arange(4) % 2)
    np.savez("one.npz", x_test=last, y_test=1 + np.arange(4) % 2)


@pytest.mark.parametrize(("words", "says"), SLIPS, ids=lambda each: " ".join(each) if isinstance(each, tuple) else "")
def test_a_slip_is_answered_with_what_to_give(words: tuple[str, ...], says: tuple[str, ...], robench: Run) -> None:
    outcome = robench(*words)
    assert_refused(outcome, says)
    assert len(outcome.err) < 700, outcome.err


def test_both_eps_of_a_decimal_comma_are_had_the_other_way_round() -> None:
    from robench.evaluation.several import threats_of

    assert [float(each.eps) for each in threats_of("l2", "1,0")] == [1, 0]

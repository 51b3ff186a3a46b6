"""Models that change what they share with the judge: noticed, taken back, and told; and those that try to quit."""

from __future__ import annotations

import builtins
import gc
import operator
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robench_attacks.pgd
from robench import BadInput, norms
from robench.attack import (
    inspection,
    judge,
    namespaces,
    orbits,
    picking,
)
from robench.attack.guard import Guard, Quit, making, mark_seed, plain_tensor
from robench.attack.namespaces import Functions
from robench.attack.surroundings import Settings
from tests import liars
from tests.unit.attack.test_liars import SMALL, attacked, robust

pytestmark = pytest.mark.usefixtures("as_before")


class Does(nn.Module):
    """The honest linear model, which does something before it answers."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__()
        self.honest, self.what = liars.Linear(), what
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.what()
        logits: Tensor = self.honest(x)
        return logits


def replace(owner: object, name: str) -> Callable[[], None]:
    """What replaces a function by one that gives back its first argument."""
    return lambda: setattr(owner, name, lambda first=None, *rest, **named: first)


LEFT_OPEN: list[torch.inference_mode] = []
SETTINGS: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradient mode": lambda: torch._C._set_grad_enabled(False),
    "inference mode": lambda: LEFT_OPEN.append(torch.inference_mode()) or LEFT_OPEN[-1].__enter__(),
    "default device or modes": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "dispatch keys": lambda: torch._C._dispatch_tls_set_dispatch_key_excluded(torch._C.DispatchKey.AutogradCPU, True),
    "saved tensors' hooks": lambda: torch._C._autograd._push_saved_tensors_default_hooks(lambda t: t, lambda t: t * 0),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "global hooks": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "numpy errors": lambda: np.seterr(all="raise"),
    "warnings": lambda: warnings.filterwarnings("ignore", "nothing at all"),
    "tracing": lambda: sys.setprofile(lambda *_: None),
    "standard streams": lambda: setattr(sys, "stdout", None),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "garbage collector": gc.disable,
    "working folder": lambda: os.chdir("/"),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "environment": lambda: os.environ.update(OMP_NUM_THREADS="7"),
    "seed": lambda: torch.manual_seed(0),
    "random numbers": lambda: (random.random(), np.random.rand()),  # noqa: NPY002
}
FUNCTIONS: dict[str, Callable[[], object]] = {
    "torch.clamp": replace(torch, "clamp"),
    "torch.sign": replace(torch, "sign"),
    "torch.where": replace(torch, "where"),
    "Tensor.clamp": replace(Tensor, "clamp"),
    "torch.nn.functional.cross_entropy": replace(nn.functional, "cross_entropy"),
    "torch.autograd.grad": replace(torch.autograd, "grad"),
    "builtins.max": replace(builtins, "max"),
    "robench.attack.judge.predictions": replace(judge, "predictions"),
    "robench.attack.orbits._again": replace(orbits, "_again"),
    "robench.attack.picking.expand": replace(picking, "expand"),
    "robench.attack.inspection.TOLERANCE": lambda: setattr(inspection, "TOLERANCE", 1e9),
    "robench.norms.expand": replace(norms, "expand"),
    "robench_attacks.pgd.PGD": replace(robench_attacks.pgd, "PGD"),
    "robench.attack.namespaces.map": lambda: setattr(
        namespaces, "map", lambda act, *rest: [] if act is operator.is_ else map(act, *rest)
    ),
    "torch.inf": lambda: setattr(torch, "inf", 0.0),
    "Tensor.__bases__": lambda: setattr(Tensor, "__bases__", (Flat, torch._C.TensorBase)),
    "torch.linalg": lambda: setattr(torch, "linalg", torch.special),
    "Module.__call__": lambda: setattr(nn.Module, "__call__", lambda self, *rest: self.forward(*rest)),
    "Tensor.__gt__": lambda: setattr(Tensor, "__gt__", lambda a, b: torch.zeros_like(a, dtype=torch.bool)),
}


class Flat:
    """In which nothing has a sign."""

    def sign(self) -> Tensor:
        """Zeros."""
        assert isinstance(self, Tensor)
        return torch.zeros_like(self)


@pytest.mark.parametrize("name", SETTINGS)
def test_changed_settings_are_taken_back_and_told(name: str, honest: Tensor) -> None:
    before = Settings.now()
    once = SETTINGS[name]
    shard = attacked(Does(once), eps=SMALL)
    assert [flag for flag in shard.flags if flag.startswith("changes-global-state") and name in flag]
    assert before.restore() == []
    # under which a model has no gradient to attack, or another
    if name not in ("gradient mode", "inference mode", "dispatch keys", "saved tensors' hooks"):
        assert torch.equal(robust(shard), honest)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_replaced_functions_are_put_back_and_told(name: str, honest: Tensor) -> None:
    far = Functions.far()
    shard = attacked(Does(FUNCTIONS[name]), eps=SMALL)
    assert f"changes-torch ({name})" in shard.flags
    assert far.restore() == []
    assert torch.equal(robust(shard), honest)


def test_what_others_add_is_their_own() -> None:
    """Libraries give torch names of their own; only one that hides another is a replacement."""

    def add() -> None:
        Tensor.robench_test_name = property(len)  # type: ignore[attr-defined]
        torch.robench_test_name = len  # type: ignore[attr-defined]

    assert attacked(Does(add), eps=SMALL).flags == ()
    del Tensor.robench_test_name, torch.robench_test_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("attack", ["square", "foolbox:LinfPGD", "pgd"])
def test_seeding_in_forward_changes_no_figure(attack: str, seed: int) -> None:
    """Libraries draw from torch's generator; square would try the same square again and again."""
    there = attacked(Does(lambda: torch.manual_seed(seed)), attack, eps=SMALL)
    alone = attacked(liars.Linear(), attack, eps=SMALL)
    assert there.rows.equals(alone.rows)
    assert any(flag.startswith("changes-global-state (seed") for flag in there.flags)


def test_a_model_that_draws_has_a_stream_of_its_own() -> None:
    guard, drawn = Guard(), []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole = torch.rand(4)
        torch.manual_seed(3)
        mark_seed()
        for _ in range(4):
            outside = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
            with guard:
                drawn.append(torch.rand(1))
                random.random()
                np.random.rand()  # noqa: NPY002
            assert torch.equal(torch.get_rng_state(), outside[0])
            assert random.getstate() == outside[1]
            assert np.random.get_state()[1].tolist() == outside[2]  # noqa: NPY002
    assert torch.equal(torch.cat(drawn), whole)
    assert guard.drew
    assert guard.flags(randomised=True) == []
    assert guard.flags(randomised=False) == ["changes-global-state (random numbers)"]


def test_a_fork_of_the_generators_is_no_change() -> None:
    def fork() -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.rand(1)

    assert attacked(Does(fork), eps=SMALL).flags == ()


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(), KeyboardInterrupt(), GeneratorExit(), Odd()])
@pytest.mark.parametrize("calls", [0, 30])
def test_a_model_cannot_quit(error: BaseException, calls: int) -> None:
    seen = [0]

    def quit_later() -> None:
        seen[0] += 1
        if seen[0] > calls:
            raise error

    with pytest.raises(BadInput if calls == 0 else Quit, match="tried to end the process"):
        attacked(Does(quit_later), "pgd", eps=SMALL)


def test_nor_can_its_gradient() -> None:
    class Leave(torch.autograd.Function):
        @staticmethod
        def forward(context: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: object, grad: Tensor) -> Tensor:
            sys.exit()

    class Leaving(liars.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Leave.apply(x))

    with pytest.raises(Quit, match=r"sys\.exit"):
        attacked(Leaving(), eps=SMALL)


def test_ctrl_c_is_the_users() -> None:
    with pytest.raises(KeyboardInterrupt):
        attacked(Does(lambda: signal.raise_signal(signal.SIGINT)), eps=SMALL)


def test_a_changed_input_is_a_copy() -> None:
    class Wipes(liars.Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x.clone())
            with torch.no_grad():
                x.zero_()
            return logits

    shard, honest = attacked(Wipes(), eps=SMALL), attacked(liars.Linear(), eps=SMALL)
    assert shard.flags == ()
    assert shard.rows.equals(honest.rows)
    assert torch.equal(shard.images, honest.images)


def test_an_answer_is_a_copy_and_no_tensor_of_the_models_kind() -> None:
    class Kept(liars.Linear):
        """Answers with one tensor, which the next call overwrites."""

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            self._kept = getattr(self, "_kept", torch.zeros(24, 4))
            self._kept.data[: len(x)] = logits.detach()
            return logits if logits.requires_grad else self._kept[: len(x)]

    class Winner(Tensor):
        """Says that the first class has won, whatever it holds."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = super().__torch_function__(function, types, args, kwargs or {})
            return torch.zeros_like(found) if function is Tensor.argmax else found

    answer = torch.eye(3)[[2, 1]].requires_grad_().mul(2).as_subclass(Winner)
    assert answer.argmax(1).tolist() == [0, 0]
    plain = plain_tensor(answer)
    assert type(plain) is Tensor
    assert plain.argmax(1).tolist() == [2, 1]
    assert plain.requires_grad
    assert attacked(Kept(), eps=SMALL).rows.equals(attacked(liars.Linear(), eps=SMALL).rows)


def test_importing_and_making_a_model_is_watched(tmp_path: Path) -> None:
    folder, dtype, made = Path.cwd(), torch.get_default_dtype(), liars.Linear()
    with making() as models:
        FUNCTIONS["torch.clamp"]()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(5)
        os.chdir(tmp_path)
        models.append(made)
    assert (Path.cwd(), torch.get_default_dtype()) == (folder, dtype)
    assert float(torch.clamp(torch.tensor(2.0), max=1.0)) == 1
    assert attacked(made, eps=SMALL).flags == ("changes-global-state (default dtype)", "changes-torch (torch.clamp)")

"""Models that change the process where no call looks: no figure comes of it, or it changes none."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import robench_attacks.pgd
from robench import BadInput, norms, registry
from robench.attack import (
    base,
    classifier,
    generators,
    guard,
    inspection,
    step_rules,
)
from robench.attack.gradient import LossAttack
from robench.attack.guard import Guard
from robench.attack.insides import Inside
from robench.attack.namespaces import Functions
from robench.attack.objectives import OBJECTIVES
from tests import liars
from tests.unit.attack.test_guard import Does, replace
from tests.unit.attack.test_liars import SMALL, attacked, robust

pytestmark = pytest.mark.usefixtures("as_before")

# what is looked at once per shard, which is worth nothing then
INSIDE: dict[str, Callable[[], object]] = {
    # of classes: what has a name with underscores, what is only looked up, and what is a number
    "BatchModel.__call__": replace(classifier.BatchModel, "__call__"),
    "Guard.__exit__": replace(Guard, "__exit__"),
    "Guard.drew": lambda: setattr(Guard, "drew", property(lambda self: False)),
    "Numbers.leave": replace(generators.Numbers, "leave"),
    "Proposal.__init__": lambda: setattr(base.Proposal, "__init__", nothing_new),
    "PGD.__bases__": lambda: setattr(robench_attacks.pgd.PGD, "__bases__", (Idle,)),
    "Linf.__class__": lambda: object.__setattr__(norms.NORMS["linf"], "__class__", Still),
    # of objects that everybody has in common
    "Linf.project": lambda: setattr(norms.NORMS["linf"], "project", lambda x, *rest: x),
    "NamedObjective.value": lambda: object.__setattr__(OBJECTIVES["ce"], "value", OBJECTIVES["margin"].value),
    "Adam.beta1": lambda: setattr(step_rules.Adam, "beta1", 1.0),
    "sys.modules[robench.attack.inspection]": lambda: sys.modules.update({"robench.attack.inspection": sys}),
    # of what looks after everything
    "Functions.restore": lambda: setattr(Functions, "restore", lambda self: []),
    "Inside.glance": lambda: setattr(Inside, "glance", lambda self, *_: []),
    "Functions._moved": lambda: setattr(Functions, "_moved", lambda self: ([], [])),
    "Functions.intact": lambda: setattr(Functions.intact, "__code__", sure.__code__),
    "robench.attack.step_rules.RULES": lambda: step_rules.RULES.update(steepest=step_rules.Adam),
    "robench.attack.inspection.firm_margin": lambda: setattr(inspection.firm_margin, "__code__", least.__code__),
    "robench.norms.Norm.project": lambda: setattr(norms.Norm.project, "__defaults__", (7,)),
    "robench.norms.Linf.steepest": lambda: setattr(norms.Linf.steepest, "__kwdefaults__", {"size": 7}),
    "torch.nn.functional.relu": lambda: setattr(
        nn.functional.relu, "__code__", (lambda input, inplace=False: input).__code__
    ),
    "robench.attack.guard.Guard.shard": lambda: setattr(around(Guard.shard), "cell_contents", quiet),
}


def around(made: Any) -> Any:
    """Where what a decorator made has the function that it was given."""
    return dict(zip(made.__code__.co_freevars, made.__closure__, strict=True))["func"]


def least(margins: Tensor, logits: Tensor) -> Tensor:
    """No margin is firm."""
    del logits
    return margins > margins.max()


_init = base.Proposal.__init__


def nothing_new(self: base.Proposal, images: Tensor, *rest: Any, **named: Any) -> None:
    """A proposal of grey images."""
    _init(self, torch.full_like(images, 0.5), *rest, **named)


class Still(norms.Linf):
    """A norm in which nothing moves."""

    def steepest(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Where it was."""
        del grad, size
        return x


class Idle(LossAttack):
    """An attack that stays where it is."""

    def perturb(self, model: Any, batch: base.Batch) -> base.Proposal:
        """The images as they are."""
        del model
        return base.Proposal(batch.x, torch.zeros(len(batch), dtype=torch.int64))


def leaf_of(x: Tensor) -> Any:
    """The tensor that x was made of, which is nobody's but the attack's; None where nobody asks for a gradient."""
    node: Any = x.grad_fn
    while node is not None and not hasattr(node, "variable"):
        node = node.next_functions[0][0]
    return None if node is None else node.variable


class Reaches(liars.Linear):
    """Writes to what its images were made of, in an attack's calls alone."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        leaf = leaf_of(x)
        if (
            leaf is not None
            and x.grad_fn is not None
            and x.grad_fn.next_functions[0][0].name() != "struct torch::autograd::AccumulateGrad"
        ):
            leaf.data.fill_(0.5)
        return logits


class Turns(liars.Linear):
    """Turns the gradient round behind everybody who listens, in an attack's calls alone."""

    def forward(self, x: Tensor) -> Tensor:
        leaf = leaf_of(x)
        if leaf is not None:
            leaf.register_hook(lambda gradient: -gradient)
        return super().forward(x)


class Later(torch.autograd.Function):
    """Keeps the gradient that it gives, and turns it round when it ends."""

    @staticmethod
    def forward(context: Any, x: Tensor, end: Any) -> Tensor:
        context.end = end
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        context.end.gradient = gradient
        return gradient, None


class End:
    """Does something when it is forgotten."""

    gradient: Tensor | None = None

    def __init__(self, act: Callable[[End], object]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act(self)


class Ends(liars.Linear):
    """Acts when the graph of its answers is forgotten, outside of its calls, and undoes it in the next one."""

    def __init__(self, act: Callable[[End], object], undo: Callable[[], object]) -> None:
        super().__init__()
        self.act, self.undo = act, undo

    def forward(self, x: Tensor) -> Tensor:
        self.undo()
        return super().forward(Later.apply(x, End(self.act)) if x.requires_grad else x)  # type: ignore[no-untyped-call]


def sure(self: object) -> bool:
    """Yes."""
    del self
    return True


def move(self: object, x: Tensor, grad: Tensor, size: float) -> Tensor:
    """Nowhere."""
    del self, grad, size
    return x


def quiet(*given: object, **named: object) -> None:
    """Nothing."""


@pytest.mark.parametrize("name", INSIDE)
def test_a_shard_that_was_computed_with_changed_code_is_none(name: str) -> None:
    far = Functions.far()
    attacked(liars.Linear(), eps=SMALL)
    with pytest.raises(BadInput, match=f"changed the code that the judge goes by .{re.escape(name)}"):
        attacked(Does(INSIDE[name]), eps=SMALL)
    assert far.restore() == []


def test_images_of_the_attack_are_out_of_reach(honest: Tensor) -> None:
    assert torch.equal(robust(attacked(Reaches(), eps=SMALL)), honest)


def test_a_gradient_is_looked_at_as_the_attack_has_it() -> None:
    assert "wrong-gradients" in attacked(Turns(), eps=SMALL).flags


def test_a_gradient_is_the_attacks_own(honest: Tensor) -> None:
    def turn(end: End) -> None:
        if end.gradient is not None:
            end.gradient.neg_()

    assert torch.equal(robust(attacked(Ends(turn, lambda: None), eps=SMALL)), honest)


@pytest.mark.parametrize("attack", ["pgd", "square"])
def test_what_is_changed_and_changed_back_leaves_no_figure(attack: str) -> None:
    real, calls = norms.Linf.project, [0]

    def change() -> None:
        calls[0] += 1
        norms.Linf.project = real if calls[0] % 2 else lambda self, x, *rest: x  # type: ignore[method-assign,assignment]

    with pytest.raises(BadInput, match=r"Linf, and changed it back|Linf\.project"):
        attacked(Does(change), attack, eps=SMALL)
    assert norms.Linf.project is real


def test_code_that_is_there_and_back_is_met_by_chance() -> None:
    real, calls = step_rules.Steepest.move.__code__, [0]

    def change() -> None:
        calls[0] += 1
        step_rules.Steepest.move.__code__ = real if calls[0] % 2 else move.__code__

    with pytest.raises(BadInput, match=r"step_rules\.Steepest\.move"):
        attacked(Does(change), "square", eps=SMALL)
    assert step_rules.Steepest.move.__code__ is real


def test_what_is_done_when_a_graph_is_forgotten_is_seen(honest: Tensor) -> None:
    real = Tensor.__dict__.get("sign")

    def undo() -> None:
        if real is None and "sign" in vars(Tensor):
            del Tensor.sign

    shard = attacked(Ends(lambda end: setattr(Tensor, "sign", lambda x: torch.zeros_like(x)), undo), eps=SMALL)
    undo()
    assert "Tensor.sign" in str(shard.flags)
    assert torch.equal(robust(shard), honest)


def test_an_operation_of_torchs_is_not_a_models_to_replace() -> None:
    library: list[torch.library.Library] = []

    def change() -> None:
        if not library:
            library.append(torch.library.Library("aten", "IMPL"))
            library[0].impl("sign", torch.zeros_like, "CPU", allow_override=True)

    try:
        with pytest.raises(BadInput, match="aten/sign/CPU"):
            attacked(Does(change), eps=SMALL)
        with pytest.raises(BadInput, match="aten/sign/CPU"):  # it stays
            attacked(liars.Linear(), eps=SMALL)
    finally:
        library[0]._destroy()
        guard._foreign.clear()


def test_what_torchs_compiler_does_to_torch_is_no_change() -> None:
    before = torch.manual_seed

    def compiler() -> None:
        if torch.manual_seed is before:
            torch.manual_seed = torch._compile._disable_dynamo(before)

    try:
        assert attacked(Does(compiler), eps=SMALL).flags == ()
    finally:
        torch.manual_seed = before


def test_an_answer_that_computes_by_itself_is_refused() -> None:
    class Answers(liars.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return TwoTensor(super().forward(x), super().forward(x))

    with pytest.raises(BadInput, match="TwoTensor, a kind that computes by itself"):
        attacked(Answers(), eps=SMALL)


def test_what_a_thread_does_while_nobody_asks_leaves_no_figure() -> None:
    real, ended, threads = norms.Linf.project, threading.Event(), list[threading.Thread]()

    def change() -> None:
        while not ended.wait(0.0005):
            norms.Linf.project = lambda self, x, *rest: x  # type: ignore[method-assign,assignment]

    def begin() -> None:
        if not threads:
            threads.append(threading.Thread(target=change, daemon=True))
            threads[0].start()

    try:
        with pytest.raises(BadInput, match=r"Linf, and changed it back|Linf\.project"):
            attacked(Does(begin), "square", eps=SMALL)
    finally:
        ended.set()
        threads[0].join()
        norms.Linf.project = real  # type: ignore[method-assign]


def test_to_clear_the_guard_s_memory_hides_nothing() -> None:
    def change() -> None:
        for each in gc.get_objects():
            if type(each) is Functions:
                each.kept, each.tags, each.seen, each.owners = (), (), (), []
        norms.Linf.project = lambda self, x, *rest: x  # type: ignore[method-assign,assignment]

    with pytest.raises(BadInput, match=r"Linf\.project"):
        attacked(Does(change), eps=SMALL)


def test_a_model_is_not_asked_for_its_parameters(honest: Tensor) -> None:
    """What a method of its own says of them is nothing that the judge goes by, nor a call in which it may act."""
    asked = list[str]()

    class Hides(liars.Linear):
        def parameters(self, recurse: bool = True) -> Any:
            asked.append("parameters")
            return iter(())

        def modules(self) -> Any:
            asked.append("modules")
            return iter(())

    model = Hides()
    assert torch.equal(robust(attacked(model, eps=SMALL)), honest)
    assert asked == []
    assert all(each.requires_grad for each in nn.Module.parameters(model))


def test_who_changes_an_attack_that_was_loaded_changes_no_other() -> None:
    found = registry.load("attack", "pgd")
    object.__setattr__(found, "base", Idle)
    assert registry.load("attack", "pgd").base is robench_attacks.pgd.PGD

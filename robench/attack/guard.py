"""What a model does to the process that it runs in: noticed around every call, taken back, and told in a flag."""

from __future__ import annotations

import dis
import random
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from robench.attack.generators import Numbers
from robench.attack.insides import Inside
from robench.attack.namespaces import Functions
from robench.attack.reaching import listen
from robench.attack.surroundings import Settings
from robench.attack.watching import watched_over
from robench.device import numbers_apart
from robench.errors import BadInput, contained

# what torch's operations of numbers are registered for, beside shapes
KERNELS = ("/CPU", "/CUDA", "/AutogradCPU", "/AutogradCUDA", "/Autograd", "/CompositeImplicitAutograd")
# functions of the judge whose code is looked at after a call, by turns that are drawn at random
GLANCED = 64
# how many changed things a flag names
NAMED = 3
# flags, each with what was changed in brackets behind it
CHANGES_TORCH, CHANGES_STATE, REACHES = "changes-torch", "changes-global-state", "reaches-outside"

# what modules changed while they were imported and made
_made: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[str, ...], tuple[str, ...]]] = weakref.WeakKeyDictionary()


class Quit(RuntimeError):
    """Somebody's code tried to end the process."""


class Guard:
    """Watches what is called inside `with guard:`; what it changed is put back at the end and kept in lists.

    functions: of torch and of robench that were replaced. settings: of the process (precision, threads, seeds, ...).
    reached: files that were opened, programs that were started, connections.
    Random numbers drawn inside come from streams of their own, which go on from call to call: those of torch, numpy
    and Python are outside as if nothing had been drawn. drew: whether anything was.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self.functions: list[str] = []
        self.settings: list[str] = []
        self.reached: list[str] = []
        for part in nn.Module.modules(module) if module is not None else ():
            functions, settings = _made.get(part, ((), ()))
            self.functions += functions
            self.settings += settings
        self.numbers, self._depth = Numbers(), 0
        self._judging: Inside | None = None
        self._draw, self._glanced = random.Random(secrets.randbits(64)), list[str]()  # nobody's choice
        self._records: list[tuple[object, dict[str, Any]]] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self.renew()

    @property
    def drew(self) -> bool:
        """Whether what was watched has drawn random numbers from a generator of the process."""
        return self.numbers.drew

    def renew(self) -> None:
        """Take functions for what they should be as they are now."""
        self._near = Functions.near()

    def keep(self, *values: object) -> None:
        """Look after objects of the harness: what is called inside changes neither their fields nor their tensors."""
        self._records = [(value, dict(vars(value))) for value in values]
        fields = [field for _, kept in self._records for field in kept.values()]
        self._tensors = [field for field in fields if isinstance(field, Tensor)]
        self._versions = [tensor._version for tensor in self._tensors]

    def _check_kept(self) -> None:
        """Raise BadInput where the judge's own objects were changed, with their fields as they were."""
        changed = [type(value).__name__ for value, kept in self._records if not _holds(value, kept)]
        if changed or [tensor._version for tensor in self._tensors] != self._versions:
            for value, kept in self._records:
                vars(value).update(kept)
            raise BadInput(
                f"The model changed what the judge goes by ({', '.join(changed) or 'images or labels'}), so nothing "
                "can be said of it; let it keep to what it is given."
            )

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self.functions += self._near.restore()  # by what the model does when nobody asks it
            self._before = Settings.now()
            self.numbers.enter()
            listen(self.reached)

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth == 0:
            listen(None)
            if self.numbers.leave():
                self.settings.append("seed")
            self.settings += self._before.restore()
            self.functions += self._near.restore()
            if self._judging is not None:
                first = self._draw.randrange(1 - GLANCED, max(len(self._judging.functions), 1))
                self._glanced += self._judging.glance(first, GLANCED)
        _raise_quit(error)
        if self._depth == 0:
            self._check_kept()

    @contextmanager
    def shard(self, seed: int) -> Iterator[None]:
        """A whole shard: what takes too long to be looked at in every call, and a generator of torch's that is seeded
        with `seed` and tells where it is seeded again. Outside, it is as it was.

        Raises BadInput where the model changed what the judge and the attacks compute with in a way that is seen only
        now, so that the shard was computed with it.
        """
        far, before = Functions.far(), Settings.now()
        watch = watched_over()
        changed = next(watch)
        self._judging, self._glanced = far.judging, []
        held, kernels = far.held(), _kernels()
        with numbers_apart():
            torch.manual_seed(seed)
            mark_seed()
            try:
                yield
            finally:
                for changed in watch:  # noqa: B007 - by no function, which could be another one by now
                    pass
                far.hold(held)  # so that what is written to where that lies hides nothing
                self.settings += before.restore()
                self.functions += far.restore()
                self._judging = None
                _foreign.update(_kernels() - kernels)
                changed += far.serious + self._glanced + sorted(_foreign)
        if changed:
            raise BadInput(
                f"The model changed the code that the judge goes by ({_few(changed)}), so nothing can be said of it; "
                "let it keep to what it is given."
            )

    def flags(self, *, randomised: bool) -> list[str]:
        """What there is to tell; a model that answers at random may draw random numbers, but no other."""
        settings = [*self.settings, *(["random numbers"] if self.drew and not randomised else [])]
        named = {CHANGES_STATE: settings, CHANGES_TORCH: self.functions, REACHES: self.reached}
        return [f"{flag} ({_few(names)})" for flag, names in named.items() if names]


# operations of torch that somebody's model has replaced, of which there is no way back
_foreign: set[str] = set()


def _kernels() -> set[str]:
    """Torch's own operations, of those that Python registered, by what they compute with."""
    return {name for name in torch.library._impls if name.startswith("aten/") and name.endswith(KERNELS)}


@contextmanager
def making() -> Iterator[list[nn.Module]]:
    """The import of somebody's code and the making of a model: what it changes is put back, and told of the modules
    that are in the list at the end. The generators of torch are as they were; numpy's and Python's may have moved."""
    made: list[nn.Module] = []
    far, before, kernels = Functions.far(), Settings.now(), _kernels()
    with numbers_apart():
        try:
            yield made
        finally:
            _foreign.update(_kernels() - kernels)
            settings, functions = before.restore(importing=True), far.restore()
            for module in made:
                _made[module] = tuple(functions), tuple(settings)


@contextmanager
def staying() -> Iterator[None]:
    """Code of others that may not end the process: raises Quit where it tries."""
    try:
        yield
    except BaseException as error:
        _raise_quit(error)
        raise


def mark_seed() -> None:
    """Give torch's generator a seed in name, so that any seeding is seen; what it draws next stays as it is."""
    generator = torch.default_generator
    state = generator.get_state()
    marked = state.clone()
    name = secrets.randbits(62) | 1 << 62  # nobody's choice
    marked[:8] = torch.frombuffer(bytearray(name.to_bytes(8, "little")), dtype=torch.uint8)
    generator.set_state(marked)
    if generator.initial_seed() != name:  # another layout
        generator.set_state(state)


def plain_tensor(answer: Tensor) -> Tensor:
    """The answer as a tensor of torch's own in memory of its own, so that no method of it is the model's, and nothing
    that the model does later changes it. Gradients pass.

    Raises BadInput for a tensor that computes in Python.
    """
    if torch._C._dispatch_keys(answer).has(torch._C.DispatchKey.Python):
        raise BadInput(
            f"The model answers with a tensor of {type(answer).__name__}, a kind that computes by itself; let it "
            "return a plain one (torch.Tensor)."
        )
    with torch._C.DisableTorchFunctionSubclass():
        return answer.as_subclass(Tensor).clone()


def _holds(value: object, kept: dict[str, Any]) -> bool:
    """Whether an object's fields are the same objects still."""
    return all(map(is_, map(vars(value).get, kept), kept.values()))


def _raise_quit(error: BaseException | None) -> None:
    """Raise Quit for what would end the process, unless it is the user's Ctrl-C."""
    if error is None or isinstance(error, Exception):
        return
    if isinstance(error, KeyboardInterrupt) and not _stated(error):
        return
    raise Quit(str(contained(error))) from None


def _stated(error: BaseException) -> bool:
    """Whether a statement raised the error; a signal's arrives between two of them."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code.co_code
    return dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"


def _few(names: list[str]) -> str:
    kept = list(dict.fromkeys(names))
    more = [f"{len(kept) - NAMED} more"] if len(kept) > NAMED else []
    *most, last = kept[:NAMED] + more
    return f"{', '.join(most)} and {last}" if most else last

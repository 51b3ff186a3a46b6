"""What attacks of other libraries share: a model that counts, options from constructors, randomness of their own."""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import random
import sys
import types
import typing
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

import numpy as np
import torch
from torch import Tensor, nn

from robench import Attack, BadInput, Batch, BatchModel, Range, Restarts, Trials, check_count, require

SCALARS = (bool, int, float, str)
# options that say how many steps an attack takes, and how often it takes them all
STEPS = ("query_limit", "steps", "max_iter", "repeats")
# no attack of a library can be meant to do anything as often; what is negative stands for "none" or "all" there
WHOLE = Range(-1, 1_000_000)
RUNS = ("binary_search_steps", "num_random_init", "nb_random_init", "nb_restarts")
T = TypeVar("T")


class LibraryAttack(Attack):
    """An attack of another library, given a batch and a model that charges every pass to an example.

    A library draws its random numbers for a whole batch, so its results depend on which examples share one, unlike
    those of robench's own attacks; with the same seed, examples and batches they repeat. The outer generators are left
    as they were. An option `library` records what ran; only the installed version can be asked for.
    """

    package: ClassVar[str]
    logger: ClassVar[str]
    batched: ClassVar[bool] = True

    def __init__(self, name: str, restarts: int, library: str) -> None:
        check_count("restarts", restarts)
        installed = library_of(self.package)
        require(library == installed, "library", library, f"{installed!r}, which is installed")
        self.name, self.runs = name, restarts

    def trials(self, y: Tensor, logits: Tensor, example_id: Tensor, seed: int) -> Trials:
        """One trial per restart."""
        del logits, example_id, seed
        return Trials.untargeted(len(y), self.runs)

    @abstractmethod
    def run(self, model: CountedModel, x: Tensor, batch: Batch, seed: int) -> Tensor:
        """The library's images for x, those of `batch` in contiguous memory: [B, C, H, W]. `seed` is below 2^32."""

    def perturb(self, model: BatchModel, batch: Batch) -> Tensor:
        """The library's images, projected."""
        if model.rejects and self.package != "pyautoattack":
            raise BadInput(
                f"The attack {self.name!r} may ask about images far from their originals, which cannot be judged "
                "behind a detector; choose one of robench's own or autoattack."
            )
        if batch.threat.eps == 0:  # some libraries divide by it
            return batch.x.clone()
        x = batch.x.contiguous()
        with own_randomness(batch) as seed, quiet(self.logger), torch.enable_grad():
            counted = CountedModel(model, x, batch.y)
            try:
                found = self.run(counted, x.clone(), batch, seed)
            except ImportError as error:
                raise _lacking(self.name, error) from None
        found = found.detach().to(batch.x)
        found[counted.broken] = counted.breaking[counted.broken]
        return batch.threat.project(batch.x, found)


class CountedModel(nn.Module):
    """The model as a library sees it: images [K, C, H, W] to logits [K, classes], every pass charged to an example.

    Libraries ask about parts of a batch in an order of their own, so an image is charged to the row whose original
    `x` [B, C, H, W] is the nearest in L2. Totals are exact whatever is asked. An example's own count is exact while the
    images asked about stay nearer to their original than to any other of the batch, as they do within the radii of the
    benchmarks; attacks that come from afar (boundary attacks) share their first queries among neighbours.

    An answer that is not finite is no right answer: the library is shown one that misses the label, `broken`, bool [B],
    marks the row, and `breaking` [B, C, H, W] holds the image that did it.
    """

    def __init__(self, model: BatchModel, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self._model, self._device, self._labels = model, x.device, nn.functional.one_hot(y, model.classes).float()
        self._originals, self._half = x.flatten(1), x.flatten(1).square().sum(1) / 2
        self._sloped, self.broken = torch.zeros(2, len(x), dtype=torch.bool)
        self.breaking = x.clone()
        self.anchor = nn.Parameter(x.new_zeros(0), requires_grad=False)  # some libraries look for a parameter's device
        self.eval()

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self._model.classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits [K, classes] of any K images."""
        x = x.to(self._device, torch.float32)
        if not len(x):
            return x.new_zeros(0, self.classes)
        # |x - x0|^2 is least where x.x0 - |x0|^2 / 2 is largest
        rows = (x.detach().flatten(1) @ self._originals.T - self._half).argmax(1).cpu()
        if x.requires_grad and torch.is_grad_enabled():
            x = _Noted.apply(x, partial(self._note, rows))  # a hook on the library's tensor would be left there
        logits = self._model.select(rows)(x)
        bad = (x.isfinite().flatten(1).all(1) & ~logits.isfinite().all(1)).nonzero()[:, 0].cpu()
        if len(bad):
            self._model.select(rows[bad]).note_nonfinite(torch.ones_like(bad, dtype=torch.bool))
            self.broken[rows[bad]], self.breaking[rows[bad]] = True, x.detach()[bad]
            logits = logits.index_copy(0, bad.to(x.device), -self._labels[rows[bad]])
        return logits

    def _note(self, rows: Tensor, grad: Tensor) -> Tensor:
        """Record a row whose first gradient is zero; the gradient itself in contiguous memory, for `view`s."""
        first = (~self._sloped[rows]).nonzero()[:, 0]
        if len(first):
            self._model.select(rows[first]).note_zero_gradient(grad[first.to(grad.device)])
            self._sloped[rows[first]] = True
        return grad.contiguous()


class _Noted(torch.autograd.Function):
    """The image as it is; its gradient, zeros where the model has none to give, passes through `note`."""

    @staticmethod
    def forward(context: Any, x: Tensor, note: Callable[[Tensor], Tensor]) -> Tensor:
        """The image."""
        context.note = note
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        """What `note` makes of the gradient."""
        return context.note(grad), None


@contextmanager
def own_randomness(batch: Batch) -> Iterator[int]:
    """Seed torch, numpy and random by (seed, example ids, trials), and give all three back as they were.

    Yields the seed, below 2^32.
    """
    key = repr((batch.seed, batch.example_id.tolist(), batch.trial.tolist()))
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    outer, outer_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the libraries draw from
    with torch.random.fork_rng(list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield seed
        finally:
            random.setstate(outer)
            np.random.set_state(outer_numpy)  # noqa: NPY002


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Without a library's warnings and the messages of its logger; a tracer that it removes is put back."""
    log, tracer = logging.getLogger(logger), sys.gettrace()
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        sys.settrace(tracer)


def library_of(package: str) -> str:
    """A package's name and version, such as "foolbox 3.3.4"."""
    return f"{package} {version(package)}"


def built(name: str, make: Callable[[], T]) -> T:
    """What `make` makes; raises BadInput where a library refuses its options or lacks a package."""
    try:
        return make()
    except ImportError as error:
        raise _lacking(name, error) from None
    except (ValueError, TypeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(f"The attack {name!r} refuses its options ({reason}); change them.") from None


def _lacking(name: str, error: ImportError) -> BadInput:
    return BadInput(f"The attack {name!r} needs the package {error.name!r}; install it, or use another.")


def constructor_options(name: str, made: type, reserved: Collection[str], package: str) -> dict[str, inspect.Parameter]:
    """The options of a library's attack: what its constructor takes and a text can give, without the `reserved`.

    Two are added: `restarts` and `library`. Raises BadInput for a constructor that demands anything else.
    """
    options = {}
    for parameter in list(inspect.signature(made).parameters.values()):
        if parameter.name in reserved:
            continue
        kind, default = scalar(made, parameter), parameter.default
        if kind is None and default is parameter.empty:
            raise BadInput(
                f"The attack {name!r} must be given {parameter.name}, which is no number or text and cannot be; "
                "use another."
            )
        if kind is not None:
            default = float(default) if kind is float and default is not parameter.empty else default
            options[parameter.name] = option(parameter.name, _ranged(kind), default)
    return options | {
        "restarts": option("restarts", Restarts, 1),
        "library": option("library", str, library_of(package)),
    }


def _ranged(kind: Any) -> Any:
    """The type hint with a range, where it allows whole numbers: libraries state none."""
    return Annotated[kind, WHOLE] if kind is int or int in typing.get_args(kind) else kind


def expected_passes(options: Mapping[str, Any]) -> int | None:
    """About how many forward passes an attack takes on an image that stands, by its options; None if none says."""
    steps = next((int(options[name]) for name in STEPS if options.get(name)), None)
    first = options.get("initial_gradient_eval_steps") or options.get("init_eval")
    if steps is not None and first:  # HopSkipJump: its queries per step grow with the root of the step
        most = options.get("max_gradient_eval_steps") or options.get("max_eval") or math.inf
        return int(sum(min(first * math.sqrt(step + 1), most) for step in range(steps)))
    return None if steps is None else steps * math.prod(max(1, int(options.get(name) or 1)) for name in RUNS)


def option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """One option: its name, type and default."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def scalar(made: type, parameter: inspect.Parameter) -> Any:
    """The part of a parameter's type hint that is a bool, int, float, str, a choice of texts or None; else None."""
    holder = types.FunctionType((lambda: None).__code__, {})
    holder.__annotations__ = {"hint": parameter.annotation}
    try:
        hint = typing.get_type_hints(holder, vars(sys.modules[made.__module__]))["hint"]
    except (NameError, TypeError):  # a name that only type checkers import: no scalar
        return None
    parts = set(typing.get_args(hint)) if typing.get_origin(hint) in (Union, types.UnionType) else {hint}
    kept = [part for part in parts if part in SCALARS or typing.get_origin(part) is Literal]
    if float in kept and int in kept:
        kept.remove(int)
    if not kept:
        return None
    return Union[tuple(sorted(kept, key=str)) + ((None,) if type(None) in parts else ())]  # noqa: UP007

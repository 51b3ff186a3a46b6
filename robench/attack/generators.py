"""The random generators of a process: Python's, numpy's and torch's, with streams of their own for what is watched."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Numbers:
    """The generators of the process, with a stream of their own for what is between `enter` and `leave`."""

    def __init__(self) -> None:
        self.drew = False
        self._streams: list[Any] = []

    def enter(self) -> None:
        """Go on where `leave` left the streams of what is watched."""
        self._generators = _generators()
        self._outside = [read() for read, _ in self._generators]
        for (_, write), stream in zip(self._generators, self._streams, strict=False):
            if stream is not None:
                write(stream)
        self._began = self._outside if not any(s is not None for s in self._streams) else self._read()
        self._marks = _seeds()

    def leave(self) -> bool:
        """Give all generators back as they were outside; returns whether torch's were seeded."""
        ended, seeded = self._read(), _seeds() != self._marks
        streams = [*self._streams, *[None] * (len(ended) - len(self._streams))]
        for place, (now, began) in enumerate(zip(ended, self._began, strict=True)):
            if not _equal(now, began):
                self.drew = True
                streams[place] = now
        for place, ((_, write), outside) in enumerate(zip(self._generators, self._outside, strict=True)):
            if streams[place] is not None:
                write(outside)
        self._streams = streams
        return seeded

    def _read(self) -> list[Any]:
        return [read() for read, _ in self._generators]


def _equal(a: Any, b: Any) -> bool:
    return bool(_bytes(a) == _bytes(b))


def _bytes(state: Any) -> Any:
    """Of a tensor, which torch has for a state and compares in three times as long, what it holds."""
    return ctypes.string_at(state.data_ptr(), state.nbytes) if isinstance(state, Tensor) else state


_cuda_in_use: Callable[[], bool] = torch.cuda.is_initialized


def _torch_generators() -> list[torch.Generator]:
    return [torch.default_generator, *(torch.cuda.default_generators if _cuda_in_use() else ())]


def _generators() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """What reads and what writes the state of each: Python's, numpy's, and torch's for every device that is in use."""
    ours = [(generator.get_state, generator.set_state) for generator in _torch_generators()]
    return [_PYTHON, (_numpy_state, _set_numpy_state), *ours]


def _python_generator() -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What reads and writes the state of Python's generator: in memory where its place and the numbers in it are known,
    in a twentieth of the time."""
    held: Any = random.getstate()
    *words, index = held[1]
    expected = index.to_bytes(4, sys.byteorder) + b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    place = id(random._inst) + object.__basicsize__
    if sys.implementation.name != "cpython" or ctypes.string_at(place, len(expected)) != expected:
        return random.getstate, random.setstate
    return lambda: ctypes.string_at(place, len(expected)), lambda state: ctypes.memmove(place, state, len(state))


_PYTHON = _python_generator()


def _seeds() -> list[int]:
    return [generator.initial_seed() for generator in _torch_generators()]


_numpy_generator: Callable[[], Any] = getattr(np.random, "get_bit_generator")  # noqa: B009 - numpy's stubs lack it


def _numpy_place() -> tuple[int, int]:
    """Where numpy's global Mersenne twister lies in memory: reading it so takes a hundredth of `get_state`'s time."""
    global _found
    generator: Any = _numpy_generator()
    if generator is not _found[0]:
        size = 625 * 4 if type(generator).__name__ == "MT19937" else 32
        _found = generator, (generator.ctypes.state_address, size)
    return _found[1]


# the generator that was asked for its place last, and the answer
_found: tuple[object, tuple[int, int]] = None, (0, 0)


def _numpy_state() -> bytes:
    return ctypes.string_at(*_numpy_place())


def _set_numpy_state(state: bytes) -> None:
    ctypes.memmove(_numpy_place()[0], state, len(state))
    held: Any = np.random.get_state()  # noqa: NPY002 - the one that libraries draw from
    np.random.set_state((*held[:3], 0, 0.0))  # noqa: NPY002 - without a normal number that was kept for later

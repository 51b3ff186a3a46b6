"""The sealed verdict: what a model answers in a process that knows nothing of attacks, labels or robench.

The images of an evaluation are shown to it once more, clean and adversarial ones mixed, in an order and in batches that
are drawn anew, with and without gradients being recorded. A model that answers by what surrounds it, and not by the
image, answers otherwise there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from robench.errors import first_line
from robench.models import LoadedModel
from robench.randomness import generator
from robench.trust import runner

# seconds that a model has to be loaded, and to answer one batch; a hundred times what the attack took is too long too
LOADING, ANSWERING = 600.0, 300.0
# what the classes of trained models are made of
TRAINED = ("pytorch_lightning",)
# bytes of a message that a model's process sends
LONGEST = 2**28
# of all batches, the share of small ones, and how large these are at most
SMALL_SHARE, SMALL = 0.1, 8


class Unsealed(Exception):
    """A model could not be asked in a process of its own; the text says why."""


class Ended(Unsealed):
    """Its process ended without an answer."""


@dataclass(frozen=True)
class Envelope:
    """How another process comes by a model: a pickle, in which a model by reference is only its reference, and one that
    was handed over the pickle of that time, `packed`; and the libraries that take long to load and are needed for it.
    """

    whole: bytes
    reference: Mapping[str, Any] | None = None
    packed: bytes = b""
    libraries: tuple[str, ...] = ()


def envelope(model: LoadedModel, wrap: Any = None) -> Envelope:
    """The envelope of a model as it is before its first call; `wrap` makes of it what is asked, behind a detector.

    Raises Unsealed for a module, handed over in a program, of which there is no copy by pickling.
    """
    reference = model.place
    if reference is not None:
        module: nn.Module = model.module
        return Envelope(_pickled(wrap(module) if wrap else module, module), reference)
    if not model.reference:  # its pickle is read there alone: here it would put its classes in place of the user's
        if model.packed is None:
            raise Unsealed(f"a {model.name} cannot be pickled")
        module = model.module
        around = {"adaptation": model.adaptation.to_json()} if model.adaptation.told else {}
        return Envelope(_pickled(wrap(module) if wrap else module, module), {"kind": "packed", **around}, model.packed)
    fresh = model.load()
    return Envelope(_pickled(wrap(fresh) if wrap else fresh), libraries=libraries_of(model))


def libraries_of(model: LoadedModel) -> tuple[str, ...]:
    """The libraries that take long to load and are needed for a model."""
    return TRAINED if model.data is not None else ()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a model, with a mark in place of the part that the other process loads by reference."""

    def __init__(self, file: io.BytesIO, left_out: nn.Module | None) -> None:
        super().__init__(file)
        self.left_out = left_out

    def persistent_id(self, value: object) -> str | None:
        """A mark for the part that is left out."""
        return "model" if value is self.left_out and value is not None else None


def _pickled(whole: nn.Module, left_out: nn.Module | None = None) -> bytes:
    content = io.BytesIO()
    try:
        _Pickler(content, left_out).dump(whole)
    except Exception as error:  # whatever a user's model holds
        raise Unsealed(f"it cannot be pickled: {first_line(error, 120)}") from error
    return content.getvalue()


class Sealed:
    """A model in a process of its own, number `pid`, that answers batches of images."""

    def __init__(self, libraries: tuple[str, ...] = ()) -> None:
        self._talk = _server(libraries).connect()
        self.pid = 0

    def load(self, packed: Envelope, device: str) -> None:
        """Let it come by the model; raises Unsealed."""
        order = {
            "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path), "device": device,
            "threads": torch.get_num_threads(), "reference": dict(packed.reference or {}),
        }  # fmt: skip
        with self._patience(LOADING, "be loaded"):
            self.pid = int(json.loads(self._read())["pid"])
            self._write(json.dumps(order).encode(), packed.whole, packed.packed)
            self._told()

    def answer(self, x: Tensor, *, grad: bool = False) -> Tensor:
        """The logits of images [B, C, H, W], float32 [B, K] on the CPU; raises Unsealed."""
        with self._patience(ANSWERING, f"answer {len(x)} images"):
            asked = json.dumps({"shape": list(x.shape), "grad": grad}).encode()
            self._write(asked, x.contiguous().numpy().tobytes())
            shape = self._told().get("shape")
            content = self._read()
        if not isinstance(shape, list) or len(shape) != 2 or shape[0] != len(x):
            raise Unsealed(f"it answered {len(x)} images with shape {shape}")
        return torch.from_numpy(np.frombuffer(content, dtype=np.float32).reshape(shape).copy())

    def close(self) -> None:
        """End the process."""
        self._talk.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)

    def _write(self, *messages: bytes) -> None:
        for content in messages:
            runner.send(self._talk, content)

    def _read(self) -> bytearray:
        return runner.receive(self._talk, LONGEST)

    def _told(self) -> dict[str, Any]:
        told = json.loads(self._read())
        if not isinstance(told, dict) or "error" in told:
            raise Unsealed(f"it failed there with {told['error'] if isinstance(told, dict) else told}")
        return told

    @contextmanager
    def _patience(self, seconds: float, what: str) -> Iterator[None]:
        self._talk.settimeout(seconds)
        try:
            yield
        except TimeoutError:
            raise Unsealed(f"it took more than {seconds:g} s to {what}") from None
        except (EOFError, ConnectionError):
            raise Ended("its process ended without an answer") from None
        except (ValueError, KeyError) as error:  # the model wrote into the conversation
            raise Unsealed(f"its process answered with something else ({first_line(error, 80)})") from None


@contextmanager
def sealed(packed: Envelope, device: str) -> Iterator[Sealed]:
    """A process that answers for a model while this lasts. Raises Unsealed where the model cannot be loaded there."""
    process = Sealed(packed.libraries)
    try:
        process.load(packed, device)
        yield process
    finally:
        process.close()


def batches(key: str, count: int, size: int) -> Iterator[tuple[Tensor, bool]]:
    """An order of `count` images in batches of at most `size`, int64 positions, and whether gradients are recorded.

    Drawn from `key`, which is of what the images are.
    """
    draw = generator(int(key, 16), 0, 0, "sealed")
    order, at = torch.from_numpy(draw.permutation(count)), 0
    while at < count:
        few = draw.random() < SMALL_SHARE
        length = int(draw.integers(1, min(SMALL, size) + 1) if few else draw.integers(max(1, size // 4), size + 1))
        yield order[at : at + length], bool(draw.random() < 0.5)
        at += length


def ask(process: Sealed, images: Tensor, key: str, size: int) -> Tensor:
    """The logits of images [n, C, H, W] in their own order, asked in another and in `batches` of `key` and `size`."""
    found = [(at, process.answer(images[at], grad=grad)) for at, grad in batches(key, len(images), size)]
    order = torch.cat([at for at, _ in found])
    answers = torch.cat([logits for _, logits in found])
    return answers[order.argsort()]


class _Server:
    """The process that has torch and some libraries loaded and forks the ones that answer."""

    def __init__(self, libraries: tuple[str, ...]) -> None:
        self._libraries, self._lock = libraries, threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self) -> socket.socket:
        """A socket to a new process. Raises Unsealed where none can be started."""
        with self._lock:
            mine, theirs = socket.socketpair()
            with theirs:
                for _ in range(2):
                    try:
                        socket.send_fds(self._running(), [b"f"], [theirs.fileno()])
                        return mine
                    except OSError:  # it was killed meanwhile
                        self._control = None
            mine.close()
            raise Unsealed("no process can be started for it")

    def prepare(self) -> None:
        """Start it, so that everything is loaded by the time it is needed."""
        with self._lock, contextlib.suppress(OSError):
            self._running()

    def _running(self) -> socket.socket:
        if self._control is None:
            mine, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(runner.__file__)), str(theirs.fileno()), *self._libraries],
                    pass_fds=[theirs.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            self._control = mine
        return self._control


# by this process's number, since a fork has to have its own, and the libraries
_servers: dict[tuple[int, tuple[str, ...]], _Server] = {}


def _server(libraries: tuple[str, ...]) -> _Server:
    return _servers.setdefault((os.getpid(), libraries), _Server(libraries))


def prepare(models: Iterable[LoadedModel]) -> None:
    """Start what the processes for these models are forked from, so that it is ready when they are needed."""
    for libraries in {libraries_of(model) for model in models}:
        _server(libraries).prepare()

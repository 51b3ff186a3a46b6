"""A process that answers for a model and knows nothing else: no attack, no labels, nothing of robench.

It is run as a file of its own. It loads torch and the libraries that its other arguments name, then waits on the socket
whose number is the first: for every socket that arrives there it forks a process, which is told how to come by one
model and then answers batches of images until the socket closes. `seal` is its other end.

A message is its length as 8 bytes, little-endian, then so many bytes: JSON, or numbers as they lie in memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import io
import json
import os
import pathlib
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


def main(control: socket.socket) -> None:
    """Fork one process for every socket that arrives, until nobody holds the other end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        message, handles, *_ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=handles[0]) as talk:
            if os.fork() == 0:
                control.close()
                _child(talk)
                os._exit(0)


def _child(talk: socket.socket) -> None:
    """Load a model and answer for it; every failure is told in a message, as far as it lets itself be told."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux it ends with its next message
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with whom it works for
    with contextlib.suppress(OSError):  # the other end is gone
        send(talk, json.dumps({"pid": os.getpid()}).encode())
        try:
            _serve(talk)
        except BaseException as error:  # whatever a user's model does, sys.exit among it
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            send(talk, json.dumps({"error": text[:500]}).encode())


def _serve(talk: socket.socket) -> None:
    order, whole, packed = json.loads(receive(talk)), receive(talk), receive(talk)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.path[:] = order["path"]
    sys.argv[:] = [""]
    torch.set_num_threads(order["threads"])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    torch.set_float32_matmul_precision("highest")
    _beside("model_files")  # for objects of classes that a model's file has
    module = _Unpickler(io.BytesIO(whole), order["reference"], packed).load().to(order["device"])
    send(talk, b"{}")
    while True:
        try:
            asked = json.loads(receive(talk))
        except EOFError:
            return
        x = torch.frombuffer(bytearray(receive(talk)), dtype=torch.float32).reshape(asked["shape"])
        answer = _answer(module, x.to(order["device"]), asked["grad"])
        if not isinstance(answer, torch.Tensor):
            raise TypeError(f"the answer is a {type(answer).__name__}")
        answer = answer.detach().float().cpu().contiguous()
        send(talk, json.dumps({"shape": list(answer.shape)}).encode())
        send(talk, answer.numpy().tobytes())


def _answer(module: Callable[[torch.Tensor], object], x: torch.Tensor, grad: bool) -> object:
    """What the model makes of images, as it is asked while somebody looks for gradients, and while nobody does."""
    with torch.set_grad_enabled(grad):
        return module(x.requires_grad_(grad))


class _Unpickler(pickle.Unpickler):
    """Reads what is asked; where that holds a model by reference, the reference is loaded."""

    def __init__(self, file: io.BytesIO, reference: dict[str, Any], packed: bytearray) -> None:
        super().__init__(file)
        self.reference, self.packed = reference, packed

    def persistent_load(self, pid: object) -> Any:
        """The model of the reference."""
        del pid
        return _around(self._found(), self.reference)

    def _found(self) -> Any:
        kind, name, arguments = self.reference["kind"], self.reference.get("name"), self.reference.get("arguments", {})
        if kind == "packed":
            return pickle.loads(self.packed)
        if kind == "module":
            with _first(self.reference.get("folder")):
                return _made(importlib.import_module(self.reference["place"]), name, arguments)
        if kind == "file":
            space = _beside("model_files").Space(pathlib.Path(self.reference["place"]))
            with space.opened():
                return _made(space.run(), name, arguments)
        made = _beside("models/libraries").make(kind, name, arguments, bare=self.reference["bare"])
        if not self.reference.get("normalised"):
            return made.module
        from torchvision.transforms import Normalize

        return torch.nn.Sequential(_Callable(Normalize(made.mean, made.std)), made.module).eval()


def _made(module: Any, name: Any, arguments: dict[str, Any]) -> Any:
    """The model that a module has by this name, or a factory of it."""
    found = getattr(module, name)
    return found if isinstance(found, torch.nn.Module) else found(**arguments)


def _around(module: torch.nn.Module, reference: dict[str, Any]) -> torch.nn.Module:
    """A model with the weights and all else that the reference puts around it."""
    if "weights" in reference:
        _beside("models/checkpoint").load_into(reference["weights"], module)
    if "adaptation" not in reference:
        return module
    adapted = _beside("models/adapted")
    found = adapted.Adapted(module, adapted.Adaptation.from_json(reference["adaptation"]))
    assert isinstance(found, torch.nn.Module)
    return found


@contextlib.contextmanager
def _first(folder: str | None) -> Iterator[None]:
    """While this lasts, imports look into a folder first."""
    sys.path[:0] = [folder] if folder else []
    try:
        yield
    finally:
        if folder:
            sys.path.remove(folder)


@functools.cache
def _beside(name: str) -> Any:
    """A file of robench's that needs nothing of robench; by its path, so it is no module of it."""
    path = pathlib.Path(__file__).parents[1] / f"{name}.py"
    own = f"_sealed_{path.stem}"  # as no model's own module is called
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[own] = importlib.util.module_from_spec(spec)  # dataclasses look there for themselves
    spec.loader.exec_module(module)
    return module


class _Callable(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the function makes of x."""
        return self.function(x)


def send(talk: socket.socket, content: bytes) -> None:
    """Send one message."""
    talk.sendall(len(content).to_bytes(8, "little"))
    talk.sendall(content)


def receive(talk: socket.socket, most: int | None = None) -> bytearray:
    """The next message; raises EOFError where there is none any more, ValueError for one of more than `most` bytes."""
    length = int.from_bytes(_exactly(talk, 8), "little")
    if most is not None and length > most:
        raise ValueError(f"a message of {length} bytes")
    return _exactly(talk, length)


def _exactly(talk: socket.socket, count: int) -> bytearray:
    content = bytearray(count)
    view = memoryview(content)
    while view:
        got = talk.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return content


if __name__ == "__main__":
    gc.disable()  # which takes a fifth of the time that libraries take to load
    for library in sys.argv[2:]:
        importlib.import_module(library)
    gc.freeze()  # what all that are forked share is not looked through, and so copied, in each of them
    gc.enable()
    main(socket.socket(fileno=int(sys.argv[1])))

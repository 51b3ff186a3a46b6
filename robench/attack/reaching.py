"""What code does outside of its process while it should only compute: files that it opens, programs that it starts,
connections that it makes. Python tells of each by an audit event; what goes past Python is not seen."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from types import FrameType
from typing import Any

# events that say so by their name, and what is told of them
TOLD = {
    "subprocess.Popen": "a program", "os.system": "a program", "os.exec": "a program", "os.posix_spawn": "a program",
    "os.fork": "a process", "os.forkpty": "a process", "socket.connect": "a connection", "socket.bind": "a connection",
    "socket.sendto": "a connection", "os.rename": "a file", "os.remove": "a file", "os.mkdir": "a folder",
    "os.listdir": "a folder", "os.scandir": "a folder",
}  # fmt: skip
# files that are code, or say what machine it is
CODE = (".py", ".pyc", ".so", ".nbi", ".nbc")
MACHINE = ("/sys/", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/dev/null", "/dev/nvidia")
INSTALLED = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())})
# whoever looks for code, or compiles it, opens what it needs
COMPILING = ("importlib.", "_frozen_importlib", "zipimport", "linecache", "torch._dynamo", "torch._inductor", "triton")

_listening: tuple[int, list[str]] | None = None
_installed = threading.Lock()


def listen(heard: list[str] | None) -> None:
    """Put down in `heard` what this thread does from now on, until None is given. What was heard has a name in it."""
    global _listening
    if _installed.acquire(blocking=False):  # once, for the process: a hook cannot be taken away
        sys.addaudithook(_hook)
    _listening = None if heard is None else (threading.get_ident(), heard)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening is None or (event != "open" and event not in TOLD):
        return
    thread, heard = _listening
    if thread != threading.get_ident():
        return
    name = _opened(arguments[0]) if event == "open" else TOLD[event]
    if name and name not in heard and not _compiles(sys._getframe(1)):
        heard.append(name)


def _opened(file: object) -> str:
    """The name of a file that is neither code nor anybody's installation; "" for others, and for open numbers."""
    if not isinstance(file, str | bytes | os.PathLike):
        return ""
    path = os.path.realpath(os.fsdecode(file))
    if path.endswith(CODE) or path.startswith(MACHINE) or path.startswith(INSTALLED):
        return ""
    return os.path.basename(path)


def _compiles(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if isinstance(name, str) and name.startswith(COMPILING):
            return True
        if name == "robench.attack.guard":
            return False
        frame = frame.f_back
    return False

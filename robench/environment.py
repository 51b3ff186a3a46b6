"""What a figure was made with: versions, commit, machine, and the device to compute on."""

from __future__ import annotations

import copy
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("robench", "torch", "torchvision", "pytorch-lightning", "numpy")
# variables that decide in which order kernels sum
KERNELS = ("MKL_CBWR", "OMP_NUM_THREADS")
# what of a checkout computes, and with which versions: without changes there, figures are those of its commit
CODE = ("robench", "attacks", "defenses", "pyproject.toml", "constraints.txt")


def environment() -> dict[str, Any]:
    """Versions of what computes, the commit of robench's own checkout if it runs from one, and the machine."""
    return copy.deepcopy(_environment())


def made_with(device: str) -> dict[str, str]:
    """What figures made on `device` may differ by from those made elsewhere: versions, and the kind of device."""
    packages = _environment()["packages"]
    return {"robench": packages["robench"], "torch": packages["torch"], "device": device.partition(":")[0]}


@cache
def _environment() -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(Path(__file__).resolve().parent.parent),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernels": {name: os.environ.get(name, "") for name in KERNELS},
    }


def hardware(found: Mapping[str, Any], device: str | None) -> str:
    """A recorded environment's machine in words: its processor, how many cores, and the device where it is a GPU."""
    name = found.get("processor") or found.get("machine") or "a machine of unknown kind"
    cores = f", {found['cores']} cores" if found.get("cores") else ""
    return f"{name}{cores}{f', {device}' if device and device != 'cpu' else ''}"


def _processor() -> str:
    """The processor's name, "" where the system does not say it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


__version__ = _version("robench")


def expanded(path: str) -> Path:
    """A path with "~" for a user's folder, if it begins with one that there is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def command() -> str:
    """The command line of this process, as a user would type it."""
    name = Path(sys.argv[0]).name
    return shlex.join([*([name] if name != "__main__.py" else ["python", "-m", "robench"]), *sys.argv[1:]])


def _commit(folder: Path) -> str:
    """The commit of the checkout in a folder, with -dirty where what computes was changed; "" where it is none."""
    if not (folder / ".git").exists():
        return ""
    here = _git(folder, "describe", "--always")
    return f"{here}-dirty" if here and _git(folder, "status", "--porcelain", "--", *CODE) else here


def _git(folder: Path, *words: str) -> str:
    """What git says of a checkout, "" where it says nothing."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()

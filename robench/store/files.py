"""Files that are whole or absent, with checksums; JSON under a seal, so that any change of its content is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError

from robench.errors import BadInput, disk_error, first_line

# keys a JSON file must have, with the types of their values
Required = Mapping[str, type | tuple[type, ...]]
# of sealed files; one of a later format is refused, and one without a format is from before there were seals
FORMAT = 2
# nanoseconds: a file changed less long ago could change again within the resolution of its time stamps
SETTLED = 2 * 10**9
# bytes: a file up to this size is read in one go
AT_ONCE = 2**24

ADVICE = "delete it and run the command again"
T = TypeVar("T")


class Damaged(BadInput):
    """A file of the store is missing, cannot be read, or is not what was written."""


def write_file(path: Path, write: Callable[[Path], None]) -> str:
    """Let `write` fill a file beside `path`, then move it there in one step; returns the checksum of what was written.

    Raises BadInput when the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb+") as handle:
            os.fsync(handle.fileno())
        written = _hash(aside)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise disk_error(error if isinstance(error, OSError) else _system_error(error), path) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return written


def _system_error(error: SafetensorError) -> OSError:
    """The system's error behind one of safetensors, which keeps its number in the text only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def write_text(path: Path, text: str) -> None:
    """Write text in one step; raises as `write_file`."""
    write_file(path, lambda aside: _fill(aside, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, in one step; raises as `write_file`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path | str, required: Required | None = None, advice: str = ADVICE) -> dict[str, Any]:
    """A JSON object with the required keys ("a.b" is b inside a) of the required types.

    Raises Damaged for a missing or damaged file, with `advice` on what to do.
    """
    try:
        value = json.loads(_content(path).decode())
    except FileNotFoundError:
        raise Damaged(
            f"There is no file {path}; {'check the name, or make it first' if advice == ADVICE else advice}."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"The file {path} is damaged ({first_line(error, 120)}); {advice}.") from error
    if not isinstance(value, dict):
        raise Damaged(f"The file {path} is damaged (not a JSON object); {advice}.")
    for key, kind in (required or {}).items():
        found: Any = value
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            raise Damaged(f"The file {path} is damaged (no usable {key!r}); {advice}.")
    return value


def digest(value: Any) -> str:
    """SHA-256, in hex, of a JSON value, whatever its layout in a file."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """A JSON value with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_sealed(path: Path, value: Mapping[str, Any]) -> str:
    """Write a JSON object with its format and a checksum of its content; returns that, the seal.

    Raises as `write_file`.
    """
    plain = {**json.loads(json.dumps(value)), "format": FORMAT}
    seal = digest(plain)
    write_json(path, {**plain, "seal": seal})
    return seal


class Record(NamedTuple):
    """A sealed file's object, its digest, which is the seal, and whether it has one: the first stores had none."""

    value: dict[str, Any]
    digest: str
    sealed: bool


def read_sealed(path: Path | str, required: Required | None = None, advice: str = ADVICE) -> Record:
    """What `write_sealed` wrote.

    Raises Damaged as `read_json` and where the seal does not fit, BadInput for a later format.
    """
    value = read_json(path, required, advice)
    seal = value.pop("seal", None)
    found = digest(value)
    if seal is None and "format" not in value:
        return Record(value, found, sealed=False)
    if seal != found:
        raise Damaged(f"The file {path} is damaged (its content is not what was written); {advice}.")
    if value.pop("format", None) != FORMAT:
        raise BadInput(
            f"The file {path} is of a later format than this robench reads ({FORMAT}); use the version that wrote it, "
            "or give another --runs."
        )
    return Record(value, found, sealed=True)


def checksum(path: Path | str) -> str:
    """SHA-256 of a file's content, in hex; raises OSError where it cannot be read.

    Computed once per process as long as the file stays as it is.
    """
    return _SUMS.of(str(path), signature(path), lambda: _hash(path))


# size, times and place of a file; None where they do not tell its content from an earlier one
Signature = tuple[int, ...] | None


@dataclass(frozen=True)
class Memory:
    """What was made of files, kept as long as their signatures stay the same."""

    kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def of(self, name: str, now: Any, make: Callable[[], T]) -> T:
        """What `make` returns, from memory where the signature `now` is that of the last time; raises as `make`."""
        known = self.kept.get(name)
        if now is not None and known is not None and known[0] == now:
            found: T = known[1]
            return found
        made = make()
        self.kept[name] = (now, made)
        return made


_SUMS = Memory()


def signature(path: Path | str | os.DirEntry[str]) -> Signature:
    """What tells a file's content from an earlier one; None for a file that is not there, or was changed just now."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _hash(path: Path | str) -> str:
    with open(path, "rb", buffering=0) as handle:
        if os.fstat(handle.fileno()).st_size <= AT_ONCE:
            return hashlib.sha256(handle.read()).hexdigest()
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _content(path: Path | str) -> bytes:
    with open(path, "rb", buffering=0) as handle:
        return handle.read()


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def identity(spec: Mapping[str, Any]) -> str:
    """The id of a spec given as JSON: 12 hex digits of its digest, in which a field that is None counts as absent."""
    return digest({name: value for name, value in spec.items() if value is not None})[:12]

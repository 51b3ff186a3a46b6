"""Files that are whole or absent, with checksums; JSON under a seal, so that any change of its content is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from safetensors import SafetensorError

from robench.errors import BadInput, disk_error, first_line
from robench.store.parts import part_of

if TYPE_CHECKING:  # takes its time to load
    from pydantic import BaseModel, ValidationError

# of sealed files; one of a later format is refused, and one without a format is from before there were seals
FORMAT = 2
# nanoseconds: a file changed less long ago could change again within the resolution of its time stamps
SETTLED = 2 * 10**9
# bytes: a file up to this size is read in one go
AT_ONCE = 2**24
# bytes: no JSON file that anybody writes is larger
LARGEST = 2**28

ADVICE = "delete it and run the command again"
T = TypeVar("T")
Model = TypeVar("Model", bound="BaseModel")


class Damaged(BadInput):
    """A file of the store is missing, cannot be read, or is not what was written."""


def write_file(path: Path, write: Callable[[Path], None]) -> str:
    """Let `write` fill a file beside `path`, then move it there in one step; returns the checksum of what was written.

    Raises BadInput when the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part_of(path) as aside:
            try:
                write(aside)
                with aside.open("rb+") as handle:
                    os.fsync(handle.fileno())
                written = _hash(aside)
                os.replace(aside, path)
            except BaseException as error:
                failed = _system_error(error, aside)
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
                if failed is error or failed is None:
                    raise
                raise failed from error
    except OSError as error:
        raise disk_error(error, path) from error
    return written


def _system_error(error: BaseException, aside: Path) -> OSError | None:
    """The system's error behind one of a writer, None where there is none.

    safetensors keeps its number in the text only, and torch says nothing of it, so whether more fits is tried.
    """
    if isinstance(error, OSError):
        return error
    if isinstance(error, SafetensorError):
        number = re.search(r"os error (\d+)", str(error))
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
    if isinstance(error, RuntimeError):
        try:
            with aside.open("ab", buffering=0) as more:
                for _ in range(16):
                    more.write(bytes(2**16))
                os.fsync(more.fileno())
        except OSError as found:
            return found
    return None


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> str:
    """Write contiguous tensors by name as safetensors; returns the checksum and raises as `write_file`.

    Its own writer would move a file of its own over the one that is locked.
    """
    from safetensors.torch import save

    return write_file(path, lambda aside: _fill(aside, save(dict(tensors))))


def write_text(path: Path, text: str) -> None:
    """Write text in one step; raises as `write_file`."""
    write_file(path, lambda aside: _fill(aside, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, in one step; raises as `write_file`."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path | str, shape: type[BaseModel] | None = None, advice: str = ADVICE) -> dict[str, Any]:
    """A JSON object that has the fields of `shape`, of their types and within their ranges.

    Raises Damaged for a missing or damaged file, with `advice` on what to do.
    """
    try:
        value = json.loads(_content(path).decode())
        text = json.dumps(value, ensure_ascii=False)
    except FileNotFoundError:
        raise Damaged(
            f"There is no file {path}; {'check the name, or make it first' if advice == ADVICE else advice}."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"The file {path} is damaged ({first_line(error, 120)}); {advice}.") from error
    if not isinstance(value, dict):
        raise Damaged(f"The file {path} is damaged (not a JSON object); {advice}.")
    if shape is not None:
        from pydantic import ValidationError

        try:
            fit(shape, text)
        except ValidationError as error:
            raise Damaged(f"The file {path} is damaged ({unfit(error)}); {advice}.") from None
    return value


def fit(shape: type[Model], text: str) -> Model:
    """JSON as a record, with "?" for what is no text, which pydantic would refuse; raises ValidationError.

    A name may hold that: bytes that are no UTF-8, or half a character.
    """
    return shape.model_validate_json(text.encode(errors="replace"))


def unfit(error: ValidationError) -> str:
    """The first thing that does not fit a record, as part of a sentence."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else first["msg"]
    return "".join(letter if letter.isprintable() else "?" for letter in told)[:160]


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


def read_sealed(path: Path | str, shape: type[BaseModel] | None = None, advice: str = ADVICE) -> Record:
    """What `write_sealed` wrote.

    Raises Damaged as `read_json` and where the seal does not fit, BadInput for a later format.
    """
    value = read_json(path, shape, advice)
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


def plain_file(path: Path | str) -> FileIO:
    """A file to read bytes from; raises OSError at once for a named pipe, a device or a folder, which may never end."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError("it is not a plain file")
    return open(opened, "rb", buffering=0)


def _hash(path: Path | str) -> str:
    with plain_file(path) as handle:
        if os.fstat(handle.fileno()).st_size <= AT_ONCE:
            return hashlib.sha256(handle.read()).hexdigest()
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _content(path: Path | str) -> bytes:
    with plain_file(path) as handle:
        if os.fstat(handle.fileno()).st_size > LARGEST:
            raise OSError(f"it has more than {LARGEST:,} bytes")
        return handle.read()


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def identity(spec: Mapping[str, Any]) -> str:
    """The id of a spec given as JSON: 12 hex digits of its digest, in which a field that is None counts as absent."""
    return digest({name: value for name, value in spec.items() if value is not None})[:12]

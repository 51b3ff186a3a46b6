"""Decoded images kept in a file: whole or absent, and sealed, so that what was changed since is decoded again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# bytes of the seal at a file's end, and how many are read or written at once
SEAL, PIECE = hashlib.sha256().digest_size, 1 << 26


def mapped(path: Path, count: int) -> Bytes | None:
    """The `count` images of a cache file, uint8 [N, C, H, W]; None where it is not there or not what was written."""
    try:
        if not _sealed(path):
            return None
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = array.dtype == np.uint8 and array.ndim == 4 and array.shape[:2] in ((count, 1), (count, 3))
    whole = whole and 0 not in array.shape[2:]
    return array if whole else None


def keep(path: Path, shape: tuple[int, int, int, int], read: Callable[[int, int], Bytes]) -> Bytes:
    """Write the images that `read(start, stop)` gives into one file, which appears only when it is whole, and map it.

    Raises OSError where it cannot be written.
    """
    aside = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    step, state = max(1, PIECE // math.prod(shape[1:])), hashlib.sha256()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # written, not mapped: on a full disk a write raises, where a mapped page would kill the process
        with open(aside, "wb") as stream:
            state.update(header.getvalue())
            stream.write(header.getvalue())
            for start in range(0, shape[0], step):
                piece = read(start, min(start + step, shape[0])).tobytes()
                state.update(piece)
                stream.write(piece)
            stream.write(state.digest())  # numpy maps no further than the array goes
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    array: Bytes = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _sealed(path: Path) -> bool:
    """Whether a file ends in the SHA-256 of all before it. Raises OSError where it cannot be read."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        left = os.fstat(stream.fileno()).st_size - SEAL
        while left > 0 and (piece := stream.read(min(left, PIECE))):
            state.update(piece)
            left -= len(piece)
        return left == 0 and stream.read() == state.digest()

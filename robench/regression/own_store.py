"""The folder of one check, where all is computed anew: nothing that was stored before answers for the code of today."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robench.errors import BadInput, DiskError, disk_error
from robench.progress import say
from robench.store.claims import claim
from robench.store.files import Damaged, read_sealed, write_sealed
from robench.store.records import CheckRecord
from robench.store.runs import CHECK, Store

# folders of installed packages, whose files are told by size and time, since there are thousands
INSTALLED = ("site-packages", "dist-packages")


@contextmanager
def own_store(store: Store, key: str, name: str) -> Iterator[Store]:
    """A store for one check, with the models of `store`: empty, unless the last check of that key was interrupted.

    Interrupted is one that was killed or left without `finish`, and it is only gone on with by the same code, so call
    this when the models are loaded. key: what is checked, as a folder's name; name: the same for sentences. A check of
    that key by another process is waited for. One that BadInput ends counts as finished. Raises DiskError.
    """
    folder = store.checks / key
    with _turn(store.root, f"check-{key}", name):
        state = {"code": loaded_code(), "finished": False}
        if _state(folder) == state:
            say(f"Going on with the check of {name} that was interrupted.")
        else:
            _remove(folder)
            write_sealed(folder / CHECK, state)
        own = Store(folder, store.root)
        try:
            yield own
        except DiskError:
            raise
        except BadInput:
            finish(own)
            raise


def finish(own: Store) -> None:
    """Mark a check's store as finished; the next check of its key begins anew. Raises DiskError."""
    write_sealed(own.root / CHECK, {"finished": True})


def loaded_code() -> str:
    """16 hex digits over all code that this process has loaded, but the standard library and what cannot be read.

    Sources count by their content, installed packages by the size and time of their files.
    """
    sha = hashlib.sha256(sys.version.encode())
    library = str(Path(sysconfig.get_path("stdlib")).resolve()) + os.sep
    places = {getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())}
    for place in sorted(each for each in places if isinstance(each, str)):
        path = Path(place)
        installed = not set(INSTALLED).isdisjoint(path.parts)
        if not installed and str(path.resolve()).startswith(library):
            continue
        try:
            found = path.stat()
            told = f"{found.st_size} {found.st_mtime_ns}".encode() if installed else path.read_bytes()
        except OSError:
            continue
        sha.update(f"{place} {len(told)} ".encode(errors="surrogateescape") + told)
    return sha.hexdigest()[:16]


@contextmanager
def _turn(root: Path, key: str, name: str) -> Iterator[None]:
    """Hold the claim on a check, once nobody else does."""
    with claim(root, key) as mine:
        if mine:
            yield
            return
    say(f"Another process checks {name} in {root}; waiting until it is done.")
    with claim(root, key, wait=True):
        yield


def _state(folder: Path) -> dict[str, object] | None:
    try:
        return read_sealed(folder / CHECK, CheckRecord).value
    except Damaged:
        return None


def _remove(folder: Path) -> None:
    """A folder that a kill leaves half removed is removed by the next check: its state is never that of its own."""
    try:
        (folder / CHECK).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error

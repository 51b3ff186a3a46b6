"""A lock that nobody holds and the system refuses is an error, not somebody else's."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from robench.errors import DiskError
from robench.store.claims import claim, held
from robench.store.marker import MARKER


@pytest.mark.parametrize("wait", [False, True])
def test_a_refused_lock_is_told(wait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems answer so; filelock takes it for a lock that is held, and would wait for ever."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(DiskError, match=r"Cannot write .*work\.lock \(permission denied\)"),
        claim(tmp_path, "work", wait=wait),
    ):
        pytest.fail("claimed")
    with pytest.raises(DiskError, match="permission denied"):
        held(tmp_path, "work")


def test_a_claim_is_held_and_freed(tmp_path: Path) -> None:
    with claim(tmp_path, "work") as mine:
        assert mine
        assert held(tmp_path, "work")
        with claim(tmp_path, "work") as theirs:
            assert not theirs
    assert not held(tmp_path, "work")
    assert (tmp_path / MARKER).is_file()

"""Files are whole or absent, their checksums are computed once, and sealed JSON cannot change unnoticed."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from robench.errors import BadInput
from robench.store import files
from robench.store.files import (
    FORMAT,
    Damaged,
    checksum,
    digest,
    read_json,
    read_sealed,
    write_file,
    write_json,
    write_sealed,
    write_text,
)


class Killed(BaseException):
    """Stands for Ctrl-C and the like."""


@pytest.mark.parametrize("failure", [ValueError("halfway"), Killed()])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, failure, before):
    path = tmp_path / "folder" / "file.json"
    if before:
        write_text(path, before)

    def write(aside):
        aside.write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        write_file(path, write)
    assert sorted(p.name for p in path.parent.iterdir()) == (["file.json"] if before else [])
    assert before is None or path.read_text() == before


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Cannot write"), (errno.EROFS, "Cannot write")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_or_locked_disk_is_one_sentence(tmp_path, monkeypatch, number, said, call):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"robench.store.files.os.{call}", fail)
    with pytest.raises(BadInput, match=said):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back_and_damage_is_said(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"z": [1, None], "a": "ü"})
    assert read_json(path) == {"z": [1, None], "a": "ü"}
    for content in (b"", b"{", b"[1]", b"\xff\xfe", path.read_bytes()[:-3]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="damaged"):
            read_json(path)
    with pytest.raises(BadInput, match="no file"):
        read_json(tmp_path / "c.json")


def test_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert checksum(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def hashed(monkeypatch):
    """The files whose content was hashed."""
    seen, hash_ = [], files._hash
    monkeypatch.setattr(files, "_hash", lambda path: seen.append(Path(path).name) or hash_(path))
    return seen


@pytest.fixture
def settled(monkeypatch):
    """Time stamps are taken to be so fine that none can hide a change."""
    monkeypatch.setattr(files, "SETTLED", 0)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, hashed, settled):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    first = [checksum(path) for _ in range(3)]
    assert (len(set(first)), hashed) == (1, ["f"])
    before = path.stat()
    path.write_bytes(b"abd")  # as long as before, and with the time stamp put back
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checksum(path) != first[0]
    assert hashed == ["f", "f"]


def test_a_file_that_was_just_changed_is_hashed_every_time(tmp_path, hashed):
    path = tmp_path / "f"
    for content in (b"abc", b"abd", b"abe"):
        path.write_bytes(content)
        assert checksum(path) == hashlib.sha256(content).hexdigest()
    assert hashed == ["f"] * 3


def test_large_files_are_hashed_alike(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(bytes(range(256)) * 100)
    monkeypatch.setattr(files, "AT_ONCE", 1000)
    assert checksum(tmp_path / "f") == hashlib.sha256(bytes(range(256)) * 100).hexdigest()


SEALED = {"a": [1, 0.1, None, True], "name": "ü \u2028", "accuracy": {"test": 0.912, "interval": [0.9, 0.93]}}


def test_sealed_json_comes_back_with_its_digest(tmp_path):
    path = tmp_path / "f.json"
    seal = write_sealed(path, {**SEALED, "pair": (1, 2), 3: "three"})
    value = {**SEALED, "pair": [1, 2], "3": "three"}
    assert read_sealed(path) == (value, seal, True)
    assert seal == digest({**value, "format": FORMAT})
    write_json(path, value)
    assert read_sealed(path) == (value, digest(value), False)


def test_no_bit_of_sealed_json_changes_unnoticed(tmp_path):
    path = tmp_path / "f.json"
    write_sealed(path, SEALED)
    content, right, refused = path.read_bytes(), read_sealed(path), 0
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        try:
            assert read_sealed(path) == right, f"bit {place}"
        except Damaged:
            refused += 1
    assert refused > 7 * len(content)
    for length in range(len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(Damaged):
            read_sealed(path)


def test_a_later_format_is_refused_and_not_called_damaged(tmp_path):
    path = tmp_path / "f.json"
    write_sealed(path, SEALED)
    later = {**SEALED, "format": FORMAT + 1}
    write_json(path, {**later, "seal": digest(later)})
    with pytest.raises(BadInput, match="later format") as refusal:
        read_sealed(path)
    assert not isinstance(refusal.value, Damaged)

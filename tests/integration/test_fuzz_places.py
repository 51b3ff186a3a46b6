"""What robench keeps outside of runs folders, changed by somebody: the cache of decoded images, and what it knows of a
user. No traceback, no other figure, and no code run that nobody named.

ROBENCH_FUZZ=N tries about N changes, other ones each time; without it, some, always the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.integration.conftest import Outcome, Run

GIVEN = int(os.environ.get("ROBENCH_FUZZ", "0"))
EACH = max(GIVEN // 40, 1) if GIVEN else 8
MODEL = """
import torch
from pathlib import Path
from torch import nn
(Path(__file__).parent / 'ran').touch()
class Rows(nn.Module):
    def forward(self, x):
        return x.mean((1, 3))
def load():
    return Rows().eval()
"""
ROWS = 4


def images(base: Path) -> Path:
    """Five images a class, [8, 4], bright in the row of their class, some not."""
    noise = np.random.default_rng(0)
    for label in range(ROWS):
        (base / "test" / str(label)).mkdir(parents=True)
        for i in range(5):
            image = noise.integers(0, 120, (ROWS, 8), dtype=np.uint8)
            image[label if i < 4 else label - 1] = 200
            Image.fromarray(image).save(base / "test" / str(label) / f"{i}.png")
    return base


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def change_cache(path: Path, noise: Random) -> str:
    """Change one thing in the structure of a cache file, whose seal fits then, or one in its bytes; returns what."""
    whole = path.read_bytes()
    array = np.load(path)
    kinds: dict[str, Callable[[], bytes]] = {
        "type": lambda: sealed(saved(array.astype(noise.choice(["int8", "uint16", "float32", "bool", "U1"])))),
        "fewer": lambda: sealed(saved(array[:-1])),
        "more": lambda: sealed(saved(np.concatenate([array, array]))),
        "flat": lambda: sealed(saved(array.ravel())),
        "deep": lambda: sealed(saved(array[None])),
        "no pixels": lambda: sealed(saved(array[:, :, :, :0])),
        "gray": lambda: sealed(saved(array[:, :1])),
        "scalar": lambda: sealed(saved(np.uint8(3))),
        "objects": lambda: sealed(whole[:-32].replace(b"|u1", b"|O ")),
        "order": lambda: sealed(whole[:-32].replace(b"'fortran_order': False", b"'fortran_order': None ")),
        "shape": lambda: sealed(whole[:-32].replace(b"(20, 3", noise.choice([b"(99, 3", b"(-2, 3", b"('', 3"]))),
        "header": lambda: sealed(whole[:6] + bytes([noise.randrange(256) for _ in range(6)]) + whole[12:-32]),
        "cut": lambda: whole[: noise.randrange(len(whole))],
        "longer": lambda: whole + bytes(noise.randrange(1, 40)),
        "pixels": lambda: whole[:-100] + bytes(40) + whole[-60:],
        "nothing": lambda: b"",
    }
    kind = noise.choice(list(kinds))
    path.write_bytes(kinds[kind]())
    return kind


def change_text(path: Path, noise: Random) -> str:
    """Put something else in the place of a small file; returns what."""
    whole = path.read_bytes()
    strange = (b"", b"\xff\xfe\x00", b"[" * 100_000, b"7", b"null", b'{"a": [1]}', b'["\\ud800", [1], null]',
               b"\x00" * 10, whole * 3, whole[: len(whole) // 2], b"\n" * 100, b'"\x1b[2J"')  # fmt: skip
    kind = noise.choice(["strange", "strange", "strange", "folder", "gone", "link"])
    path.unlink()
    if kind == "strange":
        chosen = noise.choice(strange)
        path.write_bytes(chosen)
        return f"{kind} {chosen[:20]!r}"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.with_name("nowhere"))
    return kind


def figures(outcome: Outcome) -> list[tuple[float, float]]:
    return [(row["clean_accuracy"], row["robust_accuracy"]) for row in json.loads(outcome.out)["rows"]]


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["cache", "headers", "references", "secret"])
@pytest.mark.parametrize("size", ["", "@4"], ids=["as-they-are", "sized"])
def test_what_is_kept_outside_of_runs_folders_fools_nobody(
    kind: str, size: str, robench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "model.py").write_text(MODEL)
    data = f"folder:{images(tmp_path / 'images')}{size}"
    evaluate = ("evaluate", "model.py:load", "-a", "fgsm", "--eps", "0.1", "-n", "20", "--dataset", data, "--json")
    first = robench(*evaluate)
    assert first.code == 0, first.err
    true = figures(first)
    assert 0 < true[0][0] < 1
    places = {
        "cache": ("data/cache", change_cache), "headers": ("data/headers", change_text),
        "references": ("state/robench/references", change_text), "secret": ("state/robench/secret", change_text),
    }  # fmt: skip
    assert robench("verify").code == 0  # which makes the secret
    for name in ("data", "state"):
        shutil.copytree(tmp_path / name, tmp_path / "kept" / name)

    @settings(
        max_examples=EACH, deadline=None, database=None, derandomize=not GIVEN,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32 - 1))
    def fuzz(seed: int) -> None:
        for name in ("data", "state", "others"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", tmp_path, dirs_exist_ok=True)
        place, change = places[kind]
        path = tmp_path / place
        told = change(min(path.iterdir()) if path.is_dir() else path, Random(seed))
        (tmp_path / "ran").unlink(missing_ok=True)
        verified = robench("verify")
        assert verified.code in (0, 2), (told, verified.err)
        if kind == "references" and verified.code == 2:
            assert not (tmp_path / "ran").exists(), told
        again = robench(*evaluate, "--runs", "others")
        assert again.code == 0, (told, again.err)
        assert figures(again) == true, told
        assert robench(*evaluate).code == 0, told

    fuzz()

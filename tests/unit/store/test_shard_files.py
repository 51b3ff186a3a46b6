"""Rows and images are checked for what they hold, although their checksums fit: types, ranges, examples, meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robench.store import shard_files
from robench.store.files import Damaged
from robench.store.shard_files import Expected
from tests.made import whole

N = 6
EXPECTED = Expected(range(N), "run it again", "linf", 0.1, guarded=False)
ROWS = whole(pd.DataFrame({"success": [True, False] * (N // 2), "linf": [0.1, 0.05] * (N // 2)}))


def rows(table: pd.DataFrame, path: Path, expected: Expected = EXPECTED) -> pd.DataFrame:
    table.to_parquet(path / "rows.parquet", index=False)
    found: pd.DataFrame = shard_files.rows(str(path / "rows.parquet"), expected).to_pandas()
    return found


def test_rows_come_as_they_are(tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(rows(ROWS, tmp_path), ROWS)
    later = ROWS.assign(margin=0.5, nested=[[1]] * N)
    pd.testing.assert_frame_equal(rows(later, tmp_path), ROWS.assign(margin=0.5))
    old = ROWS.drop(columns=["zero_pixels", "l2", "passes", "stages"])
    pd.testing.assert_frame_equal(rows(old, tmp_path), old)


CHANGES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "no distance": lambda rows: rows.assign(linf=math.nan),
    "a negative distance": lambda rows: rows.assign(linf=-0.1),
    "an infinite distance": lambda rows: rows.assign(l2=math.inf),
    "a success outside eps": lambda rows: rows.assign(linf=0.2),
    "distances as text": lambda rows: rows.assign(linf="0.1"),
    "a nested column": lambda rows: rows.assign(label=[[0]] * N),
    "nested flags": lambda rows: rows.assign(flags=[{"a": 1}] * N),
    "flags that are no text": lambda rows: rows.assign(flags=[b"\xff"] * N),
    "unsigned answers": lambda rows: rows.assign(adv_pred=pd.Series([2**63 + 1] * N, dtype="uint64")),
    "answers with holes": lambda rows: rows.assign(clean_pred=[0.0, math.nan] * (N // 2)),
    "truths as numbers": lambda rows: rows.assign(success=rows["success"].astype(int)),
    "truths as text": lambda rows: rows.assign(clean_correct=rows["clean_correct"].astype(str)),
    "passes that do not add up": lambda rows: rows.assign(passes=rows["passes"] + 1),
    "stages that are no text": lambda rows: rows.assign(stages=1),
    "huge passes": lambda rows: rows.assign(forwards=2**62),
    "no success": lambda rows: rows.drop(columns="success"),
    "no distances of the norm": lambda rows: rows.drop(columns="linf"),
    "two columns exchanged": lambda rows: rows.rename(columns={"success": "clean_correct", "clean_correct": "success"}),
    "fewer rows": lambda rows: rows.iloc[:-1],
    "more rows": lambda rows: pd.concat([rows, rows]),
    "another order": lambda rows: rows.iloc[::-1],
    "success denied": lambda rows: rows.assign(success=False),
    "correct denied": lambda rows: rows.assign(clean_correct=False, success=False),
}


@pytest.mark.parametrize("name", CHANGES, ids=lambda name: name.replace(" ", "-"))
def test_other_than_rows_is_damaged(name: str, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"The rows in .*rows\.parquet are damaged \(.+\); run it again") as caught:
        rows(CHANGES[name](ROWS), tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_detector_may_reject_what_is_wrong(tmp_path: Path) -> None:
    rejected = ROWS.assign(success=False)
    assert len(rows(rejected, tmp_path, EXPECTED._replace(guarded=True))) == N
    with pytest.raises(Damaged, match="3 of 6 contradict themselves"):
        rows(rejected, tmp_path, EXPECTED._replace(guarded=False))


IMAGES = torch.rand(N, 1, 4, 4)
LOGITS = torch.rand(N, 10)
FILES: dict[str, dict[str, Tensor]] = {
    "another key": {"images": IMAGES},
    "a key too many": {"adversarial": IMAGES, "more": torch.zeros(1)},
    "no dimensions": {"adversarial": torch.tensor(0.5)},
    "flat": {"adversarial": IMAGES.flatten(1)},
    "double": {"adversarial": IMAGES.double()},
    "bytes": {"adversarial": IMAGES.to(torch.uint8)},
    "fewer": {"adversarial": IMAGES[1:].clone()},
    "no pixels": {"adversarial": IMAGES[:, :, :0].clone()},
    "logits of one kind": {"adversarial": IMAGES, "clean logits": LOGITS},
}


def test_images_come_as_they_are(tmp_path: Path) -> None:
    save_file({"adversarial": IMAGES}, tmp_path / "images")
    assert torch.equal(shard_files.images(str(tmp_path / "images"), N, "run it again"), IMAGES)
    shard_files.check_images(str(tmp_path / "images"), (N, 1, 4, 4), "run it again")
    with pytest.raises(Damaged, match=r"F32 \[6, 1, 4, 4\] instead of F32 \[6, 3, 4, 4\]"):
        shard_files.check_images(str(tmp_path / "images"), (N, 3, 4, 4), "run it again")


@pytest.mark.parametrize("name", FILES, ids=lambda name: name.replace(" ", "-"))
def test_other_than_images_is_damaged(name: str, tmp_path: Path) -> None:
    save_file(FILES[name], tmp_path / "images")
    with pytest.raises(Damaged, match=r"The images in .*images are damaged \(.+\); run it again"):
        shard_files.images(str(tmp_path / "images"), N, "run it again")


@pytest.mark.parametrize("size", [2**62, 10**8, 3, 0])
def test_a_header_of_another_size_is_damaged(size: int, tmp_path: Path) -> None:
    save_file({"adversarial": IMAGES}, tmp_path / "images")
    content = (tmp_path / "images").read_bytes()
    (tmp_path / "images").write_bytes(size.to_bytes(8, "little") + content[8:])
    with pytest.raises(Damaged, match="are damaged"):
        shard_files.images(str(tmp_path / "images"), N, "run it again")


def test_logits_come_as_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "images")
    save_file({"adversarial": IMAGES}, path)
    assert shard_files.logits(path, N, "run it again") is None
    save_file({"adversarial": IMAGES, "clean logits": LOGITS, "adversarial logits": -LOGITS}, path)
    found = shard_files.logits(path, N, "run it again")
    assert found is not None
    assert list(found) == ["clean", "adversarial"]
    assert torch.equal(found["adversarial"], -LOGITS)
    assert torch.equal(shard_files.images(path, N, "run it again"), IMAGES)
    shard_files.check_images(path, (N, 1, 4, 4), "run it again")


@pytest.mark.parametrize(
    "logits", [LOGITS[1:], LOGITS[:, :9], LOGITS[:, :0], LOGITS.double(), LOGITS[0], LOGITS[None]],
    ids=["fewer", "of other classes", "of none", "double", "flat", "deep"],
)  # fmt: skip
def test_other_than_logits_is_damaged(logits: Tensor, tmp_path: Path) -> None:
    path = str(tmp_path / "images")
    save_file({"adversarial": IMAGES, "clean logits": LOGITS, "adversarial logits": logits.clone().contiguous()}, path)
    with pytest.raises(Damaged, match="are damaged"):
        shard_files.logits(path, N, "run it again")
    with pytest.raises(Damaged, match="are damaged"):
        shard_files.check_images(path, (N, 1, 4, 4), "run it again")

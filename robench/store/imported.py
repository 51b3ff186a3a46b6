"""Adversarial images that were made elsewhere, kept as they came: of which test images they are, and from what file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.store.files import Damaged, checksum, read_sealed, write_sealed, write_tensors
from robench.store.records import ImportedRecord

if TYPE_CHECKING:
    from torch import Tensor

RECORD, IMAGES = "imported.json", "adversarial"
# images per file, and so in memory at a time
CHUNK = 500


def content_digest(start: int, shape: tuple[int, ...], chunk: Callable[[int, int], Tensor]) -> str:
    """16 hex digits over which test images [start, start + n) are meant, and the float32 pixels [n, C, H, W]."""
    sha = hashlib.sha256(repr((start, *shape)).encode())
    for at in range(0, shape[0], CHUNK):
        sha.update(chunk(at, min(at + CHUNK, shape[0])).contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class ImportedSet:
    """A folder of imported images: those of the test images [start, start + count)."""

    path: Path

    @property
    def _record(self) -> dict[str, Any]:
        advice = "import the file again"
        return read_sealed(self.path / RECORD, ImportedRecord, advice).value

    @property
    def there(self) -> bool:
        """Whether it is whole."""
        try:
            return bool(self._record)
        except Damaged:
            return False

    @property
    def range(self) -> tuple[int, int]:
        """Which test images, [start, stop). Raises Damaged."""
        record = self._record
        return record["start"], record["start"] + record["count"]

    def save(self, start: int, shape: tuple[int, ...], chunk: Callable[[int, int], Tensor], source: str) -> None:
        """Write images [n, C, H, W], given a chunk at a time, and the record last. Raises DiskError."""
        sums = {}
        for at in range(0, shape[0], CHUNK):
            part = chunk(at, min(at + CHUNK, shape[0])).contiguous()
            sums[_name(at)] = write_tensors(self.path / _name(at), {IMAGES: part})
        write_sealed(self.path / RECORD, {"start": start, "count": shape[0], "source": source, "sha256": sums})

    def images(self, start: int, stop: int) -> Tensor:
        """Those of the test images [start, stop), float32 [n, C, H, W]. Raises Damaged where they are not whole."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        record = self._record
        first, last = start - record["start"], stop - record["start"]
        parts = []
        for at in range(first // CHUNK * CHUNK, last, CHUNK):
            place = self.path / _name(at)
            try:
                if checksum(place) != record["sha256"].get(_name(at)):
                    raise Damaged(f"The imported images {place} are damaged; import the file again.")
                held = load_file(place)[IMAGES]
            except (OSError, KeyError, SafetensorError) as error:
                raise Damaged(f"The imported images {place} are damaged; import the file again.") from error
            parts.append(held[max(first - at, 0) : last - at])
        return torch.cat(parts)


def _name(at: int) -> str:
    return f"images-{at:06d}.safetensors"

"""The checkpoint of a training: written whole, and refused where it is damaged or no training can go on from it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from robench.errors import BadInput, first_line
from robench.store.files import write_file

CHECKPOINT = "last.ckpt"

# what a checkpoint has that a training goes on from, and of which type; without some of it Lightning would begin anew,
# with the optimizer of before
PARTS = {
    "epoch": int, "global_step": int, "state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list,
    "lr_schedulers": list,
}  # fmt: skip


def _lacking(checkpoint: Any, record: str) -> str:
    """What a checkpoint lacks, "" where it is one."""
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__}"
    wrong = [name for name, kind in PARTS.items() if not isinstance(checkpoint.get(name), kind)]
    if wrong:
        return f"no usable {wrong[0]!r}"
    return "" if record in checkpoint["callbacks"] else "no record of what it is of"


class WholeFiles(TorchCheckpointIO):
    """Checkpoints written beside the old one, then moved over it: a kill or a full disk leaves the old one.

    Read, they are checked against the checksums in them, which torch.load is built without. record: the callback whose
    state says what a checkpoint is of.
    """

    def __init__(self, record: str) -> None:
        super().__init__()
        self.record = record

    def load_checkpoint(self, path: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Read a checkpoint; raises BadInput where it is damaged."""
        try:
            with zipfile.ZipFile(path) as parts:
                damaged = parts.testzip()
            if damaged is None:
                found: Any = super().load_checkpoint(path, *arguments, **settings)
                reason = _lacking(found, self.record)
                if not reason:
                    return dict(found)
            else:
                reason = f"the checksum of {damaged} is wrong"
        except Exception as error:  # whatever the readers make of a damaged file
            reason = first_line(error, 120)
        raise BadInput(f"The checkpoint {path} cannot be read ({reason}); delete it and train again.")

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint in one step."""
        write_file(Path(path), lambda aside: torch.save(checkpoint, aside))

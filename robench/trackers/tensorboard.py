"""TensorBoard: an event file per evaluate, written by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import ClassVar

from robench.text.escaping import file_name, markdown
from robench.trackers.base import Tracked, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """TensorBoard: figures as scalars, settings and table as text, in tensorboard/ or the folder that is named."""

    package: ClassVar[str] = "tensorboardX"
    extra: ClassVar[str] = "tensorboard"

    def send(self, tracked: Tracked) -> str:
        """The folder of the event file, one of its own below `place`."""
        from tensorboardX import SummaryWriter

        folder = Path(self.place or FOLDER) / f"{file_name(tracked.name)}-{uuid.uuid4().hex[:6]}"
        writer = SummaryWriter(logdir=str(folder))
        try:
            for name, value in tracked.figures.items():
                writer.add_scalar(name, value, 0)
            lines = [f"| {markdown(k, cell=True)} | {markdown(v, cell=True)} |" for k, v in tracked.settings.items()]
            writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]), 0)
            writer.add_text("table", "\n".join(f"    {line}" for line in tracked.table.splitlines()), 0)
        finally:
            writer.close()
        return str(folder)

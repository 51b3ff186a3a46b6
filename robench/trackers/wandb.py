"""Weights & Biases: a run of the project "robench" per evaluate."""

from __future__ import annotations

from typing import ClassVar

from robench.trackers.base import Tracked, Tracker


class WandB(Tracker):
    """Weights & Biases: configuration, summary and a table, in the project robench or the one that is named."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def send(self, tracked: Tracked) -> str:
        """The run's name; WANDB_MODE=offline keeps it on this machine."""
        import wandb

        run = wandb.init(project=self.place or "robench", name=tracked.name, config=dict(tracked.settings))
        try:
            run.summary.update(dict(tracked.figures))
            columns = list(dict.fromkeys(name for row in tracked.rows for name in row))
            lines = [[str(row.get(name, "")) for name in columns] for row in tracked.rows]
            run.log({"table": wandb.Table(columns=columns, data=lines)})
        finally:
            run.finish()
        return f"run {run.name}"

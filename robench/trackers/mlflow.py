"""MLflow: a run of the experiment "robench" per evaluate."""

from __future__ import annotations

import json
import re
from typing import ClassVar

from robench.trackers.base import Tracked, Tracker

# a name of a parameter or a figure may have these alone; a parameter's value may be so long
FORBIDDEN = re.compile(r"[^\w\-. /]")
LONGEST = 500
EXPERIMENT = "robench"


class MLflow(Tracker):
    """MLflow: parameters, metrics, table.txt and rows.json, in a file store or on a server."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    def send(self, tracked: Tracked) -> str:
        """The run's id; the store is `place`, MLFLOW_TRACKING_URI or MLflow's own default."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.place or None)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name=tracked.name).info.run_id
        status = "FAILED"
        try:
            for name, text in tracked.settings.items():
                client.log_param(run, FORBIDDEN.sub("_", name), text[:LONGEST])
            for name, value in tracked.figures.items():
                client.log_metric(run, FORBIDDEN.sub("_", name), value)
            client.log_text(run, tracked.table, "table.txt")
            client.log_text(run, json.dumps([dict(row) for row in tracked.rows], indent=1), "rows.json")
            status = "FINISHED"
        finally:
            client.set_terminated(run, status=status)
        return f"run {run} of the experiment {EXPERIMENT}"

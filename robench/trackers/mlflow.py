"""MLflow: a run of the experiment "robench" per evaluate."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from robench.errors import BadInput
from robench.trackers.base import Tracked, Tracker

# a name of a parameter or a figure may have these alone; a parameter's value may be so long
FORBIDDEN = re.compile(r"[^\w\-. /]")
LONGEST = 500
EXPERIMENT = "robench"
# where nothing is named and no database can be opened
FOLDER = "mlruns"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# MLflow writes to no folder without it
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"


class MLflow(Tracker):
    """MLflow: parameters, metrics, table.txt and rows.json, in a file store or on a server."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    def __init__(self, place: str) -> None:
        """Raises BadInput for a database where MLflow cannot open any, since the extra is without its packages."""
        super().__init__(place)
        databases = find_spec("sqlalchemy") is not None
        self._store = place or os.environ.get("MLFLOW_TRACKING_URI") or ("" if databases else _uri(FOLDER))
        kind = urlsplit(self._store).scheme.partition("+")[0]
        if not databases and kind in DATABASES:
            raise BadInput(
                f"--log-to mlflow cannot open a database ({kind}), which needs the package sqlalchemy; run pip install "
                "mlflow, or name a folder or a server, as in mlflow:mlruns."
            )

    def send(self, tracked: Tracked) -> str:
        """The run's id; the store is `place`, MLFLOW_TRACKING_URI, or MLflow's own default where that can be opened."""
        with _folders_allowed():
            return self._send(tracked)

    def _send(self, tracked: Tracked) -> str:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self._store or None)
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


def _uri(folder: str) -> str:
    return Path(folder).absolute().as_uri()


@contextmanager
def _folders_allowed() -> Iterator[None]:
    """MLflow lets folders be stores: whoever names one wants it."""
    before = os.environ.get(ALLOWED)
    os.environ.setdefault(ALLOWED, "true")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ALLOWED, None)

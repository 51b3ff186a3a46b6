"""--log-to: MLflow's file store and TensorBoard's event files hold what evaluate printed; a failure loses nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from robench import registry
from robench.trackers.base import Tracked, Tracker
from robench.trackers.sending import send, trackers_of
from tests.integration.conftest import Run, assert_refused

ASK = ("evaluate", "plain", "-a", "fgsm", "-n", "20", "--eps", "0.1")


class Failing(Tracker):
    """Fails as a server does that is not there."""

    def send(self, tracked: Tracked) -> str:
        raise ConnectionError(f"no route to {self.place}")


class Leaving(Tracker):
    """Ends the process."""

    def send(self, tracked: Tracked) -> str:
        raise SystemExit(7)


class Lacking(Failing):
    """Needs what nobody has."""

    package, extra = "no_such_package_anywhere", "lacking"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trackers of a third party beside robench's own."""
    known = dict(registry._entries("tracker"))
    for name in ("Failing", "Leaving", "Lacking"):
        entry = EntryPoint(name.lower(), f"{__name__}:{name}", "robench.trackers")
        known[name.lower()] = entry
    real = registry._entries
    monkeypatch.setattr(registry, "_entries", lambda kind: known if kind == "tracker" else real(kind))


def events(folder: Path) -> Iterator[Any]:
    """The events in a TensorBoard file: a length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (place,) = folder.rglob("events.out.*")
    content, at = place.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 16 + length


def test_tensorboard_holds_figures_settings_and_the_table(store: Path, robench: Run) -> None:
    done = robench(*ASK, "--log-to", "tensorboard:tb", "--json")
    (row,) = done.json["rows"]
    scalars, texts = dict[str, float](), dict[str, str]()
    for event in events(Path("tb")):
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts[value.tag] = value.tensor.string_val[0].decode()
            else:
                scalars[value.tag] = value.simple_value
    assert scalars["plain/fgsm/robust_accuracy"] == pytest.approx(row["robust_accuracy"])
    assert scalars["plain/fgsm/low"] == pytest.approx(row["interval"][0])
    assert scalars["plain/worst_case/robust_accuracy"] == pytest.approx(row["robust_accuracy"])
    whole = "\n".join(texts.values())
    assert "| eps | 0.1 |" in whole
    assert row["evaluation"] in whole
    assert "95% interval" in whole
    assert "Sent to tensorboard:tb" in done.err


def test_mlflow_holds_figures_settings_and_the_table(
    store: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    place = (Path.cwd() / "ml").as_uri()
    done = robench(*ASK, "--log-to", f"mlflow:{place}", "--json")
    (row,) = done.json["rows"]
    assert "Sent to mlflow" in done.err
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("robench")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["plain/fgsm/robust_accuracy"] == pytest.approx(row["robust_accuracy"])
    assert run.data.params["eps"] == "0.1"
    assert run.data.params["plain/fgsm/evaluation"] == row["evaluation"]
    (table,) = Path("ml").rglob("table.txt")
    assert "95% interval" in table.read_text()
    (rows,) = Path("ml").rglob("rows.json")
    assert json.loads(rows.read_text()) == [row]


def test_mlflow_without_databases_takes_a_folder_and_refuses_a_database(
    store: Path, robench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("robench.trackers.mlflow.find_spec", lambda name: None)  # as the extra is without sqlalchemy
    assert "Sent to mlflow" in robench(*ASK, "--log-to", "mlflow").err
    assert list(Path("mlruns").rglob("table.txt"))
    assert_refused(robench(*ASK, "--log-to", "mlflow:sqlite:///x.db"), ("(sqlite)", "pip install mlflow"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://host/x")
    assert_refused(robench(*ASK, "--log-to", "mlflow"), ("(postgresql)", "mlflow:mlruns"))


@pytest.mark.parametrize(("name", "says"), [("failing:nowhere", "no route to nowhere"), ("leaving", "sys.exit")])
def test_a_tracker_that_fails_loses_nothing_and_says_so(name: str, says: str, store: Path, robench: Run) -> None:
    done = robench(*ASK, "--log-to", name, "--log-to", "tensorboard:tb", "--json")
    assert done.json["rows"][0]["status"] == "complete"  # with exit code 0
    (line,) = [line for line in done.err.splitlines() if f"The tracker {name} failed" in line]
    assert says in line
    assert "nothing is lost" in line
    assert any(events(Path("tb")))  # the next one is still asked
    assert "Traceback" not in done.err


def test_slips_are_refused_before_any_work(store: Path, robench: Run) -> None:
    assert_refused(robench(*ASK, "--log-to", "tensorbord"), ("'tensorbord'", "did you mean 'tensorboard'?"))
    assert_refused(robench(*ASK, "--log-to", "lacking"), ("no_such_package_anywhere", "pip install 'robench[lacking]'"))


def test_no_report_is_sent_unless_it_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    class Unfinished:
        complete = False

    send(trackers_of(["failing"]), Unfinished())  # type: ignore[arg-type]
    assert "nothing was sent" in capsys.readouterr().err

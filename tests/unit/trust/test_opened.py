"""Opening somebody's evaluations: whose code is run, and what is refused."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from robench.errors import BadInput
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.regression import baseline
from robench.regression.check import Rerun, check
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.verification import verify_all
from tests.unit.trust.forger import MODELS, Forger, faults

# whoever runs this leaves a mark
HOSTILE = MODELS + "\nimport pathlib\npathlib.Path({mark!r}).write_text('run')\n"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forger:
    """A runs folder that another user made with code that leaves a mark; what came of making it is removed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    forger = Forger.of(tmp_path / "theirs", "plain", count=20)
    path = tmp_path / "theirs" / "models.py"
    path.write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return forger


def test_the_code_that_a_stranger_s_record_names_is_not_run(theirs: Forger, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"names the code '.*models\.py:plain', which you have not run here .*--trust"):
        theirs.verify()
    assert not (tmp_path / "mark").exists()
    with contextlib.suppress(BadInput):  # now it is run, whether or not it is the model that it was
        theirs.verify(trust=True)
    assert (tmp_path / "mark").exists()


def test_any_function_of_any_module_is_code(theirs: Forger) -> None:
    theirs.about(reference="os:abort")
    with pytest.raises(BadInput, match="os:abort"):
        theirs.verify()


def test_another_model_named_by_the_user_is_run_instead(theirs: Forger, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "models.py").write_text(MODELS)
    assert theirs.verify(model=f"{tmp_path}/mine/models.py:plain").holds
    assert not (tmp_path / "mark").exists()


def test_one_s_own_runs_folder_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is moved to; and that of others no more once its model was evaluated here."""
    forger = Forger.of(tmp_path, "plain", count=20)
    assert forger.verify().holds
    shutil.move(forger.store.root, tmp_path / "moved")
    (found,) = verify_all(Store(tmp_path / "moved"), [], device="cpu")
    assert found.holds
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(BadInput, match="--trust"):
        verify_all(Store(tmp_path / "moved"), [], device="cpu")
    Forger.of(tmp_path, "plain", "random-noise", count=20)
    (found,) = verify_all(Store(tmp_path / "moved"), [], device="cpu")
    assert found.holds


def test_the_surrogate_of_a_stranger_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(MODELS)
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    forger = Forger.of(tmp_path, "plain", count=20, surrogates=[f"{tmp_path}/theirs.py:large"])
    (tmp_path / "theirs.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = forger.verify(model=f"{tmp_path}/models.py:plain", again=20)
    assert "theirs.py:large" in found.reason
    assert "--trust" in found.reason
    assert not (tmp_path / "mark").exists()


def test_the_code_that_a_stranger_s_baseline_names_is_not_run(theirs: Forger, tmp_path: Path) -> None:
    made = baseline.make([theirs.folder.job_id], theirs.store)
    with pytest.raises(BadInput, match=r"The baseline baseline names the code .*--model .*=REFERENCE.*--trust"):
        check(made, Store(tmp_path / "runs"), Rerun(device="cpu"))
    assert not (tmp_path / "mark").exists()
    (tmp_path / "theirs" / "models.py").write_text(MODELS)
    assert check(made, Store(tmp_path / "runs"), Rerun(device="cpu", trust=True)).exit_code == 0


def test_a_figure_by_another_name_than_the_attack_s_is_refused(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "random-noise", count=20)
    made = baseline.make([forger.folder.job_id], forger.store)
    wrong = made.kept[0].model_copy(update={"metric": "attack success rate"})
    with pytest.raises(BadInput, match=r"attack success rate, but the attack's is robust accuracy"):
        check(baseline.Baseline("b.json", (wrong,)), forger.store, Rerun(device="cpu"))


def test_one_bad_evaluation_stops_no_other(tmp_path: Path) -> None:
    """One whose record is gone, one whose rows lack a column, one whose model leaves when it is asked."""
    good = Forger.of(tmp_path, "plain", count=20)
    gone = Forger.of(tmp_path, "large", count=20)
    (gone.folder.path / "about.json").write_text("{}")
    lacking = Forger.of(tmp_path, "small", count=20)
    shard = lacking.folder.shards()[0]
    rows = lacking.folder.rows().drop(columns=["goal"])
    lacking.folder.save_shard(0, 20, rows, lacking.folder.images(0, 20), shard.notes)
    quits = f"{tmp_path}/models.py:quits"
    evaluate(Request([quits], ["random-noise"], ThreatModel.of("linf", "0"), "digits", 20, device="cpu"), good.store)
    left = next(i for i in good.store.evaluation_ids() if good.store.evaluation(i).spec["eps"] == "0")
    leaves = Forger(good.store, good.store.evaluation(left))
    leaves.rows(lambda rows, images: images.mul_(0.999), slice(None))
    found = {check.evaluation: check for check in verify_all(good.store, [], device="cpu")}
    assert len(found) == 4
    assert found[good.folder.job_id].holds
    for forger, told in ((gone, "about.json"), (lacking, "0 columns 'goal'"), (leaves, "sys.exit")):
        check = found[forger.folder.job_id]
        assert check.exit_code == 2, faults(check)
        assert told in check.reason
        assert forger.folder.job_id in check.reason

"""A stored figure answers for the code that made it: an edited plugin is run again, a comment changes nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from robench import registry
from robench.detector.request import DetectorRequest
from robench.errors import BadInput
from robench.regression import baseline
from robench.regression.check import Rerun, check
from robench.store import released
from robench.store.evaluation_folder import EvaluationFolder
from robench.store.files import checksum, identity
from robench.store.leftovers import leftovers
from robench.store.runs import Store
from robench.tables.leaderboard import build
from robench.training.jobs import TrainRequest, train
from robench.trust.origins import aged
from robench.trust.verification import verify_all
from tests.unit.evaluation.evaluating import folder_of, linear, run

ATTACK = '''
from robench import Attack
from mine.helper import how_far

class Mine(Attack):
    """Makes images darker."""

    def perturb(self, model, batch):
        return batch.x - how_far() * batch.threat.radius
'''
DEFENSE = '''
from torch import nn
from torch.nn import functional
from robench import Defense, Recipe

class Own(Defense):
    """A linear layer."""

    recipes = {"other": {"quick": Recipe(epochs=1, lr=1e-2)}, "digits": {"quick": Recipe(epochs=1, lr=1e-2)}}

    def __init__(self, data):
        super().__init__(data)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1)) * 1

    def loss(self, x, y):
        return {"total": functional.cross_entropy(self(x), y)}
'''
HELPER = "def how_far():\n    return 1.0\n"


class Plugins:
    """A package `mine` of a stranger with an attack and a defense, which can be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mine"
        self.folder.mkdir()
        self.texts = {"__init__": "", "attack": ATTACK, "defense": DEFENSE, "helper": HELPER}
        self.edit("helper", "", "")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in one of the modules; the next use is that of a new process."""
        assert old in self.texts[name]
        self.texts[name] = self.texts[name].replace(old, new)
        for each, text in self.texts.items():
            (self.folder / f"{each}.py").write_text(text)
        for each in [key for key in sys.modules if key.partition(".")[0] == "mine"]:
            del sys.modules[each]
        importlib.invalidate_caches()
        registry._loaded.cache_clear()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """The package, found by entry points."""
    entries = {
        "attack": {**registry._entries("attack"), "mine": EntryPoint("mine", "mine.attack:Mine", "robench.attacks")},
        "defense": {**registry._entries("defense"), "own": EntryPoint("own", "mine.defense:Own", "robench.defenses")},
    }
    whole: Callable[[str], dict[str, EntryPoint]] = registry._entries
    monkeypatch.setattr(registry, "_entries", lambda kind: entries.get(kind) or whole(kind))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield Plugins(tmp_path)
    registry._loaded.cache_clear()


EDITS = {
    "the attack": ("attack", "batch.x - how_far", "batch.x + how_far"),
    "a module of its package": ("helper", "1.0", "-1.0"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_attack_is_run_again(
    what: str, plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    first = run(store).results[0]
    plugins.edit(*EDITS[what])
    second = run(store).results[0]
    assert second.evaluation != first.evaluation
    assert second.summary.value != first.summary.value
    assert second.summary.value == run(Store(tmp_path / "new")).results[0].summary.value
    told = capsys.readouterr().err
    assert f"the stored figure {first.evaluation} was made by another source of the attack 'mine'" in told
    assert "was in the store" not in told
    name, old, new = EDITS[what]
    plugins.edit(name, new, old)
    assert run(store).results[0] == first
    assert f"{first.evaluation}) was in the store" in capsys.readouterr().err


def test_what_other_code_began_is_not_gone_on_from(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    folder = folder_of(store, run(store, shard_size=10))
    for path in folder.path.glob("shard-000020*"):
        path.unlink()
    plugins.edit(*EDITS["the attack"])
    again = folder_of(store, run(store, shard_size=10))
    assert again.job_id != folder.job_id
    assert len(again.shards()) == 4
    assert len(EvaluationFolder(folder.path).shards()) == 3


def test_of_what_other_code_left_without_a_figure_nothing_is_told(
    plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    folder = folder_of(store, run(store, shard_size=10))
    for path in [*folder.path.glob("shard-000020*"), folder.path / "result.json"]:
        path.unlink()
    plugins.edit(*EDITS["the attack"])
    capsys.readouterr()
    run(store, shard_size=10)
    assert "computed anew" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "edit",
    [
        ("attack", '"""Makes images darker."""', '"""Says something else."""'),
        ("attack", "    def perturb", "    # a comment\n\n    def perturb"),
        ("defense", "* 1", "* 2"),
        ("attack", "class Mine", "def unrelated():\n    return 2\n\nclass Mine"),
        ("helper", "def how_far", "def unrelated():\n    return 2\n\nclass Other: ...\n\ndef how_far"),
    ],
)
def test_what_it_does_not_use_changes_nothing(
    edit: tuple[str, str, str], plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    run(store)
    plugins.edit(*edit)
    run(store)
    assert "was in the store" in capsys.readouterr().err


def test_robench_s_own_plugins_are_known_by_their_versions(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    folder = folder_of(store, run(store, "pgd"))
    assert "sources" not in folder.spec
    assert aged(folder) == ""


def test_an_edited_copy_of_robench_s_own_has_figures_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code is not what is recorded for its version."""
    store = Store(tmp_path / "runs")
    first = folder_of(store, run(store, "pgd"))
    monkeypatch.setattr(released, "recorded", lambda place: {})
    second = folder_of(store, run(store, "pgd"))
    assert second.job_id != first.job_id
    assert second.spec["sources"].keys() == {"attack pgd"}
    assert aged(first) == "another source of the attack 'pgd'"
    assert f"the stored figure {first.job_id} was made by another source" in capsys.readouterr().err
    monkeypatch.undo()
    assert aged(second) == "another source of the attack 'pgd'"


def test_a_stranger_s_figure_of_before_code_was_recorded_is_not_today_s(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    now = folder_of(store, run(store))
    spec = {key: value for key, value in now.spec.items() if key != "sources"}
    old = store.evaluation(identity(spec))
    old.begin(spec, now.about)
    assert aged(old) == "a source of the attack 'mine' that was not recorded"


def test_all_of_a_cascade_goes_with_what_it_goes_on_from(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    run(store, "mine,fgsm", cascade=True)
    plugins.edit(*EDITS["the attack"])
    again = run(store, "mine,fgsm", cascade=True)
    new = run(Store(tmp_path / "new"), "mine,fgsm", cascade=True)
    assert [r.summary.value for r in again.results] == [r.summary.value for r in new.results]
    assert len(store.evaluation_ids()) == 4


def test_what_is_crafted_goes_with_its_attack(plugins: Plugins, tmp_path: Path) -> None:
    store, settings = Store(tmp_path / "runs"), {"surrogates": [linear()]}
    run(store, **settings)
    plugins.edit(*EDITS["the attack"])
    again, new = run(store, **settings), run(Store(tmp_path / "new"), **settings)
    assert again.results[0].summary.value == new.results[0].summary.value
    assert len(list(store.crafted.iterdir())) == 2
    assert folder_of(store, again).spec["sources"].keys() == {"attack mine"}


def test_fresh_computes_everything_once_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "runs")
    first = run(store, "fgsm,pgd").results
    second = run(store, "fgsm,pgd", fresh=True).results
    assert [r.summary.value for r in first] == [r.summary.value for r in second]
    told = capsys.readouterr().err
    assert told.count("asked for anew") == 2
    assert "was in the store" not in told


def test_an_edited_defense_is_trained_anew(
    plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, request = Store(tmp_path / "runs"), TrainRequest("own", "digits", device="cpu")
    first = train(request, store)
    assert first["fresh"]
    assert not train(request, store)["fresh"]
    plugins.edit("defense", '"""A linear layer."""', '"""Another text."""')
    assert not train(request, store)["fresh"]
    plugins.edit("defense", "cross_entropy(self(x), y)", "cross_entropy(2 * self(x), y)")
    run(store, "fgsm", "own-digits")
    assert "was trained by another source of the defense 'own'" in capsys.readouterr().err
    second = train(request, store)
    assert second["fresh"]
    assert second["digest"] != first["digest"]
    assert "trained anew, as it was made by another source of the defense 'own'" in capsys.readouterr().err
    assert not train(request, store)["fresh"]
    (aside,) = (store.root / "superseded").iterdir()
    assert checksum(aside / "model.safetensors") == first["digest"]
    assert [each.reason for each in leftovers(store) if aside in each.paths] == ["a model that was trained anew since"]
    run(store, "fgsm", "own-digits")
    assert "another source of the defense" not in capsys.readouterr().err


def test_a_training_that_other_code_began_is_not_gone_on_from(plugins: Plugins, tmp_path: Path) -> None:
    store, request = Store(tmp_path / "runs"), TrainRequest("own", "digits", epochs=2, device="cpu")
    name = train(request, store)["name"]
    (store.model_folder(name) / "DONE").unlink()
    plugins.edit("defense", "* 1", "* 2")
    card = train(request, store)
    assert card["fresh"]
    assert card["resumed_from_epoch"] == 0
    assert len(list((store.root / "superseded").iterdir())) == 1


def test_other_settings_are_refused_whatever_the_code(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    train(TrainRequest("own", "digits", name="it", device="cpu"), store)
    plugins.edit("defense", "* 1", "* 2")
    with pytest.raises(BadInput, match="taken by a model with other settings"):
        train(TrainRequest("own", "digits", name="it", epochs=2, device="cpu"), store)


def test_figures_of_a_model_go_with_its_defense(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    train(TrainRequest("own", "digits", device="cpu"), store)
    first = run(store, "fgsm", "own-digits").results[0]
    plugins.edit("defense", "* 1", "* -1")
    second = run(store, "fgsm", "own-digits").results[0]
    assert first.evaluation != second.evaluation
    assert first.summary.clean_accuracy != second.summary.clean_accuracy
    (old,) = verify_all(store, [first.evaluation], device="cpu")
    assert old.made_by == "another source of the defense 'own'"
    assert old.exit_code == 1


def test_a_detector_of_another_source_is_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "runs")
    train(TrainRequest("standard", "digits", epochs=1, name="plain", device="cpu"), store)
    guard = DetectorRequest("kd", {}, "fgsm@linf:0.3", images=60)
    first = run(store, "fgsm", "plain", guard=guard)
    known = released.recorded
    kept = {"robench_attacks", "robench_defenses.standard"}
    monkeypatch.setattr(
        released,
        "recorded",
        lambda place: {r: d for r, d in known(place).items() if any(r.plugin.startswith(name) for name in kept)},
    )
    second = run(store, "fgsm", "plain", guard=guard)
    assert len(list(store.detectors.iterdir())) == 2
    assert {r.evaluation for r in first.results} & {r.evaluation for r in second.results} == {
        first.results[0].evaluation
    }
    assert [each.figures for each in first.detections] == [each.figures for each in second.detections]


def test_a_check_says_that_the_attack_was_edited(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    kept = baseline.make([run(store).results[0].evaluation], store)
    models = dict.fromkeys(kept.models, linear())
    assert not any("source" in note for note in check(kept, store, Rerun(models)).notes)
    plugins.edit("attack", "how_far() * batch", "0.5 * how_far() * batch")
    checked = check(kept, store, Rerun(models))
    (note,) = [note for note in checked.notes if "source" in note]
    assert "the source of the attack mine is another than the baseline's, so a rise says nothing of the model" in note
    assert [line.verdict for line in checked.lines] == ["same", "untrusted"]
    assert checked.exit_code == 1
    assert "hold the gain" not in " ".join(checked.told)


def test_tables_and_baselines_say_that_code_was_edited(plugins: Plugins, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    done = run(store)
    plugins.edit(*EDITS["the attack"])
    (board,) = build(store)
    assert board.rows[0].attacks["mine"].flags == ("made by another source of the attack 'mine'",)
    now = run(store).results[0]
    (board,) = build(store)
    assert board.rows[0].attacks["mine"].flags == ()
    assert board.rows[0].attacks["mine"].figure.value == now.summary.value
    assert [kept.evaluation for kept in baseline.make(["Sequential"], store).kept] == [now.evaluation]
    with pytest.raises(BadInput, match="another source of the attack 'mine'"):
        baseline.make([done.results[0].evaluation], store)

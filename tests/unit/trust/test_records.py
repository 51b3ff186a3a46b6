"""What about.json and result.json say is what follows from the spec, the model and the rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trust.forger import Forger, faults


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "somebody-elses.py:best"),
        ("eps", "0.3"),
        ("metric", "attack success rate"),
        ("access", "noise"),
        ("kind", "query"),
        ("against", " + lid (pgd@linf:0.1)"),
        ("surrogate", "other"),
        ("guide", "other"),
        ("surrogate_digest", "0" * 16),
        ("classes", 7),
        ("given_options", {"steps": 40}),
        ("given_options", {}),
        ("given_options", {"steps": 3, "no_such": 1}),
    ],
)
def test_a_field_that_is_another_than_what_follows_is_found(field: str, value: Any, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 3})
    assert forger.verify().holds
    forger.about(**{field: value})
    found = forger.verify()
    assert found.records == (field,)
    assert faults(found) == {"wrong record": 1}
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robust_accuracy", 1.0),
        ("clean_accuracy", 1.0),
        ("interval", [0.0, 1.0]),
        ("flags", ["zero-gradient 7%"]),
        ("n", 41),
        ("backwards", 1),
        ("status", "incomplete"),
    ],
)
def test_a_summary_that_the_rows_do_not_make_is_found(field: str, value: Any, tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain")
    forger.result(**{field: value})
    found = forger.verify()
    assert found.records == (("result.json",) if field == "status" else (field,))  # none is of what is not complete
    assert found.exit_code == 1


@pytest.mark.parametrize("how", ["cascade", "eot", "targeted", "transfer", "guided", "library"])
def test_honest_records_of_every_kind_hold(how: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "cascade": {"attack": "fgsm,pgd,apgd-ce", "cascade": True},
        "eot": {"attack": "pgd", "eot": 2, "options": {"steps": 3}},
        "targeted": {"attack": "random-targeted", "options": {"steps": 3}},
        "transfer": {"attack": "fgsm", "surrogates": [f"{tmp_path}/models.py:offset"]},
        "guided": {"attack": "min-fgsm", "guide": f"{tmp_path}/models.py:offset"},
        "library": {"attack": "foolbox:LinfPGD", "options": {"steps": 3}},
    }[how]
    Forger.of(tmp_path, "small")  # writes the models
    forger = Forger.of(tmp_path, "plain", **more)
    found = forger.verify()
    assert found.holds, (faults(found), found.records, found.reason)


def test_a_cascade_says_what_it_goes_on_from(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain", "fgsm,pgd", cascade=True)
    assert forger.folder.about.against == " after fgsm"
    forger.about(against="")
    assert forger.verify([forger.folder.job_id]).records == ("against",)


def test_the_last_of_a_cascade_holds_without_the_ones_before_it(tmp_path: Path) -> None:
    """Its images speak for themselves; to run its attack again needs those that it went on from."""
    forger = Forger.of(tmp_path, "plain", "fgsm,pgd", cascade=True)
    shutil.rmtree(forger.store.evaluations / forger.folder.spec["after"])
    assert forger.verify().holds
    found = forger.verify(again=5)
    assert found.exit_code == 2
    assert forger.folder.spec["after"] in found.reason
    forger.about(against=" [eot 9] after fgsm")
    assert forger.verify().records == ("against",)


def test_a_label_that_today_s_defaults_do_not_explain_is_not_called_right(tmp_path: Path) -> None:
    """One step sold as the default 40, said to be of a version that may have had one."""
    forger = Forger.of(tmp_path, "plain", "pgd", options={"steps": 1}).spec(attack_version=0)
    assert forger.verify().holds
    forger.about(given_options={})
    found = forger.verify()
    assert (found.exit_code, found.holds, found.examples) == (2, False, 40)
    assert "do not follow from its label" in found.reason


def test_another_part_of_the_data_is_not_claimed(tmp_path: Path) -> None:
    forger = Forger.of(tmp_path, "plain").spec(split="train")
    assert forger.verify().records == ("split",)


def test_shards_of_other_images_than_the_spec_s_do_not_stand_in(tmp_path: Path) -> None:
    """As many images, but the second half of twice as many: those that were easier."""
    forger = Forger.of(tmp_path, "plain", count=40)
    moved = forger.spec(count=20)
    (moved.folder.path / "shard-000000-000020.json").unlink()
    found = moved.verify([moved.folder.job_id])
    assert found.faults["damaged shard"] == 1
    assert found.exit_code == 1


def test_a_later_attack_than_the_installed_one_is_not_judged_by_it(tmp_path: Path) -> None:
    from robench.errors import BadInput

    forger = Forger.of(tmp_path, "plain").spec(attack_version=99)
    with pytest.raises(BadInput, match="later version"):
        forger.verify([forger.folder.job_id])


def test_an_interval_that_another_library_rounded_holds(tmp_path: Path) -> None:
    """Figures are stored for years, and the last digit of a square root is not the same for ever."""
    forger = Forger.of(tmp_path, "plain")
    low, high = forger.folder.summarised("robust accuracy").interval or (0.0, 0.0)
    forger.result(interval=[low + 1e-12, high - 1e-12])
    assert forger.verify().holds
    forger.result(interval=[low + 1e-4, high])
    assert forger.verify().records == ("interval",)

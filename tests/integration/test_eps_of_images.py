"""Lists of images with an eps each: every image is attacked within its own, and the figures are taken together."""

from __future__ import annotations

from pathlib import Path

import pytest

import robench as package
from robench import BadInput
from robench.store.runs import Store
from tests.integration.conftest import Run, assert_refused

OWN = {3: "0.02", 8: "0.3", 11: "0.02", 15: "1/10", 20: "1/10", 21: "1/10", 40: "0.02"}
PGD = ("-a", "pgd,fgsm", "--steps", "5")


@pytest.fixture
def listed(tmp_path: Path, robench: Run) -> str:
    assert robench("train", "standard", "--epochs", "3", "--name", "plain").code == 0
    lines = [f"{index},{eps}" for index, eps in OWN.items()]
    (tmp_path / "own.csv").write_text("\n".join(["index,eps", *lines]) + "\n")
    return "own.csv"


def test_each_image_is_attacked_within_its_own_eps(listed: str, robench: Run) -> None:
    done = robench("evaluate", "plain", "--ids", listed, *PGD, "--json").json
    assert {(row["eps"], row["n"]) for row in done["rows"]} == {("0.02", 3), ("0.3", 1), ("0.1", 3)}
    stands, store = {}, Store(Path("runs"))
    for index, eps in OWN.items():
        Path(f"{index}.txt").write_text(f"{index}\n")
        rows = robench("evaluate", "plain", "--ids", f"{index}.txt", *PGD, "--eps", eps, "--json").json["rows"]
        stands[index] = {row["attack"]: row["robust_accuracy"] for row in rows}
    for attack in ("pgd", "fgsm"):
        (own,) = [each for each in done["own_eps"] if each["attack"].startswith(attack)]
        assert (own["n"], own["eps"]) == (7, ["0.02", "0.3", "0.1"])
        assert own["value"] == pytest.approx(sum(each[attack] for each in stands.values()) / 7)
        assert 0 < own["value"] < 1
    (worst,) = [each for each in done["own_eps"] if each["attack"] == "worst case"]
    assert worst["value"] == pytest.approx(sum(min(each.values()) for each in stands.values()) / 7)
    assert len(store.evaluation_ids()) == 2 * 3 + 2 * 6, "the list of one image within 0.3 is that image by itself"
    assert robench("verify").code == 0
    told = robench("evaluate", "plain", "--ids", listed, *PGD)
    assert "Every image within its own eps" in told.out


def test_in_another_norm(listed: str, robench: Run) -> None:
    (own, *_) = robench("evaluate", "plain", "--ids", listed, "--norm", "l2", "-a", "pgd", "--json").json["own_eps"]
    assert (own["norm"], own["n"]) == ("l2", 7)


def test_from_python_it_is_the_same(listed: str, robench: Run) -> None:
    from_cli = robench("evaluate", "plain", "--ids", listed, *PGD, "--json").json["own_eps"]
    report = package.evaluate("plain", ids=listed, attacks="pgd,fgsm", options={"steps": 5}, runs="runs")
    assert [each["value"] for each in report.to_json()["own_eps"]] == [each["value"] for each in from_cli]


def test_what_cannot_stand_beside_an_eps_per_image(listed: str, robench: Run) -> None:
    evaluate = ("evaluate", "plain", "--ids", listed, "-a", "fgsm")
    assert_refused(robench(*evaluate, "--eps", "0.1"), ("own.csv", "an eps"))
    assert_refused(robench(*evaluate, "--norm", "linf,l2"), ("own.csv", "several norms"))
    assert_refused(robench(*evaluate, "--surrogate", "plain"), ("eps each", "a surrogate"))
    Path("plain.csv").write_text("index\n3\n")
    assert_refused(robench("evaluate", "plain", "--dataset", "digits?ids=plain.csv&eps=0.1", "-a", "fgsm"), ("no eps",))
    Path("gap.csv").write_text("index,eps\n3,\n4,0.1\n")
    assert_refused(robench("evaluate", "plain", "--ids", "gap.csv", "-a", "fgsm"), ("gap.csv", "empty eps"))
    with pytest.raises(BadInput, match="an eps"):
        package.evaluate("plain", ids=listed, attacks="fgsm", eps=0.1, runs="runs")

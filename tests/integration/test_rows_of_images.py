"""report.rows(model, attack): rows of the evaluations that are meant and of no other, each with what it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

import robench
from robench import BadInput
from robench.cli.app import main


def test_a_name_that_a_line_has_means_that_line_alone(store: Path) -> None:
    report = robench.evaluate("plain", attacks="fgsm", eps=0.1, n=20, detector="kd", runs=store)
    labels = [f"{attack} {against}".strip() for attack, against in report.frame[["attack", "against"]].to_numpy()]
    assert labels[0] == "fgsm"
    assert labels[1].startswith("fgsm + kd")
    alone = report.rows("plain", "fgsm")
    assert (len(alone), set(alone["against"])) == (20, {""})
    watched = report.rows("plain", labels[1])
    assert (len(watched), set(watched["against"])) == (20, {labels[1].removeprefix("fgsm ")})
    assert set(watched["evaluation"]) == {report.rows[1]["evaluation"]}
    assert len(report.images("plain", "fgsm").example_id) == 20


def test_of_several_under_one_name_every_row_says_which_it_is_of(store: Path) -> None:
    assert main(["train", "standard", "--epochs", "1", "--name", "other", "--seed", "1", "--runs", str(store)]) == 0
    report = robench.evaluate("plain", attacks="fgsm", eps=0.1, n=20, surrogates=["plain", "other"], runs=store)
    both = report.rows("plain", "fgsm")
    counts = both.groupby("against")["success"].agg(["size", "sum"])
    assert sorted(counts.index) == ["from other", "from plain"]
    assert set(counts["size"]) == {20}
    figures = report.frame.set_index("against")["robust_accuracy"]
    for against, fallen in counts["sum"].items():
        right = both[(both["against"] == against) & both["clean_correct"]]
        assert figures[against] == pytest.approx((len(right) - fallen) / 20)
    with pytest.raises(BadInput, match="2 evaluations are meant"):
        report.images("plain", "fgsm")

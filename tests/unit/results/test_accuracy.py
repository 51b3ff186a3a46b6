"""From rows to figures: the worst case, intervals and the flags that are shown."""

import math

import pandas as pd
import pytest

from robench.results.accuracy import Figure, attack_figure, worst_case
from robench.results.statistics import wilson
from robench.results.summary import evaluation_flags, label


def table(adv, label=(0, 1, 2, 0), clean=None, ids=(0, 1, 2, 3)):
    clean = list(label if clean is None else clean)
    rows = pd.DataFrame({"example_id": ids, "label": label, "clean_pred": clean, "adv_pred": adv})
    rows["clean_correct"] = rows["clean_pred"] == rows["label"]
    rows["success"] = rows["clean_correct"] & (rows["adv_pred"] != rows["label"])
    return rows


def test_the_worst_case_is_taken_example_by_example():
    one, two = table([0, 1, 0, 0]), table([1, 1, 2, 0])
    assert [attack_figure(t, "robust accuracy").count for t in (one, two)] == [3, 3]
    assert (worst_case([one, two]).count, worst_case([one, two]).n) == (2, 4)
    assert worst_case([one]).count == 3
    wrong = table([1, 1, 2, 0], clean=[1, 1, 2, 0])
    assert worst_case([wrong]).count == 3
    with pytest.raises(ValueError, match="same examples"):
        worst_case([one, table([0, 1, 0, 0], ids=(0, 1, 2, 4))])


def test_behind_a_detector_a_rejected_image_stands_in_the_worst_case():
    """The class after the last one is what the detector rejects; -1 is an answer that is not finite."""
    rejected, accepted, broken = table([0, 1, 3, 3]), table([0, 1, 0, 3]), table([0, 1, 3, -1])
    counts = [worst_case(tables, rejected=3).count for tables in ([rejected], [rejected, accepted], [broken])]
    assert counts == [4, 3, 3]
    assert worst_case([rejected]).count == 2
    assert worst_case([broken]).count == 2


@pytest.mark.parametrize(("count", "n"), [(0, 10), (7, 10), (10, 10), (914, 1000), (1, 3)])
def test_wilson_by_hand(count, n):
    z, p = 1.959963984540054, count / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(count, n) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_wilson_in_the_literature():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)  # Newcombe (1998), Table I


def test_evaluation_flags():
    def flags(*texts, shards=()):
        return evaluation_flags(pd.DataFrame({"flags": list(texts), "trial": 0, "forwards": 1}), list(shards))

    clear = [""] * 99
    assert flags(*clear) == []
    assert flags(*clear, "zero-gradient") == []  # of single images only where there are many
    assert flags(*clear, "non-finite") == ["non-finite 1%"]
    assert flags(*clear * 3, "invalid-proposal;borderline") == ["invalid-proposal <1%"]
    assert flags(*[""] * 19, "zero-gradient;non-finite") == ["non-finite 5%"]
    assert flags(*[""] * 18, *["zero-gradient"] * 2) == ["zero-gradient 10%"]
    assert flags(*[""] * 30, "borderline") == ["borderline 3%"]
    of_shards = [["randomised"], ["changes-its-state", "randomised"], []]
    assert flags("", None, shards=of_shards) == ["changes-its-state", "randomised"]


def test_a_figure_in_words():
    assert Figure(914, 1000).text() == "91.4 [89.5, 93.0]"
    assert (Figure(0, 0).value, Figure(0, 0).interval) == (0.0, (0.0, 1.0))
    assert label("pgd", {}) == "pgd"
    assert label("pgd", {"steps": 40, "step": "0.01"}) == "pgd (step=0.01, steps=40)"

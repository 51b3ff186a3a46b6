"""A part of data in the order of classes says what the same images shuffled say: figure, interval, and chance gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from robench.data.dataset import open_dataset
from robench.results.statistics import wilson
from robench.threat import ThreatModel
from robench.trust.gates import AttackRun, Finding, diagnose

CLASSES, EACH, N = 10, 100, 200
LABELS = np.repeat(np.arange(CLASSES), EACH)
# whether an image stands, of a model to which the first classes are easy
STANDS = np.random.default_rng(11).random(CLASSES * EACH) < np.linspace(0.95, 0.25, CLASSES)[LABELS]


def first(place: Path, order: NDArray[np.int64], more: str = "") -> tuple[NDArray[np.int64], str | None]:
    """The places, in the order of classes, of the N images that are taken where the data lie in `order`."""
    pixels = np.zeros((len(order), 2, 2), np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1], pixels[:, 1, 1] = order // 256, order % 256, 200
    np.savez(place / "a.npz", x=pixels, y=LABELS[order])
    data = open_dataset(f"npz:{place / 'a.npz'}{more}")
    way = data.way(N)
    found = data.drawn(way).images(slice(0, N)).numpy().astype(np.int64)
    return found[:, 0, 0, 0] * 256 + found[:, 0, 0, 1], way


def interval(places: NDArray[np.int64]) -> tuple[float, float]:
    return wilson(int(STANDS[places].sum()), len(places))


def test_ordered_and_shuffled_agree_in_twenty_of_twenty_draws(tmp_path: Path) -> None:
    places, way = first(tmp_path, np.arange(len(LABELS)))
    assert way == "balanced"
    low, high = interval(places)
    assert low <= STANDS.mean() <= high
    assert np.bincount(LABELS[places]).tolist() == [N // CLASSES] * CLASSES
    for seed in range(20):
        shuffled, way = first(tmp_path, np.random.default_rng(seed).permutation(len(LABELS)))
        assert way is None
        below, above = interval(shuffled)
        assert max(low, below) <= min(high, above), seed
    before, _ = first(tmp_path, np.arange(len(LABELS)), "?draw=first")
    assert interval(before)[0] > high  # what the first ones alone would say: two easy classes


def gate(labels: NDArray[np.int64], standing: int, chance: float | None, images: int | None) -> Finding:
    """The chance gate on images of which the first `standing` stand at an eps that allows anything."""
    stands = np.arange(len(labels)) < standing
    rows = pd.DataFrame({
        "example_id": np.arange(len(labels)), "label": labels, "goal": -1, "clean_pred": labels,
        "adv_pred": np.where(stands, labels, labels + 1), "clean_correct": True, "success": ~stands, "trial": 0,
        "step": 0, "zero_pixels": 0.0, "forwards": 1, "backwards": 1, "flags": "",
    })  # fmt: skip
    run = AttackRun(
        "pgd", "pgd", "iterative", {}, ThreatModel.of("linf", "1/2"), rows, (), images=images, chance=chance
    )
    return next(each for each in diagnose([run]) if each.gate == "robust at eps that allows anything")


@pytest.mark.parametrize("standing", [0, 20, 30, 45, 60, 120])
def test_the_chance_gate_fires_alike(standing: int) -> None:
    drawn = gate(np.tile(np.arange(10), 20), standing, 0.1, 1000)
    for seed in range(20):
        mixed = np.random.default_rng(seed).permutation(LABELS)[:N]
        assert gate(mixed, standing, 0.1, 1000).fired == drawn.fired == (standing > 0.1 * N + 18)
    assert "of all images, with what a draw of 200 varies" in drawn.threshold


def test_chance_of_other_parts() -> None:
    two_classes = np.repeat([0, 1], [100, 100])
    assert not gate(two_classes, 100, 0.1, 1000).fired  # one answer to grey images may be right of all of them
    assert gate(two_classes, 103, 0.1, 1000).fired
    whole = np.tile(np.arange(10), 20)
    assert gate(whole, 23, 0.1, 200).fired  # of all images, nothing varies
    assert not gate(whole, 22, 0.1, 200).fired
    assert gate(whole, 23, None, None).fired  # as records of before said it

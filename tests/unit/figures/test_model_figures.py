"""Figures that ask models: surfaces, gradients, angles, codes and attack steps of linear models, against numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robench import BadInput, ThreatModel
from robench.figures import codes, gradients, steps, surfaces
from tests.unit.figures.tiny import ByHand, Coded, Linear, column, lines, subjects

N = 12


def test_the_second_direction_is_signs_orthogonal_to_the_first() -> None:
    grad = torch.randn(3, 4, 5)
    first, second = surfaces.directions(grad, 7, 0)
    assert torch.equal(first, grad.sign())
    assert set(second.flatten().tolist()) == {-1.0, 1.0}
    assert float((first * second).sum()) == 0
    assert torch.equal(second, surfaces.directions(grad, 7, 0)[1])
    assert not torch.equal(second, surfaces.directions(grad, 8, 0)[1])
    assert not torch.equal(second, surfaces.directions(grad, 7, 1)[1])
    grad[0, 0, 0] = 0
    first, second = surfaces.directions(grad, 7, 0)
    assert abs(float((first * second).sum())) == 1
    assert second[0, 0, 0] in (-1, 1)
    first, second = surfaces.directions(torch.zeros(1, 2, 2), 0, 0)
    assert not first.any()
    assert bool((second.abs() == 1).all())


@pytest.mark.parametrize("clip", [True, False])
def test_a_surface_by_hand(clip: bool, tmp_path: Path) -> None:
    found = lines(surfaces.surfaces(subjects(tmp_path, Linear(), n=2), "0.25", 5, clip=clip), tmp_path)
    hand = ByHand(Linear(), 2)
    assert len(found) == 2 * 25
    grad = hand.gradient(hand.x)
    for line in found:
        i = int(line["example_id"])
        first, second = surfaces.directions(torch.from_numpy(grad[i]).float().reshape(1, 8, 8), i, 0)
        a, b = float(line["along_gradient"]), float(line["along_random"])
        x = hand.x[i] + a * first.flatten().numpy() + b * second.flatten().numpy()
        x = np.clip(x, 0, 1) if clip else x
        assert float(line["loss"]) == pytest.approx(hand.loss(x[None], hand.y[i : i + 1])[0], rel=1e-4, abs=1e-6)
        assert int(line["prediction"]) == hand.logits(x).argmax()
    assert sorted(set(column(found, "along_gradient"))) == [-0.25, -0.125, 0, 0.125, 0.25]


def test_a_model_without_gradients_says_so_below_its_surface(tmp_path: Path) -> None:
    class Still(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.round())

    drawing = surfaces.surfaces(subjects(tmp_path, Still(), n=1), "0.1", 3, clip=True)
    assert any("The gradient is zero" in line for line in drawing.caption)


def test_angles_by_hand(tmp_path: Path) -> None:
    found = lines(gradients.angles(subjects(tmp_path, Linear(0), Linear(1))), tmp_path)
    a, b = (ByHand(Linear(seed), N) for seed in (0, 1))
    first, second = a.gradient(a.x), b.gradient(b.x)
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert column(found, "degrees") == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-4)
    assert found[0]["model"] != found[0]["other"]


def test_angles_of_known_vectors() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1e-30, 0.0], [0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 2.0], [-3.0, 0.0], [1.0, 1.0], [1.0, 0.0], [math.inf, 0.0]])
    found = gradients.between(a, b)
    assert found[:3] == pytest.approx([90, 180, 45])
    assert np.isnan(found[3:]).all()


def test_gradients_as_pictures_by_hand(tmp_path: Path) -> None:
    found = lines(gradients.pictures(subjects(tmp_path, Linear(), n=3)), tmp_path)
    hand = ByHand(Linear(), 3)
    grad = hand.gradient(hand.x)
    assert column(found, "gradient") == pytest.approx(grad.flatten(), rel=1e-3, abs=1e-6)
    mean, spread = grad.mean(1, keepdims=True), grad.std(1, keepdims=True)
    clipped = np.clip(grad, mean - 3 * spread, mean + 3 * spread)
    shown = (clipped - (mean - 3 * spread)) / (6 * spread)
    assert column(found, "shown") == pytest.approx(shown.flatten(), abs=1e-4)
    assert (found[0]["row"], found[0]["column"], found[65]["column"]) == ("0", "0", "1")


def test_far_gradients_are_clipped_and_flat_ones_grey() -> None:
    grad = torch.zeros(1, 10, 10)
    grad[0, 0, 0] = 1000
    shown = gradients.clipped(grad)
    assert float(shown[0, 0, 0]) == 1
    assert float(shown[0, 5, 5]) == pytest.approx(0.5 - 10 / (6 * 99.4987), abs=1e-4)
    assert bool((gradients.clipped(torch.ones(1, 3, 3)) == 0.5).all())


def test_ellipses_hold_95_percent(tmp_path: Path) -> None:
    found = lines(codes.ellipses(subjects(tmp_path, Coded())), tmp_path)
    hand = ByHand(Coded(), N)
    assert column(found, "mu1") == pytest.approx(hand.logits(hand.x)[:, 0], rel=1e-4, abs=1e-5)
    assert column(found, "mu2") == pytest.approx(hand.logits(hand.x)[:, 1], rel=1e-4, abs=1e-5)
    assert column(found, "sigma2") == pytest.approx(0.2, rel=1e-5)
    assert column(found, "axis1") == pytest.approx(0.1 * 2.447747, rel=1e-5)
    drawn = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).norm(dim=1) < codes.RADIUS
    assert float(drawn.double().mean()) == pytest.approx(0.95, abs=0.002)


def test_codes_by_hand(tmp_path: Path) -> None:
    hand = ByHand(Coded(), N)
    found = lines(codes.codes(subjects(tmp_path, Coded())), tmp_path)
    assert column(found, "x") == pytest.approx(hand.logits(hand.x)[:, 0], rel=1e-4, abs=1e-5)
    found = lines(codes.codes(subjects(tmp_path, Coded(6))), tmp_path)
    code = hand.logits(hand.x)[:, :6]
    left, sizes, _ = np.linalg.svd(code - code.mean(0), full_matrices=False)
    for name, k in (("x", 0), ("y", 1)):
        assert np.abs(column(found, name)) == pytest.approx(np.abs(left[:, k] * sizes[k]), rel=1e-3, abs=1e-4)
    drawing = codes.codes(subjects(tmp_path, Coded(6)))
    share = 100 * sizes[0] ** 2 / (sizes**2).sum()
    assert any(f"{share:.1f}%" in line for line in drawing.caption)


def test_t_sne_keeps_neighbours_and_is_seeded(tmp_path: Path) -> None:
    opened = subjects(tmp_path, Coded(6), n=60)
    first, again = (codes.codes(opened, "tsne").records for _ in range(2))
    assert first == again
    points = np.array([[float(record["x"]), float(record["y"])] for record in first])
    code = ByHand(Coded(), 60).logits(ByHand(Coded(), 60).x)[:, :6]
    nearest = [np.argsort(np.linalg.norm(code - one, axis=1))[1] for one in code]
    far = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert np.mean([far[i, j] for i, j in enumerate(nearest)]) < 0.5 * far.mean()


def test_steps_of_pgd_by_hand(tmp_path: Path) -> None:
    options = {"steps": "3", "step": "0.02", "random_start": "false", "loss": "ce"}
    found = lines(steps.steps(subjects(tmp_path, Linear()), "pgd", options, ThreatModel.of("linf", "0.05")), tmp_path)
    hand = ByHand(Linear(), N)
    x, right = hand.x, np.ones(N, dtype=bool)
    assert [int(line["step"]) for line in found] == [0, 1, 2, 3]
    for line in found:
        loss, now = hand.loss(x, hand.y), hand.logits(x).argmax(1) == hand.y
        right &= now
        assert float(line["mean_loss"]) == pytest.approx(loss.mean(), rel=1e-4)
        assert float(line["median_loss"]) == pytest.approx(np.median(loss), rel=1e-3, abs=1e-6)
        assert float(line["high_loss"]) == pytest.approx(np.quantile(loss, 0.9), rel=1e-3)
        assert float(line["accuracy"]) == pytest.approx(now.mean(), abs=1e-5)
        assert float(line["never_wrong"]) == pytest.approx(right.mean(), abs=1e-5)
        x = np.clip(np.clip(x + 0.02 * np.sign(hand.gradient(x)), hand.x - 0.05, hand.x + 0.05), 0, 1)
    assert float(found[-1]["never_wrong"]) < float(found[0]["never_wrong"])


class Wide(Coded):
    def __init__(self) -> None:
        super().__init__(3)


class Odd(Linear):
    def embed(self, x: Tensor) -> Tensor:
        return x


class Infinite(Linear):
    def embed(self, x: Tensor) -> Tensor:
        return x.flatten(1) / 0


@pytest.mark.parametrize(
    ("draw", "models", "said"),
    [
        (codes.codes, [Linear], "has no method embed"),
        (codes.ellipses, [Linear], "has no method encode"),
        (codes.ellipses, [Wide], "3 dimensions, but ellipses are drawn of 2"),
        (codes.codes, [lambda: Coded(1)], "1 dimension, which makes no plane"),
        (codes.codes, [Odd], "not a code"),
        (codes.codes, [Infinite], "not finite"),
        (gradients.angles, [Linear], "must be two models"),
        (lambda s: surfaces.surfaces(s, "0", 5, clip=True), [Linear], "--reach is '0'"),
        (lambda s: surfaces.surfaces(s, "far", 5, clip=True), [Linear], "eps is 'far'"),
        (lambda s: surfaces.surfaces(s, "0.1", 4, clip=True), [Linear], "odd number"),
        (lambda s: surfaces.surfaces(s, "0.1", 5, clip=True), [Linear, lambda: Linear(1)], "at most 6 for 2 models"),
        (lambda s: steps.steps(s, "standard", {}, ThreatModel.of("linf", "0.1")), [Linear], "not one search"),
        (lambda s: steps.steps(s, "paradise", {}, ThreatModel.of("linf", "0.1")), [Linear], "set of attacks"),
        (lambda s: steps.steps(s, "pdg", {}, ThreatModel.of("linf", "0.1")), [Linear], "no attack named 'pdg'"),
        (lambda s: steps.steps(s, "pgd", {"stepp": "1"}, ThreatModel.of("linf", "0.1")), [Linear], "stepp"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(draw: object, models: list[object], said: str, tmp_path: Path) -> None:
    made = [make() for make in models]  # type: ignore[operator]
    with pytest.raises(BadInput, match=said):
        draw(subjects(tmp_path, *made))  # type: ignore[operator]


def test_more_images_than_there_are_and_models_of_other_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has 500 test images"):
        subjects(tmp_path, Linear(), n=501)
    with pytest.raises(BadInput, match="-n is 0"):
        subjects(tmp_path, Linear(), n=0)
    with pytest.raises(BadInput, match="probabilities"):
        gradients.pictures(subjects(tmp_path, nn.Sequential(Linear(), nn.Softmax(1)).eval(), n=2))
    with pytest.raises(BadInput, match="at most 12 images"):
        gradients.pictures(subjects(tmp_path, Linear(), n=13))

"""Detectors against scikit-learn and loops, and what they refuse."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from sklearn.neighbors import KernelDensity
from torch import nn

from robench.data.dataset import Split
from robench.detector.score import Guarded, Score
from robench.errors import BadInput
from robench_defenses.activations import squared_distances, watching
from robench_defenses.density import ActivationDensity, CodeDensity, choose_bandwidth, evenly, log_density
from robench_defenses.lid import LID, first_of_each, local_dimension, outputs

CLASSES = 3
DETECTORS = {"er-kde": CodeDensity, "kd": ActivationDensity, "lid": LID}
each_detector = pytest.mark.parametrize("kind", DETECTORS.values(), ids=DETECTORS)


class Memory:
    """Images of a split, held in memory."""

    def __init__(self, images):
        self.array, self.shape = images, tuple(images.shape[1:])

    def read(self, rows):
        return self.array[rows]


def split(count=150, labels=None):
    noise = np.random.default_rng(3)
    images = noise.integers(0, 256, (count, 2, 6, 6), dtype=np.uint8)
    labels = torch.from_numpy(noise.integers(0, CLASSES, count)) if labels is None else labels
    return Split(Memory(images), labels, torch.arange(count))


class Net(nn.Module):
    """A small classifier with a code, batch norm, and ReLUs in place."""

    def __init__(self, inplace=True, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.head = nn.Linear(5, CLASSES)
            self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Flatten())
            self.code = nn.Linear(64, 5)
            self.relu = nn.ReLU(inplace)
            self.body[1].running_mean.normal_()
            self.eval().requires_grad_(False)
            codes = 5 * (self.code(self.body(torch.rand(200, 2, 6, 6))) - self.code.bias)
            self.code.weight *= 5
            self.code.bias.copy_(-codes.mean(0))
            self.head.bias -= self.head((codes + self.code.bias).relu()).mean(0)  # or one class wins throughout
        self.to(dtype)
        self.dtype = dtype

    def embed(self, x):
        return self.code(self.body(x.to(self.dtype)))

    def forward(self, x):
        return 5 * self.head(self.relu(self.embed(x)))


def fitted(kind, model, **options):
    detector = kind(CLASSES, **options).eval()
    detector.fit(model, split())
    return detector


def images(count=9, dtype=torch.float64):
    return torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(8)).to(dtype)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize(("dimensions", "width"), [(1, 0.1), (4, 0.7), (128, 0.05), (128, 3.0)])
def test_log_density_is_that_of_scikit_learn(offset, dimensions, width):
    noise = np.random.default_rng(dimensions)
    points, codes = noise.normal(size=(60, dimensions)) + offset, 2 * noise.normal(size=(20, dimensions)) + offset
    expected = KernelDensity(bandwidth=width).fit(points).score_samples(codes)
    found = log_density(torch.from_numpy(codes), torch.from_numpy(points), width)
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("kind", [CodeDensity, ActivationDensity])
def test_density_is_fitted_on_true_and_scored_on_predicted_labels(kind):
    model, train, x = Net(), split(), images(30)
    detector = fitted(kind, model, bandwidth=0.4)
    logits, features = detector.features(model, x)
    codes, known = model.embed(x), model.embed(train.pixels(slice(None)))
    if kind is ActivationDensity:
        codes, known = codes.relu(), known.relu()
    predicted = logits.argmax(1)
    assert predicted.unique().numel() == CLASSES, "the test needs every class"
    for i in range(len(x)):
        of_class = KernelDensity(bandwidth=0.4).fit(known[train.labels == predicted[i]])
        assert features[i, 0].item() == pytest.approx(of_class.score_samples(codes[i : i + 1])[0], abs=1e-6)
    assert torch.equal(logits, model(x))


def test_bandwidth_is_the_one_scikit_learn_leaves_one_out_for():
    noise = np.random.default_rng(0)
    groups = [noise.normal(size=(n, 3)) * s for n, s in ((15, 1.0), (20, 0.5), (12, 2.0))]
    grid = [10 ** (step / 10) for step in range(-10, 6)]
    search = GridSearchCV(KernelDensity(), {"bandwidth": grid}, cv=LeaveOneOut(), refit=False)
    total = sum(len(g) * search.fit(g).cv_results_["mean_test_score"] for g in groups)
    best = grid[int(np.argmax(total))]
    assert grid[0] < best < grid[-1]
    assert choose_bandwidth([torch.from_numpy(g) for g in groups]) == pytest.approx(best)


@pytest.mark.parametrize("decades", [-3, -1, 2])
def test_bandwidth_follows_the_scale_of_the_codes(decades):
    codes = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    at_one = choose_bandwidth(list(codes))
    assert choose_bandwidth(list(codes * 10.0**decades)) == pytest.approx(at_one * 10.0**decades)


def test_no_bandwidth_for_codes_that_are_all_alike():
    with pytest.raises(BadInput, match="hardly differ"):
        choose_bandwidth([torch.ones(20, 4), torch.zeros(20, 4)])


def test_max_points_are_spread_over_a_class():
    assert evenly(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(7, 3).tolist() == [0, 2, 4]
    assert evenly(3, 5).tolist() == [0, 1, 2] == evenly(3, None).tolist()
    detector = fitted(CodeDensity, Net(), max_points=12)
    assert detector.counts.tolist() == [12] * CLASSES
    assert detector.points.shape == (36, 5)


def test_last_hidden_layer_is_the_last_to_run():
    """The head stands first among the modules of this network, and a spare layer never runs."""
    model, x = Net(), images()
    model.spare = nn.Linear(7, 2)
    logits, codes = ActivationDensity(CLASSES).code(model, x)
    assert torch.equal(codes, model.embed(x).relu())
    assert torch.equal(logits, model(x))


def dimension_by_loop(values, reference, k, drop):
    """The estimator as the paper prints it, one image at a time."""
    answers = []
    for value in values:
        r = sorted(math.sqrt(sum((a - b) ** 2 for a, b in zip(value, other, strict=True))) for other in reference)
        r = r[drop : k + drop]
        answers.append(-k / sum(math.log(r_i / r[-1]) for r_i in r))
    return answers


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("k", "dimensions"), [(2, 1), (10, 3), (20, 40), (48, 7)])
def test_local_dimension_is_that_of_a_loop(drop, k, dimensions):
    noise = np.random.default_rng(k)
    values, reference = noise.normal(size=(6, dimensions)), noise.normal(size=(50, dimensions)) + 3
    found = local_dimension(torch.from_numpy(values), torch.from_numpy(reference), k, drop)
    assert np.allclose(found, dimension_by_loop(values, reference, k, drop), rtol=1e-6)


@pytest.mark.parametrize("truth", [1, 2, 4])
def test_local_dimension_of_a_flat_sheet_is_its_own(truth):
    """Points uniform in a ball around the image: the estimate's mean is near the ball's dimension, wherever it lies."""
    noise = np.random.default_rng(truth)
    directions = noise.normal(size=(4000, truth))
    radii = noise.uniform(size=(4000, 1)) ** (1 / truth)
    sheet = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii @ noise.normal(size=(truth, truth))
    across = np.linalg.qr(noise.normal(size=(30, truth)))[0]
    if truth == 1:
        sheet = directions / np.abs(directions) * radii
    found = local_dimension(torch.zeros(1, 30), torch.from_numpy(sheet @ across.T), 300)
    assert found.item() == pytest.approx(truth, rel=0.2)


def test_local_dimension_stays_finite_at_zero_distances():
    reference = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    reference[5:12] = reference[4]
    x = torch.cat([reference[:6], torch.zeros(1, 4)]).requires_grad_()
    found = local_dimension(x, reference, 10)
    found.sum().backward()
    assert found.isfinite().all()
    assert (found > 0).all()
    assert x.grad.isfinite().all()
    for constant in (0.0, 0.1, 1e4 / 3):
        dead = local_dimension(torch.full((2, 7), constant), torch.full((30, 7), constant), 10)
        assert torch.equal(dead, dead[:1].expand(2)), "a layer that never varies says nothing"
        assert 0 < dead[0] < 0.1
    equally_far = local_dimension(torch.zeros(1, 30), torch.eye(30), 10)
    assert equally_far.item() == pytest.approx(1e4)


@pytest.mark.parametrize("drop", [False, True])
def test_every_layer_has_its_dimension_before_the_next_overwrites_it(drop):
    model, plain, train, x = Net(inplace=True), Net(inplace=False), split(), images(7)
    detector = fitted(LID, model, k=8, references=30, drop_nearest=drop)
    features = detector.features(model, x)[1]
    known = train.pixels(first_of_each(train.labels, 30)).double()
    steps = [lambda v: v, plain.body[0], plain.body[1], plain.body[2], lambda v: plain.code(plain.body[3](v)),
             plain.relu, plain.head]  # fmt: skip
    assert features.shape == (7, len(steps))
    at, reference = x, known
    for number, step in enumerate(steps):
        at, reference = step(at), step(reference)
        expected = dimension_by_loop(at.flatten(1).numpy(), reference.flatten(1).numpy(), 8, drop)
        assert np.allclose(features[:, number], expected, rtol=1e-6), number


def test_a_shared_layer_counts_every_time_it_runs():
    class Shared(Net):
        def forward(self, x):
            return self.head(self.relu(self.relu(self.embed(x))))

    assert len(outputs(Shared(), images())[1]) == 7


def test_layers_without_a_row_per_image_are_left_out():
    class Draws(Net):
        def forward(self, x):
            return self.head(self.relu(self.embed(x)).expand(12, -1, -1)).mean(0)

    detector = fitted(LID, Draws())
    for count in (3, 12):
        assert detector.features(Draws(), images(count))[1].shape == (count, 6)


def test_reference_images_are_the_first_of_every_class():
    labels = torch.tensor([2, 2, 0, 2, 1, 0, 2, 2, 1, 0])
    assert sorted(first_of_each(labels, 6).tolist()) == [0, 1, 2, 4, 5, 8]
    assert sorted(first_of_each(labels, 4).tolist()) == [0, 2, 4, 5]
    assert sorted(first_of_each(labels, 10).tolist()) == list(range(10))
    assert first_of_each(torch.arange(50), 7).tolist() == list(range(7))


def test_distances_are_exact_far_from_the_origin():
    noise = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 6, generator=noise).double() + 1e4 for n in (5, 8))
    direct = (a[:, None] - b[None]).square().sum(-1)
    assert torch.allclose(squared_distances(a, b), direct, rtol=1e-11)
    assert squared_distances(b, b).diagonal().eq(0).sum() >= 1
    assert (squared_distances(b, b) >= 0).all()


@each_detector
def test_gradient_is_that_of_the_features(kind):
    model, x = Net(), images(4).requires_grad_()
    detector = fitted(kind, model)
    grads = [
        torch.autograd.grad(feature.sum(), x, retain_graph=True)[0]
        for feature in detector.features(model, x)[1].unbind(1)
    ]
    x = x.detach()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    ahead, behind = (detector.features(model, x + step * direction)[1] for step in (1e-6, -1e-6))
    slopes = torch.stack([(grad * direction).flatten(1).sum(1) for grad in grads], dim=1)
    assert torch.allclose(slopes, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)
    assert (slopes != 0).all()


@each_detector
def test_gradient_is_finite_at_training_images(kind):
    model = Net(dtype=torch.float32)
    x = split().pixels(slice(0, 20)).requires_grad_()
    features = fitted(kind, model).features(model, x)[1]
    features.sum().backward()
    assert features.isfinite().all()
    assert x.grad.isfinite().all()


@each_detector
def test_an_image_is_judged_alone(kind):
    model, x = Net(), images()
    detector = fitted(kind, model)
    together = detector.features(model, x)[1]
    alone = torch.cat([detector.features(model, image[None])[1] for image in x])
    strided = detector.features(copy.deepcopy(model).to(memory_format=torch.channels_last), x)[1]
    assert torch.allclose(together, alone, rtol=1e-9)
    assert torch.allclose(together, strided, rtol=1e-9)


@each_detector
def test_the_model_is_left_as_it_was(kind):
    model, x = Net(dtype=torch.float32), images(dtype=torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fitted(kind, model).features(model, x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training or module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hooks_go_when_the_model_fails():
    model = Net()
    with pytest.raises(RuntimeError), watching([model.head], lambda *seen: None):
        model(torch.zeros(1, 3, 6, 6))
    assert not model.head._forward_hooks


class Bare(Net):
    """Nothing to watch: no code, no layers that run as modules."""

    embed = None

    def forward(self, x):
        return x.flatten(1)[:, :CLASSES]


class Draws(Net):
    """A last layer that sees four draws of every image."""

    def forward(self, x):
        return self.head(self.relu(self.embed(x)).repeat(4, 1)).unflatten(0, (4, -1)).mean(0)


class Pictures(Net):
    """A code that is no vector."""

    def embed(self, x):
        return x.to(self.dtype)

    def forward(self, x):
        return x.flatten(1)[:, :CLASSES]


class Broken(Net):
    def embed(self, x):
        return super().embed(x) / 0


RARE = torch.tensor([0, 1] * 20 + [2] * 9)
REFUSED = [
    (CodeDensity, {"bandwidth": 0.0}, Net, None, "bandwidth is 0.0"),
    (ActivationDensity, {"bandwidth": math.inf}, Net, None, "bandwidth is inf"),
    (CodeDensity, {"max_points": 9}, Net, None, "at least 10"),
    (CodeDensity, {}, Net, RARE, "9 images of class 2"),
    (ActivationDensity, {}, Net, torch.tensor([0, 2] * 40), "0 images of class 1"),
    (CodeDensity, {}, Bare, None, "Bare has no method embed.*kd or lid"),
    (CodeDensity, {}, Pictures, None, r"returned \(150, 2, 6, 6\)"),
    (CodeDensity, {"bandwidth": 1.0}, Broken, None, "not finite"),
    (ActivationDensity, {}, Bare, None, "runs no nn.Linear.*lid"),
    (ActivationDensity, {}, Draws, None, r"given \(600, 5\) for 150 images.*lid"),
    (LID, {"k": 1}, Net, None, "k is 1"),
    (LID, {"references": 19}, Net, None, "at least 20"),
    (LID, {"k": 20, "references": 20, "drop_nearest": True}, Net, None, "at least 21"),
    (LID, {"references": 151}, Net, None, "at most 150"),
    (LID, {}, Bare, None, "Bare runs no module"),
    (LID, {}, Broken, None, "not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "model", "labels", "words"), REFUSED)
def test_refused_in_one_sentence(kind, options, model, labels, words):
    with pytest.raises(BadInput, match=words) as caught:
        kind(CLASSES, **options).fit(model(), split(150 if labels is None else len(labels), labels))
    assert "\n" not in str(caught.value)


def test_another_model_than_the_one_fitted_is_refused():
    with pytest.raises(BadInput, match="fewer modules"):
        fitted(LID, Net()).features(Bare(), images())


@each_detector
def test_guarded_rejects_exactly_above_the_threshold(kind):
    model, x = Net(dtype=torch.float32), images(200, torch.float32)
    score = Score(fitted(kind, model)).eval()
    noise = torch.Generator().manual_seed(0)
    features = score.detector.features(model, x)[1]
    score.calibrate(features, torch.rand(200, generator=noise) < 0.5)
    score.weight += 1  # scores of random labels hardly differ
    score.set_threshold(score.of(features), 0.3)
    guarded = Guarded(model, score).eval()
    answer, (logits, scores) = guarded(x), score(model, x)
    rejected = scores > score.threshold
    assert 0 < rejected.sum() < 200
    assert torch.equal(answer.argmax(1) == CLASSES, rejected)
    assert torch.equal(answer[:, :CLASSES], logits)
    assert answer.dtype == logits.dtype

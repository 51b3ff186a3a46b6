"""The active test: a model's last layer is changed so that images near the tested ones are adversarial, and attacks
must find them.

The idea is that of Zimmermann et al. (2022, "Increasing confidence in adversarial robustness evaluations"): an attack
that misses an example that was planted on the features of a model cannot vouch for that model. Here every tested image
gets a linear layer of its own, by least squares, and whatever the model does before and after that layer stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robench import randomness
from robench.attack.base import Attack, Batch, Proposal
from robench.attack.classifier import BatchModel, Classifier
from robench.attack.guard import staying
from robench.attack.inspection import firm_margin, predictions, same
from robench.attack.judge import Examples, Progress, Settings
from robench.attack.objectives import misclassified_margin
from robench.device import full_precision
from robench.norms import SteepestNorm
from robench.threat import ThreatModel
from robench.trust.gates import Finding

# images that are tested, and the least number of them that must take a planted example
IMAGES, LEAST = 30, 5
# random points of each image's ball that a layer is fitted on: so many well within it, and so many at its end
POINTS = 100
# how far those within reach, as a share of eps
WITHIN = 0.9
# fresh points, half of them of either kind, and the share of them that may be adversarial too
FRESH, EASY = 100, 0.05
# of the least squares, as a share of the mean variance
RIDGE = 10.0
# where the boundary lies between the best of the other points (0) and the planted one (1)
LEVEL = 0.5
# the share of what was planted that an attack must find
FOUND = 0.9

GATE, NOT_RUN = "attack misses planted examples", "planted examples: not tried"
ADVICE = (
    "what this attack leaves standing says nothing of this model: look for what hides gradients from it (rounding, "
    "saturation, a detached step), attack through that with BPDA or a margin loss, and repeat"
)


class Unfit(Exception):
    """Why nothing can be planted in a model."""


@dataclass(frozen=True)
class Heads:
    """A linear layer per image: f_y = -s/2, f_goal = s/2, all other logits `low`; s = weight (z - centre) + bias.

    weight, centre: float [n, d]; bias, low: float [n]; y, goal: int64 [n].
    """

    weight: Tensor
    centre: Tensor
    bias: Tensor
    low: Tensor
    y: Tensor
    goal: Tensor
    classes: int

    def answer(self, given: Tensor, rows: Tensor) -> Tensor:
        """Logits [B, classes] for the features `given` [B, d] of the images `rows`, int64 [B]."""
        at = rows.to(given.device)
        score = ((given - self.centre[at]) * self.weight[at]).sum(1) + self.bias[at]
        rest = self.low[at][:, None].expand(-1, self.classes)
        half = score[:, None] / 2
        return rest.scatter(1, self.y[at][:, None], -half).scatter(1, self.goal[at][:, None], half)


class _Hooked:
    """The last linear layer of a model while it runs: what it was given and answered, or other answers."""

    def __init__(self, module: nn.Module, classes: int) -> None:
        self.classes, self.rows = classes, torch.zeros(0, dtype=torch.int64)
        self.layer: nn.Module | None = None
        self.heads: Heads | None = None
        self.layers = [m for m in nn.Module.modules(module) if isinstance(m, nn.Linear) and m.out_features == classes]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooked for as long as this lasts."""
        handles = [layer.register_forward_hook(self._hook) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.heads is None:
            self.layer, self.given, self.answered = layer, inputs[0].detach(), output.detach()
            return None
        if layer is not self.layer:
            return None
        if inputs[0].shape != (len(self.rows), self.heads.weight.shape[1]):
            raise Unfit("the last linear layer does not run once per image")
        return self.heads.answer(inputs[0], self.rows).to(output.dtype)


class _Planted(Classifier):
    """A classifier whose last layer is each image's own: every call says whose images it is asked about."""

    def __init__(self, module: nn.Module, classes: int, examples: Examples, device: str, hooked: _Hooked) -> None:
        super().__init__(module, classes, len(examples), device, examples.y)
        self.hooked = hooked

    def rows(self, examples: Tensor) -> BatchModel:
        """The handle for one batch."""
        return _Rows(self, examples)

    def answers(self, examples: Tensor, x: Tensor, batch_size: int) -> Tensor:
        """Logits [B, classes] on the CPU for images x [B, ...] of `examples`, int64 [B]."""
        found = []
        for rows, part in zip(torch.split(examples, batch_size), torch.split(x, batch_size), strict=True):
            self.hooked.rows = rows
            found.append(self.logits(part))
        return torch.cat(found)


class _Rows(BatchModel):
    """The handle of such a classifier."""

    _classifier: _Planted

    def select(self, keep: Tensor) -> BatchModel:
        """The same for the rows at positions `keep`."""
        return _Rows(self._classifier, self.examples[keep])

    def _forward(self, x: Tensor, paid: Tensor | None, *, rough: bool = False) -> Tensor:
        rows = self.examples.repeat(len(x) // max(len(self.examples), 1))
        self._classifier.hooked.rows = rows if paid is None else rows[paid]
        return super()._forward(x, paid, rough=rough)


def planted(
    module: nn.Module,
    classes: int,
    attacks: Sequence[tuple[str, Attack]],
    threat: ThreatModel,
    examples: Examples,
    settings: Settings,
    progress: Progress = lambda share: None,
) -> list[Finding]:
    """A finding per attack: whether it finds what is planted near the first images that are classified correctly.

    attacks: each with its name. A single finding that did not fire, whose gate says so, where nothing can be planted.
    Planting takes 300 forward passes for each of 30 images, and an attack what it needs for a fresh image.
    """
    hooked = _Hooked(module, classes)
    with full_precision():
        model = _Planted(module, classes, examples, settings.device, hooked)
        try:
            with model.guard.shard(settings.seed), staying(), hooked.watching():
                test = _Test(model, threat, examples, settings, lambda share: progress(share / 2))
                findings = []
                for i, (name, attack) in enumerate(attacks, 1):
                    findings.append(test.finding(name, attack))
                    progress((1 + i / len(attacks)) / 2)
                return findings
        except Unfit as error:
            words = f"{error}, so that the active test was not run"
            advice = "the test needs a deterministic model that ends in an nn.Linear, with one row per image"
            return [Finding(f"{NOT_RUN} ({error})", False, words, "none", advice)]
        finally:
            model.release()


class _Test:
    """The planted examples of a model. Raises `Unfit` where there are none."""

    def __init__(
        self, model: _Planted, threat: ThreatModel, examples: Examples, settings: Settings, progress: Progress
    ) -> None:
        self.model, self.hooked, self.threat, self.settings = model, model.hooked, threat, settings
        if not isinstance(threat.geometry, SteepestNorm) or not threat.eps:
            raise Unfit(f"nothing is planted at {threat}")
        if not self.hooked.layers:
            raise Unfit("no last linear layer found")
        clean = self._ask(examples.x)
        if self.hooked.layer is None:
            raise Unfit("no last linear layer found")
        if not same(clean, self._ask(examples.x)):
            raise Unfit("answers at random")
        right = (predictions(clean) == examples.y).nonzero()[:IMAGES, 0]
        self.x, self.y, self.ids = examples.x[right], examples.y[right], examples.ids[right]
        self.goal = clean[right].scatter(1, self.y[:, None], -torch.inf).argmax(1)
        fits = []
        for i in range(len(right)):
            fits.append(self._fit(i))
            progress((i + 1) / len(right))
        self.hooked.heads = self._stacked(fits)
        self.kept, self.chance = self._checked(torch.stack([image for image, _ in fits]) if fits else self.x)
        if len(self.kept) < LEAST:
            raise Unfit(f"only {len(self.kept)} of {len(right)} images take a planted example")

    def _ask(self, x: Tensor) -> Tensor:
        """The model's answers as it is, [n, classes], of images that may be many."""
        size = self.settings.batch_size
        return torch.cat([self.model.logits(part) for part in torch.split(x, size)])

    def _points(self, i: int, stream: str, within: int, beyond: int) -> Tensor:
        """Random points of an image's ball: `within` well inside and then `beyond` at its end, [points, C, H, W]."""
        threat, count, shape = self.threat, within + beyond, tuple(self.x.shape[1:])
        address = self.settings.seed, [int(self.ids[i])] * count, list(range(count)), stream
        x0, noise = self.x[i].expand(count, *shape), randomness.gaussian(*address, shape)
        uniform = randomness.uniform(*address, shape)
        norm = threat.geometry
        assert isinstance(norm, SteepestNorm)
        inner = norm.sample(x0[:within], uniform[:within], noise[:within], WITHIN * threat.radius)
        return torch.cat(
            [inner, threat.project(x0[within:], norm.steepest(x0[within:], noise[within:], threat.radius))]
        )

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer is given and answers, float64 on the CPU: [n, d], [n, classes]."""
        given, answered = [], []
        for part in torch.split(x, self.settings.batch_size):
            self.model.logits(part)
            if self.hooked.given.dim() != 2 or len(self.hooked.given) != len(part):
                raise Unfit("the last linear layer does not run once per image")
            given.append(self.hooked.given.double().cpu())
            answered.append(self.hooked.answered.double().cpu())
        return torch.cat(given), torch.cat(answered)

    def _fit(self, i: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The point at the end of an image's ball that a linear layer tells best from all others, and that layer.

        Ridge regression on "is this one" for every such point at once: its scores are the columns of G (G + r)^-1, G
        being the product of the centred features. The best is the one whose score leads the others' by most of the way
        from the image's own.
        """
        points = torch.cat([self.x[i : i + 1], self._points(i, "planted", POINTS, POINTS)])
        given, answered = self._features(points)
        if not bool(given.isfinite().all()):
            raise Unfit("features that are not finite")
        centre = given.mean(0)
        moved = given - centre
        product = moved @ moved.T
        ridge = RIDGE * product.diagonal().mean().clamp(min=1e-30) * torch.eye(len(points), dtype=torch.float64)
        solved = torch.linalg.solve(product + ridge, torch.eye(len(points), dtype=torch.float64)[:, -POINTS:])
        scores = product @ solved
        place = torch.arange(len(points) - POINTS, len(points))
        own = scores[place, torch.arange(POINTS)]
        rest = scores.scatter(0, place[None], -torch.inf).amax(0)
        k = int(((own - rest) / (own - scores[0]).clamp(min=1e-30)).argmax())
        level = rest[k] + LEVEL * (own[k] - rest[k])
        lead = (answered[0, self.y[i]] - answered[0, self.goal[i]]).abs().clamp(min=1e-6)
        scale = lead / (level - scores[0, k]).clamp(min=1e-30)
        return points[place[k]], (scale * (moved.T @ solved[:, k]), centre, -scale * level, -lead)

    def _stacked(self, fits: list[tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]]) -> Heads:
        if not fits:
            raise Unfit("no image is classified correctly")
        device = self.model.device
        weight, centre, bias, low = (torch.stack([fit[i] for _, fit in fits]).float().to(device) for i in range(4))
        return Heads(weight, centre, bias, low, self.y.to(device), self.goal.to(device), self.model.classes)

    def _checked(self, images: Tensor) -> tuple[Tensor, float]:
        """Which images have a planted example, by the answers of the whole changed model, int64 [kept]; and the mean
        share of fresh random points that are adversarial there.

        The image must be right, the planted one firmly wrong, and random points seldom wrong.
        """
        rows, size = torch.arange(len(self.x)), self.settings.batch_size
        right = predictions(self.model.answers(rows, self.x, size)) == self.y
        logits = self.model.answers(rows, images, size)
        wrong = firm_margin(misclassified_margin(logits, self.y), logits)
        chance = torch.zeros(len(rows))
        for i in rows[right & wrong].tolist():
            points = self._points(i, "planted-fresh", FRESH // 2, FRESH // 2)
            answers = self.model.answers(torch.full((len(points),), i), points, size)
            chance[i] = (predictions(answers) != self.y[i]).float().mean()
        kept = (right & wrong & (chance <= EASY)).nonzero()[:, 0]
        return kept, float(chance[kept].mean()) if len(kept) else 0.0

    def finding(self, name: str, attack: Attack) -> Finding:
        """Whether an attack finds what was planted."""
        found, count = int(self._found(attack).sum()), len(self.kept)
        evidence = (
            f"{name} at {self.threat}: found {found:,} of {count:,} examples planted by a change of the last layer, "
            f"where {self.chance:.1%} of random points are adversarial"
        )
        return Finding(GATE, found < FOUND * count, evidence, f"{1 - FOUND:.0%} of them missed", ADVICE)

    def _found(self, attack: Attack) -> Tensor:
        """Of which of the kept images an attack finds an adversarial example, bool [kept].

        Trials that aim at another class than the planted one are left out: it is all there is to find.
        """
        x, y, ids = self.x[self.kept], self.y[self.kept], self.ids[self.kept]
        size = self.settings.batch_size
        plan = attack.trials(y, self.model.answers(self.kept, x, size), ids, self.settings.seed)
        found = torch.zeros_like(y, dtype=torch.bool)
        for trial in range(len(plan)):
            goal = plan.goal[:, trial]
            left = (~found & ((goal < 0) | (goal == self.goal[self.kept]))).nonzero()[:, 0]
            for part in torch.split(left, size) if len(left) else ():
                found[part] = self._tried(attack, part, goal[part], plan.key[part, trial])
        return found

    def _tried(self, attack: Attack, part: Tensor, goal: Tensor, trial: Tensor) -> Tensor:
        """Whether a trial each breaks the kept images at the positions `part`, bool [B]."""
        rows, device = self.kept[part], self.model.device
        x0, y = self.x[rows], self.y[rows]
        batch = Batch(
            x=x0.to(device), y=y.to(device), goal=goal.to(device), example_id=self.ids[rows], trial=trial,
            group=torch.arange(len(rows)), threat=self.threat, seed=self.settings.seed,
        )  # fmt: skip
        answer = attack.perturb(self.model.rows(rows), batch)
        x = (answer.x if isinstance(answer, Proposal) else answer).detach().float().cpu()
        finite = x.flatten(1).isfinite().all(1)
        images = self.threat.project(x0, torch.where(finite[:, None, None, None], x, x0))
        return predictions(self.model.answers(rows, images, self.settings.batch_size)) != y

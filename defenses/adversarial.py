"""Adversarial training: the inner search every such defense states, and training on its examples (Madry et al.)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from robench import (
    DataInfo,
    Defense,
    Range,
    Recipe,
    Recipes,
    ThreatModel,
    TrainingPGD,
    build_backbone,
    check_count,
    cross_entropy,
    perturbed,
    read_fraction,
    require,
)
from robench_defenses.recipes import STANDARD, with_options

# steps of a search that every training step makes, and pixels of one of them
InnerSteps = Annotated[int, Range(1, 10_000)]
LONGEST = 1000
PLAIN: Recipes = {family: {"quick": recipes["quick"]} for family, recipes in STANDARD.items()}
# a few long steps are enough to train on; the ramp gives the first epochs a smaller ball than MNIST's wide one
FEW: dict[str, Any] = {"eps": "0.1", "steps": 5, "step": "eps/2"}
QUICK = with_options(
    PLAIN,
    {"digits": FEW, "fashion-mnist": FEW, "mnist": {**FEW, "eps": "0.3", "ramp": 0.4}}
    | {family: {"steps": 3, "step": "eps/2"} for family in ("cifar10", "cifar100", "svhn", "stl10", "imagenet")},
)

# Madry et al. (2018), released code: 80,000 steps of 128 images, drops at 40 and 60 thousand; w32-10 is WRN-34-10
MADRY_CIFAR = Recipe(
    epochs=228,
    lr=0.1,
    batch_size=128,
    optimizer="sgd",
    nesterov=False,
    weight_decay=2e-4,
    schedule="steps",
    milestones=(114, 171),
    augment="crop-flip",
    options={"backbone": "wrn-34-10", "eps": "8/255", "steps": 10, "step": "2/255"},
    source="Madry et al. (2018), released code",
)
# 100,000 steps of 50 images; their network has no batch norm
MADRY_MNIST = Recipe(
    epochs=91,
    lr=1e-4,
    batch_size=50,
    options={"backbone": "cnn", "eps": "0.3", "steps": 40, "step": "0.01"},
    source="Madry et al. (2018), released code, but for the network",
)


@dataclass(frozen=True)
class Inner:
    """The inner maximisation over the linf ball of radius eps.

    eps: text in pixels, "0.3" or "8/255". step: "eps/4", "eps/2.5" or a length in pixels such as "0.01" or "2/255".
    ramp: share of the training over which eps, and with it every step, rises linearly from 0. random_start: begin
    anywhere in the ball, else at the image; noise: standard deviation of a start near the image instead, in pixels.
    """

    eps: str
    steps: int
    step: str
    ramp: float
    random_start: bool = True
    noise: float = 0.0
    rule: str = "steepest"

    def __post_init__(self) -> None:
        require(
            ThreatModel.of("linf", self.eps).eps > 0, "eps", self.eps, "above 0 and at most 1, such as 0.3 or 8/255"
        )
        check_count("steps", self.steps)
        require(0 <= self.ramp <= 1, "ramp", self.ramp, "a share of the training in [0, 1]")
        step_length(self.step, 1.0)

    def threat(self, progress: float) -> ThreatModel:
        """The ball at this share of the training."""
        whole = ThreatModel.of("linf", self.eps)
        share = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0
        return whole if share == 1 else ThreatModel("linf", whole.eps * Fraction(share))

    def attack(self, threat: ThreatModel, objective: Callable[[Tensor, Tensor], Tensor]) -> TrainingPGD:
        """The search under `threat` for what maximises `objective`: logits [B, C], labels [B] -> [B]."""
        whole = ThreatModel.of("linf", self.eps).radius
        size = step_length(self.step, whole) * threat.radius / whole
        return TrainingPGD(
            steps=self.steps,
            size=size,
            objective=objective,
            random_start=self.random_start,
            noise=self.noise,
            rule=self.rule,
        )


def step_length(step: str, eps: float) -> float:
    """Pixels of a step given as "eps/4" or as a length; raises BadInput for anything else."""
    share = re.fullmatch(r"eps/([0-9]{1,9}(?:\.[0-9]{1,9})?)", step.replace(" ", ""))
    try:
        length = eps / float(share[1]) if share else float(read_fraction(step))
    except (ValueError, ZeroDivisionError, OverflowError):
        length = -1.0
    allowed = f"a length in pixels such as 0.01 or 2/255, or a share such as 'eps/4', and at most {LONGEST}"
    require(0 < length <= LONGEST, "step", step, allowed)
    return length


class AdversarialTraining(Defense):
    """A plain classifier whose loss looks for its own worst cases; a subclass states the loss."""

    def __init__(self, data: DataInfo, backbone: str, inner: Inner) -> None:
        super().__init__(data)
        self.inner = inner
        self.backbone = build_backbone(backbone, data)
        self.head = nn.Linear(self.backbone.width, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    @property
    def step_gradients(self) -> int:
        """The search's, and the loss's on what it found."""
        return self.inner.steps + 1

    def worst(self, x: Tensor, y: Tensor, objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy) -> Tensor:
        """Images [B, C, H, W] in the ball of this point of the training that maximise `objective` in eval mode."""
        threat = self.inner.threat(self.progress)
        return perturbed(self, x, y, threat, self.inner.attack(threat, objective), self.data.classes)


class Madry(AdversarialTraining):
    """Adversarial training: cross-entropy on PGD examples instead of the images (Madry et al., 2018).

    eps, steps, step and random_start set the inner PGD, ramp the share of the training over which eps rises from 0.
    The search sees the model in eval mode; then the adversarial examples alone pass it in train mode, so that batch
    norm is estimated on them.
    """

    recipes: ClassVar[Recipes] = {
        **QUICK,
        "mnist": {**QUICK["mnist"], "paper": MADRY_MNIST},
        "cifar10": {**QUICK["cifar10"], "paper": MADRY_CIFAR},
    }

    def __init__(
        self,
        data: DataInfo,
        *,
        backbone: str = "auto",
        eps: str = "8/255",
        steps: InnerSteps = 10,
        step: str = "eps/4",
        ramp: float = 0.0,
        random_start: bool = True,
    ) -> None:
        super().__init__(data, backbone, Inner(eps, steps, step, ramp, random_start))

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on the worst images found."""
        return {"total": functional.cross_entropy(self(self.worst(x, y)), y)}

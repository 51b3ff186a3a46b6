"""The ER-Classifier: a low-dimensional code whose distribution a critic pulls towards a prior."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robench import (
    DataInfo,
    Defense,
    Range,
    Recipes,
    ThreatModel,
    TrainingPGD,
    Variant,
    check_count,
    perturbed,
    require,
)
from robench_defenses.adversarial import InnerSteps
from robench_defenses.divergences import mmd_squared
from robench_defenses.er_networks import build_critic, build_encoder, design
from robench_defenses.er_recipes import ADVERSARIAL, RECIPES
from robench_defenses.stochastic import Width

Prior = Literal["gaussian", "uniform", "cauchy"]
Game = Literal["wgan_logsig", "bce"]

# the authors' code keeps every weight of the critic in [-CLAMP, CLAMP]
CLAMP = 0.01
# ours: the 10 that Tolstikhin et al. (2018) set beside a reconstruction error collapses the code beside cross-entropy
BCE_WEIGHT = 0.1


def draw_prior(prior: Prior, count: int, z_dim: int, device: torch.device) -> Tensor:
    """Codes [count, z_dim] from N(0, I), U(-3, 3) or Cauchy(0, 1) (Li et al., 2021, supplement C.4)."""
    if prior == "gaussian":
        return torch.randn(count, z_dim, device=device)
    uniform = torch.rand(count, z_dim, device=device)
    return 6 * uniform - 3 if prior == "uniform" else (math.pi * (uniform - 0.5)).tan()


def critic_loss(game: Game, prior: Tensor, code: Tensor) -> Tensor:
    """What the critic minimises, given its scores [B, 1] of prior samples and of codes.

    wgan_logsig: mean log sig(prior) - mean log sig(code), so that it scores codes high (the authors' code).
    bce: -mean log sig(prior) - mean log(1 - sig(code)) (Tolstikhin et al., 2018).
    """
    if game == "wgan_logsig":
        return functional.logsigmoid(prior).mean() - functional.logsigmoid(code).mean()
    return functional.softplus(-prior).mean() + functional.softplus(code).mean()


def encoder_loss(game: Game, code: Tensor) -> Tensor:
    """What the encoder minimises, before its weight: mean log sig(code), or for bce -mean log sig(code)."""
    value = functional.logsigmoid(code).mean()
    return value if game == "wgan_logsig" else -value


class ERClassifier(Defense):
    """ER-Classifier: cross-entropy on a small code that a critic keeps near a prior (Li et al., 2021).

    encoder: "mnist", "cifar10", "stl10" or "tiny" for the paper's, a backbone's name, or "auto" for the one made for
    the size of the images; width: channels of its first layer, for "mnist" and "stl10". z_dim, weight (of the pull
    towards the prior), eps, steps and step (of the inner attack, in linf pixels): None for what the paper uses on such
    data, but weight 0.1 (ours) for "bce", and step 2.5 eps / steps (ours) where eps or steps is given. regulariser:
    the authors' game "wgan_logsig", WAE-GAN's "bce", or "none" for no critic. critic_lr, classifier_lr: shares of the
    encoder's learning rate. adversarial: train on adversarial images as well; ramp: share of the training over which
    eps rises linearly from 0.
    """

    recipes: ClassVar[Recipes] = RECIPES

    def __init__(
        self,
        data: DataInfo,
        *,
        encoder: str = "auto",
        width: Annotated[int, Range(1, 1024)] = 128,
        z_dim: Width | None = None,
        prior: Prior = "gaussian",
        regulariser: Literal["wgan_logsig", "bce", "none"] = "wgan_logsig",
        weight: float | None = None,
        critic_width: Width = 512,
        critic_lr: float = 0.5,
        classifier_lr: float = 0.05,
        adversarial: bool = False,
        eps: str | float | None = None,
        steps: InnerSteps | None = None,
        step: float | None = None,
        ramp: float = 0.0,
    ) -> None:
        require(1 <= width <= 1024, "width", width, "from 1 to 1024")
        require(1 <= critic_width <= 2**14, "critic_width", critic_width, "from 1 to 16384")
        require(z_dim is None or 1 <= z_dim <= 2**14, "z_dim", z_dim, "from 1 to 16384")
        require(weight is None or weight >= 0, "weight", weight, "zero or more")
        require(critic_lr > 0, "critic_lr", critic_lr, "above zero, a share of the encoder's learning rate")
        require(classifier_lr > 0, "classifier_lr", classifier_lr, "above zero, a share of the encoder's learning rate")
        require(0 <= ramp <= 1, "ramp", ramp, "a share of the training in [0, 1]")
        super().__init__(data)
        self.automatic_optimization = False
        usual = design(encoder, data)
        self.prior = prior
        self.game: Game = "bce" if regulariser == "bce" else "wgan_logsig"
        auto = BCE_WEIGHT if self.game == "bce" else usual.weight
        self.weight = auto if weight is None else weight
        self.shares = {"encoder": 1.0, "classifier": classifier_lr, "critic": critic_lr}
        self.z_dim = usual.z_dim if z_dim is None else z_dim
        self.encoder = build_encoder(encoder, data, width, self.z_dim)
        self.classifier = usual.head(self.z_dim, data.classes)
        self.critic = None if regulariser == "none" else build_critic(self.z_dim, critic_width)
        self.adversarial, self.ramp = adversarial, ramp
        self.threat = ThreatModel.of("linf", usual.eps if eps is None else eps)
        self.steps = usual.steps if steps is None else steps
        check_count("steps", self.steps)
        scaled = usual.step if eps is None and steps is None else 2.5 * self.threat.radius / self.steps
        self.step = scaled if step is None else step
        require(self.step >= 0, "step", self.step, "zero or more pixels of [0, 1]")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.classifier(self.encoder(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """The codes [B, z_dim] of images [B, C, H, W]."""
        code: Tensor = self.encoder(x)
        return code

    @property
    def step_gradients(self) -> int:
        """Cross-entropy and the critic's pull each go through the encoder, for every view; and the search's."""
        views = 2 if self.adversarial else 1
        return views * (1 if self.critic is None else 2) + (self.steps if self.adversarial else 0)

    def loss(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and the weighted pull towards the prior, as `play` minimises them in turn."""
        codes = [self.encoder(view) for view in self._views(x)]
        cross_entropy = self._cross_entropy(codes, y)
        if self.critic is None:
            return {"cross_entropy": cross_entropy, "total": cross_entropy}
        regularisation = torch.stack([self._pull(self.critic, code) for code in codes]).sum()
        return {
            "cross_entropy": cross_entropy,
            "regularisation": regularisation,
            "total": cross_entropy + regularisation,
        }

    def learners(self) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Encoder, classifier and critic, with their shares of the learning rate."""
        parts = {"encoder": self.encoder, "classifier": self.classifier, "critic": self.critic}
        return {name: (list(part.parameters()), self.shares[name]) for name, part in parts.items() if part is not None}

    def play(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The order of the authors' code: critic, then encoder and classifier, then the encoder against the critic."""
        views = self._views(x)
        codes = [self.encoder(view) for view in views]
        if self.critic is not None:
            for code in codes:
                self._train_critic(self.critic, code.detach())
        cross_entropy = self._cross_entropy(codes, y)
        self.descend({"cross_entropy": cross_entropy}, "encoder", "classifier")
        if self.critic is None:
            return {"cross_entropy": cross_entropy, "total": cross_entropy}
        regularisation = torch.zeros_like(cross_entropy)
        for view in views:
            term = self._pull(self.critic, self.encoder(view))
            self.descend({"regularisation": term}, "encoder")
            regularisation = regularisation + term.detach()
        return {
            "cross_entropy": cross_entropy,
            "regularisation": regularisation,
            "total": cross_entropy + regularisation,
        }

    def monitors(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """MMD^2 of codes and prior (kernel width sqrt(z_dim)), and how much more the critic gives to the prior.

        The gap is mean log sig of the scores, the prior's less the codes'.
        """
        code = self.embed(x).float()
        prior = draw_prior(self.prior, len(code), self.z_dim, code.device)
        found = {"mmd2": mmd_squared(code, prior, math.sqrt(self.z_dim))}
        if self.critic is not None:
            found["critic_gap"] = critic_loss("wgan_logsig", self.critic(prior), self.critic(code))
        return found

    def _train_critic(self, critic: nn.Module, code: Tensor) -> None:
        prior = draw_prior(self.prior, len(code), self.z_dim, code.device)
        self.descend({"critic": critic_loss(self.game, critic(prior), critic(code))}, "critic")
        if self.game == "wgan_logsig":
            with torch.no_grad():
                for parameter in critic.parameters():
                    parameter.clamp_(-CLAMP, CLAMP)

    def _cross_entropy(self, codes: list[Tensor], y: Tensor) -> Tensor:
        return torch.stack([functional.cross_entropy(self.classifier(code), y) for code in codes]).mean()

    def _pull(self, critic: nn.Module, code: Tensor) -> Tensor:
        return self.weight * encoder_loss(self.game, critic(code))

    def _views(self, x: Tensor) -> list[Tensor]:
        """The images, and under adversarial training those that PGD moved away from the model's own predictions."""
        if not self.adversarial:
            return [x]
        share = min(1.0, self.progress / self.ramp) if self.ramp else 1.0
        threat = ThreatModel("linf", self.threat.eps * Fraction(share))
        attack = TrainingPGD(steps=self.steps, size=share * self.step)
        return [x, perturbed(self, x, self._predicted(x), threat, attack, self.data.classes)]

    @torch.no_grad()
    def _predicted(self, x: Tensor) -> Tensor:
        training = self.training
        predicted: Tensor = self.eval()(x).argmax(1)
        self.train(training)
        return predicted


er_classifier_adv = Variant(
    ERClassifier,
    "ER-Classifier trained on clean and adversarial images (Li et al., 2021).",
    {"adversarial": True},
    ADVERSARIAL,
)

e_cla = Variant(
    ERClassifier,
    "Encoder and classifier of the ER-Classifier without its critic (Li et al., 2021).",
    {"regulariser": "none"},
)

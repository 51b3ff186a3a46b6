"""Loss against attack step: a gradient attack on a few images, with a trace of what every step answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robench import registry
from robench.attack.base import Batch
from robench.attack.classifier import BatchModel, Classifier, Objective
from robench.attack.gradient import GradientAttack
from robench.attack.objectives import cross_entropy
from robench.errors import BadInput
from robench.evaluation.attacks import NamedAttack
from robench.figures.drawing import MARKERS, Drawing, legend, numbers, style, whole_ticks
from robench.figures.subjects import BATCH, Asked, Subjects
from robench.results.summary import label
from robench.threat import ThreatModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

# the quantiles of the images between which a band is drawn
LOW, HIGH = 0.1, 0.9


class Traced(BatchModel):
    """The model for the rows of a batch, that keeps the answers which come with gradients, in their order: float32
    [n, classes] on the CPU."""

    def __init__(self, classifier: Classifier, examples: Tensor) -> None:
        super().__init__(classifier, examples)
        self.trace: list[Tensor] = []

    def gradient(
        self, x: Tensor, objective: Objective, *, rough: bool = False, hinged: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As the model's own."""
        logits, grad = super().gradient(x, objective, rough=rough, hinged=hinged)
        self.trace.append(logits.cpu())
        return logits, grad


@dataclass(frozen=True)
class Trace:
    """Losses float64 [steps + 1, n] of one model's images before each step and at the end, and whether each was taken
    for its label, bool [steps + 1, n]."""

    model: str
    loss: Tensor
    right: Tensor
    flags: tuple[str, ...] = field(default=())

    def records(self, attack: str) -> list[dict[str, Any]]:
        """A line of a csv file per step."""
        spread = torch.quantile(self.loss, torch.tensor([LOW, 0.5, HIGH], dtype=torch.float64), dim=1)
        never = self.right.int().cummin(0).values.double().mean(1)
        return [
            numbers({"model": self.model, "attack": attack, "step": step, "n": self.loss.shape[1],
                     "mean_loss": float(self.loss[step].mean()), "median_loss": float(spread[1, step]),
                     "low_loss": float(spread[0, step]), "high_loss": float(spread[2, step]),
                     "accuracy": float(self.right[step].double().mean()), "never_wrong": float(never[step])})
            for step in range(len(self.loss))
        ]  # fmt: skip


def steps(subjects: Subjects, attack: str, options: Mapping[str, Any], threat: ThreatModel) -> Drawing:
    """Cross-entropy and accuracy before every step of one trial of a gradient attack, for every model.

    No image leaves the search when it is broken, so that all are seen to the last step. Raises BadInput for an attack
    that is no gradient attack of robench's loop, options that it does not have, and a norm that it does not support.
    """
    registry.check_attacks([attack])
    if attack in registry.names("set"):
        raise BadInput(f"{attack!r} is a set of attacks, whose steps are not one curve; name one attack, such as pgd.")
    named = NamedAttack.of(registry.load("attack", attack), options, threat)
    if not isinstance(named.attack, GradientAttack):
        raise BadInput(
            f"The attack {attack!r} is not one search along gradients, so there is no loss by step; name one such as "
            "pgd, untargeted or apgd-ce."
        )
    threat.check_shape(tuple(subjects.images.x.shape[1:]))
    attacker = named.attack
    found = subjects.each(lambda name, asked: _traced(name, asked, attacker, threat, subjects.seed))
    said = label(attack, named.given, "")
    flags = [f"{each.model}: {flag}" for each in found for flag in each.flags]
    caption = (
        f"{', '.join(subjects.names)}; {subjects.images.told}; {said}, {threat}, seed {subjects.seed}, the first trial",
        f"Cross-entropy in nats: mean, and a band from the {LOW:.0%} to the {HIGH:.0%} quantile of the images. Images "
        "are attacked to the last step whether or not they are broken. Step 0 is the start of the search; the last "
        "point is the image that the attack proposes.",
        *([f"Flags: {', '.join(flags)}."] if flags else []),
    )
    records = [record for each in found for record in each.records(said)]
    return Drawing(f"Loss against attack step: {said}", caption, records, (8.4, 3.5),
                   lambda picture: _paint(picture, subjects.names, records))  # fmt: skip


def _traced(name: str, asked: Asked, attack: GradientAttack, threat: ThreatModel, seed: int) -> Trace:
    losses, rights = [], []
    images, model = asked.images, asked.model
    model.crafting = True  # images are attacked to the last step
    plan = attack.trials(images.y, asked.clean, images.ids, seed)
    for places in torch.split(torch.arange(len(images)), BATCH):
        part = images.at(places)
        batch = Batch(
            x=part.x.to(model.device), y=part.y.to(model.device), goal=plan.goal[places, 0].to(model.device),
            example_id=part.ids, trial=plan.key[places, 0], group=torch.arange(len(part)), threat=threat, seed=seed,
        )  # fmt: skip
        rows = Traced(model, places)
        proposed = attack.perturb(rows, batch).x.detach().float().cpu()
        answers = torch.stack([*rows.trace, asked.logits(threat.project(part.x, proposed))]).double()
        labels = part.y.expand(len(answers), -1)
        losses.append(cross_entropy(answers.flatten(0, 1), labels.flatten()).reshape(labels.shape))
        rights.append(answers.argmax(2) == labels)
    return Trace(name, torch.cat(losses, 1), torch.cat(rights, 1), asked.flags)


def _paint(picture: Picture, names: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    left, right = picture.subplots(1, 2)
    handles = []
    for place, name in enumerate(names):
        mine = [record for record in records if record["model"] == name]
        at = {
            key: np.array([float(record[key]) for record in mine]) for key in mine[0] if key not in ("model", "attack")
        }
        how, marker = style(place), MARKERS[place % len(MARKERS)]
        every = max(1, len(mine) // 12)
        (line,) = left.plot(at["step"], at["mean_loss"], marker=marker, markersize=3, markevery=every, **how)
        left.fill_between(at["step"], at["low_loss"], at["high_loss"], color=how["color"], alpha=0.13, linewidth=0)
        right.plot(at["step"], 100 * at["never_wrong"], marker=marker, markersize=3, markevery=every, **how)
        handles.append(line)
    left.set_ylabel("cross-entropy (nats)")
    left.set_ylim(0)
    right.set_ylabel("images not yet broken (%)")
    right.set_ylim(0, 102)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_xlim(0)
        axes.grid(alpha=0.3)
        whole_ticks(axes.xaxis)
    legend(left, handles, names)

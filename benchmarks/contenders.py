"""Who takes part in benchmarks/versus.py: robench and its peers, each at the same settings, and what counts passes.

A contender is made from a `Subject` and takes images [B, C, H, W] with labels [B] to images. Everybody gets the module
as a user hands it over, wrapped in the same counter, and batches of `BATCH` images.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robench import ThreatModel, registry
from robench.attack.base import Batch
from robench.attack.classifier import Classifier
from robench.attack.judge import Examples, Settings, attack_shard

BATCH = 250
WIDE = "10"  # of the ball in L2 where the nearest image is sought, wherever it is
Crafted = Callable[[Tensor, Tensor], Tensor]


class Tally:
    """Passes through a model, in images; a copy of a counted module counts here too."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def __deepcopy__(self, memo: object) -> Tally:
        return self

    def forget(self) -> None:
        """Begin at nought."""
        self.forwards = self.backwards = 0


class Counted(nn.Module):
    """The model, counting every forward pass, and every backward pass through its logits."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.tally = module, Tally()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of x [B, C, H, W]."""
        logits: Tensor = self.module(x)
        self.tally.forwards += len(x)
        if logits.requires_grad and x.requires_grad:
            count = len(x)
            logits.register_hook(lambda _: self._backward(count))
        return logits

    def _backward(self, count: int) -> None:
        self.tally.backwards += count


@dataclass
class Subject:
    """One model on n test images, under a radius."""

    module: Counted
    x: Tensor
    y: Tensor
    classes: int
    threat: ThreatModel
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def eps(self) -> float:
        """The radius."""
        return self.threat.radius

    @property
    def wide(self) -> Subject:
        """The same under a radius that is in nobody's way to the nearest image."""
        return replace(self, threat=ThreatModel.of(self.threat.norm, WIDE))

    def robench(self, attack: str, **options: Any) -> Crafted:
        """Its whole judgement of a shard: clean answers, inspection, attack and final verdict."""
        plugin = registry.load("attack", attack)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            examples = Examples(x, y, torch.arange(len(x)))
            settings = Settings(0, BATCH)
            return attack_shard(
                self.module, self.classes, plugin.build(options), self.threat, examples, settings
            ).images

        return craft

    def robench_search(self, attack: str, **options: Any) -> Crafted:
        """Its attack alone, as libraries are called: one trial, and neither a clean nor a final verdict."""
        made = registry.load("attack", attack).build(options)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            handle, ids = Classifier(self.module, self.classes, len(x), labels=y), torch.arange(len(x))
            batch = Batch(x, y, torch.full_like(y, -1), ids, torch.zeros_like(ids), ids, self.threat, 0)
            try:
                found: Any = made.perturb(handle.rows(ids), batch)
                images: Tensor = found.x
                return images
            finally:
                handle.release()

        return craft

    def foolbox(self, attack: str, repeat: int = 1, nearest: bool = False, **options: Any) -> Crafted:
        """foolbox's attack of that name; `nearest`: whatever the radius."""
        import foolbox

        model = foolbox.PyTorchModel(self.module, bounds=(0, 1), device="cpu")
        made = getattr(foolbox.attacks, attack)(**options)
        made = made.repeat(repeat) if repeat > 1 else made
        return lambda x, y: made(model, x, y, epsilons=None if nearest else self.eps)[1]

    def art(self, **options: Any) -> Crafted:
        """ART's projected gradient descent in torch."""
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        shape, loss = tuple(self.x.shape[1:]), nn.CrossEntropyLoss()
        model = PyTorchClassifier(self.module, loss, shape, self.classes, clip_values=(0.0, 1.0), device_type="cpu")
        made = ProjectedGradientDescentPyTorch(model, eps=self.eps, batch_size=BATCH, verbose=False, **options)
        return lambda x, y: torch.from_numpy(made.generate(x.numpy(), y.numpy()))

    def torchattacks(self, attack: str, **options: Any) -> Crafted:
        """torchattacks' attack of that name."""
        import torchattacks

        made: Crafted = getattr(torchattacks, attack)(self.module, eps=self.eps, **options)
        return made

    def adv_lib(self, attack: str, **options: Any) -> Crafted:
        """adv-lib's attack of that name; what it draws curves with is not needed, and a name stands in for it."""
        if importlib.util.find_spec("visdom") is None:
            sys.modules.setdefault("visdom", types.ModuleType("visdom"))
        import adv_lib.attacks
        import adv_lib.attacks.auto_pgd

        made = getattr(adv_lib.attacks, attack, None) or getattr(adv_lib.attacks.auto_pgd, attack)
        return lambda x, y: made(self.module, x, y, **options)

    def pyautoattack(self, part: str = "", queries: int = 5000) -> Crafted:
        """One of AutoAttack's parts, with the settings that it has in the standard version, one start of each.

        part: if empty, all four, as they follow each other in the standard version.
        """
        import pyautoattack

        logging.getLogger("auto-attack").setLevel(logging.CRITICAL)
        norm = {"linf": "Linf", "l2": "L2"}[self.threat.norm]
        which = {"version": "custom", "attacks": [part]} if part else {"version": "standard"}
        made = pyautoattack.AutoAttack(self.module, norm=norm, eps=self.eps, seed=0, device="cpu", **which)
        made.verbose = False
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(9, self.classes - 1)
        if part:
            made.apgd.n_restarts, made.fab.n_restarts, made.square.n_queries = 1, 1, queries
        return lambda x, y: made.run_standard_evaluation(x, y, batch_size=len(x))[0]

    def bare_pgd(self, steps: int) -> Crafted:
        """PGD as one writes it without a library: gradient, sign, two clamps, and nothing else."""
        size = self.eps / 10

        def craft(x: Tensor, y: Tensor) -> Tensor:
            low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
            moved = (x + (2 * torch.rand_like(x) - 1) * self.eps).clamp(low, high)
            for _ in range(steps):
                moved.requires_grad_(True)
                loss = nn.functional.cross_entropy(self.module(moved), y, reduction="sum")
                grad = torch.autograd.grad(loss, moved)[0]
                moved = (moved.detach() + size * grad.sign()).clamp(low, high)
            return moved

        return craft


@dataclass(frozen=True)
class Bound:
    """What `who` may leave standing beyond `beside`, in points, and at what share of its passes and seconds."""

    who: str
    beside: str
    points: float
    passes: float
    seconds: float | None = None


@dataclass(frozen=True)
class Group:
    """An attack at one setting, and who runs it: a name, the package that is needed, and what makes it.

    most: so many images at most. nearest: distances are figures too. goal, against: how many times as long as robench
    the fastest of those peers is to take. bounds: what a contender may leave standing and take beside another.
    """

    about: str
    norm: str
    who: dict[str, tuple[str, Callable[[Subject], Crafted]]]
    most: int = 1000
    nearest: bool = False
    goal: float | None = None
    against: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()


def _pgd40() -> Group:
    steps = 40
    return Group(
        "PGD, 40 steps of eps/10, one random start", "linf",
        {
            "robench": ("robench", lambda s: s.robench("pgd", steps=steps, step="eps/10")),
            "robench-search": ("robench", lambda s: s.robench_search("pgd", steps=steps, step="eps/10")),
            "bare-loop": ("torch", lambda s: s.bare_pgd(steps)),
            "torchattacks": ("torchattacks", lambda s: s.torchattacks("PGD", alpha=s.eps / 10, steps=steps)),
            "foolbox": ("foolbox", lambda s: s.foolbox("LinfPGD", abs_stepsize=s.eps / 10, steps=steps)),
            "art": ("adversarial-robustness-toolbox",
                    lambda s: s.art(eps_step=s.eps / 10, max_iter=steps, num_random_init=1)),
            "adv-lib": ("adv-lib",
                        lambda s: s.adv_lib("pgd_linf", ε=s.eps, steps=steps, absolute_step_size=s.eps / 10)),
        },
        goal=1.3, against=("torchattacks", "foolbox", "art", "adv-lib"),
    )  # fmt: skip


def _pgd200() -> Group:
    steps, restarts = 200, 20
    return Group(
        "PGD, 200 steps of eps/10, 20 restarts", "linf",
        {
            "robench": ("robench", lambda s: s.robench("pgd", steps=steps, step="eps/10", restarts=restarts)),
            "foolbox": ("foolbox", lambda s: s.foolbox("LinfPGD", restarts, abs_stepsize=s.eps / 10, steps=steps)),
            "adv-lib": ("adv-lib", lambda s: s.adv_lib("pgd_linf", ε=s.eps, steps=steps, restarts=restarts,
                                                       absolute_step_size=s.eps / 10)),
        },
        most=100, goal=3.0, against=("foolbox",),
    )  # fmt: skip


def _apgd(part: str, about: str, theirs: dict[str, Any]) -> Group:
    kind, more, name, options = theirs["torchattacks"], {}, theirs["adv-lib"], theirs["options"]
    return Group(
        about, "linf",
        {
            "robench": ("robench", lambda s: s.robench(part)),
            "pyautoattack": ("pyautoattack", lambda s: s.pyautoattack(part)),
            "torchattacks": ("torchattacks", lambda s: s.torchattacks(kind, steps=100, n_restarts=1, **more)),
            "adv-lib": ("adv-lib", lambda s: s.adv_lib(name, eps=s.eps, norm=float("inf"), n_iter=100, **options)),
        },
        most=theirs["most"],
    )  # fmt: skip


def _nearest() -> Group:
    return Group(
        "the nearest image in L2, 100 steps", "l2",
        {
            "robench fab-t": ("robench", lambda s: s.wide.robench("fab-t", nearest=True)),
            "robench fab-t, 1 target": ("robench", lambda s: s.wide.robench("fab-t", nearest=True, targets=1)),
            "pyautoattack fab-t": ("pyautoattack", lambda s: s.wide.pyautoattack("fab-t")),
            "robench standard": ("robench", lambda s: s.robench("standard")),
            "foolbox BB": ("foolbox", lambda s: s.foolbox("L2BrendelBethgeAttack", nearest=True, steps=100)),
            "foolbox DDN": ("foolbox", lambda s: s.foolbox("DDNAttack", nearest=True, steps=100)),
            "foolbox FMN": ("foolbox", lambda s: s.foolbox("L2FMNAttack", nearest=True, steps=100)),
            "adv-lib DDN": ("adv-lib", lambda s: s.adv_lib("ddn", steps=100, levels=None)),
            "adv-lib FMN": ("adv-lib", lambda s: s.adv_lib("fmn", norm=2, steps=100)),
        },
        most=200, nearest=True,
    )  # fmt: skip


def _pair(part: str, about: str, most: int, **options: Any) -> Group:
    return Group(
        about, "linf",
        {
            "robench": ("robench", lambda s: s.robench(part, **options)),
            "pyautoattack": ("pyautoattack", lambda s: s.pyautoattack(part, **options)),
        },
        most=most,
    )  # fmt: skip


def _worst(norm: str) -> Group:
    theirs = "pyautoattack standard"
    return Group(
        "the worst case, beside AutoAttack's standard version", norm,
        {
            "robench standard": ("robench", lambda s: s.robench("standard")),
            "robench quick": ("robench", lambda s: s.robench("standard", effort="quick")),
            "robench quick-search": ("robench", lambda s: s.robench_search("standard", effort="quick")),
            theirs: ("pyautoattack", lambda s: s.pyautoattack()),
        },
        most=500,
        bounds=(
            Bound("robench standard", theirs, 0.2, 1 / 10, 1 / 5),
            Bound("robench quick", theirs, 1.0, 1 / 40),
            Bound("robench quick-search", theirs, 1.0, 1 / 40),
        ),
    )  # fmt: skip


# who of a group is an effort of `standard`, whose plans change
EFFORTS = {"robench standard": "standard", "robench quick": "quick", "robench quick-search": "quick"}


def edition(who: str) -> int | None:
    """The version of `standard` that a contender runs, or None for others."""
    effort = EFFORTS.get(who)
    return registry.load("attack", "standard").build({"effort": effort}).edition if effort else None


GROUPS: dict[str, Group] = {
    "pgd-40": _pgd40(),
    "pgd-200x20": _pgd200(),
    "apgd-ce": _apgd("apgd-ce", "APGD on the cross-entropy, 100 steps, one start",
                     {"torchattacks": "APGD", "adv-lib": "apgd", "options": {"loss_function": "ce"}, "most": 500}),
    "apgd-t": _apgd("apgd-t", "APGD on the targeted DLR loss, 100 steps, 9 targets",
                    {"torchattacks": "APGDT", "adv-lib": "apgd_targeted", "options": {"num_targets": 9}, "most": 500}),
    "fab-t": _pair("fab-t", "FAB towards 9 targets, 100 steps", 500),
    "square": _pair("square", "Square, 1,000 queries", 500, queries=1000),
    "nearest-l2": _nearest(),
    "worst-case": _worst("linf"),
    "worst-case-l2": _worst("l2"),
}  # fmt: skip


def installed(package: str) -> str | None:
    """The package's version, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def batches(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels by `BATCH`."""
    yield from zip(x.split(BATCH), y.split(BATCH), strict=True)


def craft(made: Crafted, x: Tensor, y: Tensor) -> Tensor:
    """A contender's images for all of x, float32 [n, C, H, W]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cat([made(*part).detach().float() for part in batches(x, y)])

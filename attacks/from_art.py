"""Every attack of the Adversarial Robustness Toolbox that perturbs single images of a classifier."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robench import BadInput, Batch
from robench_attacks.libraries import CountedModel, LibraryAttack, built, constructor_options, expected_passes

NORMS = {"linf": np.inf, "l2": 2}
ONE_NORM = {"BasicIterativeMethod": "linf", "CarliniLInfMethod": "linf", "CarliniL2Method": "l2", "DeepFool": "l2"}
RESERVED = (
    "estimator", "classifier", "eps", "norm", "targeted", "batch_size", "verbose", "summary_writer",
    "parallel_pool_size",
)  # fmt: skip
UNUSABLE = {
    "AdversarialPatch": "makes a patch, not an image for an image",
    "AdversarialPatchNumpy": "makes a patch, not an image for an image",
    "AdversarialPatchPyTorch": "makes a patch, not an image for an image",
    "FeatureAdversariesNumpy": "must be given images to imitate",
    "FeatureAdversariesPyTorch": "must be given images to imitate",
    "GeoDA": "does not run with NumPy 2",
    "LowProFool": "is for tables, not images",
    "OverTheAirFlickeringPyTorch": "is for videos",
    "ShadowAttack": "takes one image at a time",
    "SimBA": "needs a model of probabilities, not logits",
    "TargetedUniversalPerturbation": "must be given a class to reach",
    "VirtualAdversarialMethod": "needs a model of probabilities, not logits",
}
QUERY = (
    "BoundaryAttack", "HopSkipJump", "PixelAttack", "SignOPTAttack", "SquareAttack", "ThresholdAttack", "ZooAttack",
)  # fmt: skip
NOISE = ("SpatialTransformation",)  # tries moves and turns, without a search
# take every step whatever the model makes of the image; the others stop, or give it back as it was
TO_THE_END = (
    "BasicIterativeMethod", "FastGradientMethod", "MomentumIterativeMethod", "ProjectedGradientDescent",
    "ProjectedGradientDescentNumpy", "ProjectedGradientDescentPyTorch",
)  # fmt: skip
AIMED = ("SaliencyMapMethod",)  # takes labels for the classes to reach; without them it draws some


class Toolbox(LibraryAttack):
    """Any evasion attack of the Adversarial Robustness Toolbox, named art:NAME (Nicolae et al., 2018).

    Options are its constructor's, but for eps and norm, which are the threat model's. eps_step, where there is one, is
    in pixels; by default it is the share of eps that it is in the library's own defaults (0.1 of 0.3 in most).
    restarts: independent runs, each over the examples still standing.
    """

    family: ClassVar[bool] = True
    package: ClassVar[str] = "adversarial-robustness-toolbox"
    logger: ClassVar[str] = "art"

    @classmethod
    def members(cls) -> list[str]:
        """Names of the toolbox's evasion attacks on classifiers in PyTorch."""
        from art.attacks import EvasionAttack, evasion
        from art.estimators.classification import PyTorchClassifier

        found = [kind for kind in vars(evasion).values() if inspect.isclass(kind) and issubclass(kind, EvasionAttack)]
        return sorted(
            kind.__name__
            for kind in found
            if kind._estimator_requirements
            and all(_serves(PyTorchClassifier, need) for need in kind._estimator_requirements)
            and "TensorFlow" not in kind.__name__
        )

    @classmethod
    def member_options(cls, member: str) -> dict[str, inspect.Parameter]:
        """What the attack's constructor takes; raises BadInput for an attack that cannot be used here."""
        if member in UNUSABLE:
            raise BadInput(f"The attack 'art:{member}' {UNUSABLE[member]}; use another.")
        kind = _attack(member)
        options = constructor_options(f"art:{member}", kind, RESERVED, cls.package)
        if _step_share(kind) is not None:
            options["eps_step"] = options["eps_step"].replace(default=None, annotation=float | None)
        return options

    def __init__(self, member: str, *, restarts: int, library: str, **options: Any) -> None:
        super().__init__(f"art:{member}", restarts, library)
        self._kind = _attack(member)
        self._takes = inspect.signature(self._kind).parameters
        self._share, self._options = _step_share(self._kind), options
        self.norms = (ONE_NORM[member],) if member in ONE_NORM else tuple(NORMS)
        self.expected, self.version = expected_passes(options), 2 if member in AIMED else 1
        self._classify(member, options)
        shape = torch.zeros(1, 1, 8, 8)
        model = nn.Sequential(nn.Flatten(), nn.PReLU())
        self._made(model, shape, 64, self.norms[0], 1.0)  # what it refuses, it refuses before any work

    def _classify(self, member: str, options: dict[str, Any]) -> None:
        """How it gets at the model, how it searches, and whether it goes on once an image is broken."""
        self.access = "noise" if member in NOISE else "white-box"
        single = (member == "FastGradientMethod" and not options["minimal"]) or options.get("max_iter") == 1
        self.kind = "query" if member in QUERY else "single-step" if single else "iterative"
        self.transfers = member in TO_THE_END and not options.get("minimal")

    def run(self, model: CountedModel, x: Tensor, batch: Batch, seed: int) -> Tensor:
        """Its `generate`, given the labels."""
        del seed
        attack = self._made(model, x, model.classes, batch.threat.norm, batch.threat.radius)
        labels = nn.functional.one_hot(batch.y, model.classes).float().cpu().numpy()
        found = attack.generate(x=x.cpu().numpy(), y=None if self._kind.__name__ in AIMED else labels)
        if not isinstance(found, np.ndarray) or found.shape != x.shape:
            raise BadInput(f"The attack {self.name!r} does not answer with an image for an image; use another.")
        return torch.from_numpy(found)

    def _made(self, model: nn.Module, x: Tensor, classes: int, norm: str, radius: float) -> Any:
        """The library's attack on a model of images x [B, C, H, W]; raises BadInput where it refuses its options."""
        from art.estimators.classification import PyTorchClassifier

        given = {
            "norm": NORMS[norm], "eps": radius, "targeted": False, "batch_size": len(x), "verbose": False,
        }  # fmt: skip
        if self._share is not None and self._options["eps_step"] is None:
            given["eps_step"] = self._share * radius
        given = {key: value for key, value in given.items() if key in self._takes}
        if "norm" in given and isinstance(self._takes["norm"].default, str):  # a distance of the attack's own
            del given["norm"]
        options = self._options | given
        device = "gpu" if x.is_cuda else "cpu"
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0), device_type=device
        )
        return built(self.name, lambda: self._kind(classifier, **options))


def _attack(member: str) -> type:
    from art.attacks import evasion

    found: type = getattr(evasion, member)
    return found


def _serves(estimator: type, need: Any) -> bool:
    """Whether an estimator is what an attack requires: a class, or any of several."""
    return any(kind in estimator.__mro__ for kind in (need if isinstance(need, tuple) else (need,)))


def _step_share(kind: type) -> float | None:
    """eps_step / eps in the constructor's defaults, or None where it lacks one of them."""
    found = inspect.signature(kind).parameters
    if "eps_step" not in found or "eps" not in found:
        return None
    return float(found["eps_step"].default / found["eps"].default)

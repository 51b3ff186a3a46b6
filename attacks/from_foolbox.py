"""Every attack of foolbox that fits one of the threat models."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import torch
from torch import Tensor

from robench import BadInput, Batch
from robench_attacks.libraries import CountedModel, LibraryAttack, built, constructor_options, expected_passes

NORMS = {torch.inf: "linf", 2: "l2"}
RESERVED = ("distance", "tensorboard")
UNUSABLE = {
    "SpatialAttack": "moves and turns images, which no norm bounds",
    "DatasetAttack": "must be given images to draw from",
    "BinarizationRefinementAttack": "must be given images to start from",
    "GenAttack": "must be given a class to reach",
}
QUERY = ("BoundaryAttack", "HopSkipJumpAttack", "PointwiseAttack")  # search by answers alone
NOISE = re.compile("Noise|Blur|ContrastReduction|Inversion")  # spoil an image without a search
SINGLE = re.compile("(Linf|L2)FastGradientAttack")


class Foolbox(LibraryAttack):
    """Any attack of foolbox, named foolbox:LinfPGD, with its constructor's options (Rauber et al., 2020).

    Attacks bounded by an epsilon get the threat model's; those that look for the smallest perturbation may stop there.
    An attack of linf or L2 supports its own norm, a minimising one of another distance both, since proposals are
    projected. restarts: independent runs, each over the examples still standing.
    """

    family: ClassVar[bool] = True
    package: ClassVar[str] = "foolbox"
    logger: ClassVar[str] = "foolbox"

    @classmethod
    def members(cls) -> list[str]:
        """Names of foolbox's attacks, its short ones included."""
        from foolbox import attacks

        found = [(name, kind) for name, kind in vars(attacks).items() if inspect.isclass(kind)]
        return sorted(name for name, kind in found if issubclass(kind, attacks.Attack) and not inspect.isabstract(kind))

    @classmethod
    def member_options(cls, member: str) -> dict[str, inspect.Parameter]:
        """What the attack's constructor takes; raises BadInput for an attack that cannot be used here."""
        from foolbox import attacks

        if member in UNUSABLE:
            raise BadInput(f"The attack 'foolbox:{member}' {UNUSABLE[member]}; use another.")
        return constructor_options(f"foolbox:{member}", getattr(attacks, member), RESERVED, cls.package)

    def __init__(self, member: str, *, restarts: int, library: str, **options: Any) -> None:
        from foolbox import attacks

        super().__init__(f"foolbox:{member}", restarts, library)
        kind = getattr(attacks, member)
        self._attack: Any = built(self.name, lambda: kind(**options))
        self._fixed = isinstance(self._attack, attacks.base.FixedEpsilonAttack)
        self.norms, self.expected = self._norms(), expected_passes(options)
        self._classify(kind.__name__, options)

    def run(self, model: CountedModel, x: Tensor, batch: Batch, seed: int) -> Tensor:
        """Its `run`, which neither clips nor judges."""
        import foolbox

        del seed
        radius = batch.threat.radius
        bound = {"epsilon": radius} if self._fixed else {"early_stop": radius}
        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        found: Tensor = self._attack.run(seen, x, foolbox.criteria.Misclassification(batch.y), **bound)
        return found

    def _classify(self, name: str, options: dict[str, Any]) -> None:
        """How it gets at the model, how it searches, and whether it goes on once an image is broken."""
        self.access = "noise" if NOISE.search(name) else "white-box"
        single = SINGLE.fullmatch(name) or options.get("steps") == 1
        self.kind = "query" if name in QUERY else "single-step" if single else "iterative"
        self.transfers = self._fixed and "Repeated" not in name

    def _norms(self) -> tuple[str, ...]:
        try:
            p = self._attack.distance.p
        except (ValueError, AttributeError):  # a distance of one's choice
            p = None
        if p in NORMS:
            return (NORMS[p],)
        if self._fixed:
            raise BadInput(f"The attack {self.name!r} is bounded in L{p}, which is no norm here; use another.")
        return tuple(NORMS.values())

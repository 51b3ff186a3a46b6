"""AutoAttack and its parts, from pyautoattack."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from robench import Batch, Cost, Kind, Range, Restarts, Steps, ThreatModel, check_count
from robench_attacks.libraries import CountedModel, LibraryAttack, library_of, option

LIBRARY = library_of("pyautoattack")
NORMS = {"linf": "Linf", "l2": "L2"}
LOGITS = {"apgd-t": 4, "apgd-dlr": 3}  # how many the losses of these need
# the library keeps nothing per query or target; a search of the upper ends takes days, but ends
Queries = Annotated[int, Range(1, 1_000_000)]
Targets = Annotated[int, Range(1, 1000)]
SETTINGS: dict[str, tuple[Any, int]] = {
    "steps": (Steps, 100),
    "restarts": (Restarts, 1),
    "targets": (Targets, 9),
    "queries": (Queries, 5000),
}
PARTS = {
    "apgd-ce": ("steps", "restarts"),
    "apgd-dlr": ("steps", "restarts"),
    "apgd-t": ("steps", "targets", "restarts"),
    "fab-t": ("steps", "targets"),
    "square": ("queries", "restarts"),
}
WEAKER = {"apgd-t": "apgd-dlr", "apgd-dlr": "apgd-ce"}


@dataclass(frozen=True)
class Work:
    """How much AutoAttack does; None leaves a version's own figure."""

    steps: int = 100
    queries: int = 5000
    targets: int = 9
    restarts: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "queries", "targets", "restarts"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))


class Ensemble(LibraryAttack):
    """pyautoattack's evaluation of a batch, without its state file and messages.

    Targeted attacks take at most classes - 1 targets. Where there are too few classes for a loss, the nearest attack
    that is defined runs instead: untargeted APGD-DLR for targeted with 3 classes, APGD-CE for both with 2.
    """

    package: ClassVar[str] = "pyautoattack"
    logger: ClassVar[str] = "auto-attack"
    part: str = ""
    norms: ClassVar[tuple[str, ...]] = tuple(NORMS)
    transfers: ClassVar[bool] = False

    def __init__(self, kind: str, work: Work, library: str) -> None:
        super().__init__(
            self.part or "autoattack", 1, library
        )  # one trial: the library's own restarts drop what is broken
        self._kind, self._work = kind, work
        self.boundary = self.part == "fab-t" or (not self.part and kind != "rand")

    def run(self, model: CountedModel, x: Tensor, batch: Batch, seed: int) -> Tensor:
        """Adversarial examples where there are any, else the images."""
        library = self._library(model, batch.threat, model.classes, seed=seed, device=x.device)
        found: Tensor = library.run_standard_evaluation(x, batch.y, batch_size=len(x))[0]
        return found

    def passes(self, threat: ThreatModel, classes: int) -> Cost:
        """Those of its parts one after another, and the library's checks of the model before them."""
        library = self._library(nn.Identity(), threat, classes, seed=0, device="cpu")
        parts = [part_passes(library, name, classes) for name in library.attacks_to_run]
        checks = 3 if library.version == "rand" else 8
        return Cost(sum(back for back, _ in parts), checks + sum(there for _, there in parts))

    def _library(self, model: nn.Module, threat: ThreatModel, classes: int, **settings: Any) -> Any:
        """The library's ensemble under `threat`, set to this attack's work."""
        import pyautoattack

        chosen: dict[str, Any] = {"version": "custom", "attacks": [self.part]} if self.part else {"version": self._kind}
        library = pyautoattack.AutoAttack(model, norm=NORMS[threat.norm], eps=threat.radius, **settings, **chosen)
        library.attacks_to_run = self.defined(library.attacks_to_run, classes)
        self._configure(library, classes)
        return library

    def defined(self, names: list[str], classes: int) -> list[str]:
        """The attacks of `names` whose losses are defined for so many classes, or what stands in for them."""
        return list(dict.fromkeys(_defined(name, classes) for name in names))

    def _configure(self, library: Any, classes: int) -> None:
        work, targets = self._work, min(self._work.targets, classes - 1)
        for name in ("apgd", "apgd_targeted"):
            old = getattr(library, name)
            restarts = old.n_restarts if work.restarts is None else work.restarts
            new = type(old)(
                library.model, n_iter=work.steps, n_restarts=restarts, norm=library.norm, eps=library.epsilon,
                seed=library.seed, eot_iter=old.eot_iter, device=library.device, logger=library.logger,
            )  # fmt: skip
            setattr(library, name, new)
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
        library.fab.n_iter, library.square.n_queries = work.steps, work.queries
        library.square.n_restarts = work.restarts or library.square.n_restarts


def part_passes(library: Any, name: str, classes: int) -> tuple[int, int]:
    """The most backward and forward passes that a part of the library's ensemble takes per example.

    Every part asks once for the clean answer and once for its verdict.
    """
    if name == "square":
        return 0, library.square.n_restarts * (library.square.n_queries + 2) + 2
    if name in ("fab", "fab-t"):  # a backward pass per class in the one, per step in the other; a verdict per step
        runs, each, steps = library.fab.n_restarts, classes, library.fab.n_iter
        if name == "fab-t":
            runs, each = library.fab.n_target_classes, 1
        return runs * steps * each, runs * (2 * steps + (3 if name == "fab-t" else 2)) + 2
    apgd = library.apgd_targeted if name == "apgd-t" else library.apgd
    runs = apgd.n_restarts * (apgd.n_target_classes if name == "apgd-t" else 1)
    steps = runs * apgd.eot_iter * (apgd.n_iter + 1)
    return steps, steps + 2 + (runs if name == "apgd-t" else 0)


def _defined(name: str, classes: int) -> str:
    while classes < LOGITS.get(name, 2):
        name = WEAKER[name]
    return name


class AutoAttack(Ensemble):
    """APGD-CE, targeted APGD-DLR and FAB, and Square, each on what the others left (Croce and Hein, 2020).

    version: "standard", "plus" (five restarts, untargeted APGD-DLR and FAB too) or "rand" (for random models: APGD-CE
    and -DLR over 20 draws a step). Other `steps` or `queries` than the default make it something weaker than
    AutoAttack. With fewer than 4 classes, see `Ensemble`.
    """

    kind: ClassVar[Kind] = "ensemble"

    def __init__(
        self,
        *,
        version: Literal["standard", "plus", "rand"] = "standard",
        steps: Steps = 100,
        queries: Queries = 5000,
        library: str = LIBRARY,
    ) -> None:
        super().__init__(version, Work(steps, queries), library)


class Part(Ensemble):
    """One of AutoAttack's parts as pyautoattack has it, named library:apgd-t, beside our own of the same name.

    A part whose loss is not defined for so few classes is replaced as in `Ensemble`.
    """

    family: ClassVar[bool] = True

    @classmethod
    def members(cls) -> list[str]:
        """Names of the parts that every version of AutoAttack consists of."""
        return list(PARTS)

    @classmethod
    def member_options(cls, member: str) -> dict[str, inspect.Parameter]:
        """The options of a part, with the settings that AutoAttack has."""
        found = {name: option(name, *SETTINGS[name]) for name in PARTS[member]}
        return found | {"library": option("library", str, LIBRARY)}

    def __init__(self, member: str, *, library: str, **options: int) -> None:
        self.part = member
        super().__init__("custom", Work(**options), library)
        self.name = f"library:{member}"
        self.kind = "query" if member == "square" else "iterative"

"""What `robench evaluate` was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robench import registry
from robench.attack.judge import Settings
from robench.detector.request import DetectorRequest
from robench.device import PRECISIONS, check_device, precision_on
from robench.errors import BadInput, require
from robench.evaluation.address import How
from robench.ranges import hold
from robench.threat import ThreatModel


def check_dataset(name: object) -> None:
    """Raise BadInput for what is neither a dataset's name nor None, which stands for the model's own."""
    known = name is None or (isinstance(name, str) and bool(name.strip()))
    require(known, "--dataset", name, "a dataset's name or reference (see 'robench list datasets'), such as npz:PATH")


@dataclass(frozen=True)
class Request:
    """What `robench evaluate` was asked for. `count` None means every test image; `models` empty, every trained one.

    An option goes to the attacks and the detector that have it. With `surrogates` the images are crafted on each of
    those models instead. With `guide` attacks ask the models and follow the gradients of that one. With `guard` a
    detector is measured on every attack's images, and attacked together with the model if it says so. With `cascade` an
    attack only sees what the ones before it left standing, and its figure is that of all of them. `search_precision` is
    what gradients are taken in where an attack allows it: no verdict is, but which images are found may depend on it.
    `max_passes` is what an image may cost an attack, or a cascade in all, in forward passes, a backward pass counted as
    two. `classes` is how many the data have, where their labels and the model do not say so. `fresh` computes anew what
    is in the store, `probe` marks it as no figure to rank.
    """

    models: Sequence[str | nn.Module]
    attacks: Sequence[str]
    threat: ThreatModel
    dataset: str | None = None
    count: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 250
    shard_size: int = 250
    device: str = "auto"
    data_root: Path | None = None
    surrogates: Sequence[str | nn.Module] = ()
    guide: str | nn.Module | None = None
    guard: DetectorRequest | None = None
    eot: int = 1
    bpda: Sequence[str] = ()
    search_precision: str = "fp32"
    max_passes: int | None = None
    cascade: bool = False
    classes: int | None = None
    fresh: bool = False
    probe: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        hold(self, count="-n?", eot="--eot", seed="--seed", batch_size="--batch-size", shard_size="--shard-size")
        hold(self, max_passes="--max-passes?")
        check_device(self.device)
        known = self.search_precision in PRECISIONS
        require(known, "--search-precision", self.search_precision, f"one of {', '.join(PRECISIONS)}")
        if self.guard and self.surrogates:
            raise BadInput("--detector and --surrogate are given together; give one of them.")
        if self.cascade and (self.guard or self.surrogates):
            raise BadInput("--cascade is given with --detector or --surrogate; give it alone.")
        self._check_guide()
        if not self.attacks:
            raise BadInput(
                "No attack is named; give --attack with one or more of: "
                f"{', '.join([*registry.names('attack'), *registry.names('set')])}."
            )

    def _check_guide(self) -> None:
        """Raise BadInput for what goes with no guide: its gradients are neither the model's nor a detector's."""
        guide = self.guide
        known = guide is None or isinstance(guide, nn.Module) or (isinstance(guide, str) and bool(guide.strip()))
        require(known, "--guide", guide, "a model: a reference such as file.py:factory, or a module")
        others = {
            "--surrogate": bool(self.surrogates),
            "--detector": self.guard is not None,
            "--cascade": self.cascade,
            "--eot": self.eot > 1,
            "--bpda": bool(self.bpda),
            "--search-precision": self.search_precision != "fp32",
        }
        given = [name for name, there in others.items() if there]
        if guide is not None and given:
            raise BadInput(f"--guide is given with {given[0]}, which goes with the models' own gradients; give one.")

    def _check_names(self) -> None:
        """Take one name for a list of it, and raise BadInput for what is no name."""
        for flag, name, kinds, what in (
            ("model", "models", str | nn.Module, "references such as file.py:factory, or modules"),
            ("--attack", "attacks", str, "names of attacks or sets"),
            ("--surrogate", "surrogates", str | nn.Module, "references such as file.py:factory, or modules"),
            ("--bpda", "bpda", str, "names of submodules"),
        ):
            value = getattr(self, name)
            several = isinstance(value, Iterable) and not isinstance(value, kinds)
            value = list(value) if several else [value]
            known = all(isinstance(each, kinds) for each in value)
            require(known, flag, value, f"a list of {what}")
            object.__setattr__(self, name, value)
        check_dataset(self.dataset)
        require(isinstance(self.cascade, bool), "cascade", self.cascade, "True or False")
        named = isinstance(self.options, Mapping) and all(isinstance(name, str) for name in self.options)
        require(named, "options", self.options, "a dictionary of options by name, such as {'steps': 100}")
        place = self.data_root
        require(place is None or isinstance(place, str | Path), "data", place, "a folder")

    @property
    def precision(self) -> str:
        """What gradients are taken in, on the device where the request was made. Raises BadInput as `settings`."""
        return precision_on(self.search_precision, self.device)

    @property
    def how(self) -> How:
        """How everything is computed."""
        return How(self.batch_size, self.shard_size, self.device, self.data_root, self.probe)

    @property
    def settings(self) -> Settings:
        """How shards are computed."""
        return self.how.settings(self.seed, self.eot, tuple(self.bpda))

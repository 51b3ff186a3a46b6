"""What `robench evaluate` was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robench import registry
from robench.attack.judge import Settings
from robench.detector.request import DetectorRequest
from robench.errors import BadInput
from robench.evaluation.address import How, check_numbers
from robench.threat import ThreatModel


@dataclass(frozen=True)
class Request:
    """What `robench evaluate` was asked for. `count` None means every test image; `models` empty, every trained one.

    An option goes to the attacks and the detector that have it. With `surrogates` the images are crafted on each of
    those models instead. With `guard` a detector is measured on every attack's images, and attacked together with the
    model if it says so. With `cascade` an attack only sees what the ones before it left standing, and its figure is
    that of all of them. `fresh` computes anew what is in the store, `probe` marks it as no figure to rank.
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
    guard: DetectorRequest | None = None
    eot: int = 1
    bpda: Sequence[str] = ()
    cascade: bool = False
    fresh: bool = False
    probe: bool = False

    def __post_init__(self) -> None:
        check_numbers(self.count, self.eot, self.seed, self.how)
        if self.guard and self.surrogates:
            raise BadInput("--detector and --surrogate are given together; give one of them.")
        if self.cascade and (self.guard or self.surrogates):
            raise BadInput("--cascade is given with --detector or --surrogate; give it alone.")
        if not self.attacks:
            raise BadInput(
                "No attack is named; give --attack with one or more of: "
                f"{', '.join([*registry.names('attack'), *registry.names('set')])}."
            )

    @property
    def how(self) -> How:
        """How everything is computed."""
        return How(self.batch_size, self.shard_size, self.device, self.data_root, self.probe)

    @property
    def settings(self) -> Settings:
        """How shards are computed."""
        return self.how.settings(self.seed, self.eot, tuple(self.bpda))

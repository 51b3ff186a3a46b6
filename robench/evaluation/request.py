"""What `robench evaluate` was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from robench import registry
from robench.attack.judge import Settings
from robench.detector.request import DetectorRequest
from robench.device import choose_device
from robench.errors import BadInput
from robench.threat import ThreatModel


@dataclass(frozen=True)
class Request:
    """What `robench evaluate` was asked for. `count` None means every test image; `models` empty, every trained one.

    With `surrogates` the images are crafted on each of those models instead. With `guard` a detector is measured on
    every attack's images, and attacked together with the model if it says so. With `cascade` an attack only sees what
    the ones before it left standing, and its figure is that of all of them; `after` holds the id of the evaluation
    before it and the names of all attacks before it.
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
    after: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        for name, value in (("-n", self.count), ("--batch-size", self.batch_size), ("--shard-size", self.shard_size),
                            ("--eot", self.eot)):  # fmt: skip
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}, but must be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"--seed is {self.seed}, but must be between 0 and 2^63 - 1.")
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
    def settings(self) -> Settings:
        """How shards are computed."""
        device = choose_device(self.device)
        return Settings(self.seed, self.batch_size, device, draws=self.eot, bpda=tuple(self.bpda))

    def to_json(self) -> dict[str, Any]:
        """The request as JSON types; raises BadInput where it holds a module, which cannot be sent anywhere."""
        for model in (*self.models, *self.surrogates):
            if not isinstance(model, str):
                raise BadInput(
                    f"The model {type(model).__name__} was handed over in a program, so only this process has it; use "
                    "the inline executor, or give file.py:factory."
                )
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {name: list(plain[name]) for name in ("models", "attacks", "surrogates", "bpda")}
        return plain | {
            "threat": [self.threat.norm, str(self.threat.eps)],
            "options": dict(self.options),
            "data_root": str(self.data_root.resolve()) if self.data_root else None,
            "guard": asdict(self.guard) if self.guard else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Request:
        """The request of `to_json`."""
        return cls(**{
            **value,
            "threat": ThreatModel.of(*value["threat"]),
            "data_root": Path(value["data_root"]) if value["data_root"] else None,
            "guard": DetectorRequest(**value["guard"]) if value["guard"] else None,
            "after": tuple(value["after"]) if value["after"] else None,
        })  # fmt: skip

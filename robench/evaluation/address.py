"""The address of one piece of work: one model under one attack, and all that decides what comes of it, wherever it is
computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from robench.attack.base import Attack
from robench.attack.judge import Settings
from robench.detector.request import DetectorRequest
from robench.device import check_device, choose_device
from robench.errors import BadInput
from robench.ranges import hold
from robench.threat import ThreatModel

if TYPE_CHECKING:
    from robench.data.dataset import Dataset

# images per batch and per shard where nothing else is said
SIZE = 250


@dataclass(frozen=True)
class How:
    """How work is computed: images per batch and per shard, the device, and the folder of data. That is speed and
    decides no figure, but for attacks that say that batches do (`Attack.batched`).

    probe: whether it is asked about gradients and not for a figure to rank.
    """

    batch_size: int = SIZE
    shard_size: int = SIZE
    device: str = "auto"
    data_root: Path | None = None
    probe: bool = False

    def batches(self, attack: Attack) -> dict[str, Any]:
        """The sizes that the figure of an attack depends on, where they are not the usual ones, by their names."""
        sizes = {"batch_size": self.batch_size, "shard_size": self.shard_size} if attack.batched else {}
        return {name: size for name, size in sizes.items() if size != SIZE}

    def __post_init__(self) -> None:
        hold(self, batch_size="--batch-size", shard_size="--shard-size")
        check_device(self.device)

    def settings(self, seed: int, eot: int, bpda: tuple[str, ...]) -> Settings:
        """How shards are computed. Raises BadInput for a device that there is not."""
        return Settings(seed, self.batch_size, choose_device(self.device), draws=eot, bpda=bpda)


@dataclass(frozen=True)
class After:
    """What an attack of a cascade goes on from: the evaluation before it, and the names of all attacks before it."""

    job: str
    attacks: str


@dataclass(frozen=True)
class Below:
    """What images are taken to stand by: the same attack's evaluation within a larger eps, and that eps as text."""

    job: str
    eps: str


@dataclass(frozen=True)
class Address:
    """One model under one attack.

    options: those that were given for the attack, which are not the detector's. count: None means every test image.
    classes: how many the data have, None for what their labels and the model say. search_precision: what gradients are
    taken in where the attack allows it, "fp32" or "bf16", wherever it is computed. max_passes: what an image may cost
    in forward passes, None for what the attack takes. imported: the digest of images that were made elsewhere, which
    the attack stands for, of the examples from start on, in the test images' own order or in that of a draw.
    surrogate: the model that the images are crafted on instead. guide: the model whose gradients are followed. guard:
    the detector that is attacked with the model, its own options among it; None for the model alone.
    """

    model: str | nn.Module
    attack: str
    options: Mapping[str, Any]
    threat: ThreatModel
    dataset: str | None = None
    count: int | None = None
    seed: int = 0
    surrogate: str | nn.Module | None = None
    guide: str | nn.Module | None = None
    guard: DetectorRequest | None = None
    eot: int = 1
    bpda: tuple[str, ...] = ()
    after: After | None = None
    below: Below | None = None
    classes: int | None = None
    search_precision: str = "fp32"
    max_passes: int | None = None
    start: int = 0
    imported: str | None = None
    draw: str | None = None
    how: How = field(default_factory=How)

    def __post_init__(self) -> None:
        hold(self, count="-n?", eot="--eot", seed="--seed", max_passes="--max-passes?")

    @property
    def behind(self) -> bool:
        """Whether a detector is attacked too."""
        return self.guard is not None

    def way(self, dataset: Dataset) -> str | None:
        """How its images are drawn: those that were made elsewhere are of what their file says, else of the data's."""
        return self.draw if self.imported else dataset.way(self.count)

    @property
    def models(self) -> tuple[str | nn.Module, ...]:
        """The models that must be opened for it."""
        return (self.model, *(each for each in (self.surrogate, self.guide) if each is not None))

    @property
    def settings(self) -> Settings:
        """How its shards are computed."""
        return self.how.settings(self.seed, self.eot, self.bpda)

    def on(self, device: str) -> Address:
        """The same piece of work on another device."""
        return replace(self, how=replace(self.how, device=device))

    def to_json(self) -> dict[str, Any]:
        """The address as JSON types; raises BadInput where it holds a module, which cannot be sent anywhere."""
        for model in self.models:
            if not isinstance(model, str):
                raise BadInput(
                    f"The model {type(model).__name__} was handed over in a program, so only this process has it; use "
                    "the inline executor, or give file.py:factory."
                )
        root = self.how.data_root
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "options": dict(self.options),
            "threat": [self.threat.norm, str(self.threat.eps)],
            "guard": asdict(self.guard) if self.guard else None,
            "bpda": list(self.bpda),
            "after": asdict(self.after) if self.after else None,
            "below": asdict(self.below) if self.below else None,
            "how": {**asdict(self.how), "data_root": str(root.resolve()) if root else None},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Address:
        """The address of `to_json`."""
        how = value["how"]
        return cls(**{
            **value,
            "threat": ThreatModel.of(*value["threat"]),
            "guard": DetectorRequest(**value["guard"]) if value["guard"] else None,
            "bpda": tuple(value["bpda"]),
            "after": After(**value["after"]) if value["after"] else None,
            "below": Below(**value["below"]) if value.get("below") else None,
            "how": How(**{**how, "data_root": Path(how["data_root"]) if how["data_root"] else None}),
        })  # fmt: skip

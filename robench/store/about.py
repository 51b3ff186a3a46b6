"""What is recorded beside an evaluation's spec: names, what the attack was up against, and what it ran on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from robench.data_names import DataName, parse
from robench.errors import BadInput
from robench.references import Reference, is_relative

# fields that are written where they say something
UNUSUAL = ("mended", "probe", "guide", "guide_reference")


@dataclass(frozen=True)
class About:
    """The record of an evaluation, or of a crafting. Nothing here enters its identity.

    reference: how to find the model again, "" for one handed over in a program. eps: as it was asked for.
    given_options: those that differ from the attack's own. metric: a `Measure` by its name. access: "white-box",
    "noise", "transfer", "guided" or "detector". kind: how the attack searches, "single-step", "iterative" or "query",
    or what its access is. folder: where it ran, "" where neither the model's reference nor the data's name depends on
    it. classes: how many the data have; images: how many test images; chance: the share of the largest class among
    those; names: the classes' own, if they have any. guide, guide_reference: the name of the model whose gradients were
    followed, and how to find it again, "" where there is none. against: what it was up against beside the model, as the
    end of a label. mended: the first record was lost. probe: it was run for the diagnostics alone. more: what a later
    robench recorded; lacks: the fields that an earlier one did not.
    """

    model: str
    reference: str
    dataset: str
    eps: str
    given_options: dict[str, Any]
    metric: str
    access: str
    command: str
    environment: dict[str, Any]
    kind: str = ""
    against: str = ""
    surrogate: str = ""
    surrogate_digest: str = ""
    guide: str = ""
    guide_reference: str = ""
    batch_size: int | None = None
    device: str | None = None
    folder: str = ""
    classes: int | None = None
    images: int | None = None
    chance: float | None = None
    names: list[str] | None = None
    mended: bool = False
    probe: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> About:
        """The record in a file; one of before a field was added goes without it, one of later keeps what is new."""
        known = {each.name for each in fields(cls)} - {"more", "lacks"}
        lacks = tuple(sorted(known - value.keys() - set(UNUSUAL)))
        found = {name: item for name, item in value.items() if name in known}
        found.setdefault("kind", value["access"])
        return cls(**found, lacks=lacks, more={name: item for name, item in value.items() if name not in known})

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        plain: dict[str, Any] = asdict(self)
        more: dict[str, Any] = plain.pop("more")
        absent = {"lacks", *self.lacks} | {name for name in UNUSUAL if not getattr(self, name)}
        return {name: item for name, item in plain.items() if name not in absent and item is not None} | more

    def at_hand(self, name: str) -> str:
        """The model's reference or the data's name, of this record, with the path that leads there from here: the one
        from its own folder where something is there, which from that folder itself is the name as it is."""
        if not self.folder or self.folder == os.getcwd():
            return name
        if (data := _data(name)) is not None:
            return str(data.at(self._there))
        return str(Reference.parse(name).moved(self.folder)) if paths_of(name) else name

    def _there(self, path: str) -> str:
        """A relative path as it leads from here to where it led from the record's own folder, if something is there."""
        there = os.path.join(self.folder, path)
        return there if os.path.exists(there) or os.path.exists(there.rpartition("@")[0] or there) else path

    @property
    def probes(self) -> bool:
        """Whether it was run for the diagnostics alone; records of before this was noted tell it by their command."""
        words = self.command.split()
        return self.probe or ("robench" in words[:3] and words[words.index("robench") + 1 :][:1] == ["diagnose"])

    @property
    def commit(self) -> str:
        """The commit of robench that it was made with, "" where it did not run from a checkout."""
        return str(self.environment["commit"])

    @property
    def torch(self) -> str:
        """The version of torch that it was made with."""
        return str(self.environment["packages"]["torch"])


def path_of(name: str) -> str:
    """A relative path in the name of a user's data; "" where there is none."""
    data = _data(name)
    return next(iter(data.relative), "") if data is not None else ""


def _data(name: str) -> DataName | None:
    """Data whose name holds a path, taken apart; None for any other name."""
    try:
        data = parse(name)
    except BadInput:  # no name of data
        return None
    return data if data.relative else None


def paths_of(name: str) -> list[str]:
    """The relative paths in the reference of a model; none in the name of data."""
    return [] if path_of(name) else [path for path in Reference.parse(name).paths if is_relative(path)]


def depends_on_folder(*names: str) -> bool:
    """Whether one of these names means something else in another folder."""
    return any(path_of(name) or paths_of(name) for name in names)

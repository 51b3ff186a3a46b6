"""How data are named: NAME or KIND:PLACE, and after a "?" how they are to be read, as in npz:x.npz?labels-from=1."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from robench.errors import BadInput, shown

# kinds of data that are the user's own and lie at a path
PATHS = ("npz", "npy", "pt", "csv", "parquet", "folder")
KINDS = (*PATHS, "medmnist", "hf-data", "memory")
# setting -> what it says; those that say nothing more than that they are there have no value
SETTINGS = {
    "ids": "a file that lists the test images",
    "eps": "the eps of the listed images that are meant, where the list has one per image",
    "labels-from": "the number of the first class",
    "one-hot": "labels are one-hot",
    "layout": "chw or hwc",
    "range": "what the pixels reach from and to, such as 0..255",
    "draw": "first or balanced",
    "channels": "1 or 3",
    "names": "the classes' names in the order of their numbers",
    "images": "the key or column of images, or a file of them",
    "labels": "the key or column of labels, or a file of them",
    "split": "the split that is the test split",
    "config": "the configuration of a data set that has several",
    "size": "the side that images are brought to, in pixels",
}
BARE = ("one-hot",)
# settings whose value is a path where it is one
PLACES = ("ids", "labels")
_PLAIN = "/:.,~@+-_ *()[]{}'!"


@dataclass(frozen=True)
class DataName:
    """A data name taken apart. kind: "" for a catalogued name; settings: how it is to be read."""

    kind: str
    place: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The name without its settings."""
        return f"{self.kind}:{self.place}" if self.kind else self.place

    def __str__(self) -> str:
        told = [key if key in BARE else f"{key}={quote(value, safe=_PLAIN)}" for key, value in self.settings.items()]
        return f"{self.base}?{'&'.join(told)}" if told else self.base

    @property
    def relative(self) -> list[str]:
        """The relative paths in it."""
        paths = [self.place] if self.kind in PATHS else []
        paths += [self.settings[key] for key in PLACES if key in self.settings and (key == "ids" or self.kind == "npy")]
        return [path for path in paths if relative(path)]

    def at(self, lead: Callable[[str], str]) -> DataName:
        """The same with each relative path as `lead` makes it."""
        place = lead(self.place) if self.place in self.relative else self.place
        moved = {key: lead(value) if key in PLACES and value in self.relative else value
                 for key, value in self.settings.items()}  # fmt: skip
        return replace(self, place=place, settings=moved)

    def having(self, **settings: str | None) -> DataName:
        """The same with more settings, "_" for "-" in their names; None adds nothing."""
        more = {key.replace("_", "-"): value for key, value in settings.items() if value is not None}
        return replace(self, settings={**self.settings, **more})


def relative(path: str) -> bool:
    """Whether a path means something else in another folder."""
    return bool(path) and not os.path.isabs(path) and not path.startswith("~")


def parse(name: str) -> DataName:
    """Take a name apart. Raises BadInput for an unknown setting. A path that holds a "?" itself stays a path."""
    base, mark, tail = name.rpartition("?")
    kind, _, place = name.partition(":")
    if not mark or (kind in PATHS and os.path.exists(os.path.expanduser(place))):
        return _plain(name)
    pairs = [part.partition("=") for part in tail.split("&")]
    if not all(equals or key in BARE for key, equals, _ in pairs):
        bare = next(key for key, equals, _ in pairs if not equals and key not in BARE)
        if bare in SETTINGS:
            raise BadInput(f"The setting {bare} of {name} has no value; it is {SETTINGS[bare]}, as {bare}=VALUE.")
        return _plain(name)
    for key, _, _ in pairs:
        if key not in SETTINGS:
            near = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"Data have no setting {shown(key)} ({name}); {hint}known: {', '.join(SETTINGS)}.")
    return replace(_plain(base), settings={key: unquote(value) for key, _, value in pairs})


def _plain(name: str) -> DataName:
    kind, colon, place = name.partition(":")
    return DataName(kind, place) if colon and kind in KINDS else DataName("", name)


def with_settings(name: str | None, **settings: str | None) -> str | None:
    """A name with more settings; without a name, settings alone, which are of the model's own data."""
    if all(value is None for value in settings.values()):
        return name
    return str(parse(name or "").having(**settings))


def apart(name: str) -> tuple[str, str | None]:
    """A name without the draw that it asks for, which is no matter of training, and that draw as a setting alone."""
    whole = parse(name)
    kept = {key: value for key, value in whole.settings.items() if key != "draw"}
    return str(replace(whole, settings=kept)), with_settings(None, draw=whole.settings.get("draw"))


def completed(name: str | None, own: str | None) -> str | None:
    """The data's name where only settings were given for those that the model was trained on, `own`."""
    if not name:
        return own
    given = parse(name)
    if given.base or own is None:
        return name if given.base else None
    base = parse(own)
    return str(replace(base, settings={**base.settings, **given.settings}))

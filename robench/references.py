"""What the text that names a model says: where it comes from, what its factory is given, and what is put around it.

    plain                                     a trained model's name
    file.py:factory?depth=3#mean=0.5&std=0.25
    package.module:factory
    torchvision:NAME  timm:NAME  hf:OWNER/NAME  robustbench:NAME  onnx:FILE  pt2:FILE  jit:FILE

Behind `?` stand arguments, behind `#` the settings of `--weights`, `--mean` and their like; values are written as in
the address of a page, so that one text says all of a model, to another process too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

from robench.errors import BadInput, unknown

LIBRARIES = ("torchvision", "timm", "hf", "robustbench")
FILES = ("onnx", "pt2", "jit")
# reading such a file may run what its author wrote
RUNNING = ("file", "module", "pt2", "jit")
# what may stand around a model, by the names of the options
SETTINGS = ("weights", "mean", "std", "pixels", "output", "binary", "log-probabilities")
# those that are said and not given a value
SWITCHES = ("binary", "log-probabilities")

_KEYS = "|".join(SETTINGS)
_AROUND = rf"(?:#(?P<settings>(?:{_KEYS})(?:=[^&]*)?(?:&[^&]*)*))?"
_FILE = re.compile(rf"(?P<place>.+?\.py):(?P<name>\w*)(?:\?(?P<arguments>[^#]*))?{_AROUND}", re.DOTALL)
# a factory that a file sets under a name that is no word, and is given no arguments
_ODD = re.compile(rf"(?P<place>.+?\.py):(?P<name>[^:/]*?){_AROUND}", re.DOTALL)
_BARE = re.compile(rf"(?P<place>.+?\.py){_AROUND}", re.DOTALL)
_MODULE = re.compile(rf"(?P<place>[^?#]*):(?P<name>[^:?#]*)(?:\?(?P<arguments>[^#]*))?{_AROUND}", re.DOTALL)
_LIBRARY = re.compile(
    rf"(?P<kind>{'|'.join(LIBRARIES)}):(?P<name>[^?#]*)(?:\?(?P<arguments>[^#]*))?{_AROUND}", re.DOTALL
)
_GRAPH = re.compile(rf"(?P<kind>{'|'.join(FILES)}):(?P<name>.*?){_AROUND}", re.DOTALL)
_TRAINED = re.compile(rf"(?P<name>.*?){_AROUND}", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A model's reference in its parts.

    kind: "trained", "file", "module", or the word before the colon. place: the file or module of a factory. name: the
    factory, the name in a library, or the file of a graph; "" where none is given. arguments and settings: as text.
    """

    kind: str
    place: str = ""
    name: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The parts of a reference. Raises BadInput for settings that there are not, or a key given twice."""
        for kind, pattern in (
            ("", _LIBRARY), ("", _GRAPH), ("file", _FILE), ("file", _BARE), ("module", _MODULE), ("file", _ODD),
            ("trained", _TRAINED),
        ):  # fmt: skip
            found = pattern.fullmatch(text)
            if found is not None:
                parts = found.groupdict()
                file = kind == "module" and str(parts["place"]).endswith(".py")  # with a factory that has no such name
                return cls(
                    parts.get("kind") or ("file" if file else kind), parts.get("place") or "", parts.get("name") or "",
                    _read(text, parts.get("arguments")), _known(_read(text, parts.get("settings"))),
                )  # fmt: skip
        return cls("trained", name=text)

    def __str__(self) -> str:
        arguments = f"?{_written(self.arguments)}" if self.arguments else ""
        settings = {name: self.settings[name] for name in SETTINGS if name in self.settings}
        return f"{self.bare}{arguments}{f'#{_written(settings)}' if settings else ''}"

    @property
    def bare(self) -> str:
        """The reference without arguments and settings."""
        if self.kind == "trained":
            return self.name
        if self.kind in ("file", "module"):
            return f"{self.place}:{self.name}" if self.name or self.kind == "module" else self.place
        return f"{self.kind}:{self.name}"

    @property
    def loading(self) -> str:
        """The reference without what stands around the model: what has a say in which code runs."""
        return str(replace(self, settings={}))

    @property
    def runs_code(self) -> bool:
        """Whether to load it runs code of its author."""
        return self.kind in RUNNING

    @property
    def paths(self) -> list[str]:
        """The files and folders that it names, as it names them."""
        own = [self.place] if self.kind == "file" else [self.name] if self.kind in FILES or self._local else []
        return [*own, *([self.settings["weights"]] if "weights" in self.settings else [])]

    @property
    def _local(self) -> bool:
        return self.kind == "hf" and self.name.startswith((".", "/", "~"))

    def moved(self, folder: str) -> Reference:
        """The same where each relative path is the one in `folder`, where something is there."""

        def there(path: str) -> str:
            found = os.path.join(folder, os.path.expanduser(path))
            return found if os.path.exists(found.rpartition("@")[0] or found) else path

        return self.at(there)

    def at(self, move: Callable[[str], str]) -> Reference:
        """The same with each relative path moved."""

        def there(path: str) -> str:
            return move(path) if is_relative(path) else path

        settings = {k: there(v) if k == "weights" else v for k, v in self.settings.items()}
        place = there(self.place) if self.kind == "file" else self.place
        name = there(self.name) if self.kind in FILES or self._local else self.name
        return replace(self, place=place, name=name, settings=settings)

    def somewhere(self) -> Reference:
        """The same with every file by its whole path."""
        place = str(Path(self.place).resolve()) if self.kind == "file" else self.place
        name = str(Path(self.name).resolve()) if self.kind in FILES else self.name
        return replace(self, place=place, name=name)


def is_relative(path: str) -> bool:
    """Whether a path means something else in another folder."""
    return bool(path) and not os.path.isabs(path) and not path.startswith("~")


def _read(text: str, query: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, (query or "").split("&")):
        key, _, value = pair.partition("=")
        if key in found:
            raise BadInput(f"The model {text!r} has {key!r} twice; give it once.")
        found[key] = unquote(value)
    return found


def _known(settings: dict[str, str]) -> dict[str, str]:
    for name in settings:
        if name not in SETTINGS:
            raise unknown("setting of a model", name, SETTINGS)
    return settings


def _written(values: Mapping[str, str]) -> str:
    def words() -> Iterator[str]:
        for key, value in values.items():
            bare = key in SWITCHES and value == ""
            yield key if bare else f"{key}={quote(value, safe='/.,:-+~@ ')}"

    return "&".join(words())

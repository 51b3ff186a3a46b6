"""Packages that only some features need: which there are, which of them are missing, and what installs them.

What a plugin needs beside its own package is the extras of its entry point, `name = "package.module:Class [extra]"`;
what belongs to an extra stands in its package's metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import TYPE_CHECKING

from robench.errors import BadInput

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Need:
    """A package that a feature needs, what is wrong with it ("" where it is installed), and what installs it."""

    package: str
    fault: str
    command: str


def needs(entry: EntryPoint) -> list[Need]:
    """What a plugin needs beside its own package, by its entry point's extras; nothing of it is imported."""
    if not entry.extras or entry.dist is None:
        return []
    command = f"pip install '{entry.dist.name}[{','.join(entry.extras)}]'"
    return [Need(wanted.name, _fault(wanted), command) for wanted in _wanted(entry.dist.requires or (), entry.extras)]


def check(entry: EntryPoint, what: str) -> None:
    """Raise BadInput, with the command that installs it, where something is missing of what a plugin needs.

    what: the plugin in a sentence, "attack 'autoattack'".
    """
    for need in needs(entry):
        if need.fault:
            raise BadInput(
                f"The {what} needs {need.package}, {need.fault}; install it with: {need.command}, or choose another."
            )


def _wanted(requires: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """What a package's metadata asks for under some extras and not without."""
    from packaging.requirements import Requirement

    for wanted in map(Requirement, requires):
        marker = wanted.marker
        if marker and not marker.evaluate({"extra": ""}) and any(marker.evaluate({"extra": each}) for each in extras):
            yield wanted


def _fault(wanted: Requirement) -> str:
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return "which is not installed"
    fits = wanted.specifier.contains(found, prereleases=True)
    return "" if fits else f"{wanted.specifier}, but {found} is installed"

"""Parts of the page that others keep: taken from npm's registry as pins.toml names them, and checked against it.

`make vendor` fetches them anew, which is done where a version is raised; nothing is fetched when a page is written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robench.errors import BadInput
from robench.store.files import write_text
from robench.text.terminal import tell

FOLDER = Path(__file__).parent / "vendor"
PINS = FOLDER / "pins.toml"


@dataclass(frozen=True)
class Pinned:
    """A package of npm's: integrity is that of its archive, files the names here by those in it, sha256 theirs."""

    name: str
    version: str
    licence: str
    integrity: str
    files: Mapping[str, str]
    sha256: Mapping[str, str]


def pinned() -> list[Pinned]:
    """The packages that the page is made with."""
    return [Pinned(**package) for package in tomllib.loads(PINS.read_text("utf-8"))["package"]]


def altered() -> list[str]:
    """The vendored files that are missing or are not what pins.toml says."""
    sums = {name: digest for package in pinned() for name, digest in package.sha256.items()}
    there = {path.name for path in FOLDER.iterdir()} - {PINS.name}
    wrong = [name for name, digest in sums.items() if name in there and _sha256(FOLDER / name) != digest]
    return sorted({*wrong, *(sums.keys() ^ there)})


def text(name: str) -> str:
    """A vendored file, without the line that names a map of its source, which is not here."""
    lines = (FOLDER / name).read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if "sourceMappingURL=" not in line)


def fetch(package: Pinned) -> None:
    """Take a package's files from npm's registry. Raises BadInput where the archive is not the pinned one."""
    with tempfile.TemporaryDirectory() as aside:
        words = ["npm", "pack", "--json", "--pack-destination", aside, f"{package.name}@{package.version}"]
        told = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
        archive = Path(aside, told[0]["filename"])
        found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != package.integrity:
            raise BadInput(f"{package.name} {package.version} has the integrity {found}, but {PINS} pins another one.")
        with tarfile.open(archive) as members:
            for inside, name in package.files.items():
                file = members.extractfile(inside)
                assert file is not None
                write_text(FOLDER / name, file.read().decode())
                tell(f"{name} {_sha256(FOLDER / name)}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    for each in pinned():
        fetch(each)
    if wrong := altered():
        raise SystemExit(f"Not as {PINS} says: {', '.join(wrong)}")

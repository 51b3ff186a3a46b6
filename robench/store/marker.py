"""What tells a runs folder from anybody else's: a marker, or artifacts that carry our specs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from robench.errors import BadInput
from robench.store.files import Damaged, identity, read_json, read_sealed

# written where robench first keeps something
MARKER = ".robench-runs"
TEXT = "The folder beside this file is a runs folder of robench; 'robench runs gc' looks after it.\n"
ID = re.compile(r"[0-9a-f]{12}")
# kinds of artifacts whose folders are named by the ids of their specs, and the record that names the id besides
BY_ID = {"evaluations": "about.json", "crafted": "about.json", "detectors": "fitted.json", "superseded": "about.json"}
# what is set aside has more behind the id
SET_ASIDE = re.compile(r"([0-9a-f]{12})-[0-9a-f]{8}")
NAMED = ("evaluation", "fitted")
# what a training depends on, which is in its spec and nobody else's
TRAINING = ("defense", "recipe", "train_digest")


def mark(root: Path) -> None:
    """Mark a folder as a runs folder; raises OSError where that cannot be written."""
    with contextlib.suppress(FileExistsError), (root / MARKER).open("x", encoding="utf-8") as marker:
        marker.write(TEXT)


def is_runs_folder(root: Path) -> bool:
    """Whether a folder is marked, or, from before there were markers, has an artifact that carries our spec."""
    if (root / MARKER).is_file():
        return True
    folders = (path for kind in BY_ID for path in (root / kind).glob("[!.]*"))
    return any(map(carries_our_spec, folders)) or any(map(_is_training, (root / "models").glob("[!.]*")))


def check_folder(root: Path) -> None:
    """Raise BadInput for what is there, but no folder."""
    if root.exists() and not root.is_dir():
        raise BadInput(f"{root} is not a folder; give a runs folder as --runs.")


def check_runs_folder(root: Path) -> None:
    """Raise BadInput for a file, and for a folder that holds something, but nothing of ours."""
    check_folder(root)
    if root.exists() and any(root.iterdir()) and not is_runs_folder(root):
        raise BadInput(
            f"The folder {root} is not a runs folder: it has no {MARKER} and no artifact of robench; give "
            "the right one as --runs."
        )


def carries_our_spec(folder: Path) -> bool:
    """Whether a folder is named by the id of the spec in it, or of the sealed record where the spec is lost.

    One that was set aside bears a number of its own behind the id.
    """
    match = (SET_ASIDE if folder.parent.name == "superseded" else ID).fullmatch(folder.name)
    if match is None or folder.is_symlink() or not folder.is_dir():
        return False
    name = folder.name[:12]
    try:
        return identity(read_json(folder / "spec.json")) == name
    except Damaged:
        pass
    try:
        found = read_sealed(folder / BY_ID.get(folder.parent.name, ""))
    except BadInput:
        return False
    return found.sealed and name in [found.value.get(key) for key in NAMED]


def _is_training(folder: Path) -> bool:
    try:
        return set(TRAINING) <= read_json(folder / "spec.json").keys()
    except BadInput:
        return False

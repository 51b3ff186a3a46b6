"""Tiny ImageNet's own layout: val/images beside val/val_annotations.txt, and wnids.txt above them."""

from __future__ import annotations

from pathlib import Path

from robench.errors import BadInput

ANNOTATIONS = "val_annotations.txt"


def annotated(folder: Path) -> bool:
    """Whether the classes of a folder's images are in a file."""
    return (folder / ANNOTATIONS).is_file() and (folder / "images").is_dir()


def wnids(root: Path, folder: Path) -> list[str]:
    """The classes in the order of their names, as torchvision numbers the folders of train: wnids.txt holds them in
    another. Without that file, those of the annotations of `folder`."""
    listed = root / "wnids.txt"
    words = _lines(listed) if listed.is_file() else [label for _, label in _annotations(folder)]
    return sorted(set(words))


def labelled(folder: Path, names: list[str]) -> list[tuple[Path, int]]:
    """(file, label) of every image that the annotations list, in their order. Raises BadInput for a class or a file
    that there is not, and for an image that they do not list."""
    place = {name: i for i, name in enumerate(names)}
    found: list[tuple[Path, int]] = []
    for file, label in _annotations(folder):
        if label not in place:
            raise BadInput(f"{folder / ANNOTATIONS} has the class {label!r}, which neither train nor wnids.txt has.")
        found.append((folder / "images" / file, place[label]))
    there = {path.name for path in (folder / "images").iterdir() if not path.name.startswith(".")}
    listed = {path.name for path, _ in found}
    if len(listed) < len(found) or there != listed:
        odd = next(iter(sorted(there ^ listed)), "a file twice")
        raise BadInput(f"{folder / ANNOTATIONS} and {folder / 'images'} differ in {odd!r}; each image needs one line.")
    return found


def _annotations(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in _lines(folder / ANNOTATIONS)]
    if not all(len(row) >= 2 for row in rows):
        raise BadInput(f"{folder / ANNOTATIONS} must have FILE, a tab and CLASS in every line.")
    return [(row[0], row[1]) for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        return [line.rstrip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text; replace it.") from error

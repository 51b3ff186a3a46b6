"""What models go by in a table: short, and no two the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from robench.store.about import About


def told_apart(models: Iterable[tuple[str, About]]) -> dict[tuple[str, str], str]:
    """The title of every model, by its name and digest, from pairs of a digest and the record of an evaluation.

    That is its name; of models that share one, the end of the path of each one's file if these differ, else the name
    with the beginning of the digest.
    """
    known: dict[str, dict[str, str]] = {}
    for digest, about in models:
        known.setdefault(about.model, {}).setdefault(digest, _file(about))
    return {(name, digest): title for name, each in known.items() for digest, title in _titles(name, each).items()}


def _titles(name: str, files: Mapping[str, str]) -> dict[str, str]:
    """Titles by digest, of the models that share a name."""
    if len(files) == 1:
        return dict.fromkeys(files, name)
    if "" in files.values() or len(set(files.values())) < len(files):
        return {digest: f"{name}#{digest[:6]}" for digest in files}
    factory, parts = name.rpartition(":")[2], {digest: Path(file).parts for digest, file in files.items()}
    longest = max(map(len, parts.values()))
    length = next(n for n in range(1, longest + 1) if len({each[-n:] for each in parts.values()}) == len(parts))
    return {digest: f"{os.path.join(*each[-length:])}:{factory}" for digest, each in parts.items()}


def _file(about: About) -> str:
    """The whole path of a model's file, "" for a model of another kind or one whose folder was not recorded."""
    path, mark, _ = about.reference.rpartition(".py:")
    found = os.path.normpath(os.path.join(about.folder, f"{path}.py")) if mark else ""
    return found if os.path.isabs(found) else ""

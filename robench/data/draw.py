"""Which test images stand for all of them: a fixed draw where they are ordered, else the first; or a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robench.data.images import reading
from robench.data.pixels import Numbers
from robench.errors import BadInput, require

if TYPE_CHECKING:  # takes its time to load, and few lists are tables
    import pandas as pd

_KEY = 40931  # fixed for good: another key would draw other images
# how far labels may lie on the way from a random order (0) to a sorted one (1) and still be mixed
ORDERED = 0.5
WAYS = ("first", "balanced")
STRETCHES = 10
# of a chi-square with 9 degrees of freedom: a random order passes it once in 4 * 10^9 times
SHIFTED = 64.0
# images that are looked at, evenly spaced
LOOKED_AT = 5000
# greys are neither as good as black nor as good as white
GREY = 0.1, 0.9


def order_of(labels: Numbers) -> float:
    """How far labels [N] lie between a random order (0) and a sorted one (1), by how often neighbours are equal.

    In a random order two neighbours are equal as often as any two images are; sorted, all are but one per class.
    """
    count, sizes = len(labels), np.unique(labels, return_counts=True)[1].astype(np.float64)
    if count < 2 or len(sizes) < 2:
        return 0.0
    equal = float((labels[1:] == labels[:-1]).mean())
    expected = float((sizes * (sizes - 1)).sum()) / (count * (count - 1))
    most = (count - len(sizes)) / (count - 1)
    return (equal - expected) / (most - expected) if most > expected else 0.0


def ordered(labels: Numbers) -> bool:
    """Whether labels are in the order of classes, so that the first images would be of a few classes alone."""
    return order_of(labels) > ORDERED


def looks(images: Numbers) -> Numbers:
    """What can be told of images [N, C, H, W] in [0, 1] at a glance: brightness, contrast, how much neighbours differ,
    and the share of greys. float64 [N, 4]."""
    count = len(images)
    flat = images.reshape(count, -1)
    across = np.abs(np.diff(images, axis=-1)).reshape(count, -1)
    grey = (flat > GREY[0]) & (flat < GREY[1])
    each = [flat.mean(1), flat.std(1), across.mean(1) if across.shape[1] else np.zeros(count), grey.mean(1)]
    return np.stack(each, 1).astype(np.float64)


def shift_of(values: Numbers, labels: Numbers) -> float:
    """How far values [N] of images lie from a random order: over ten stretches of them, the squared distances of the
    mean ranks within classes, in variances. Of a random order a chi-square with 9 degrees of freedom; at most N."""
    ranks = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        _, place, counts = np.unique(values[mine], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[mine] = ((ends - counts / 2) / len(mine))[place]  # equal ones share their mean rank
    spread = float(ranks.var())
    if not spread:
        return 0.0
    parts = np.array_split(ranks, min(STRETCHES, len(ranks)))
    return sum(len(part) * float(part.mean() - ranks.mean()) ** 2 for part in parts) / spread


def shifted(values: Numbers, labels: Numbers) -> bool:
    """Whether images come in stretches of another look, float64 [N, K] each, so that the first would stand for a part:
    MNIST's first half was written by others than its second, and falls to attacks that leave the second standing."""
    return any(shift_of(each, labels) > SHIFTED for each in values.T)


def balanced(labels: Numbers) -> Numbers:
    """All positions in an order of which every beginning has of each class its share, to within an image.

    Which images of a class come first is drawn at random, once for good; so is which class comes first where they are
    equally large. int64 [N] -> int64 [N].
    """
    draw = np.random.Generator(np.random.Philox(key=_KEY))
    place, tie = np.empty(len(labels)), draw.random(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        place[mine] = (draw.permutation(len(mine)) + 0.5) / len(mine)
    return np.lexsort((tie, place)).astype(np.int64)


def listed(path: Path, count: int, files: Sequence[Path], eps: str | None = None) -> Numbers:
    """The positions that a file lists, int64 [n]: an index from 0 or the name of an image file per line, or a .csv with
    a column `index` or `file`.

    count: how many test images there are; files: theirs, if they have any; eps: as the list spells it, of those images
    that are meant, where it has one per image. Raises BadInput for what is not there, for one that is listed twice, and
    for an eps per image where none is meant.
    """
    words = _words(path, eps)
    if not words:
        raise BadInput(f"{path} lists no image; give an index from 0 or a file name per line.")
    known = _names(files)
    found = [_position(word, path, count, known) for word in words]
    positions, counts = np.unique(found, return_counts=True)
    if counts.max() > 1:
        twice = words[found.index(int(positions[counts.argmax()]))]
        raise BadInput(f"{path} lists the image {twice} twice; keep one of them.")
    return np.array(found, np.int64)


def eps_listed(path: Path) -> list[str]:
    """Each eps that a list of images has beside them, as it spells them; none where it has none per image."""
    if path.suffix != ".csv" or not path.is_file():
        return []
    table, columns = _table(path)
    if "eps" not in columns:
        return []
    values = table[columns["eps"]]
    if values.isna().any():
        raise BadInput(f"{path} has an empty eps in row {int(values.isna().to_numpy().argmax())}.")
    return list(dict.fromkeys(str(each).strip() for each in values))


def _words(path: Path, eps: str | None) -> list[str]:
    if not path.is_file():
        raise BadInput(f"There is no file {path}, which --ids names.")
    with reading(path, "give a text file with an index or a file name per line"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path.suffix == ".csv" and lines:
        return _column(path, eps)
    if eps is not None:
        raise BadInput(f"{path} has no eps per image; leave out the data's setting eps.")
    return lines


def _table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A list as a table of texts, and its columns by their names in small letters."""
    import pandas as pd

    with reading(path, "give a .csv file with a column index or file"):
        table = pd.read_csv(path, dtype=str)
    return table, {str(name).strip().lower(): name for name in table.columns}


def _column(path: Path, eps: str | None) -> list[str]:
    table, columns = _table(path)
    if ("eps" in columns) != (eps is not None):
        raise BadInput(
            f"{path} has no eps per image; leave out the data's setting eps." if eps is not None else
            f"{path} has an eps per image, and an evaluation has one eps; 'robench evaluate' takes each image at its "
            "own, here name one of them as the data's setting eps."
        )  # fmt: skip
    if eps is not None:
        table = table[table[columns["eps"]].str.strip() == eps]
    names = [name for name in ("index", "id", "example_id", "file", "path", "filename") if name in columns]
    if len(names) != 1:
        raise BadInput(f"{path} must have one column called index or file; its columns are {', '.join(table.columns)}.")
    values = table[columns[names[0]]]
    if values.isna().any():
        raise BadInput(f"{path} has an empty {names[0]} in row {int(values.isna().to_numpy().argmax())}.")
    return [str(each).strip() for each in values]


def _names(files: Sequence[Path]) -> dict[str, list[int]]:
    """The positions of files by their name and by each longer end of their path."""
    found: dict[str, list[int]] = {}
    for i, path in enumerate(files):
        parts = path.parts
        for length in range(1, min(len(parts), 5) + 1):
            found.setdefault("/".join(parts[-length:]), []).append(i)
        found.setdefault(str(path), []).append(i)
    return found


def _position(word: str, path: Path, count: int, known: dict[str, list[int]]) -> int:
    if word.isascii() and word.isdigit():
        if len(word) > 18 or int(word) >= count:
            raise BadInput(f"{path} lists image {word}, but there are {count:,}, numbered from 0 to {count - 1:,}.")
        return int(word)
    places = sorted(set(known.get(word.removeprefix("./"), [])))
    if len(places) == 1:
        return places[0]
    if places:
        raise BadInput(f"{path} lists {word!r}, which {len(places)} images are called; give more of its path.")
    if known:
        raise BadInput(f"{path} lists {word!r}, which no test image is called.")
    raise BadInput(f"{path} lists {word!r}, which is no index, and these data have no files; give indices from 0.")


def check_way(way: Any) -> str | None:
    """A draw by its name. Raises BadInput for any other."""
    require(way is None or way in WAYS, "draw", way, f"one of {', '.join(WAYS)}")
    return None if way is None else str(way)


def images_told(first: int, last: int, count: int, way: str | None, *notes: str) -> str:
    """Which test images these are, from place `first` to `last`, in words: in their own order, or in that of a draw.

    notes: what more is said of their number, in brackets or not; an empty one says nothing.
    """
    told = [f"n = {count:,}", *(note.strip(" ()") for note in notes if note)]
    return f"{'drawn' if way else 'test'} images {first}-{last} ({', '.join(told)})"

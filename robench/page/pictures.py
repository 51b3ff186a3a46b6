"""Images for the page: which examples are shown, and pictures of them as data URIs of PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

# the longest side of a picture, and the channels that one can have
SIDE, COLOURS = 96, (1, 3)
# levels of a perturbation's picture: fewer than 255 compress to a third
LEVELS = 32
# a pair of models wants this many images of each kind before one of another pair is as good
ENOUGH = 0.5


def spread(standing: NDArray[np.bool_], count: int) -> list[int]:
    """Which of n images show best where m models differ: bool [m, n] to at most `count` positions in order.

    Each is the one that adds most to pairs of models with few images so far that both withstand, one alone, or
    neither; of equal ones the first.
    """
    models, n = standing.shape
    pairs = list(combinations(range(models), 2)) or [(0, 0)]
    first, second = (standing[[pair[i] for pair in pairs]].T.astype(np.int64) for i in (0, 1))
    kind = 2 * first + second  # [n, pairs]
    worth, places = np.ones((len(pairs), 4)), np.arange(len(pairs))
    left, found = np.ones(n, dtype=bool), list[int]()
    for _ in range(min(count, n)):
        gain = np.where(left, worth[places, kind].sum(1), -1.0)
        best = int(gain.argmax())
        found.append(best)
        left[best] = False
        worth[places, kind[best]] *= ENOUGH
    return sorted(found)


def picture(image: Pixels) -> str:
    """An image, [C, H, W] in [0, 1], as a data URI; of other than one or three channels the first one."""
    return _png(np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8))


def perturbation(clean: Pixels, adversarial: Pixels) -> tuple[str, float]:
    """What was added to an image, as a data URI around medium grey, and what is drawn as white: the largest change."""
    change = np.nan_to_num(adversarial - clean)
    most = float(np.abs(change).max())
    levels = np.rint(LEVELS / 2 * change / most) if most else np.zeros_like(change)
    return _png(np.clip(128 + levels * (256 / LEVELS), 0, 255).astype(np.uint8)), most


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    shown = pixels if len(pixels) in COLOURS else pixels[:1]
    made = Image.fromarray(shown[0] if len(shown) == 1 else np.ascontiguousarray(shown.transpose(1, 2, 0)))
    if max(made.size) > SIDE:
        made.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    made.save(out, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def bits(marks: NDArray[np.bool_] | Sequence[bool]) -> str:
    """Truth values [n] in base64, eight in a byte, the first one highest."""
    return base64.b64encode(np.packbits(np.asarray(marks, dtype=bool)).tobytes()).decode()

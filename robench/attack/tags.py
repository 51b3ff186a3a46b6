"""Whether a name space was written to, told in a thousandth of the time that comparing what it holds takes.

CPython up to 3.12 numbers every change of a dictionary, all of them in one count, and keeps the last number in the
dictionary (PEP 509, `ma_version_tag`). Nothing that Python code does to a dictionary leaves its number as it was.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any

# where the number lies in a dictionary: behind the count of references, the type and the number of names
PLACE = 3 * ctypes.sizeof(ctypes.c_void_p)


def tag_of(space: Mapping[str, Any]) -> Callable[[], int] | None:
    """What reads the number of a module's or a class's name space (`vars` of it), or None where there is none.

    The module or class must be kept for as long as it is asked.
    """
    return _reader(space) if _NUMBERED else None


def _reader(space: Mapping[str, Any]) -> Callable[[], int] | None:
    """The same, whatever the interpreter."""
    held = [space] if type(space) is dict else [each for each in gc.get_referents(space) if type(each) is dict]
    if len(held) != 1:  # a class shows its dictionary through a proxy
        return None
    number = ctypes.c_uint64.from_address(id(held[0]) + PLACE)
    return lambda: number.value


def _numbered() -> bool:
    """Whether this interpreter numbers changes there: every change is seen, and nothing else is."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 13):
        return False
    plain: dict[str, Any] = {"kept": 1, "other": 1}
    shown = type("Shown", (), {"kept": 1, "other": 1})
    changes: list[Callable[[], object]] = [
        lambda: plain.update(kept=2), lambda: plain.__setitem__("fresh", 1), lambda: plain.pop("other"),
        lambda: setattr(shown, "kept", 2), lambda: setattr(shown, "fresh", 1), lambda: delattr(shown, "other"),
    ]  # fmt: skip
    readers = [_reader(plain), _reader(vars(shown))]
    if None in readers:
        return False

    def numbers() -> list[int]:
        return [reader() for reader in readers if reader is not None]

    for place, change in enumerate(changes):
        before = numbers()
        still = numbers() == before and "kept" in plain and hasattr(shown, "kept") and numbers() == before
        change()
        after = numbers()
        moved = [a != b for a, b in zip(after, before, strict=True)]
        if not still or moved != [place < 3, place >= 3]:
            return False
    return True


_NUMBERED = _numbered()

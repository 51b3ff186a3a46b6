"""Whether a name space was written to, told in a thousandth of the time that comparing what it holds takes.

CPython up to 3.12 numbers every change of a dictionary, all of them in one count, and keeps the last number in the
dictionary (PEP 509, `ma_version_tag`). Nothing that Python code does to a dictionary leaves its number as it was. Where
there are no such numbers, CPython calls a function before every change of the dictionaries that it is told to watch
(`PyDict_Watch`), and that function counts them.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

# where the number lies in a dictionary: behind the count of references, the type and the number of names
PLACE = 3 * ctypes.sizeof(ctypes.c_void_p)
# what CPython says of a dictionary that is no more
GONE = 5

Tag = ctypes.c_uint64
Way = Callable[[Mapping[str, Any]], Tag | None]
# the number there, read without a line of Python
number_at: Callable[[Tag], int] = operator.attrgetter("value")


def tag_of(space: Mapping[str, Any]) -> Tag | None:
    """Where the number of a module's or a class's name space (`vars` of it) lies, or None where there is none.

    The module or class must be kept for as long as the tag is.
    """
    return _WAY(space) if _WAY is not None else None


def _dictionary(space: Mapping[str, Any]) -> dict[str, Any] | None:
    held = [space] if type(space) is dict else [each for each in gc.get_referents(space) if type(each) is dict]
    return held[0] if len(held) == 1 else None  # a class shows its dictionary through a proxy


def _numbered(space: Mapping[str, Any]) -> Tag | None:
    """A tag where CPython keeps the number."""
    held = _dictionary(space)
    return None if held is None else Tag.from_address(id(held) + PLACE)


# the counts of watched dictionaries, by their numbers, and CPython's number for whoever watches
_counts: dict[int, Tag] = {}
_watcher: int | None = None


def _count(event: int, place: int, name: int | None, value: int | None) -> int:
    """Count a change of the dictionary at `place`."""
    del name, value
    tag = _counts.pop(place, None) if event == GONE else _counts.get(place)
    if tag is not None:
        tag.value += 1
    return 0


_COUNT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(_count)


def _watched(space: Mapping[str, Any]) -> Tag | None:
    """A tag of our own, for which changes are counted."""
    global _watcher
    held = _dictionary(space)
    if held is None:
        return None
    if _watcher is None:
        _watcher = ctypes.pythonapi.PyDict_AddWatcher(_COUNT)
        # when Python ends, dictionaries change while half of it is gone
        atexit.register(ctypes.pythonapi.PyDict_ClearWatcher, _watcher)
    if id(held) not in _counts:
        _counts[id(held)] = Tag()
        ctypes.pythonapi.PyDict_Watch(_watcher, ctypes.py_object(held))
    return _counts[id(held)]


def _sound(way: Way) -> bool:
    """Whether every change is seen in this way, and nothing else is."""
    plain: dict[str, Any] = {"kept": 1, "other": 1}
    shown = type("Shown", (), {"kept": 1, "other": 1})
    changes: list[Callable[[], object]] = [
        lambda: plain.update(kept=2), lambda: plain.__setitem__("fresh", 1), lambda: plain.pop("other"),
        lambda: setattr(shown, "kept", 2), lambda: setattr(shown, "fresh", 1), lambda: delattr(shown, "other"),
    ]  # fmt: skip
    try:
        tags = [way(plain), way(vars(shown))]
    except (AttributeError, RuntimeError):  # nobody can watch, or too many do
        return False
    if None in tags:
        return False

    def numbers() -> list[int]:
        return [number_at(tag) for tag in tags if tag is not None]

    for place, change in enumerate(changes):
        before = numbers()
        still = numbers() == before and "kept" in plain and hasattr(shown, "kept") and numbers() == before
        change()
        after = numbers()
        moved = [a != b for a, b in zip(after, before, strict=True)]
        if not still or moved != [place < 3, place >= 3]:
            return False
    return True


def _ways() -> list[Way]:
    """Those that this interpreter may know."""
    if sys.implementation.name != "cpython":
        return []
    return [_numbered] if sys.version_info < (3, 13) else [_watched]


_WAY = next(filter(_sound, _ways()), None)

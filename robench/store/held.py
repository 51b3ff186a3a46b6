"""What objects of the standard library, and functions that it wraps, keep out of sight."""

from __future__ import annotations

import array
import collections
import contextvars
import decimal
import functools
import operator
import re
from collections.abc import Callable
from typing import Any

ASKED = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
CACHED = type(functools.lru_cache(lambda: None))


def held_by(value: Any) -> list[Any] | None:
    """What such an object holds, as values of other kinds; None for an object that is none."""
    for kind, held in _KINDS:
        if isinstance(value, kind):
            return held(value)
    return None


def _kept(value: contextvars.ContextVar[Any]) -> list[Any]:
    try:
        return [value.get()]
    except LookupError:
        return []


_KINDS: tuple[tuple[Any, Callable[[Any], list[Any]]], ...] = (
    (CACHED, lambda value: [value.__wrapped__]),
    (bytearray, lambda value: [bytes(value)]),
    (array.array, lambda value: [value.typecode, value.tolist()]),
    (collections.deque, lambda value: [value.maxlen, list(value)]),
    (decimal.Decimal, lambda value: [str(value)]),
    (re.Pattern, lambda value: [value.pattern, value.flags]),
    (ASKED, lambda value: list(value.__reduce__())),
    (contextvars.ContextVar, _kept),
)

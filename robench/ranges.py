"""Numbers that people give: read exactly from plain text, and held to a range before any work begins.

`LIMITS` has the range of every number of the command line, which Python's face shares. Upper ends lie far beyond any
use and far below what hangs or exhausts a machine. A plugin states the range of an option in its type hint:
`steps: Annotated[int, Range(1, 1000)]`.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, TypeGuard

from robench.errors import BadInput, shown

# Python's own readers take underscores, line breaks and the digits of every script, and expand any exponent
_LONGEST = 400
_DIGITS = rf"[0-9]{{1,{_LONGEST}}}"
_WHOLE = re.compile(rf"[+-]?{_DIGITS}")
_DECIMAL = re.compile(rf"[+-]?({_DIGITS}(\.({_DIGITS})?)?|\.{_DIGITS})([eE][+-]?[0-9]{{1,3}})?")


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included; with `above`, without `least`."""

    least: float
    most: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        least, most = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.least, self.most))
        return f"above {least} and at most {most}" if self.above else f"from {least} to {most}"


# options that many attacks have
Steps = Annotated[int, Range(1, 100_000)]
Restarts = Annotated[int, Range(1, 10_000)]
# what a whole number may be where nobody says: what fits the columns and tensors that it ends up in
INT64 = Range(-(2**63), 2**63 - 1)

SHARE = Range(0, 1)
_PORTION = Range(1, 100_000)
LIMITS: Mapping[str, Range] = {
    "-n": Range(1, 100_000_000),
    "--batch-size": _PORTION,
    "--shard-size": _PORTION,
    "--eot": Range(1, 10_000),
    "--max-passes": Range(1, 2_000_000_000),
    "--seed": Range(0, 2**63 - 1),
    "--epochs": Range(1, 100_000),
    "--workers": Range(1, 10_000),
    "--cpus-per-task": Range(0.01, 1024.0),
    "--gpus-per-task": Range(0.0, 1.0),
    "--detector-images": Range(20, 10_000_000),
    "--fpr": SHARE,
}
# Lightning seeds numpy, too
TRAINING_SEED = Range(0, 2**32 - 1)


def read_whole(text: str) -> int:
    """A whole number from text of ASCII digits with or without a sign; raises ValueError for anything else."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text)


def read_number(text: str) -> float:
    """A finite number from text such as "0.05", "1e-3" or "2"; raises ValueError for anything else."""
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def read_fraction(text: str) -> Fraction:
    """An exact number from text such as "8/255", "0.1" or "1e-3", spaces around its parts allowed.

    Raises ValueError for anything else, ZeroDivisionError where it divides by zero.
    """
    top, slash, bottom = (part.strip(" ") for part in text.partition("/"))
    if not _DECIMAL.fullmatch(top) or (slash and not _DECIMAL.fullmatch(bottom)):
        raise ValueError(text)
    found = Fraction(top) / Fraction(bottom if slash else 1)
    if max(abs(found.numerator), found.denominator) >= 10**_LONGEST:  # could not be read again
        raise ValueError(text)
    return found


def is_float(value: object) -> TypeGuard[float]:
    """Whether it is a float of Python's or numpy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational)


def text_of(value: float) -> str:
    """The text that a float stands for: k/255 where it is the nearest float to that, else its shortest decimal.

    Of numpy's floats, of whatever width, as of Python's.
    """
    kind = type(value)
    if math.isfinite(value) and abs(value) < 2**40:
        k = round(float(value) * 255)
        if kind(k / 255) == value and k % 51:  # 51/255 is 0.2, which is its decimal
            return f"{k}/255"
    return str(value)


def plain(value: Any) -> Any:
    """A number of numpy's as Python's; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value) if is_float(value) else value


def whole(name: str, value: object, allowed: Range | None = None) -> int:
    """The value as an int, if it is a whole number (numpy's too) in range: `allowed`, or that of `LIMITS`.

    Raises BadInput naming the value and the range.
    """
    allowed = allowed or LIMITS[name]
    found = plain(value)
    if not isinstance(found, int) or isinstance(found, bool) or found not in allowed:
        raise BadInput(f"{name} is {shown(value)}, but must be a whole number {allowed}.")
    return found


def number(name: str, value: object, allowed: Range | None = None) -> float:
    """The value as a float, if it is a number in range, as `whole`."""
    allowed = allowed or LIMITS[name]
    found = plain(value)
    if not isinstance(found, int | float) or isinstance(found, bool) or found not in allowed:
        raise BadInput(f"{name} is {shown(value)}, but must be a number {allowed}.")
    return float(found)


def hold(record: object, **flags: str) -> None:
    """Hold fields of a frozen record to the ranges of the flags they are given by, and make them plain ints.

    A field whose flag ends in "?" may be None. Raises BadInput for the first that is out of range.
    """
    for name, flag in flags.items():
        value = getattr(record, name)
        if value is not None or not flag.endswith("?"):
            object.__setattr__(record, name, whole(flag.rstrip("?"), value))

"""Numbers from text, exactly or not at all; ranges; options held to those in their type hints."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robench import BadInput
from robench.ranges import (
    LIMITS,
    Range,
    is_float,
    number,
    plain,
    read_fraction,
    read_number,
    read_whole,
    text_of,
    whole,
)
from robench.registry import allowed_by, read_option
from robench.threat import ThreatModel, parse_epsilon

# what Python's own readers take, or take for ever over
DISGUISED = [
    "1_0",
    "1\n",
    "\n1",
    "\t1",
    "\uff11\uff12",
    "\u0663",
    "\u0967",
    "1e999999999",
    "-1e999999999",
    "9" * 5000,
    "0x10",
    "1 2",
    "",
    " ",
]


@pytest.mark.parametrize("text", DISGUISED)
@pytest.mark.parametrize("read", [read_whole, read_number, read_fraction, lambda text: read_fraction(f"1/{text}")])
def test_only_plain_numbers_are_read_and_at_once(read: Callable[[str], object], text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError):  # noqa: PT011 - whose text is nobody's
        read(text)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", Fraction(8, 255)), (" 8 / 255 ", Fraction(8, 255)), (".5", Fraction(1, 2)), ("5.", Fraction(5)),
     ("1e-3", Fraction(1, 1000)), ("-1.5E+2", Fraction(-150)), ("0.5/255", Fraction(1, 510)), ("+3", Fraction(3))],
)  # fmt: skip
def test_fractions(text: str, value: Fraction) -> None:
    assert read_fraction(text) == value


@given(st.fractions(max_denominator=10**60))
def test_a_fraction_as_text_is_read_back(value: Fraction) -> None:
    assert read_fraction(str(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_as_text_is_the_same_float(value: float) -> None:
    assert float(read_fraction(text_of(value))) == value


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_every_float_of_255ths_means_them(kind: Callable[[float], float]) -> None:
    for k in range(256):
        assert parse_epsilon(kind(k / 255)) == Fraction(k, 255)


def test_the_float_is_the_text() -> None:
    assert ThreatModel.of("linf", 8 / 255) == ThreatModel.of("linf", "8/255")
    assert ThreatModel.of("linf", 0.031) == ThreatModel.of("linf", "0.031")
    assert parse_epsilon(0.0313) == Fraction(313, 10000)  # near 8/255, and not its float
    assert ThreatModel.of("linf", 8 / 255).eps_text == "8/255"


def test_ranges() -> None:
    assert 1 in Range(1, 5)
    assert 5 in Range(1, 5)
    assert 0 not in Range(1, 5)
    assert float("nan") not in Range(0.0, 1.0)
    assert 0.0 not in Range(0.0, 1.0, above=True)
    assert str(Range(1, 10_000)) == "from 1 to 10,000"
    assert str(Range(0.0, 1.5, above=True)) == "above 0 and at most 1.5"


def test_numbers_of_numpy_are_numbers() -> None:
    assert [type(plain(v)) for v in (np.int64(3), np.float32(0.5), 3, 0.5)] == [int, float, int, float]
    assert plain("x") == "x"
    assert whole("--batch-size", np.int8(7)) == 7
    assert not is_float(Fraction(1, 2))


@pytest.mark.parametrize("value", [None, "7", 7.0, True, 0, -1, 10**30, [7], np.float64(7)])
@pytest.mark.parametrize("flag", ["-n", "--batch-size", "--shard-size", "--eot", "--epochs", "--workers"])
def test_a_whole_number_out_of_range_is_refused(flag: str, value: Any) -> None:
    with pytest.raises(BadInput, match=rf"^{flag} is .* a whole number from 1 to [0-9,]+\.$") as caught:
        whole(flag, value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf"), -0.1, 1.1])
def test_a_number_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^--fpr is .*, but must be a number from 0 to 1\.$"):
        number("--fpr", value)


def test_a_number_too_long_to_print_is_refused() -> None:
    with pytest.raises(BadInput, match="a number of 16,610 bits"):
        whole("--eot", 10**5000)


def test_every_limit_is_far_and_finite() -> None:
    for flag, allowed in LIMITS.items():
        assert allowed.least < allowed.most <= 2**63 - 1, flag


FEW = Annotated[int, Range(1, 10)]


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [(FEW, "10", 10), (FEW, np.int64(2), 2), (FEW | None, None, None), (Annotated[int | None, Range(1, 10)], "3", 3),
     (Annotated[float, Range(0.0, 1.0)], "1", 1.0), (int, 2**63 - 1, 2**63 - 1), (float, np.float32(0.5), 0.5),
     (bool, "yes", True), (str, "1_0", "1_0")],
)  # fmt: skip
def test_an_option_within_its_range(hint: Any, value: Any, found: Any) -> None:
    assert read_option(hint, value) == found
    assert type(read_option(hint, value)) is type(found)


@pytest.mark.parametrize(
    ("hint", "value"),
    [(FEW, 0), (FEW, "11"), (FEW | None, 11), (FEW, True), (FEW, 2.5), (FEW, [3]), (FEW, None), (int, 2**63),
     (Annotated[float, Range(0.0, 1.0)], 1.5), (float, "inf"), (float, True),
     *((kind, text) for kind in (int, float, FEW, int | None) for text in DISGUISED)],
)  # fmt: skip
def test_an_option_out_of_its_range(hint: Any, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whose text is nobody's
        read_option(hint, value)


@pytest.mark.parametrize(
    ("hint", "words"),
    [(FEW, "a whole number from 1 to 10"), (FEW | None, "a whole number from 1 to 10, or none"),
     (Annotated[float, Range(0.0, 1.0, above=True)], "a number above 0 and at most 1"), (str, "of type str"),
     (float | None, "of type float | None"), (int, "of type int (64 bits)")],
)  # fmt: skip
def test_what_is_allowed_in_words(hint: Any, words: str) -> None:
    assert allowed_by(hint) == words

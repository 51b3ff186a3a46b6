"""What a rule is: a small function about a plugin, and the sentence said where it is broken."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robench.errors import CheckFailed, RobenchError
from robench.registry import Plugin

# two answers to one call, or to one image in two batches; kernels sum in an order of their own
REPEATED = 1e-5
REBATCHED = 1e-4


class Broken(Exception):
    """A rule does not hold; the text is what was seen."""


def expect(condition: object, seen: str) -> None:
    """Raise Broken with what was seen, unless `condition` holds."""
    if not condition:
        raise Broken(seen)


def expect_close(a: Tensor, b: Tensor, tolerance: float, seen: str) -> None:
    """Raise Broken unless two tensors of one shape differ by no more than `tolerance`, relative above 1."""
    expect(a.shape == b.shape, f"{seen}: shape {list(a.shape)}, then {list(b.shape)}")
    difference = float((a.detach() - b.detach()).abs().max())
    close = torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    expect(close, f"{seen}: a difference of {difference:.2g} where {tolerance:g} is allowed")


def described(value: object) -> str:
    """A tensor by its type and shape, anything else by its class."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Subject:
    """A plugin to be checked, with the options its author gave, over the defaults; `first` is what its constructor
    takes before the options."""

    plugin: Plugin
    given: Mapping[str, Any]
    first: tuple[Any, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its value, as a stored evaluation or model card records it."""
        return self.plugin.options(self.given)

    def build(self, *first: Any, **options: Any) -> Any:
        """An instance with `options` over those given."""
        return self.plugin.build({**self.given, **options}, *(first or self.first))


@dataclass(frozen=True)
class Rule:
    """A rule by the name of its function; the first line of that function's docstring says what is expected.

    Where a `founding` rule is broken, those after it have nothing to stand on.
    """

    check: Callable[[Subject], None]
    founding: bool = False

    @property
    def name(self) -> str:
        """The function's name in words."""
        return self.check.__name__.replace("_", " ")

    @property
    def expects(self) -> str:
        """What holds for every plugin."""
        return (inspect.getdoc(self.check) or "").partition("\n")[0].rstrip(".")

    def hold(self, subject: Subject) -> None:
        """Raise CheckFailed, one sentence, where the rule is broken."""
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.check(subject)
        except Broken as broken:
            raise CheckFailed(self._sentence(subject, str(broken))) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an author's code does
            raise CheckFailed(self._sentence(subject, _raised(error, subject.plugin.base))) from error

    def _sentence(self, subject: Subject, seen: str) -> str:
        plugin = f"The {subject.plugin.kind} {subject.plugin.name!r}"
        expects = self.expects[:1].lower() + self.expects[1:]
        return f"{plugin} breaks the rule {self.name!r} ({expects}): {' '.join(seen.split()).rstrip('.')}."


def _raised(error: BaseException, base: type) -> str:
    """An error by its text, and for one that was not meant for a user the line of the plugin it came from."""
    reason = (str(error).strip().splitlines() or ["without a word"])[0]
    if isinstance(error, RobenchError):
        return f"it was refused: {reason}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == inspect.getsourcefile(base)] or list(frames)
    return f"{type(error).__name__} in {own[-1].filename}, line {own[-1].lineno}: {reason}"


@dataclass(frozen=True)
class Verdict:
    """What became of a rule: "ok", "broken" with a sentence, or "left out" because a founding rule is broken."""

    rule: Rule
    status: str
    sentence: str = ""


def verdicts(subject: Subject, rules: tuple[Rule, ...]) -> Iterator[Verdict]:
    """Every rule in turn."""
    lost = ""
    for rule in rules:
        if lost:
            yield Verdict(rule, "left out", f"because the rule {lost!r} is broken")
            continue
        try:
            rule.hold(subject)
        except CheckFailed as failure:
            yield Verdict(rule, "broken", str(failure))
            lost = rule.name if rule.founding else ""
        else:
            yield Verdict(rule, "ok")

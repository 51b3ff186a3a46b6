"""What `--weights`, `--mean` and their like say of models: read from text or Python's values, and put around them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import nn

from robench.errors import BadInput, require, shown
from robench.models.adapted import Adaptation, Adapted
from robench.models.checkpoint import load_into
from robench.ranges import read_number
from robench.references import SETTINGS, Reference
from robench.registry import parse_options

MOST_CHANNELS = 64


@dataclass(frozen=True)
class ModelSettings:
    """What was asked of all models of a command, as given: numbers, lists of them, or text.

    options go to the factories. None and False stand for what was not asked.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    weights: object = None
    mean: object = None
    std: object = None
    pixels: object = None
    output: object = None
    binary: bool = False
    log_probabilities: bool = False

    @classmethod
    def of(cls, pairs: Sequence[str] | None, **settings: Any) -> ModelSettings:
        """Those of a command line, whose `-m` is given as texts "key=value". Raises BadInput as `parse_options`."""
        return cls(parse_options(pairs or [], example="-m depth=3"), **settings)

    def __post_init__(self) -> None:
        for name in ("binary", "log_probabilities"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        named = isinstance(self.options, Mapping) and all(isinstance(name, str) for name in self.options)
        require(named, "model_options", self.options, "a dictionary of options by name, such as {'depth': 3}")

    @property
    def settings(self) -> dict[str, str]:
        """What stands around a model, as the settings of a reference."""
        found: dict[str, str] = {}
        for name in SETTINGS:
            value = getattr(self, name.replace("-", "_"))
            if value is True:
                found[name] = ""
            elif value is not None and value is not False:
                found[name] = _text(name, value)
        adaptation_of(found)
        return found

    def around(self, models: Any) -> Any:
        """The models with all of it: references that say so, modules in others. Raises BadInput for what cannot be."""
        settings = self.settings
        if not settings and not self.options:
            return models
        several = isinstance(models, Iterable) and not isinstance(models, str | nn.Module)
        if several and not list(models):
            said = [*("-m" for _ in [0] if self.options), *(f"--{name}" for name in settings)][0]
            raise BadInput(f"{said} is given without a model; name the model that it is for.")
        found = [self._around(each, settings) for each in (models if several else [models])]
        return found if several else found[0]

    def _around(self, model: Any, settings: Mapping[str, str]) -> Any:
        if isinstance(model, str):
            named = Reference.parse(model)
            arguments = {name: _plain(value) for name, value in self.options.items()}
            twice = [*(arguments.keys() & named.arguments.keys()), *(settings.keys() & named.settings.keys())]
            if twice:
                raise BadInput(f"The model {model!r} says {twice[0]} already; give it once.")
            together = replace(
                named, arguments={**named.arguments, **arguments}, settings={**named.settings, **settings}
            )
            return str(together)
        if not isinstance(model, nn.Module):
            return model  # the request says what it must be
        if self.options:
            raise BadInput(
                f"The model {type(model).__name__} is made already, so it takes no options; leave model_options out."
            )
        if "weights" in settings:
            model = copy.deepcopy(model)
            give_weights(model, settings["weights"])
        adaptation = adaptation_of(settings)
        return Adapted(model, adaptation) if adaptation != Adaptation() else model


def give_weights(model: nn.Module, place: str) -> str:
    """Load a file's weights into a model, which is then in eval mode; returns what is to be said of it, "" for nothing.

    Raises BadInput for a file that cannot be used, and names what does not fit.
    """
    try:
        found = load_into(place, model)
    except ValueError as error:
        raise BadInput(f"--weights cannot be used: {error}.") from error
    except Exception as error:  # torch, zipfile and pickle have no common error
        raise BadInput(
            f"--weights cannot be used: {place} is incomplete, damaged or no file of weights "
            f"({type(error).__name__}); give a state_dict that torch.save or safetensors wrote."
        ) from error
    if not found.others:
        return ""
    others = ", ".join(f"{place}@{name}" for name in found.others)
    return f"Of {place} the weights under {found.entry!r} are taken; give {others} for others."


def adaptation_of(settings: Mapping[str, str]) -> Adaptation:
    """What stands around a model by the settings of its reference. Raises BadInput."""
    mean = _numbers("--mean", settings["mean"]) if "mean" in settings else None
    std = _numbers("--std", settings["std"]) if "std" in settings else None
    if mean and std and len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise BadInput(f"--mean has {len(mean)} numbers and --std {len(std)}; give as many, or one for all channels.")
    if std and min(std) <= 0:
        raise BadInput(f"--std is {settings['std']!r}, but must be above 0 in every channel.")
    output: str | int | None = settings.get("output")
    if isinstance(output, str) and output.removeprefix("-").isdecimal() and output.isascii() and len(output) < 10:
        output = int(output)
    require(output != "", "--output", output, "a key, an attribute's name or an index")
    return Adaptation(
        pixels=_pixels(settings["pixels"]) if "pixels" in settings else None,
        mean=mean,
        std=std,
        output=output,
        log="log-probabilities" in settings,
        binary="binary" in settings,
    )


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    allowed = "a number, or one per channel with commas between, such as 0.4914,0.4822,0.4465"
    parts = text.split(",")
    require(len(parts) <= MOST_CHANNELS, flag, text, allowed)
    found = []
    for part in parts:
        try:
            over, slash, under = part.strip().partition("/")
            found.append(
                float(Fraction(read_number(over)) / Fraction(read_number(under)) if slash else read_number(over))
            )
        except (ValueError, ZeroDivisionError):
            raise BadInput(f"{flag} is {shown(text)}, but must be {allowed}.") from None
    return tuple(found)


def _pixels(text: str) -> tuple[float, float] | None:
    """What 0 and 1 become; None for what they are."""
    low, dots, high = text.partition("..")
    try:
        found = float(read_number(low.strip())), float(read_number(high.strip()))
        if not dots or found[0] >= found[1]:
            raise ValueError(text)
    except ValueError:
        allowed = "a range that pixels of [0, 1] are brought to, such as -1..1 or 0..255"
        raise BadInput(f"--pixels is {shown(text)}, but must be {allowed}.") from None
    return None if found == (0.0, 1.0) else found


def _text(name: str, value: object) -> str:
    """A setting as a reference has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    if hasattr(value, "tolist"):  # a tensor or an array
        held = value.tolist()
        if "float32" in str(getattr(value, "dtype", "")):  # as it was written, and not as it was rounded
            held = [float(f"{each:.7g}") for each in held] if isinstance(held, list) else float(f"{held:.7g}")
        return _text(name, held)
    if isinstance(value, Sequence) and value and all(isinstance(each, int | float) for each in value):
        return (".." if name == "pixels" else ",").join(map(repr, value))
    raise BadInput(f"{name} is {shown(value)}, but must be text, a number or a list of numbers.")


def _plain(value: object) -> str:
    """An option of a factory as text."""
    if isinstance(value, str | int | float | bool | None):
        return str(value)
    raise BadInput(f"A model's option is {shown(value)}, but must be text, a number, True, False or None.")
